"""All 3-D metrics of one case, and each by the fastest of its peers: seconds, values and peak memory, in one run.

PYTHONPATH=. python Testing/Benchmarks/metrics.py [--reference FILE] [--prediction FILE] [--repeats 3]
    [--brats CHECKOUT] [--small] [--output JSON]

One BraTS case (240×240×155) in three regions. Where no prediction is given, it is the reference bent smoothly and
thinned a little, with a false lesion. The peers are those of monai, medpy, surface-distance, panoptica and
connected-components-3d that are installed, and with `--brats` BraTS-2023-Metrics; each is given masks that are made
already, and each metric is asked for by itself, as their users do. Ours is measured by itself too, and all together
from the two label maps. Seconds are the best of the repeats; the largest difference of the values is printed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.files import write_json
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.metrics import METRICS, measure, measure_case
from BrainSegSAMLib.segmentation_files import read_segmentation

ROOT = Path(__file__).resolve().parents[2]
CASE = ROOT.parent / "shared/data/glioma/BraTS2021_01476"
SCHEME = LabelScheme((
    Region("whole tumour", (1, 2, 3, 4), (255, 0, 0)), Region("tumour core", (1, 3, 4), (0, 255, 0)),
    Region("enhancing tumour", (3, 4), (0, 0, 255)),
))  # fmt: skip
TOLERANCE_MM = 1.0

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
Peer = Callable[[Masks, tuple[float, float, float]], dict[str, float]]


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=CASE)
    parser.add_argument("--prediction", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--brats", type=Path, help="checkout of github.com/rachitsaluja/BraTS-2023-Metrics")
    parser.add_argument("--small", action="store_true", help="every third voxel, to try the script")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    reference, prediction = load(options)
    spacing = reference.geometry.spacing_zyx_mm
    masks = {name: (reference.mask(name), prediction.mask(name)) for name in SCHEME.names}
    found: dict[str, Any] = {"shape_zyx": reference.geometry.shape_zyx, "repeats": options.repeats, "memory": memory(
        reference, prediction)}  # fmt: skip
    seconds, values = best(lambda: measure_case(reference, prediction, tolerance_mm=TOLERANCE_MM), options.repeats)
    found["all of ours, seconds"] = seconds
    rows = {}
    for keys, candidates in peers(options.brats).items():
        ours, _ = best(functools.partial(_ours, masks, spacing, keys), options.repeats)
        theirs = {}
        difference = 0.0
        for name, peer in candidates.items():
            taken, answers = best(functools.partial(_theirs, peer, masks, spacing), options.repeats)
            theirs[name] = taken
            off = [abs(value - values[region][key]) for region, one in answers.items() for key, value in one.items()]
            difference = max([difference, *off])
        rows[", ".join(keys)] = {"ours": ours, **theirs, "largest difference": difference}
    found["seconds by metric"] = rows
    fastest = {name: min((v for k, v in row.items() if k not in ("ours", "largest difference")), default=None)
               for name, row in rows.items()}  # fmt: skip
    found["sum of the fastest peers, seconds"] = sum(value for value in fastest.values() if value)
    found["ratio of all"] = seconds / found["sum of the fastest peers, seconds"] if any(fastest.values()) else None
    print_table(rows, fastest, found)
    if options.output:
        write_json(found, options.output)


def load(options: argparse.Namespace) -> tuple[Segmentation, Segmentation]:
    """Reference and prediction as label maps on one grid."""
    path = options.reference
    if path.is_dir():
        path = next(file for file in sorted(path.iterdir()) if "seg" in file.name)
    step = 3 if options.small else 1
    read = read_segmentation(path)
    labels = np.ascontiguousarray(read.label_map[::step, ::step, ::step].astype(np.uint8))
    grid = Geometry.axis_aligned(labels.shape, read.geometry.spacing_zyx_mm)
    if options.prediction:
        found = read_segmentation(options.prediction).label_map[::step, ::step, ::step].astype(np.uint8)
    else:
        found = bent(labels)
    return Segmentation(grid, SCHEME, labels, "reference"), Segmentation(grid, SCHEME, found, "prediction")


def bent(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label map moved by up to two voxels, differently from place to place, with a false lesion."""
    z, y, x = np.meshgrid(*[np.arange(size, dtype=np.float32) for size in labels.shape], indexing="ij")
    places = [z + 1.5 * np.sin(y / 9), y + 2 * np.sin(x / 11), x + 2 * np.cos(z / 7)]
    moved = ndimage.map_coordinates(labels, places, order=0)
    moved[5:9, -30:-24, 20:27] = 3
    return np.asarray(moved)


