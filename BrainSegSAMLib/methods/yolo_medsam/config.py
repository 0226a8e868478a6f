"""All that decides how boxes become masks in the method "yolo_medsam"; torch-free.

How a detector looks at volumes is stored with the detector (`detector_config.DetectionSettings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ...backends.devices import PRECISIONS
from ...errors import InputError
from ...intensity import MAX_CHANNELS
from ...prompts import PLANES
from ...settings import read_settings, require


@dataclass(frozen=True)
class YoloMedSAMSettings:
    """The settings of a model of the method "yolo_medsam", as in its `model.json`.

    Attributes:
        confidence: boxes of which the detector is less sure do not count; the detector's own setting where None.
        minimum_slices: lesions with boxes on fewer slices do not count; the detector's own setting where None.
        plane: on whose slices a prior's lesions get boxes, a key of `prompts.PLANES`; a detector has its own.
        margin_mm: by what a box of a prior's is larger on each side; a detector's boxes stay as they are.
        minimum_lesion_mm3: pieces of a prior's regions that are smaller get no box; they keep the prior's voxels.
        inputs: modalities that the segmenter sees, one to three; () for the rule in `composing.segmenter_inputs`.
        memory_budget_mib: what image features may take in memory at a time; the rest goes to a temporary file.
        batch_size: slices that are encoded at once.
        precision: "fp32"; "bf16", faster where the processor has it; or "auto", bf16 where the processor has it.

    Raises:
        InputError: for a value that cannot be used.
    """

    confidence: float | None = None
    minimum_slices: int | None = None
    plane: str = "axial"
    margin_mm: float = 2.0
    minimum_lesion_mm3: float = 10.0
    inputs: tuple[str, ...] = ()
    memory_budget_mib: int = 1024
    batch_size: int = 4
    precision: str = "auto"

    def __post_init__(self) -> None:
        require(self.plane in PLANES, "plane", self.plane, f"one of: {', '.join(PLANES)}")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of: {', '.join(PRECISIONS)}")
        if self.confidence is not None:
            require(0 < self.confidence < 1, "confidence", self.confidence, "between 0 and 1")
        if self.minimum_slices is not None:
            require(self.minimum_slices >= 1, "minimum_slices", self.minimum_slices, "1 or more")
        for name in ("margin_mm", "minimum_lesion_mm3", "memory_budget_mib"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(len(self.inputs) <= MAX_CHANNELS, "inputs", self.inputs, f"at most {MAX_CHANNELS} modalities")

    def check_used(self, *, by_detector: bool) -> None:
        """Refuse settings that would change nothing, so that nobody believes they did.

        Args:
            by_detector: whether a detector finds the boxes, and not a prior.

        Raises:
            InputError: naming the first of them.
        """
        names, source = (_OF_A_PRIOR, "a detector") if by_detector else (_OF_A_DETECTOR, "a prior")
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise InputError(f"The setting {name} changes nothing where {source} finds the boxes; leave it out.")

    def as_dict(self) -> dict[str, Any]:
        """For `model.json` and records; `from_dict` reads it back."""
        return {**asdict(self), "inputs": list(self.inputs)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> YoloMedSAMSettings:
        """Read settings; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return read_settings(cls, values, purpose="boxes and their masks")


_OF_A_DETECTOR: Final = ("confidence", "minimum_slices")
_OF_A_PRIOR: Final = ("plane", "margin_mm", "minimum_lesion_mm3")

NAMES: Final = frozenset(one.name for one in fields(YoloMedSAMSettings))
