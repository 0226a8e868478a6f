"""Trains a YOLO network on several GPUs with Ultralytics' own distributed training, a process for each GPU.

Ultralytics would start these processes by itself, but with its own trainer; so PyTorch's launcher starts ours
(`yolo_child`), and Ultralytics finds in each that it is one of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from ..progress import Measured, Progress
from .nnunet_training import ChildJob, WorkFolder, run_children
from .yolo_architecture import YoloArchitecture
from .yolo_training import YoloTrained, YoloTraining, finished

_CHILD: Final = ("-m", "BrainSegSAMLib.backends.yolo_child")


def train_on_gpus(job: YoloTraining, architecture: YoloArchitecture, *, progress: Progress) -> YoloTrained:
    """As `yolo_training.train`, by a process for each GPU.

    Raises:
        BrainSegSAMError: where training fails; the message names its log.
        Cancelled: when the progress was cancelled; the last whole epoch is kept.
    """
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(job.gpus))
    return train_in_children(job, architecture, command=(*launcher, *_CHILD), progress=progress)


def train_in_children(
    job: YoloTraining, architecture: YoloArchitecture, *, command: Sequence[str] = _CHILD, progress: Progress
) -> YoloTrained:
    """As `yolo_training.train`, by a command in a process group of its own."""
    advanced = 0

    def hear(message: dict[str, Any]) -> None:
        nonlocal advanced
        measured = Measured(**message["measured"]) if message["measured"] else None
        progress.advance(message["units"], message=message["message"], measured=measured)
        advanced += message["units"]

    if (earlier := finished(job)) is None:
        task = {
            "job": {**asdict(job), **{name: str(getattr(job, name).absolute()) for name in ("data", "folder")},
                    "start": None if job.start is None else str(job.start.absolute())},
            "architecture": architecture.as_dict(),
        }  # fmt: skip
        child = ChildJob("training", task, workers=job.workers, command=tuple(command), program="Ultralytics")
        job.folder.mkdir(parents=True, exist_ok=True)
        run_children([child], WorkFolder(job.folder.absolute()), progress=progress, on_message=hear)
        earlier = finished(job)
        assert earlier is not None, "a training that ended well has kept its last state"
    progress.advance(job.epochs - advanced)
    return earlier
