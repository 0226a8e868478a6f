"""Runs nnU-Net's planning, preprocessing and training in child processes, in a work folder of their own.

nnU-Net takes its folders from environment variables; they are set in the child's environment only, so neither the
caller's environment nor the user's home is touched. A child writes its output to a log file; the parent reads progress
lines from it and asks for an end through a file, which works alike on every system.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BrainSegSAMError
from ..files import write_json
from ..geometry import Geometry
from ..itk import image_of, simpleitk
from ..progress import Progress
from .checkpoints import load_checkpoint, save_checkpoint
from .nnunet_child import DATASET_NAME, PLANS_NAME, TRAINER_NAME

CHECKPOINT_NAME = "checkpoint_final.pth"
SETTINGS_FILE = "brainsegsam_training.json"
PROGRESS_MARK = "@brainsegsam "
_LIBRARY = Path(__file__).resolve().parents[1]
_POLL_S = 0.1
# A child that trains saves its state before it ends; one that is deep in something else is ended after this time.
_GRACE_S = 2.0


@dataclass(frozen=True)
class WorkFolder:
    """Where a training keeps its files; nnU-Net's layout below.

    Attributes:
        root: an own folder for one training.
    """

    root: Path

    @property
    def raw(self) -> Path:
        """The data set as nnU-Net reads it."""
        return self.root / "nnUNet_raw" / DATASET_NAME

    @property
    def preprocessed(self) -> Path:
        """The data set as nnU-Net trains on it."""
        return self.root / "nnUNet_preprocessed" / DATASET_NAME

    def results(self, configuration: str) -> Path:
        """nnU-Net's trained-model folder."""
        return self.root / "nnUNet_results" / DATASET_NAME / f"{TRAINER_NAME}__{PLANS_NAME}__{configuration}"

    @property
    def logs(self) -> Path:
        """What the child processes said."""
        return self.root / "logs"


def write_raw_case(
    work: WorkFolder, case_id: str, *, channels: Sequence[NDArray[np.float32]], labels: NDArray[Any], geometry: Geometry
) -> None:
    """Write one training case in nnU-Net's raw layout.

    Args:
        work: of the training.
        case_id: names its files.
        channels: float32 (z, y, x), in the model's order.
        labels: unsigned integer (z, y, x), with consecutive values from 0.
        geometry: grid of all of them.
    """
    sitk = simpleitk()
    for folder in ("imagesTr", "labelsTr"):
        (work.raw / folder).mkdir(parents=True, exist_ok=True)
    for index, channel in enumerate(channels):
        path = work.raw / "imagesTr" / f"{case_id}_{index:04d}.nii.gz"
        sitk.WriteImage(image_of(channel, geometry), str(path), True, 1)
    label_path = work.raw / "labelsTr" / f"{case_id}.nii.gz"
    sitk.WriteImage(image_of(labels.astype(np.uint8), geometry), str(label_path), True)


@dataclass(frozen=True)
class ChildJob:
    """One child process.

    Attributes:
        name: of its log and job files.
        task: what `nnunet_child` shall do, with its arguments.
        workers: processes that load data for it; 0 loads in the training process.
        command: what runs it, after Python; it gets the job's file as last argument.
        program: whose training it is, for messages.
    """

    name: str
    task: Mapping[str, Any]
    workers: int = 0
    command: tuple[str, ...] = ("-m", "BrainSegSAMLib.backends.nnunet_child")
    program: str = "nnU-Net"


def run_children(
    jobs: Sequence[ChildJob],
    work: WorkFolder,
    *,
    progress: Progress,
    on_message: Callable[[dict[str, Any]], None],
    at_once: int = 1,
) -> None:
    """Run child processes, several at once, to their end.

    Args:
        jobs: in the order in which they are started.
        work: of the training.
        progress: checked several times a second.
        on_message: gets each progress message of `nnunet_trainers`.
        at_once: how many run at the same time.

    Raises:
        BrainSegSAMError: where one fails; the others are stopped, and the message names the log.
        Cancelled: when the progress was cancelled; trainings have saved their state then.
    """
    waiting = list(jobs)
    running: list[_Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Child(waiting.pop(0), work))
            for child in list(running):
                if child.is_finished(on_message):
                    running.remove(child)
            progress.check()
            time.sleep(_POLL_S)
    except BaseException:  # also KeyboardInterrupt: no child may outlive its parent
        _stop(running)
        raise


