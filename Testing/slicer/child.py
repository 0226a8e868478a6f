"""Plays the command line for the panel's tests: `child.py BEHAVIOUR predict --model … --progress json`.

It speaks the same protocol with the library's own writers, and fails on demand in the ways a real run may fail.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def say(**message):
    print(json.dumps(message), flush=True)


def progress(fraction, stage="case: Segmenting"):
    say(type="progress", stage=stage, done=0, total=0, fraction=fraction, remaining_s=90.0, message=f"at {fraction}")


def succeed(options):
    import numpy as np

    from BrainSegSAMLib.components import as_rows, statistics
    from BrainSegSAMLib.files import write_json
    from BrainSegSAMLib.image import Segmentation
    from BrainSegSAMLib.labels import LabelScheme, Region
    from BrainSegSAMLib.segmentation_files import write_label_map, write_seg_nrrd
    from BrainSegSAMLib.volumes import read_volume

    progress(0.25)
    print("a line that nnU-Net prints", flush=True)
    array, geometry = read_volume(Path(options.input) / "flair.nrrd")
    label_map = np.zeros(array.shape, np.uint8)
    label_map[2:6, 2:7, 3:9] = 1
    label_map[3:5, 3:6, 4:7] = 2
    scheme = LabelScheme((Region("Whole", (1, 2), (0, 255, 0)), Region("Core", (2,), (255, 0, 0))))
    segmentation = Segmentation(geometry, scheme, label_map)
    out = Path(options.output)
    out.mkdir()
    paths = {"label_map": out / "case.nii.gz", "segmentation": out / "case.seg.nrrd", "record": out / "case.json"}
    write_label_map(segmentation, paths["label_map"])
    write_seg_nrrd(segmentation, paths["segmentation"])
    write_json({"regions": as_rows(statistics(segmentation))}, paths["record"])
    progress(1.0)
    outputs = {kind: str(path) for kind, path in paths.items()}
    say(type="result", cases=[{"case_id": "case", "status": "done", "outputs": outputs, "error": ""}])


def failed_case(options):
    say(type="result", cases=[{"case_id": "case", "status": "failed", "outputs": {}, "error": "The scan is empty."}])
    sys.exit(1)


def bad_usage(options):
    print("first line", file=sys.stderr)
    print("The model 'toy' needs more.", file=sys.stderr)
    sys.exit(2)


def error_message(options):
    say(type="error", message="The model's weights are damaged.")
    print("something else", file=sys.stderr)
    sys.exit(2)


def crash(options):
    print("about to crash", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def no_result(options):
    pass


def wait(options):
    progress(0.1)
    time.sleep(60)


def deaf(options):
    """Ignores the polite request to end, and has a child of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    say(type="progress", stage=f"{os.getpid()} {grandchild.pid}", fraction=0.1, remaining_s=None)
    time.sleep(60)


def environment(options):
    say(type="progress", stage=json.dumps({"cwd": str(Path.cwd()), "argv": sys.argv[2:]}), fraction=0.0)
    succeed(options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("command", choices=["predict"])
    for option in ("--model", "--input", "--output", "--device", "--progress"):
        parser.add_argument(option, required=True)
    given = parser.parse_args()
    globals()[given.behaviour](given)
