"""What runs in each process of a training of YOLO on several GPUs, described by a JSON file.

Run as ``python -m torch.distributed.run … -m BrainSegSAMLib.backends.yolo_child JOB.json`` by `yolo_gpus`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from ..progress import Measured, Progress
from .nnunet_training import PROGRESS_MARK
from .yolo_architecture import YoloArchitecture
from .yolo_training import YoloTraining, train


class ParentProgress(Progress):
    """Tells the parent by lines of the log, and is cancelled by its file.

    Where one of several processes ends so, the launcher ends the others.
    """

    def __init__(self, stop_file: Path) -> None:
        super().__init__()
        self._stop_file = stop_file

    def check(self) -> None:
        """Look whether the parent asks for an end."""
        if self._stop_file.exists():
            self.cancel()
        super().check()

    def advance(self, units: int = 1, *, message: str = "", measured: Measured | None = None) -> None:
        """Tell the parent; of several processes the first alone."""
        self.check()
        if units and int(os.environ.get("RANK", "0")) == 0:
            said = {"units": units, "message": message, "measured": asdict(measured) if measured else None}
            line = PROGRESS_MARK + json.dumps(said)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def main() -> None:
    """Run the training that the job file describes."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    paths = {name: Path(task["job"][name]) for name in ("data", "folder")}
    start = task["job"]["start"]
    job = YoloTraining(**{**task["job"], **paths, "start": start and Path(start)})
    architecture = YoloArchitecture.from_dict(task["architecture"])
    train(job, architecture, progress=ParentProgress(Path(os.environ["BRAINSEGSAM_STOP_FILE"])))


if __name__ == "__main__":
    main()
