"""All that decides how objects are tracked and how SSNet puts its stages together; torch-free.

The paper names neither stop rules nor an ensemble rule. The defaults here are ours, each can be turned off, and every
rule that fires is recorded with the slice and the value that made it fire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final

from ...backends.devices import PRECISIONS
from ...errors import InputError
from ...prompts import PLANES

DIRECTIONS: Final[dict[str, tuple[int, ...]]] = {"both": (1, -1), "forward": (1,), "backward": (-1,)}
"""Name → steps of the slice index on axes LPS; forward is to superior (axial), posterior (coronal), left (sagittal)."""

ENSEMBLES: Final = ("majority", "union", "intersection", "mean_logit", "staple")
ANSWERS: Final = ("prior", "ensemble")


@dataclass(frozen=True)
class TrackingSettings:
    """How an object is followed from slice to slice, and when that ends. None turns a rule off, where it may be given.

    Attributes:
        direction: "both", "forward" or "backward" from the prompt's slice.
        stop_rules: False turns off every rule but the reach: whatever the network gives is kept.
        range_mm: how far from the prompt's slice an object is followed; None: to the end of the volume. For objects
            whose extent a prior tells, `margin_mm` counts instead.
        margin_mm: how far beyond the prior's extent, in every direction, an object may reach.
        thick_slice_mm: slices farther apart than this are thick: too much changes from one to the next.
        thick_slice_reach: thick slices that an object is followed beyond its known extent.
        object_score: the network's score that the object is there; at or below it the slice counts as empty.
        empty_slices: so many empty slices in a row end the track.
        area_factor: the track ends where the area becomes more than this many times the one before …
        area_growth_mm2: … and grows by more than this, so that objects of a few pixels may grow.
        minimum_overlap: the track ends where a smaller share of the mask, or of the slice before's where that is the
            smaller of the two, lies in both.
        drop_detached: pieces (8-connected) that do not overlap the mask of the slice before are removed.
        minimum_probability: the track ends where the prior's mean probability under the mask is lower.
        minimum_likeness: the track ends where the mask's pixels look less like the object on the prompt's slice, in the
            mean (`likeness.Likeness`, 0 to 1).
        pixel_likeness: pixels that look less like it are removed.
        zoom_pixels: a prompt whose longer side is smaller than this many pixels of the network's picture is tracked in
            a square crop of the slices in which it has this size, at most half of the crop's: a few pixels vanish at
            a network's resolution.
        zoom_minimum_mm: the crop's side is at least this.
        memory_budget_mib: what image features may take in memory at a time; the rest goes to a temporary file.
        batch_size: slices that are encoded at once.
        precision: "fp32"; "bf16", faster where the processor has it; or "auto", bf16 where the processor has it.

    Raises:
        InputError: for a value that cannot be used.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"direction": tuple(DIRECTIONS), "precision": tuple(PRECISIONS)}

    direction: str = "both"
    stop_rules: bool = True
    range_mm: float | None = None
    margin_mm: float | None = 10.0
    thick_slice_mm: float | None = 4.0
    thick_slice_reach: int = 2
    object_score: float | None = 0.0
    empty_slices: int | None = 2
    area_factor: float | None = 2.5
    area_growth_mm2: float = 100.0
    minimum_overlap: float | None = 0.1
    drop_detached: bool = True
    minimum_probability: float | None = 0.05
    minimum_likeness: float | None = 0.3
    pixel_likeness: float | None = 0.05
    zoom_pixels: int | None = 32
    zoom_minimum_mm: float = 32.0
    memory_budget_mib: int = 1024
    batch_size: int = 4
    precision: str = "auto"

    def __post_init__(self) -> None:
        _choice("direction", self.direction, DIRECTIONS)
        _choice("precision", self.precision, PRECISIONS)
        for name in ("stop_rules", "drop_detached"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"The setting {name} is {getattr(self, name)!r}; use true or false.")
        for name in ("range_mm", "margin_mm", "thick_slice_mm"):
            _require(name, getattr(self, name), low=0, optional=True)
        for name in ("area_growth_mm2", "zoom_minimum_mm"):
            _require(name, getattr(self, name), low=0)
        for name, low in (("memory_budget_mib", 0), ("thick_slice_reach", 0), ("batch_size", 1)):
            _require(name, getattr(self, name), low=low, whole=True)
        for name in ("empty_slices", "zoom_pixels"):
            _require(name, getattr(self, name), low=1, whole=True, optional=True)
        for name in ("minimum_overlap", "minimum_probability", "minimum_likeness", "pixel_likeness"):
            _require(name, getattr(self, name), low=0, high=1, optional=True)
        _require("area_factor", self.area_factor, low=1, optional=True)
        _require("object_score", self.object_score, low=float("-inf"), optional=True)


