"""What a user feels in the interface, as numbers: on the bench, with real nodes, real widgets and the real worker.

python Testing/Benchmarks/interface.py [--model glioma-nnunet-tiny] [--device cpu] [--repeats 3] [--output FILE]

A synthetic case of BraTS' size is segmented as the panel does it. A standstill of the interface is the longest time
between two beats of a timer in Qt's event loop, less the time for which the system gave the processor to other
programs; "computing" is the processor time of the main thread between two beats. "First message" is the time from Apply
to the worker's first report; the panel's own comes before that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "bench")]


def start_bench() -> Any:
    """The bench, and what goes wrong on it."""
    import application

    complaints = application.start()
    return application, complaints


def volume_nodes() -> dict[str, Any]:
    """A synthetic case as volume nodes of short integers, as scanners give them."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    from BrainSegSAMLib.geometry import Geometry
    from BrainSegSAMLib.phantom import make_phantom

    phantom = make_phantom(3)
    geometry = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(geometry.ijk_to_ras.ravel().tolist())
    nodes = {}
    for modality, array in phantom.channels.items():
        image = vtk.vtkImageData()
        image.SetDimensions(*geometry.size_ijk)
        image.GetPointData().SetScalars(numpy_to_vtk(array.astype(np.int16).ravel(), deep=True))
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(modality)
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(matrix)
        nodes[modality] = slicer.mrmlScene.AddNode(node)
    return nodes


def segment_once(bench: Any, logic: Any, nodes: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """One Apply: seconds until the first messages and the end, and the longest standstill."""
    from BrainSegSAMWidgets.PredictionJob import Request
    from BrainSegSAMWidgets.WorkerProcess import Listener
    from heartbeat import Heartbeat

    said: list[float] = []
    workers: list[float] = []
    ends: list[Any] = []
    beat = Heartbeat().start()
    begin = time.perf_counter()

    def on_progress(message: dict[str, Any]) -> None:
        (workers if "id" in message else said).append(time.perf_counter() - begin)

    listener = Listener(onProgress=on_progress, onDone=ends.append, onFailed=ends.append)
    logic.start(Request(nodes, options.model, options.device), listener)
    bench.wait_until(lambda: ends, seconds=3600)
    end = time.perf_counter() - begin
    bench.wait_until(lambda: False, seconds=0.1)
    beat.stop()
    if isinstance(ends[0], Exception):
        raise ends[0]
    return {
        "panel_says_s": said[0], "first_message_s": workers[0], "all_s": end, "longest_standstill_s": beat.longest_s,
        "longest_computing_s": beat.longest_computing_s,
        "work_s": sum(ends[0].record.get("seconds", {}).values()),
    }


def cancel_once(bench: Any, logic: Any, nodes: dict[str, Any], options: argparse.Namespace) -> float:
    """Seconds from Cancel in the middle of the work to its end."""
    from BrainSegSAMWidgets.PredictionJob import Request
    from BrainSegSAMWidgets.WorkerProcess import Listener

    stages: list[str] = []
    ends: list[Any] = []
    listener = Listener(
        onProgress=lambda message: stages.append(message["stage"]), onDone=ends.append, onFailed=ends.append
    )
    logic.start(Request(nodes, options.model, options.device), listener)
    bench.wait_until(lambda: len(set(stages)) > 3 or ends, seconds=600)
    begin = time.perf_counter()
    logic.cancel()
    bench.wait_until(lambda: ends, seconds=60)
    return time.perf_counter() - begin


def import_seconds(repeats: int) -> float:
    """Median seconds that the module's file takes to import in a fresh process in which Slicer's own are loaded."""
    code = (
        f"import sys, time; sys.path[:0] = [{str(ROOT / 'Testing' / 'bench')!r}]; import application; "
        "application.start(); import numpy; begin = time.perf_counter(); import BrainSegSAM; "
        "print(time.perf_counter() - begin, 'torch' in sys.modules)"
    )
    times = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        seconds, torch = done.stdout.split()
        if torch == "True":
            raise RuntimeError("The module's import brings in torch.")
        times.append(float(seconds))
    return statistics.median(times)


def hand_over() -> dict[str, float]:
    """Seconds to put four volumes of BraTS' size (143 MB) into shared memory, and to take them out again."""
    from BrainSegSAMLib import wire

    arrays = [np.zeros((155, 240, 240), np.float32) + index for index in range(4)]
    begin = time.perf_counter()
    shared = [wire.share(array) for array in arrays]
    middle = time.perf_counter()
    taken = [wire.open_shared(one.reference) for one in shared]
    end = time.perf_counter()
    assert [int(array[0, 0, 0]) for array in taken] == [0, 1, 2, 3]
    return {"put_s": middle - begin, "take_s": end - middle}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="glioma-nnunet-tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    bench, complaints = start_bench()
    import slicer

    import BrainSegSAM

    nodes = volume_nodes()
    logic = BrainSegSAM.BrainSegSAMLogic()
    cold = segment_once(bench, logic, nodes, options)
    warm = [segment_once(bench, logic, nodes, options) for _ in range(options.repeats)]
    measured = {
        "model": options.model, "device": options.device, "cores": os.cpu_count(), "python": platform.python_version(),
        "import_s": import_seconds(options.repeats),
        "cold": cold,
        "warm": {key: max(run[key] for run in warm) for key in cold},
        "cancel_s": cancel_once(bench, logic, nodes, options),
        "hand_over_143_MB": hand_over(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "complaints": complaints.take(),
    }
    slicer.app.emit("aboutToQuit()")
    text = json.dumps(measured, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
