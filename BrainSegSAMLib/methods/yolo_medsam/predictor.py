"""Boxes into masks as a Predictor: a detector, or a model that segments, finds boxes; SAM draws what is in them.

Source: Zhou & Yu, YOLOv5 and MedSAM; Ma et al., Nature Communications 15:654, 2024. What deviates from the paper is in
the method's README.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...boxes import Track
from ...errors import ModelError
from ...geometry import AxisOrder, Geometry
from ...image import Image, Segmentation
from ...labels import LabelScheme
from ...models.store import Model, load_model
from ...progress import Progress
from ...prompts import slices_first
from .. import load_predictor
from .composing import DETECTOR_FOLDER, PRIOR_FOLDER, SEGMENTER_FOLDER, segmenter_inputs
from .config import NAMES, YoloMedSAMSettings
from .detector import load_detector
from .finding import BoxSource, DetectedBoxes, PriorBoxes
from .segmenter import Segmenter, draw, load_segmenter

BoolArray = NDArray[np.bool_]

_BOXES_SHARE = 0.4
"""Of the whole time; for the progress only."""


class YoloMedSAMPredictor:
    """A source of boxes and a segmenter in memory; see `methods.contract.Predictor`."""

    def __init__(
        self, model: Model, settings: YoloMedSAMSettings, *, source: BoxSource, segmenter: Segmenter, device: str
    ) -> None:
        self._model = model
        self._settings = settings
        self._source = source
        self._segmenter = segmenter
        self._device = device

    @property
    def model(self) -> Model:
        """The model that predicts."""
        return self._model

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        """Segment one image; see `methods.contract.Predictor.predict`.

        Raises:
            InputError: where a modality is missing or shows nothing.
            Cancelled: when the progress was cancelled.
        """
        progress = progress or Progress()
        started = time.perf_counter()
        image.stack(self._model.modalities)  # refuses before the work what lacks a modality
        geometry, order = image.geometry.reoriented("LPS")
        found = self._source.find(image, geometry, order, progress.part("Boxes", until=_BOXES_SHARE))
        masks = [np.array(mask) for mask in found.kept]
        voxels = self._draw(image, order, found.tracks, masks, progress)
        label_map = np.ascontiguousarray(order.undo(painted(self._model.scheme, masks)))
        record = self._record(found.record)
        record["lesions"] = self._lesions(found.tracks, voxels, geometry)
        if not found.tracks:
            record["notes"].append("No box was found, so nothing was drawn.")
        record["seconds"] = round(time.perf_counter() - started, 3)
        return Segmentation(image.geometry, self._model.scheme, label_map, image.name, record)

    def _draw(
        self, image: Image, order: AxisOrder, tracks: Sequence[Track], masks: Sequence[BoolArray], progress: Progress
    ) -> list[int]:
        """Add what the tracks' boxes hold to the masks of their kinds, bool (z, y, x) each, axes LPS.

        Where kinds share no label, a voxel stays with the surer lesion, or else with the later region of the scheme.

        Returns:
            How many voxels each track was given.
        """
        surest_first = sorted(range(len(tracks)), key=lambda n: (-tracks[n].confidence, -tracks[n].kind))
        boxes = [box for number in surest_first for box in tracks[number].boxes]  # on each slice in this order
        owners = {id(box): number for number, track in enumerate(tracks) for box in track.boxes}
        voxels = [0] * len(tracks)
        progress.stage("Masks", total=len(boxes), until=1.0)
        if not boxes:
            return voxels
        plane, settings = self._source.plane, self._settings
        slices = [slices_first(mask, plane) for mask in masks]
        strangers = _strangers(self._model.scheme)
        picture = self._segmenter.picture(image, segmenter_inputs(self._segmenter.model, self._model, settings))
        for item, mask in draw(
            self._segmenter,
            order.apply(picture),
            boxes,
            plane,
            memory_budget_bytes=settings.memory_budget_mib * 2**20,
            batch_size=settings.batch_size,
            progress=progress,
        ):
            taken = [slices[kind][item.index] for kind in strangers[item.kind]]
            given = mask & ~np.any(taken, axis=0) if taken else mask
            slices[item.kind][item.index] |= given
            voxels[owners[id(item)]] += int(np.count_nonzero(given))
            progress.advance()
        return voxels

    def _lesions(self, tracks: Sequence[Track], voxels: Sequence[int], geometry: Geometry) -> list[dict[str, Any]]:
        """A row for each lesion; its box is given by two opposite corners, in voxels and in mm."""
        rows = []
        for number, (track, count) in enumerate(zip(tracks, voxels, strict=True), start=1):
            corners = track.corners_ijk(self._source.plane)
            rows.append({
                "number": number,
                "region": self._model.scheme.names[track.kind],
                "confidence": round(track.confidence, 4),
                "volume_mm3": round(count * geometry.voxel_volume_mm3, 3),
                "plane": self._source.plane,
                "slices_lps": list(track.slices),
                "box_ijk_lps": np.round(corners, 1).tolist(),
                "corners_lps_mm": np.round(geometry.to_lps(corners), 2).tolist(),
                "centre_lps_mm": np.round(geometry.to_lps(corners.mean(axis=0)), 1).tolist(),
            })  # fmt: skip
        return rows

    def _record(self, source: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self._model.name,
            "model_version": self._model.version,
            "model_sha256": self._model.sha256,
            "method": self._model.method,
            "device": self._device,
            "settings": self._settings.as_dict(),
            "geometry_actions": [],
            "boxes_from": {key: value for key, value in source.items() if key != "notes"},
            "segmenter": {
                "model": self._segmenter.model.name,
                "model_sha256": self._segmenter.model.sha256,
                "precision": self._segmenter.network.precision,
            },
            "notes": list(source.get("notes", ())),
        }


def _strangers(scheme: LabelScheme) -> list[list[int]]:
    """For each region, the numbers of those with which it shares no label, so that no voxel belongs to both."""
    labels = [set(region.labels) for region in scheme.regions]
    return [[number for number, other in enumerate(labels) if not other & own] for own in labels]


def painted(scheme: LabelScheme, masks: Sequence[BoolArray]) -> NDArray[np.uint8]:
    """One label map of the masks of all regions; what lies in a region within another belongs to both.

    Regions of more labels are painted first, each with the label that it shares with the fewest others, so that those
    within them stay visible. Where regions that share no label overlap, the later one of the scheme wins.

    Args:
        scheme: with label values up to 255.
        masks: bool (z, y, x) for each region, in the order of the scheme.
    """
    label_map = np.zeros(masks[0].shape, dtype=np.uint8)
    regions = scheme.regions
    shared = {label: sum(label in other.labels for other in regions) for one in regions for label in one.labels}
    for number in sorted(range(len(regions)), key=lambda number: -len(regions[number].labels)):
        label_map[masks[number]] = min(regions[number].labels, key=lambda label: (shared[label], label))
    return label_map


def load(model: Model, *, device: str, trust: bool, overrides: Mapping[str, object]) -> YoloMedSAMPredictor:
    """Load a model folder of the method "yolo_medsam"; called by `methods.load_predictor`.

    Settings that the method does not have are handed to the prior, where there is one.

    Raises:
        ModelError: where a part cannot be used, or what finds the boxes has other regions or modalities than the model.
        InputError: for settings that cannot be used.
        DependencyError: where a package that a part needs is not installed.
    """
    folder = model.folder
    has_prior = (folder / PRIOR_FOLDER).is_dir()
    for_prior = {name: value for name, value in overrides.items() if has_prior and name not in NAMES}
    own = {name: value for name, value in overrides.items() if name not in for_prior}
    settings = YoloMedSAMSettings.from_dict({**model.settings, **own})
    settings.check_used(by_detector=not has_prior)
    source: BoxSource
    if has_prior:
        prior = load_predictor(folder / PRIOR_FOLDER, device=device, trust=trust, overrides=for_prior)
        _check_fits(prior.model, model)
        source = PriorBoxes(prior, settings)
    else:
        described = load_model(folder / DETECTOR_FOLDER)
        _check_fits(described, model)
        detector = load_detector(described, device=device, trust=trust, precision=settings.precision)
        source = DetectedBoxes(detector, settings)
    segmenter = load_segmenter(
        load_model(folder / SEGMENTER_FOLDER), device=device, trust=trust, precision=settings.precision
    )
    return YoloMedSAMPredictor(model, settings, source=source, segmenter=segmenter, device=device)


def _check_fits(source: Model, model: Model) -> None:
    """Refuse a model.json that has been edited so that boxes of one region would become another."""
    own, other = ([(region.name, region.labels) for region in one.scheme.regions] for one in (source, model))
    lacking = [name for name in source.modalities if name not in model.modalities]
    if own != other or lacking:
        raise ModelError(
            f"The model '{model.name}' does not fit '{source.name}' within it, which finds "
            f"{', '.join(source.scheme.names)} in {', '.join(source.modalities)}; compose it again."
        )
