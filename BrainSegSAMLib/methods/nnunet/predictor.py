"""nnU-Net as a Predictor: bring the image into the model's voxel order, segment, clean up, bring it back.

nnU-Net sees arrays, not patients: a volume whose axes are stored in another order than those of the training would be
segmented lying on its side. The model folder says which order the training had, and the image is permuted and flipped
into it and the result back, without interpolation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.nnunet import TrainedNNUNet
from ...errors import ModelError
from ...image import Image, Segmentation
from ...models.store import Model
from ...progress import Progress
from .clean_up import clean_up


@dataclass(frozen=True)
class PredictionSettings:
    """How an nnU-Net model is applied; the `settings` of its `model.json`.

    Attributes:
        folds: folds whose networks are averaged; all in the folder where empty.
        mirroring: average over mirror images (test-time augmentation).
        tile_step_size: step of the sliding window as a share of the patch.
        minimum_volume_mm3: per region, components smaller than this are removed; regions not named keep all.
        keep_largest: regions of which only the largest component is kept (with what lies inside it).
    """

    folds: tuple[str, ...] = ()
    mirroring: bool = True
    tile_step_size: float = 0.5
    minimum_volume_mm3: Mapping[str, float] | None = None
    keep_largest: tuple[str, ...] = ()

    @classmethod
    def from_model(cls, model: Model, overrides: Mapping[str, object]) -> PredictionSettings:
        """The model's settings with some replaced.

        Raises:
            ModelError: where a setting is not one of an nnU-Net model.
        """
        values: dict[str, Any] = {**model.settings, **overrides}
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ModelError(
                f"The model '{model.name}' has settings that an nnU-Net model does not know: {', '.join(unknown)}."
            )
        for key in ("folds", "keep_largest"):
            values[key] = tuple(str(value) for value in values.get(key) or ())
        return cls(**values)


class NNUNetPredictor:
    """A trained nnU-Net in memory; see `methods.contract.Predictor`."""

    def __init__(self, model: Model, settings: PredictionSettings, *, device: str, trust: bool) -> None:
        self._model = model
        self._settings = settings
        self._device = device
        self._network = TrainedNNUNet(
            model.folder,
            device=device,
            folds=settings.folds,
            mirroring=settings.mirroring,
            tile_step_size=settings.tile_step_size,
            trust=trust,
        )

    @property
    def model(self) -> Model:
        """The model that predicts."""
        return self._model

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        """Segment one image; see `methods.contract.Predictor.predict`."""
        return self._predict(image, progress or Progress(), probabilities=False)[0]

    def predict_with_probabilities(
        self, image: Image, *, progress: Progress | None = None
    ) -> tuple[Segmentation, NDArray[np.float32]]:
        """Segment one image; see `methods.contract.ProbabilityPredictor.predict_with_probabilities`."""
        segmentation, heads = self._predict(image, progress or Progress(), probabilities=True)
        assert heads is not None
        regions = np.stack([self._of_region(heads, region.labels) for region in self._model.scheme.regions])
        return segmentation, regions

    def _of_region(self, heads: NDArray[np.float32], labels: tuple[int, ...]) -> NDArray[np.float32]:
        """A region's own probability where the network has a head for it, else the sum over its labels."""
        meanings = [frozenset(int(label) for label in np.atleast_1d(head)) for head in self._network.heads]
        if frozenset(labels) in meanings:
            own: NDArray[np.float32] = heads[meanings.index(frozenset(labels))]
            return own
        within = [head for head, meaning in zip(heads, meanings, strict=True) if meaning <= set(labels)]
        total: NDArray[np.float32] = np.clip(np.sum(within, axis=0), 0.0, 1.0)
        return total

    def _predict(
        self, image: Image, progress: Progress, *, probabilities: bool
    ) -> tuple[Segmentation, NDArray[np.float32] | None]:
        started = time.perf_counter()
        stack = image.stack(self._model.modalities)
        geometry, order = image.geometry, None
        actions = []
        if self._model.orientation is not None:
            geometry, order = image.geometry.reoriented(self._model.orientation)
            stack = order.apply(stack)
            if image.geometry.orientation != self._model.orientation:
                actions.append(
                    f"axes brought from {image.geometry.orientation} to the model's {self._model.orientation} and back"
                )
        label_map, heads = self._network.predict(
            stack, geometry.spacing_zyx_mm, progress, probabilities=probabilities
        )
        label_map, removed = clean_up(
            label_map,
            self._model.scheme,
            geometry.spacing_zyx_mm,
            minimum_volume_mm3=self._settings.minimum_volume_mm3 or {},
            keep_largest=self._settings.keep_largest,
        )
        if order is not None:
            label_map = np.ascontiguousarray(order.undo(label_map))
            heads = None if heads is None else np.ascontiguousarray(order.undo(heads))
        record = {
            "model": self._model.name,
            "model_version": self._model.version,
            "model_sha256": self._model.sha256,
            "method": self._model.method,
            "device": self._device,
            "settings": {key: getattr(self._settings, key) for key in PredictionSettings.__dataclass_fields__},
            "geometry_actions": actions,
            "removed_components": removed,
            "seconds": round(time.perf_counter() - started, 3),
        }
        return Segmentation(image.geometry, self._model.scheme, label_map, image.name, record), heads


def load(model: Model, *, device: str, trust: bool, overrides: Mapping[str, object]) -> NNUNetPredictor:
    """Load a model folder of the method "nnunet"; called by `methods.load_predictor`."""
    return NNUNetPredictor(model, PredictionSettings.from_model(model, overrides), device=device, trust=trust)