def best(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, and what it gave."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        taken.append(time.perf_counter() - started)
    return min(taken), result


def _ours(masks: Mapping[str, Masks], spacing: tuple[float, float, float], keys: tuple[str, ...]) -> Any:
    return {
        region: measure(*pair, spacing_zyx_mm=spacing, tolerance_mm=TOLERANCE_MM, metrics=keys)
        for region, pair in masks.items()
    }


def _theirs(peer: Peer, masks: Mapping[str, Masks], spacing: tuple[float, float, float]) -> Any:
    return {region: peer(pair, spacing) for region, pair in masks.items()}


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory(reference: Segmentation, prediction: Segmentation) -> dict[str, Any]:
    """Peak of the process above what it had before, with the two label maps added, and that in label maps (Linux)."""
    tiny = [Segmentation(Geometry.axis_aligned((9, 9, 9)), SCHEME, np.full((9, 9, 9), n, np.uint8)) for n in (1, 2)]
    measure_case(*tiny)  # imports
    maps = reference.label_map.nbytes + prediction.label_map.nbytes
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return {"two label maps, MB": maps / 1e6}
    before = _status("VmRSS")
    measure_case(reference, prediction, tolerance_mm=TOLERANCE_MM)
    peak = _status("VmHWM") - before + maps
    return {"two label maps, MB": maps / 1e6, "peak, MB": peak / 1e6, "ratio": peak / maps}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


# ---- peers -----------------------------------------------------------------------------------------------------------


def peers(brats: Path | None) -> dict[tuple[str, ...], dict[str, Peer]]:
    """Metrics → name of a peer → how it computes them; lesion-wise ones come from one call."""
    table: dict[tuple[str, ...], dict[str, Peer]] = {
        (key,): {} for key in METRICS if not key.startswith("lesion_")
    }
    table["lesion_f1", "lesion_dice", "lesion_false_positives", "lesion_false_negatives"] = {}
    for package, add in (("medpy", _medpy), ("monai", _monai), ("surface-distance", _surface_distance),
                         ("panoptica", _panoptica), ("connected-components-3d", _cc3d)):  # fmt: skip
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} is not installed, so it is not measured.", file=sys.stderr)
            continue
        for key, peer in add().items():
            table[key,][package] = peer
    if brats is not None:
        lesions = next(keys for keys in table if "lesion_dice" in keys)
        table[lesions]["BraTS-2023-Metrics"] = _brats(brats)
    return table


def _medpy() -> dict[str, Peer]:
    from medpy.metric import binary

    plain = {"dice": binary.dc, "f1": binary.dc, "iou": binary.jc, "precision": binary.precision,
             "recall": binary.recall, "specificity": binary.specificity}  # fmt: skip
    placed = {"hd": binary.hd, "asd": binary.asd}
    # Of other definitions, so only their seconds count: percentile and mean of both directions.
    timed = {"hd95": binary.hd95, "assd": binary.assd}
    found: dict[str, Peer] = {
        key: lambda masks, _, key=key, call=call: {key: float(call(masks[1], masks[0]))} for key, call in plain.items()
    }
    for key, call in {**placed, **timed}.items():
        found[key] = lambda masks, spacing, key=key, call=call: _kept(
            key, float(call(masks[1], masks[0], spacing)), key in placed
        )
    found["volume_difference"] = lambda masks, _: _kept("", float(binary.ravd(masks[1], masks[0])), False)
    return found


def _kept(key: str, value: float, comparable: bool) -> dict[str, float]:
    return {key: value} if comparable else {}