def child_environment(work: WorkFolder, *, workers: int, stop_file: Path) -> dict[str, str]:
    """The environment of a child: the caller's, with nnU-Net's variables, and no cache in the user's home."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    paths = [str(_LIBRARY.parent), environment.get("PYTHONPATH", "")]
    environment |= {
        "nnUNet_raw": str(work.raw.parent),
        "nnUNet_preprocessed": str(work.preprocessed.parent),
        "nnUNet_results": str(work.root / "nnUNet_results"),
        "nnUNet_extTrainer": str(_LIBRARY / "nnunet_trainers"),
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "BRAINSEGSAM_STOP_FILE": str(stop_file),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "MPLCONFIGDIR": str(work.root / "cache"),
        "XDG_CACHE_HOME": str(work.root / "cache"),
        "XDG_CONFIG_HOME": str(work.root / "cache"),
    }
    return environment


class _Child:
    """A running child process and how far its log was read."""

    def __init__(self, job: ChildJob, work: WorkFolder) -> None:
        work.logs.mkdir(parents=True, exist_ok=True)
        self.job = job
        self.stop_file = work.logs / f"{job.name}.stop"
        self.stop_file.unlink(missing_ok=True)
        self.log = work.logs / f"{job.name}.log"
        self._read = 0
        job_file = work.logs / f"{job.name}.json"
        write_json(dict(job.task), job_file)
        # An own process group: Ctrl-C reaches the parent only, which then lets the child save its state.
        group: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if os.name == "nt"
            else {"start_new_session": True}
        )
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.job.command, str(job_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=work.root,
                env=child_environment(work, workers=job.workers, stop_file=self.stop_file),
                **group,
            )

    def is_finished(self, on_message: Callable[[dict[str, Any]], None]) -> bool:
        """Pass on new messages; True once the process has ended well.

        Raises:
            BrainSegSAMError: where it has failed.
        """
        code = self.process.poll()  # before the log is read, so that nothing that it said is missed
        for line in self._new_lines():
            if line.startswith(PROGRESS_MARK):
                on_message(json.loads(line.removeprefix(PROGRESS_MARK)))
        if code is None:
            return False
        if code != 0:
            failed = f"{self.job.program} failed in '{self.job.name}'"
            raise BrainSegSAMError(f"{failed}: {self._last_words()} See {self.log}.")
        return True

    def _new_lines(self) -> list[str]:
        with self.log.open("rb") as stream:
            stream.seek(self._read)
            new = stream.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read += len(complete)
        return complete.decode("utf-8", errors="replace").splitlines()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        said = [line for line in lines if line and not line.startswith(PROGRESS_MARK)]
        return said[-1].rstrip(".") + "." if said else f"it ended with code {self.process.returncode}."


def _stop(children: Sequence[_Child]) -> None:
    for child in children:
        child.stop_file.touch()
    deadline = time.monotonic() + _GRACE_S
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_group(child.process)
            child.process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a child and the worker processes that it started."""
    if os.name == "nt":
        process.kill()
        return
    import signal

    os.killpg(process.pid, signal.SIGKILL)


def keep_weights(source: Path, target: Path, *, half: bool) -> None:
    """Write what a prediction needs of nnU-Net's checkpoint, so that the stock nnU-Net reads it too.

    Args:
        source: a checkpoint of `BrainSegTrainer`.
        target: the file to write; it names nnU-Net's own trainer, whose network it is.
        half: store 16-bit numbers.
    """
    # Written by our own child a moment ago, so it may hold nnU-Net's own objects.
    checkpoint = load_checkpoint(source, trust=True)
    kept: dict[int, Any] = {}
    weights = {}
    for name, value in checkpoint["network_weights"].items():
        # nnU-Net's networks list one weight under several names; stored once, the file is a third as large.
        key = value.data_ptr()
        if key not in kept:
            kept[key] = value.half() if half else value
        weights[name] = kept[key]
    axes = checkpoint["inference_allowed_mirroring_axes"]
    save_checkpoint(
        {
            "network_weights": weights,
            "init_args": {"configuration": checkpoint["init_args"]["configuration"]},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": None if axes is None else tuple(int(axis) for axis in axes),
            "current_epoch": int(checkpoint["current_epoch"]),
        },
        target,
    )
