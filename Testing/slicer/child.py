"""Plays the worker in tests: `child.py BEHAVIOUR`; the real worker's loop with handlers that fail on demand.

A behaviour is the name of a function below: the handler of every kind of request; or one of `STARTS`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

KINDS = ("predict", "mark", "other", "command")


def succeed(arguments, context):
    """Two overlapping regions on the grid of the first volume."""
    import numpy as np

    context.progress.stage("Segmenting", total=4)
    context.progress.advance(message="at 0.25")
    print("a line that nnU-Net prints", flush=True)
    label_map = np.zeros(_shape(arguments), np.uint8)
    label_map[2:6, 2:7, 3:9] = 1
    label_map[3:5, 3:6, 4:7] = 2
    context.progress.advance(3)
    return _answer(arguments, label_map)


def ponder(arguments, context):
    """Regions as large as a brain, after a second in which an interface that waited would stand still."""
    import numpy as np

    context.progress.stage("Reading", total=1)
    time.sleep(1)
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) ** 2 for size in _shape(arguments))
    radius = z[:, None, None] / 0.7 + y[:, None] / 0.6 + x / 0.4
    return _answer(arguments, (radius < 1).astype(np.uint8) + (radius < 0.4))


def _shape(arguments):
    return next(iter(arguments["volumes"].values()))["array"].shape


def _answer(arguments, label_map):
    from BrainSegSAMLib import wire
    from BrainSegSAMLib.components import as_rows, statistics
    from BrainSegSAMLib.image import Segmentation, bounding_box
    from BrainSegSAMLib.labels import LabelScheme, Region

    volume = next(iter(arguments["volumes"].values()))
    scheme = LabelScheme((Region("Whole", (1, 2), (0, 255, 0)), Region("Core", (2,), (255, 0, 0))))
    segmentation = Segmentation(wire.geometry_from(volume["geometry"]), scheme, label_map)
    boxes = {region.name: [[part.start, part.stop] for part in bounding_box(mask)]
             for region, mask in segmentation.masks()}  # fmt: skip
    return {
        "segmentation": wire.segmentation_data(segmentation), "stages": {}, "boxes": boxes,
        "record": {"regions": as_rows(statistics(segmentation)), "model": {"name": arguments["model"]}, "notes": [],
                   "asked": [arguments["model"], arguments["device"], list(arguments["volumes"])]},
    }  # fmt: skip


def echo(arguments, context):
    """Gives back what it got, and says its process; a part of it on the way."""
    for part in arguments.get("parts", ()):
        context.partial({"part": part})
    return {"got": arguments, "pid": os.getpid()}


def unhappy(arguments, context):
    from BrainSegSAMLib.errors import ModelError

    raise ModelError("The model's weights are damaged.")


def foreseen_by_nobody(arguments, context):
    raise ZeroDivisionError("division by zero")


def out_of_memory(arguments, context):
    raise MemoryError


def nonsense(arguments, context):
    """An answer with something in it that fits no message."""
    import numpy as np

    return {"array": np.zeros(100_000), "other": object()}


def crash(arguments, context):
    print("about to crash", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def killed(arguments, context):
    """As the system does where memory ends; a child in a session of its own stays behind."""
    print("allocating", file=sys.stderr, flush=True)
    _say_pids(context, new_session=True)
    time.sleep(1.5)  # the heartbeat tells the interface of the child
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def leave(arguments, context):
    os._exit(3)


def compute(arguments, context):
    """One step of a compiled function, which lets no other thread run."""
    sum(range(arguments["count"]))
    return {}


def stop(arguments, context):
    """As a process does that hangs in the kernel: not even its heartbeat goes on."""
    context.progress.stage("Stopping")
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


def wait(arguments, context):
    """Works until it is cancelled."""
    context.progress.stage("Segmenting", total=10)
    context.progress.advance()
    for _ in range(600):
        time.sleep(0.05)
        context.progress.check()


def slowly(arguments, context):
    """Takes a moment and does not look whether it was cancelled."""
    context.progress.stage("Segmenting")
    time.sleep(0.5)
    return {"got": dict(arguments), "pid": os.getpid()}


def deaf(arguments, context):
    """Never looks whether it was cancelled, and has children of its own."""
    _say_pids(context, new_session=False)
    time.sleep(60)


def deaf_with_sessions(arguments, context):
    _say_pids(context, new_session=True)
    time.sleep(60)


def _say_pids(context, *, new_session):
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = subprocess.Popen(sleeper, start_new_session=new_session)
    context.progress.stage(f"{os.getpid()} {child.pid}")


def _old_version():
    print(json.dumps({"type": "hello", "protocol": 0, "version": "0.0.1", "pid": os.getpid()}), flush=True)
    time.sleep(60)


def _silent():
    time.sleep(60)


def _broken():
    print("No module named BrainSegSAMLib", file=sys.stderr, flush=True)
    sys.exit(1)


STARTS = {"old_version": _old_version, "silent": _silent, "broken": _broken}

if __name__ == "__main__":
    if sys.argv[1] in STARTS:
        STARTS[sys.argv[1]]()
    from BrainSegSAMLib import worker

    sys.exit(worker.main(dict.fromkeys(KINDS, f"child.{sys.argv[1]}")))
