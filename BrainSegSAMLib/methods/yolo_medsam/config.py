"""All that decides how boxes are found and what becomes of them in the method "yolo_medsam"; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from ...backends.devices import PRECISIONS
from ...boxes import LinkSettings
from ...prompts import PLANES
from ...settings import read_settings, require

SOURCES: Final = ("detector", "prior")
"""What finds the boxes: a detector, or a model that segments, each piece of whose regions gets a box on each slice."""


@dataclass(frozen=True)
class YoloMedSAMSettings:
    """The settings of a model of the method "yolo_medsam", as in its `model.json`.

    Attributes:
        plane: whose slices boxes are found on, a key of `prompts.PLANES`.
        minimum_confidence: boxes of which the detector is less sure do not count.
        overlap: of two boxes of a class on a slice whose IoU is larger, the less sure one does not count.
        minimum_iou: see `boxes.LinkSettings`.
        largest_gap: see `boxes.LinkSettings`.
        minimum_slices: see `boxes.LinkSettings`.
        margin_mm: what a box of the prior's is larger by on each side; a detector's boxes stay as they are.
        minimum_lesion_mm3: pieces of the prior's regions that are smaller keep the prior's voxels.
        memory_budget_mib: what image features may take in memory at a time; the rest goes to a temporary file.
        batch_size: slices that are encoded at once.
        precision: of the image encoder: "fp32"; "bf16", faster where the processor has it; or "auto", bf16 where it has.

    Raises:
        InputError: for a value that cannot be used.
    """

    plane: str = "axial"
    minimum_confidence: float = 0.25
    overlap: float = 0.45
    minimum_iou: float = 0.2
    largest_gap: int = 1
    minimum_slices: int = 2
    margin_mm: float = 2.0
    minimum_lesion_mm3: float = 10.0
    memory_budget_mib: int = 1024
    batch_size: int = 4
    precision: str = "auto"

    def __post_init__(self) -> None:
        require(self.plane in PLANES, "plane", self.plane, f"one of: {', '.join(PLANES)}")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of: {', '.join(PRECISIONS)}")
        require(0 < self.minimum_confidence < 1, "minimum_confidence", self.minimum_confidence, "between 0 and 1")
        require(0 < self.overlap <= 1, "overlap", self.overlap, "above 0 and at most 1")
        for name in ("margin_mm", "minimum_lesion_mm3", "memory_budget_mib"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _ = self.linking

    @property
    def linking(self) -> LinkSettings:
        """How boxes of neighbouring slices become lesions."""
        return LinkSettings(self.minimum_iou, self.largest_gap, self.minimum_slices)

    def as_dict(self) -> dict[str, Any]:
        """For `model.json` and records; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> YoloMedSAMSettings:
        """Read settings; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return read_settings(cls, values, purpose="boxes and their masks")
