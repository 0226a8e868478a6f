"""Image features of a volume's slices: each slice encoded once, kept in little memory, shared by all who ask.

Encoding is what takes long, and does not depend on what is marked on a slice. Features are computed when a slice is
first asked for, several slices in one pass, and kept in 16 bits; what exceeds the memory budget goes to a temporary
file that the operating system deletes with the process at the latest.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError, OutputError
from ..progress import Progress

if TYPE_CHECKING:
    import torch

DEFAULT_BUDGET_BYTES = 2**30
STORED = "float16"
"""How features are kept; finer than bfloat16, and wide enough for them."""


class Encoder(Protocol):
    """A network that turns slices into features."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def level_shapes(self) -> Sequence[tuple[int, ...]]:
        """Shapes of the features of one slice, level by level."""
        ...

    def encode_slices(self, frames: NDArray[np.uint8]) -> Sequence[torch.Tensor]:
        """The features of uint8 (slice, 3, rows, columns), level by level: float32 (slice, *shape)."""
        ...


AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


class SliceFeatures(Generic[AnyEncoder]):
    """The features of the slices of one stack; a context manager, whose end frees memory and file."""

    def __init__(
        self,
        encoder: AnyEncoder,
        frames: NDArray[np.uint8],
        *,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
        batch_size: int = 4,
        progress: Progress | None = None,
    ) -> None:
        """Prepare the store; nothing is computed yet.

        Args:
            encoder: computes the features.
            frames: uint8 (slice, 3, rows, columns).
            memory_budget_bytes: of the features; at least one slice is kept in memory.
            batch_size: slices that are encoded in one pass.
            progress: may cancel; looked at whenever features are asked for, and before every pass.

        Raises:
            InputError: frames of another kind.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape:
            raise InputError(
                f"Slices to encode must be uint8 (slice, 3, rows, columns), not {frames.dtype} {frames.shape}."
            )
        self.encoder = encoder
        self._frames = frames
        self.batch_size = max(1, batch_size)
        self._progress = progress or Progress()
        self._shapes = encoder.level_shapes
        self._counts = [int(np.prod(shape)) for shape in self._shapes]
        self._capacity = max(1, memory_budget_bytes // self.bytes_per_slice)
        self._kept: OrderedDict[int, torch.Tensor] = OrderedDict()  # one row a slice; least recently used first
        self._spilled: set[int] = set()
        self._file: IO[bytes] | None = None

    @property
    def count(self) -> int:
        """Number of slices."""
        return int(self._frames.shape[0])

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return int(self._frames.shape[2]), int(self._frames.shape[3])

    @property
    def bytes_per_slice(self) -> int:
        """What the features of one slice take."""
        return np.dtype(STORED).itemsize * sum(self._counts)

    @property
    def bytes_at_most(self) -> int:
        """What the features that are held in memory may come to take."""
        return min(self.count, self._capacity) * self.bytes_per_slice

    @property
    def bytes_in_memory(self) -> int:
        """What the features that are held in memory take now."""
        return len(self._kept) * self.bytes_per_slice

    @property
    def bytes_on_disk(self) -> int:
        """What the features in the temporary file take now."""
        return len(self._spilled) * self.bytes_per_slice

    def gather(self, indices: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Features of slices, one row for each index; encodes those that were never asked for.

        Args:
            indices: slices; one may occur several times.

        Returns:
            Level by level float32 (index, *shape), on the network's device.

        Raises:
            ModelError: features that are not finite, as damaged weights give them.
            OutputError: the temporary file cannot be written.
            Cancelled: when the progress was cancelled.
        """
        import torch

        rows = self._fetch(indices)
        stacked = torch.stack([rows[index] for index in indices]).float()
        parts = torch.split(stacked, self._counts, dim=1)
        return tuple(part.reshape(len(indices), *shape) for part, shape in zip(parts, self._shapes, strict=True))

    def spill(self) -> None:
        """Move all features from memory to the temporary file, where others need the memory.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        while self._kept:
            self._evict()

    def close(self) -> None:
        """Free the memory and delete the temporary file; the store cannot be used afterwards."""
        self._kept.clear()
        self._spilled.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> SliceFeatures[AnyEncoder]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self, indices: Sequence[int]) -> dict[int, torch.Tensor]:
        """The row of every slice asked for; held here, so that later ones cannot push earlier ones out."""
        self._progress.check()
        wanted = list(dict.fromkeys(indices))
        found: dict[int, torch.Tensor] = {}
        unknown = []
        for index in wanted:
            if index in self._kept:
                self._kept.move_to_end(index)
                found[index] = self._kept[index]
            elif index in self._spilled:
                found[index] = self._keep(index, self._read(index))
            else:
                unknown.append(index)
        for begin in range(0, len(unknown), self.batch_size):
            self._progress.check()
            batch = unknown[begin : begin + self.batch_size]
            for index, row in zip(batch, self._compute(batch), strict=True):
                found[index] = self._keep(index, row)
        return found

    def _compute(self, indices: Sequence[int]) -> list[torch.Tensor]:
        import torch

        with torch.inference_mode():
            levels = self.encoder.encode_slices(self._frames[list(indices)])
            rows = torch.cat([level.flatten(1).to(getattr(torch, STORED)) for level in levels], dim=1)
            if not bool(torch.isfinite(rows).all()):
                raise ModelError("The image features of this model are not finite in 16 bits: its weights are damaged.")
        return [row.clone() for row in rows]

    def _keep(self, index: int, row: torch.Tensor) -> torch.Tensor:
        self._kept[index] = row
        while len(self._kept) > self._capacity:
            self._evict()
        return row

    def _evict(self) -> None:
        oldest = next(iter(self._kept))
        if oldest not in self._spilled:
            self._write(oldest, self._kept[oldest])
        del self._kept[oldest]

    def _write(self, index: int, row: torch.Tensor) -> None:
        import torch

        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="brainsegsam-features-")  # noqa: SIM115  (closed by close)
            self._file.seek(index * self.bytes_per_slice)
            self._file.write(row.cpu().view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"The temporary file for image features in '{tempfile.gettempdir()}' cannot be written "
                f"({error.strerror or error}); free some space there, or allow a larger memory budget."
            ) from error
        self._spilled.add(index)

    def _read(self, index: int) -> torch.Tensor:
        import torch

        assert self._file is not None
        self._file.seek(index * self.bytes_per_slice)
        stored = bytearray(self._file.read(self.bytes_per_slice))
        return torch.frombuffer(stored, dtype=getattr(torch, STORED)).to(self.encoder.device)
