"""Cases with their references, as nnU-Net's training data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.nnunet_training import WorkFolder, write_raw_case
from ...batch import Workers, prepare_all
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
    workers: Workers | None = None,
) -> list[str]:
    """Write nnU-Net's raw data set, several cases at once where there are many.

    Returns:
        The ids of the synthetic cases.

    Raises:
        InputError: where a case cannot be used, all such cases named; or synthetic cases do not fit modalities and
            labels.
    """
    known = {value for region in scheme.regions for value in region.labels}
    if synthetic_seeds and not (set(modalities) <= set(CHANNELS) and known == {1, 2, 3}):
        raise InputError(
            f"Synthetic cases have the modalities {', '.join(CHANNELS)} and the labels 1, 2, 3; this model has "
            f"{', '.join(modalities)} and {', '.join(map(str, sorted(known)))}. Leave synthetic_seeds empty."
        )
    items: list[Case | int] = [*cases, *synthetic_seeds]
    prepare_all(
        items,
        CaseConverter(work, tuple(modalities), scheme, dict(label_values)),
        name=_name,
        progress=progress.part("Converting cases", until=0.02),
        workers=workers,
    )
    # Not sorted: the order of the regions is the order of the network's outputs.
    write_text(json.dumps(dataset_json(modalities, scheme, len(items)), indent=2) + "\n", work.raw / "dataset.json")
    return [_name(seed) for seed in synthetic_seeds]


@dataclass(frozen=True)
class CaseConverter:
    """What is done with each case, see `batch.CaseWork`: read, turned, written in nnU-Net's layout.

    Attributes:
        work: of the training.
        modalities: in the order of the channels.
        scheme: of the labels.
        label_values: value in the references' files → value in the scheme, for those that differ.
    """

    work: WorkFolder
    modalities: tuple[str, ...]
    scheme: LabelScheme
    label_values: Mapping[int, int]

    def load(self, item: Case | int) -> tuple[Image, NDArray[np.uint8]]:
        """A case with its labels, uint8 (z, y, x); for a seed a synthetic one."""
        if isinstance(item, Case):
            labelled = load_labelled(item, self.modalities, self.scheme, self.label_values)
            return labelled.image, labelled.labels
        phantom = make_phantom(item)
        grid = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm, ORIGIN_LPS_MM)
        return Image(grid, phantom.channels, _name(item)), phantom.labels

    def compute(self, loaded: tuple[Image, NDArray[np.uint8]], progress: Progress) -> _Turned:
        """Bring it into the axes in which networks see it."""
        progress.check()
        image, labels = loaded
        geometry, order = image.geometry.reoriented(ORIENTATION)
        channels = [order.apply(channel) for channel in image.stack(self.modalities)]
        return _Turned(channels, order.apply(labels), geometry)

    def save(self, item: Case | int, computed: _Turned) -> str:
        """Write it; gives its id."""
        write_raw_case(
            self.work, _name(item), channels=computed.channels, labels=computed.labels, geometry=computed.geometry
        )
        return _name(item)


@dataclass(frozen=True, eq=False)
class _Turned:
    channels: list[NDArray[np.float32]]
    labels: NDArray[np.uint8]
    geometry: Geometry


def _name(item: Case | int) -> str:
    return item.case_id if isinstance(item, Case) else f"synthetic_{item}"


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
