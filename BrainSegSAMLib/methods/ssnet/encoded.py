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

from ...intensity import as_frames
from ...progress import Progress
from .config import TrackingSettings
from .tracker import Network
from .zoom import Crop

_MIB: Final = 1 << 20


class EncodedSlices:
    """A context manager; its end frees all features.

    Args:
        network: that encodes.
        picture: uint8 (3, z, y, x), axes LPS.
        settings: `memory_budget_mib`, of each plane, and `batch_size`.
    """

    def __init__(self, network: Network, picture: NDArray[np.uint8], settings: TrackingSettings) -> None:
        self._network = network
        self._picture = picture
        self._settings = settings
        self._relay = _Relay()
        self._planes: dict[str, Any] = {}
        self._open = ExitStack()

    def __enter__(self) -> EncodedSlices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._planes.clear()
        self._open.close()

    def features(self, plane: str, crop: Crop | None, progress: Progress) -> AbstractContextManager[Any]:
        """The features of a plane's slices, in a `with` block.

        Args:
            plane: a key of `prompts.PLANES`.
            crop: of the slices. Features of crops are freed when the block ends, those of whole slices (None) are kept.
            progress: may cancel while the block lasts.
        """
        if crop is not None:
            rows, columns = crop
            return self._encode(as_frames(self._picture, plane)[:, :, rows, columns], progress)
        self._relay.current = progress
        if plane not in self._planes:
            made = self._encode(as_frames(self._picture, plane), self._relay)
            self._planes[plane] = self._open.enter_context(made)
        return nullcontext(self._planes[plane])

    def _encode(self, frames: NDArray[np.uint8], progress: Progress) -> AbstractContextManager[Any]:
        return self._network.encode(
            frames,
            memory_budget_bytes=self._settings.memory_budget_mib * _MIB,
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
