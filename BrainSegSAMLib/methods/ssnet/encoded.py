"""The slices of one picture with their image features, for as many tracks and corrections of them as come.

Image features depend on the slices alone. Whoever keeps this object open and tracks again, because a prompt was
corrected or an object added, pays for no slice twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...crops import Crop
from ...errors import OutputError
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
        self._kept: dict[tuple[Any, ...], tuple[Any, ExitStack]] = {}

    def __enter__(self) -> EncodedSlices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free all features."""
        for part in list(self._kept):
            self._free(part)

    def rest(self) -> None:
        """Free the memory until something is asked for again: the features wait in their temporary files.

        Where these cannot be written, all features are freed, and made anew when they are asked for.
        """
        try:
            for features, _ in self._kept.values():
                features.spill()
        except OutputError:
            self.close()

    @contextmanager
    def features(self, plane: str, crop: Crop, progress: Progress, *, keep: bool) -> Iterator[Any]:
        """The features of a part of a plane's slices, in a `with` block.

        Args:
            plane: a key of `prompts.PLANES`.
            crop: rows and columns of the slices.
            progress: may cancel while the block lasts.
            keep: for later calls; else they are freed when the block ends. They are also freed where it is their first
                one and fails or is cancelled.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        rows, columns = crop
        frames = as_frames(self._picture, plane)[:, :, rows, columns]
        if not keep:
            with self._encode(frames, progress) as made:
                self._make_room(made)
                yield made
            return
        self._relay.current = progress
        part = (plane, rows.start, rows.stop, columns.start, columns.stop)
        known = part in self._kept
        if not known:
            opened = ExitStack()
            self._kept[part] = opened.enter_context(self._encode(frames, self._relay)), opened
        try:
            self._make_room(self._kept[part][0])
            yield self._kept[part][0]
        except BaseException:
            if not known:
                self._free(part)
            raise

    def _free(self, part: tuple[Any, ...]) -> None:
        self._kept.pop(part)[1].close()

    def _make_room(self, coming: Any) -> None:
        """Keep the budget: features at rest go to their file where they and those that come do not fit together."""
        at_rest = [features for features, _ in self._kept.values() if features is not coming]
        if at_rest and coming.bytes_at_most + sum(one.bytes_in_memory for one in at_rest) > self._budget:
            for one in at_rest:
                one.spill()

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
