"""Makes the case that Slicer's Sample Data module offers: `python Resources/make_sample_data.py`.

A synthetic brain with a glioma-like lesion, of `BrainSegSAMLib.phantom`, so that it can be given away: four sequences
on one grid as NRRD files, a thumbnail, and samples.json with their SHA256, from which the module registers them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from BrainSegSAMLib.geometry import Geometry  # noqa: E402
from BrainSegSAMLib.itk import image_of, simpleitk  # noqa: E402
from BrainSegSAMLib.phantom import CHANNELS, ET, NCR, ORIGIN_LPS_MM, Phantom, make_phantom  # noqa: E402

FOLDER = ROOT / "Resources" / "SampleData"
NAME = "SyntheticGlioma"
SEED = 2026  # neither the demonstration's nor one that a bundled model was trained on
SPACING_ZYX_MM = (2.0, 2.0, 2.0)
SHAPE_ZYX = (78, 120, 120)
COLOURS = {"whole": (88, 190, 96), "core": (240, 190, 60), "enhancing": (224, 70, 66)}


def main() -> None:
    """Write the files anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(SEED, shape_zyx=SHAPE_ZYX, spacing_zyx_mm=SPACING_ZYX_MM)
    geometry = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm, ORIGIN_LPS_MM)
    files = []
    for channel in CHANNELS:
        path = FOLDER / f"{NAME}_{channel}.nrrd"
        image = image_of(np.rint(phantom.channels[channel]).astype(np.int16), geometry)
        simpleitk().WriteImage(image, str(path), True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append({"file": path.name, "sha256": digest, "node": f"{NAME}_{channel}"})
    imsave(FOLDER / f"{NAME}.png", thumbnail(phantom), metadata={"Software": ""})
    title = "Synthetic glioma\n(flair, t1, t1ce, t2)"
    record = {"name": NAME, "title": title, "thumbnail": f"{NAME}.png", "files": files}
    (FOLDER / "samples.json").write_text(json.dumps([record], indent=2) + "\n", encoding="utf-8")


def thumbnail(phantom: Phantom) -> NDArray[np.float64]:
    """The axial slice through most of the lesion, flair on the left and t1ce with the lesion's parts on the right."""
    z = int((phantom.labels > 0).sum(axis=(1, 2)).argmax())
    slices = [phantom.channels[name][z] for name in ("flair", "t1ce")]
    left, right = (np.repeat((s / np.percentile(s, 99.7)).clip(0, 1)[..., None], 3, axis=2) for s in slices)
    labels = phantom.labels[z]
    parts = {"whole": labels > 0, "core": np.isin(labels, (NCR, ET)), "enhancing": labels == ET}
    for name, inside in parts.items():
        right[inside] = 0.5 * right[inside] + 0.5 * np.asarray(COLOURS[name]) / 255
    both = np.concatenate([left, right], axis=1)
    return np.asarray(both.repeat(2, axis=0).repeat(2, axis=1))


if __name__ == "__main__":
    main()
