"""The slices of one picture with their image features, for as many tracks and corrections of them as come.

Image features depend on the slices alone. Whoever keeps this object open and tracks again, because a prompt was
corrected or an object added, pays for no slice twice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...crops import Crop
from ...intensity import as_frames
from ...progress import Progress
from .config import TrackingSettings
from .tracker import Network

_MIB: Final = 1 << 20


class EncodedSlices:
    """A context manager; its end frees all features.

    Args:
        network: that encodes.
        picture: uint8 (3, z, y, x), axes LPS.
        settings: `memory_budget_mib`, of all planes and crops together, and `batch_size`.
        keep_crops: whether those of small objects are kept, too, for the same object's corrections.
    """

    def __init__(
        self, network: Network, picture: NDArray[np.uint8], settings: TrackingSettings, *, keep_crops: bool = False
    ) -> None:
        self._network = network
        self._picture = picture
        self._settings = settings
        self.keep_crops = keep_crops
        self._relay = _Relay()
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._open = ExitStack()

    def __enter__(self) -> EncodedSlices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.clear()
        self._open.close()

    def features(self, plane: str, crop: Crop, progress: Progress, *, keep: bool) -> AbstractContextManager[Any]:
        """The features of a part of a plane's slices, in a `with` block.

        Args:
            plane: a key of `prompts.PLANES`.
            crop: rows and columns of the slices.
            progress: may cancel while the block lasts.
            keep: for later calls; else they are freed when the block ends.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        rows, columns = crop
        frames = as_frames(self._picture, plane)[:, :, rows, columns]
        if not keep:
            made = self._encode(frames, progress)
            self._make_room(made)
            return made
        self._relay.current = progress
        part = (plane, rows.start, rows.stop, columns.start, columns.stop)
        if part not in self._kept:
            self._kept[part] = self._open.enter_context(self._encode(frames, self._relay))
        self._make_room(self._kept[part])
        return nullcontext(self._kept[part])

    def _make_room(self, coming: Any) -> None:
        """Keep the budget: features at rest go to their file where they and those that come do not fit together."""
        at_rest = [kept for kept in self._kept.values() if kept is not coming]
        if at_rest and coming.bytes_at_most + sum(kept.bytes_in_memory for kept in at_rest) > self._budget:
            for kept in at_rest:
                kept.spill()

    @property
    def _budget(self) -> int:
        return self._settings.memory_budget_mib * _MIB

    def _encode(self, frames: NDArray[np.uint8], progress: Progress) -> AbstractContextManager[Any]:
        return self._network.encode(
            frames,
            memory_budget_bytes=self._budget,
            batch_size=self._settings.batch_size,
            progress=progress,
        )


class _Relay(Progress):
    """Whether the call that is under way now was cancelled: features outlive the call that made them."""

    def __init__(self) -> None:
        super().__init__()
        self.current = Progress()

    @property
    def cancelled(self) -> bool:
        return self.current.cancelled

    def check(self) -> None:
        self.current.check()