def _monai() -> dict[str, Peer]:
    import torch
    from monai import metrics

    def both(masks: Masks) -> dict[str, Any]:
        # The tensors share the masks' memory.
        prediction, reference = (torch.from_numpy(mask)[None, None] for mask in (masks[1], masks[0]))
        return {"y_pred": prediction, "y": reference, "include_background": True}

    def placed(key: str, call: Callable[..., Any], **settings: Any) -> Peer:
        return lambda masks, spacing: {key: float(call(**both(masks), spacing=spacing, **settings))}

    return {
        "dice": lambda masks, _: {"dice": float(metrics.compute_dice(**both(masks)))},
        "iou": lambda masks, _: {"iou": float(metrics.compute_iou(**both(masks)))},
        "hd": placed("hd", metrics.compute_hausdorff_distance),
        "hd95": placed("hd95", metrics.compute_hausdorff_distance, percentile=95),
        "asd": placed("asd", metrics.compute_average_surface_distance),
        "assd": placed("assd", metrics.compute_average_surface_distance, symmetric=True),
        "nsd": placed("nsd", metrics.compute_surface_dice, class_thresholds=[TOLERANCE_MM], use_subvoxels=True),
    }


def _surface_distance() -> dict[str, Peer]:
    from surface_distance import metrics

    # It calls names that scipy and numpy have dropped since.
    np.Inf = np.inf  # noqa: NPY201
    metrics.ndimage = types.SimpleNamespace(
        filters=types.SimpleNamespace(correlate=ndimage.correlate),
        morphology=types.SimpleNamespace(distance_transform_edt=ndimage.distance_transform_edt),
    )

    def nsd(masks: Masks, spacing: tuple[float, float, float]) -> dict[str, float]:
        distances = metrics.compute_surface_distances(*masks, spacing)
        return {"nsd": float(metrics.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM))}

    return {"nsd": nsd}


def _panoptica() -> dict[str, Peer]:
    module = importlib.import_module("panoptica.metrics.cldice")
    return {"cl_dice": lambda masks, _: {"cl_dice": float(module._compute_centerline_dice_coefficient(*masks))}}


def _cc3d() -> dict[str, Peer]:
    import cc3d

    def betti(masks: Masks, _: tuple[float, float, float]) -> dict[str, float]:
        counts = [cc3d.connected_components(mask, connectivity=26, return_N=True)[1] for mask in masks]
        return {"betti0_error": float(abs(counts[0] - counts[1]))}

    return {"betti0_error": betti}


def _brats(checkout: Path) -> Peer:
    spec = importlib.util.spec_from_file_location("brats_metrics", checkout / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    brats = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brats)
    # Its surface distances are not asked for, and its files are given as arrays: neither is counted against it.
    brats.surface_distance = types.SimpleNamespace(
        compute_surface_distances=lambda *_: None, compute_robust_hausdorff=lambda *_: 0.0
    )
    brats.nib = types.SimpleNamespace(load=lambda pair: types.SimpleNamespace(
        get_fdata=lambda: pair[0] * 3.0, header=types.SimpleNamespace(get_zooms=lambda: pair[1])))  # fmt: skip

    def lesions(masks: Masks, spacing: tuple[float, float, float]) -> dict[str, float]:
        reference, prediction = ((mask, spacing) for mask in masks)
        _, _, false, _, rows, *_ = brats.get_LesionWiseScores(prediction, reference, "ET", 3)
        counted = [row for row in rows if row[2] > 50]
        return {
            "lesion_dice": float(sum(row[3] for row in counted) / (len(counted) + len(false))),
            "lesion_false_positives": float(len(false)),
        }

    return lesions


def print_table(rows: Mapping[str, Any], fastest: Mapping[str, float | None], found: Mapping[str, Any]) -> None:
    """As a table in Markdown."""
    print("| metric | ours, s | fastest peer, s | ratio | peer | largest difference |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        value = fastest[name]
        if value is None:
            print(f"| {name} | {row['ours']:.4f} |  |  | none |  |")
            continue
        peer = next(key for key, taken in row.items() if taken == value and key != "ours")
        ratio = row["ours"] / value
        print(f"| {name} | {row['ours']:.4f} | {value:.4f} | {ratio:.2f} | {peer} | {row['largest difference']:.2g} |")
    print(json.dumps({key: value for key, value in found.items() if key != "seconds by metric"}, indent=2))


if __name__ == "__main__":
    main()
