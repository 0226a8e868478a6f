"""SSNet as a Predictor: nnU-Net's lesions, each tracked both ways from its key slice in every vote, and their ensemble.

Every stage is carried along. The paper's own Table I finds nnU-Net alone better than what tracking makes of it, so the
prior is the answer unless the settings ask for the ensemble; where stages disagree, a person should look.

Source: Jang et al., SSNet; its tracker (SAM-Track with DeAOT) is replaced by SAM 2, see the method's README.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...geometry import AxisOrder, Geometry
from ...image import Image, Segmentation
from ...labels import LabelScheme, Region
from ...models.store import Model, load_model
from ...progress import Progress
from ...prompts import Prompt, slices_first
from .. import load_predictor
from ..contract import Predictor, ProbabilityPredictor
from .composing import PRIOR_FOLDER, TRACKER_FOLDER
from .config import OWN_NAMES, TRACKING_NAMES, SSNetSettings
from .ensemble import agreement_map, combine, lesion_agreements
from .lesions import Lesion, find_lesions
from .rules import reach_of
from .tracker import Tracker, load_tracker, tracker_inputs, vote_name
from .tracking import Target, Tracked, track

BoolArray = NDArray[np.bool_]

ENSEMBLE_STAGE = "ensemble"
AGREEMENT_STAGE = "agreement"
_PRIOR_SHARE = 0.4
"""Of the whole time; for the progress only."""


@dataclass(frozen=True, eq=False)
class _Prior:
    """What the first stage gives, on axes LPS."""

    geometry: Geometry
    mask: BoolArray
    probability: NDArray[np.float32] | None
    record: Mapping[str, Any]


class SSNetPredictor:
    """A prior and a tracker in memory; see `methods.contract.Predictor`."""

    def __init__(
        self, model: Model, settings: SSNetSettings, *, prior: Predictor, tracker: Tracker, device: str
    ) -> None:
        self._model = model
        self._settings = settings
        self._prior = prior
        self._tracker = tracker
        self._device = device
        inputs = tracker_inputs(tracker.model, prior.model, settings.inputs)
        self._votes = {vote_name(group): group for group in inputs}
        if len({prior.model.method, *self._votes, ENSEMBLE_STAGE, AGREEMENT_STAGE}) < len(inputs) + 3:
            raise InputError(f"Two stages of {model.name} would have the same name, with the votes {inputs}.")

    @property
    def model(self) -> Model:
        """The model that predicts."""
        return self._model

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        """Segment one image; see `methods.contract.Predictor.predict`.

        Returns:
            The stage that the settings call the answer. `stages` holds all of them: the prior under its method's name,
            each vote under its modalities, "ensemble", and "agreement": in each voxel, how many of the prior and the
            votes hold it. Lesions that are not tracked, because they are too small or fill their key slice, are the
            prior's in every stage.

        Raises:
            InputError: where a modality is missing or shows nothing.
            Cancelled: when the progress was cancelled.
        """
        progress = progress or Progress()
        started = time.perf_counter()
        image.stack(self._model.modalities)  # refuses before the work what lacks a modality
        _, order = image.geometry.reoriented("LPS")
        prior = self._first_stage(image, order, progress.part("Prior", until=_PRIOR_SHARE))
        labels, lesions = find_lesions(
            prior.mask,
            prior.geometry.spacing_zyx_mm,
            plane=self._settings.plane,
            minimum_volume_mm3=self._settings.minimum_lesion_mm3,
            content=self._content(image, order) if prior.probability is None else prior.probability,
        )
        tracked = self._track(image, order, prior, labels, lesions, progress)
        kept = np.isin(labels, [lesion.number for lesion in lesions if not lesion.tracked])
        masks = {name: (tracked[name].owner > 0) | kept if tracked else kept for name in self._votes}
        logits = [np.where(kept, np.float32(np.inf), one.logits) for one in tracked.values()]
        combined = combine(list(masks.values()), self._settings.ensemble, logits=logits) if tracked else kept
        agreement = agreement_map([prior.mask, *(one.owner > 0 for one in tracked.values())])
        masks = {self._prior.model.method: prior.mask, **masks, ENSEMBLE_STAGE: combined}
        stages = self._stages(image, order, masks, agreement)
        answer = stages[self._prior.model.method if self._settings.answer == "prior" else ENSEMBLE_STAGE]
        record = self._record(prior, labels, lesions, tracked, combined)
        record["seconds"] = round(time.perf_counter() - started, 3)
        return Segmentation(image.geometry, self._model.scheme, answer.label_map, image.name, record, stages)

    # ---- stages ---------------------------------------------------------------------------------------------------

    def _first_stage(self, image: Image, order: AxisOrder, progress: Progress) -> _Prior:
        probability = None
        if isinstance(self._prior, ProbabilityPredictor):
            found, regions = self._prior.predict_with_probabilities(image, progress=progress)
            chosen = [regions[found.scheme.names.index(name)] for name in self._tracked_regions(found.scheme)]
            together = np.max(chosen, axis=0) if found.scheme.overlapping else np.minimum(np.sum(chosen, axis=0), 1.0)
            probability = order.apply(together.astype(np.float32))
        else:
            found = self._prior.predict(image, progress=progress)
        mask = np.any([found.mask(name) for name in self._tracked_regions(found.scheme)], axis=0)
        return _Prior(image.geometry.reoriented("LPS")[0], order.apply(mask), probability, found.record)

    def _content(self, image: Image, order: AxisOrder) -> NDArray[np.float32]:
        """What stands in for the prior's probability where there is none: its first modality."""
        return order.apply(image.channels[self._prior.model.modalities[0]])

    def _tracked_regions(self, scheme: LabelScheme) -> tuple[str, ...]:
        return scheme.names if self._settings.region is None else (scheme[self._settings.region].name,)

    def _track(
        self,
        image: Image,
        order: AxisOrder,
        prior: _Prior,
        labels: NDArray[np.int32],
        lesions: Sequence[Lesion],
        progress: Progress,
    ) -> dict[str, Tracked]:
        """Each vote's tracks of all lesions that are tracked; {} where none is."""
        settings = self._settings
        targets = []
        for lesion in lesions:
            if lesion.tracked:
                mask = slices_first(labels, settings.plane)[lesion.key_index] == lesion.number
                prompt = Prompt(lesion.number, settings.plane, lesion.key_index, mask=mask)
                reach = reach_of(lesion.box, prior.geometry, settings.plane, settings.tracking, from_prior=True)
                targets.append(Target(prompt, reach))
        if not targets:
            return {}
        found = {}
        for position, (name, modalities) in enumerate(self._votes.items()):
            share = (position + 1) / len(self._votes)
            part = progress.part(name, until=_PRIOR_SHARE + (1 - _PRIOR_SHARE) * share)
            found[name] = track(
                self._tracker.network,
                np.ascontiguousarray(order.apply(self._tracker.picture(image, modalities))),
                prior.geometry,
                targets,
                image_size=self._tracker.image_size,
                settings=settings.tracking,
                probability=prior.probability,
                progress=part,
            )
        return found

    def _stages(
        self, image: Image, order: AxisOrder, masks: Mapping[str, BoolArray], agreement: NDArray[np.uint8]
    ) -> dict[str, Segmentation]:
        """The stages on the image's own grid."""

        def stored(array: NDArray[Any], name: str, scheme: LabelScheme) -> Segmentation:
            label_map = np.ascontiguousarray(order.undo(array)).astype(np.uint8, copy=False)
            return Segmentation(image.geometry, scheme, label_map, f"{image.name} ({name})")

        stages = {name: stored(mask, name, self._model.scheme) for name, mask in masks.items()}
        scheme = agreement_scheme(len(self._votes) + 1)
        return {**stages, AGREEMENT_STAGE: stored(agreement, AGREEMENT_STAGE, scheme)}

    # ---- record ---------------------------------------------------------------------------------------------------

    def _record(
        self,
        prior: _Prior,
        labels: NDArray[np.int32],
        lesions: Sequence[Lesion],
        tracked: Mapping[str, Tracked],
        combined: BoolArray,
    ) -> dict[str, Any]:
        rows = self._lesion_rows(prior.geometry, labels, lesions, tracked)
        flagged = [str(row["number"]) for row in rows if row.get("flagged")]
        notes = list(dict.fromkeys(note for one in tracked.values() for note in one.notes))
        if not lesions:
            notes.append("No lesion was found, so there was nothing to track.")
        elif not any(lesion.large for lesion in lesions):
            notes.append("Every lesion is smaller than minimum_lesion_mm3, so none was tracked.")
        notes += [
            f"Lesion {lesion.number} fills its whole {self._settings.plane} slice {lesion.key_index}, so it cannot be "
            "told from anything and was not tracked."
            for lesion in lesions
            if lesion.large and lesion.fills_slice
        ]
        if flagged:
            notes.append(f"Stages disagree on lesion {', '.join(flagged)}; look at it before using any of them.")
        if tracked and prior.probability is None:
            notes.append("The prior gives no probabilities, so the rule minimum_probability was not used.")
        voxel_mm3 = prior.geometry.voxel_volume_mm3
        return {
            "model": self._model.name,
            "model_version": self._model.version,
            "model_sha256": self._model.sha256,
            "method": self._model.method,
            "device": self._device,
            "settings": {**prior.record.get("settings", {}), **self._settings.as_dict()},
            "geometry_actions": [],
            "answer": self._settings.answer,
            "prior": dict(prior.record),
            "tracker": {
                "model": self._tracker.model.name,
                "model_sha256": self._tracker.model.sha256,
                "precision": self._tracker.precision,
            },
            "votes": {name: list(group) for name, group in self._votes.items()},
            "volume_mm3": {
                self._prior.model.method: round(int(np.count_nonzero(prior.mask)) * voxel_mm3, 3),
                ENSEMBLE_STAGE: round(int(np.count_nonzero(combined)) * voxel_mm3, 3),
            },
            "lesions": rows,
            "rules_fired": {name: [firing.as_dict() for firing in one.firings] for name, one in tracked.items()},
            "notes": notes,
        }

    def _lesion_rows(
        self,
        geometry: Geometry,
        labels: NDArray[np.int32],
        lesions: Sequence[Lesion],
        tracked: Mapping[str, Tracked],
    ) -> list[dict[str, Any]]:
        owners = {name: one.owner for name, one in tracked.items()}
        agreements = lesion_agreements([labels, *owners.values()], len(lesions)) if tracked else np.zeros(len(lesions))
        sizes = {name: np.bincount(owner.ravel(), minlength=len(lesions) + 1) for name, owner in owners.items()}
        rows = []
        for lesion in lesions:
            centre_ijk = [(start + stop - 1) / 2 for start, stop in lesion.box[::-1]]
            row: dict[str, Any] = {
                "number": lesion.number,
                "voxels": lesion.voxels,
                "volume_mm3": round(lesion.volume_mm3, 3),
                "centre_lps_mm": [round(float(value), 1) for value in geometry.to_lps(centre_ijk)],
                "key_slice": lesion.key_index,
                "tracked": lesion.tracked,
            }
            if lesion.tracked:
                agreement = float(agreements[lesion.number - 1])
                row["agreement"] = round(agreement, 4)
                row["flagged"] = agreement < self._settings.flag_agreement
                row["zoomed"] = any(lesion.number in one.zoomed for one in tracked.values())
                row["votes_mm3"] = {
                    name: round(float(counts[lesion.number]) * geometry.voxel_volume_mm3, 3)
                    for name, counts in sizes.items()
                }
            rows.append(row)
        return rows


