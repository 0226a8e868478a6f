"""Cases with their references, as nnU-Net's training data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.nnunet_training import WorkFolder, write_raw_case
from ...cases import Case
from ...errors import InputError
from ...files import write_text
from ...geometry import Geometry
from ...image import Image
from ...labelled_images import load_labelled
from ...labels import LabelScheme
from ...phantom import CHANNELS, ORIGIN_LPS_MM, make_phantom
from ...progress import Progress

ORIENTATION = "LPS"
"""Axes into which all training images are brought, so that networks see every head the same way round."""


def write_dataset(
    cases: Sequence[Case],
    work: WorkFolder,
    *,
    modalities: Sequence[str],
    scheme: LabelScheme,
    label_values: Mapping[int, int],
    synthetic_seeds: Sequence[int],
    progress: Progress,
) -> list[str]:
    """Write nnU-Net's raw data set.

    Returns:
        The ids of the synthetic cases.

    Raises:
        InputError, GeometryError: as `load_labelled`, or where synthetic cases do not fit modalities and labels.
    """
    progress.stage("Converting cases", total=len(cases) + len(synthetic_seeds), until=0.02)
    for case in cases:
        labelled = load_labelled(case, modalities, scheme, label_values)
        _write(work, case.case_id, labelled.image, labelled.labels, modalities)
        progress.advance()
    known = {value for region in scheme.regions for value in region.labels}
    if synthetic_seeds and not (set(modalities) <= set(CHANNELS) and known == {1, 2, 3}):
        raise InputError(
            f"Synthetic cases have the modalities {', '.join(CHANNELS)} and the labels 1, 2, 3; this model has "
            f"{', '.join(modalities)} and {', '.join(map(str, sorted(known)))}. Leave synthetic_seeds empty."
        )
    synthetic = []
    for seed in synthetic_seeds:
        phantom = make_phantom(seed)
        synthetic.append(f"synthetic_{seed}")
        grid = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm, ORIGIN_LPS_MM)
        image = Image(grid, phantom.channels, synthetic[-1])
        _write(work, synthetic[-1], image, phantom.labels, modalities)
        progress.advance()
    count = len(cases) + len(synthetic)
    # Not sorted: the order of the regions is the order of the network's outputs.
    write_text(json.dumps(dataset_json(modalities, scheme, count), indent=2) + "\n", work.raw / "dataset.json")
    return synthetic


def dataset_json(modalities: Sequence[str], scheme: LabelScheme, count: int) -> dict[str, Any]:
    """nnU-Net's description of a data set.

    Raises:
        InputError: where the label values are not 1, 2, 3, …, as nnU-Net needs them, or regions cannot be told apart.
    """
    values = sorted({value for region in scheme.regions for value in region.labels})
    if values != list(range(1, len(values) + 1)):
        raise InputError(f"nnU-Net needs the label values 1, 2, 3, … without a gap; the regions have {values}.")
    description: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(modalities)},
        "labels": {"background": 0},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    # A label map is filled region by region, so what lies inside another region comes after it.
    regions = sorted(scheme.regions, key=lambda region: -len(region.labels))
    if all(len(region.labels) == 1 for region in regions):
        description["labels"] |= {region.name: region.labels[0] for region in scheme.regions}
        return description
    description["regions_class_order"] = []
    for region in regions:
        inner = {value for other in regions if set(other.labels) < set(region.labels) for value in other.labels}
        own = set(region.labels) - inner
        if not own:
            raise InputError(f"The region '{region.name}' has no label of its own beside the regions inside it.")
        description["labels"][region.name] = sorted(region.labels)
        description["regions_class_order"].append(min(own))
    return description


def _write(
    work: WorkFolder, case_id: str, image: Image, labels: NDArray[np.uint8], modalities: Sequence[str]
) -> None:
    geometry, order = image.geometry.reoriented(ORIENTATION)
    channels = [order.apply(channel) for channel in image.stack(modalities)]
    write_raw_case(work, case_id, channels=channels, labels=order.apply(labels), geometry=geometry)