@dataclass(frozen=True)
class SSNetSettings:
    """How SSNet makes one answer of the prior's mask and of its tracks; the `settings` of its `model.json`.

    In files and on the command line the fields of `tracking` stand beside the others: one flat table.

    Attributes:
        answer: which stage is the result: "prior" (what nnU-Net gave; the paper's own table finds it better than the
            ensemble) or "ensemble". All stages are carried along either way.
        region: the prior's region that is tracked; all of them together where None.
        plane: whose slices are tracked, a key of `prompts.PLANES`.
        minimum_lesion_mm3: lesions smaller than this are not tracked; they keep the prior's voxels in every stage.
        inputs: what the tracker sees, once for each vote: () for the rule in `tracker.tracker_inputs`, or groups of
            one to three modalities, e.g. (("flair",), ("t1ce",), ("flair", "t2")).
        ensemble: how votes become one mask: see `ensemble.combine`.
        flag_agreement: lesions with a lower agreement are flagged for a person to look at.
        tracking: how lesions are followed.

    Raises:
        InputError: for a value that cannot be used.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "answer": tuple(ANSWERS), "plane": tuple(PLANES), "ensemble": tuple(ENSEMBLES),
    }  # fmt: skip
    MATTER: ClassVar[tuple[str, ...]] = ("answer",)

    answer: str = "prior"
    region: str | None = None
    plane: str = "axial"
    minimum_lesion_mm3: float = 10.0
    inputs: tuple[tuple[str, ...], ...] = ()
    ensemble: str = "majority"
    flag_agreement: float = 0.7
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        _choice("answer", self.answer, ANSWERS)
        _choice("plane", self.plane, PLANES)
        _choice("ensemble", self.ensemble, ENSEMBLES)
        _require("minimum_lesion_mm3", self.minimum_lesion_mm3, low=0)
        _require("flag_agreement", self.flag_agreement, low=0, high=1)
        if not all(1 <= len(group) <= 3 for group in self.inputs):
            raise InputError(f"The setting inputs is {self.inputs}; each group must name one to three modalities.")
        if len(set(self.inputs)) != len(self.inputs):
            raise InputError(f"The setting inputs is {self.inputs}; the same group would vote twice.")

    def as_dict(self) -> dict[str, Any]:
        """For `model.json` and records: one flat table; `from_dict` reads it back."""
        own = {name: getattr(self, name) for name in OWN_NAMES}
        return {**own, "inputs": [list(group) for group in self.inputs], **asdict(self.tracking)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SSNetSettings:
        """Read settings; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        own = {name: value for name, value in values.items() if name in OWN_NAMES}
        if "inputs" in own:
            own["inputs"] = _groups(own["inputs"])
        tracking = tracking_settings({name: value for name, value in values.items() if name not in OWN_NAMES})
        try:
            return cls(**own, tracking=tracking)
        except TypeError as error:
            raise InputError(f"A setting of SSNet has a value of a wrong type: {error}.") from error


def tracking_settings(values: Mapping[str, Any]) -> TrackingSettings:
    """Read settings of tracking; what is not named keeps its default.

    Raises:
        InputError: for a name that is no setting, or a value that cannot be used.
    """
    unknown = sorted(set(values) - TRACKING_NAMES)
    if unknown:
        raise InputError(
            f"There is no setting {', '.join(unknown)} for tracking; there are: {', '.join(sorted(TRACKING_NAMES))}."
        )
    try:
        return TrackingSettings(**values)
    except TypeError as error:
        raise InputError(f"A setting of tracking has a value of a wrong type: {error}.") from error


def _groups(value: Any) -> tuple[tuple[str, ...], ...]:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not all(isinstance(group, Sequence) and not isinstance(group, str) for group in value):
        raise InputError(f'The setting inputs is {value!r}; write groups of modalities, as in [["flair"], ["t2"]].')
    return tuple(tuple(str(name) for name in group) for group in value)


def _choice(name: str, value: object, allowed: Mapping[str, Any] | Sequence[str]) -> None:
    if value not in tuple(allowed):
        raise InputError(f"The setting {name} is '{value}'; use one of: {', '.join(allowed)}.")


def _require(
    name: str,
    value: Any,
    *,
    low: float,
    high: float = float("inf"),
    whole: bool = False,
    optional: bool = False,
) -> None:
    if value is None and optional:
        return
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        bounds = f" from {low:g} to {high:g}" if high < float("inf") else f" of {low:g} or more"
        raise InputError(f"The setting {name} is {value!r}; use {kind}{bounds if math.isfinite(low) else ''}.")


TRACKING_NAMES: Final = frozenset(one.name for one in fields(TrackingSettings))
OWN_NAMES: Final = frozenset(one.name for one in fields(SSNetSettings)) - {"tracking"}
"""Names of all settings of SSNet but those of tracking."""