def agreement_scheme(opinions: int) -> LabelScheme:
    """What the values of an agreement map mean: from red (one opinion alone) to green (all agree)."""
    regions = []
    for count in range(1, opinions + 1):
        share = (count - 1) / max(1, opinions - 1)
        name = f"{count} of {opinions} agree" if opinions > 1 else "1 of 1"
        regions.append(Region(name, (count,), (round(220 * (1 - share)), round(200 * share), 40)))
    return LabelScheme(tuple(regions))


def load(model: Model, *, device: str, trust: bool, overrides: Mapping[str, object]) -> SSNetPredictor:
    """Load a model folder of the method "ssnet"; called by `methods.load_predictor`.

    Settings that SSNet does not have are handed to the prior.
    """
    values = {**model.settings, **overrides}
    own = {name: value for name, value in values.items() if name in OWN_NAMES | TRACKING_NAMES}
    for_prior = {name: value for name, value in values.items() if name not in own}
    settings = SSNetSettings.from_dict(own)
    prior = load_predictor(model.folder / PRIOR_FOLDER, device=device, trust=trust, overrides=for_prior)
    tracker = load_tracker(
        load_model(model.folder / TRACKER_FOLDER), device=device, trust=trust, precision=settings.tracking.precision
    )
    return SSNetPredictor(model, settings, prior=prior, tracker=tracker, device=device)
