"""Work on cases that costs nothing, for tests of batches; it lies in a module that worker processes can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from BrainSegSAMLib.errors import InputError, ModelError
from BrainSegSAMLib.progress import Progress


@dataclass(frozen=True)
class Start:
    """Every case writes `<case>` into the folder, a line per attempt; its name says what befalls it.

    "corrupt" fails always, "hiccup" the first two times, "deadly" kills its worker always, "fatal" the first time;
    "slow" waits.

    Attributes:
        folder: for what the cases, and the tests, leave there.
        broken: no process can set the work up.
        one_broken: the first process that tries cannot, and the others take their time.
        alone: a folder where cases leave a mark while they are computed; one is refused where its process has left one.
    """

    folder: Path
    broken: bool = False
    one_broken: bool = False
    alone: Path | None = None

    def __call__(self, device: str) -> Work:
        if self.broken or (self.one_broken and self._is_broken_here()):
            raise ModelError("The model is not there.")
        with (self.folder / "starts").open("a") as stream:
            stream.write(f"{os.getpid()} {device} {os.environ.get('OMP_NUM_THREADS')}\n")
        return Work(self.folder, self.alone)

    def _is_broken_here(self) -> bool:
        file = self.folder / "broken"
        try:
            with file.open("x") as stream:
                stream.write(str(os.getpid()))
        except FileExistsError:
            pass
        if file.read_text() == str(os.getpid()):
            return True
        time.sleep(1)
        return False


class Work:
    def __init__(self, folder: Path, alone: Path | None) -> None:
        self.folder, self.alone = folder, alone

    def load(self, item: str) -> str:
        with (self.folder / item).open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return item

    def compute(self, loaded: str, progress: Progress) -> str:
        attempts = len((self.folder / loaded).read_text().splitlines())
        if loaded.startswith("slow"):
            for _ in range(600):
                progress.check()
                time.sleep(0.05)
                if (self.folder / "enough").exists():
                    break
        if loaded.startswith("deadly") or (loaded.startswith("fatal") and attempts < 2):
            os.kill(os.getpid(), signal.SIGKILL)
        if loaded.startswith("corrupt") or (loaded.startswith("hiccup") and attempts < 3):
            raise InputError(f"{loaded} cannot be read.")
        if self.alone is not None:
            mark = self.alone / f"computing-{os.getpid()}"
            mark.touch(exist_ok=False)
            time.sleep(0.03)
            mark.unlink()
        return loaded.upper()

    def save(self, item: str, computed: str) -> str:
        with (self.folder / "finishings").open("a") as stream:
            stream.write(f"{item}\n")
        (self.folder / f"{item}.done").write_text(computed)
        return computed

    def finished(self, item: str) -> str | None:
        done = self.folder / f"{item}.done"
        return done.read_text() if done.exists() else None


@dataclass(frozen=True)
class Tiny:
    """A case of next to nothing: the engine's own costs show."""

    seconds: float = 0.0

    def __call__(self, device: str) -> Tiny:
        return self

    def load(self, item: int) -> int:
        return item

    def compute(self, loaded: int, progress: Progress) -> int:
        if self.seconds:
            time.sleep(self.seconds)
        return loaded * loaded

    def save(self, item: int, computed: int) -> int:
        return computed
