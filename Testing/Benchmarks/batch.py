"""Many cases: throughput of workers side by side in one run, cost of the engine, and a simulation of very many cases.

python Testing/Benchmarks/batch.py [--cases FOLDER] [--model NAME] [--count N] [--runs N] [--tiny N …] [--output FILE]

Real cases are predicted by the command in a process of its own, each time into an empty folder: by one worker with one
thread, by two workers with one thread each, by one worker with all threads, and as the default is. Start-up and the
loading of torch and model are in the times; beside them stands the throughput without them, from the first case's end
to the last one's, because a batch has more than these few cases. Label maps are compared voxel by voxel. The engine's
cost is what a case costs that does nothing, next to what a real one takes. The simulation runs tiny cases through two
workers and watches the driver's memory and the time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk

from BrainSegSAMLib.batch import Row, Workers, core_count, run_batch
from BrainSegSAMLib.cases import find_cases
from BrainSegSAMLib.models.catalogue import find_model
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from Testing.batch_stand_ins import Tiny  # noqa: E402

MB = 1024**2


def main() -> None:
    """Run all parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "data" / "glioma")
    parser.add_argument("--model", default="glioma-nnunet-tiny")
    parser.add_argument("--count", type=int, default=16, help="cases; those of the folder are repeated")
    parser.add_argument("--runs", type=int, default=1, help="of each way; the median counts")
    parser.add_argument("--tiny", type=int, nargs="+", default=[1000, 2000, 5000, 10000], help="tiny cases")
    parser.add_argument("--no-mirroring", action="store_true", help="a quicker prediction, for a trial")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    numbers: dict[str, object] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": core_count()},
    }
    if options.count:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            link_cases(options, work / "cases")
            numbers["real"] = real_cases(options, work)
            report_real(numbers["real"])
    numbers["engine"] = engine_cost()
    report_engine(numbers)
    if options.tiny:
        numbers["simulation"] = [simulate(count) for count in options.tiny]
        report_simulation(numbers["simulation"])
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n")


# ---- real cases ---------------------------------------------------------------------------------------------------


def link_cases(options: argparse.Namespace, folder: Path) -> None:
    """So many case folders, of copies of the cases that there are."""
    modalities = load_model(find_model(options.model)).modalities
    found = find_cases(options.cases, modalities=modalities)
    for number in range(options.count):
        case = found[number % len(found)]
        (folder / f"case_{number:03d}").mkdir(parents=True)
        for modality in modalities:
            source = case.modalities[modality]
            shutil.copy(source, folder / f"case_{number:03d}" / f"{modality}.nii.gz")


WAYS = {
    "one worker, one thread": (["--workers", "1"], 1),
    "two workers, one thread each": (["--workers", "2"], 1),
    "one worker, all threads": (["--workers", "1"], None),
    "the default": ([], None),
}


def real_cases(options: argparse.Namespace, work: Path) -> dict[str, dict[str, float]]:
    """Seconds of the whole command and between the first and the last case's end, for each way, in turn."""
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.runs):
        for way, (arguments, threads) in WAYS.items():
            shutil.rmtree(work / way, ignore_errors=True)
            measured[way].append(predict(options, work / "cases", work / way, arguments, threads))
    first = next(iter(WAYS))
    return {
        way: {
            "seconds": statistics.median(whole for whole, _ in times),
            "cases_per_minute": statistics.median(60 * rate for _, rate in times),
            "differing_voxels": differing(work / first, work / way),
        }
        for way, times in measured.items()
    }


def predict(
    options: argparse.Namespace, source: Path, output: Path, arguments: list[str], threads: int | None
) -> tuple[float, float]:
    """Run the command: seconds, and cases per second between the first and the last end of a case."""
    command = [sys.executable, "-m", "BrainSegSAMLib", "predict", "--model", options.model, "--device", "cpu"]
    command += ["--input", str(source), "--output", str(output), *arguments]
    command += ["--no-mirroring"] if options.no_mirroring else []
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.pop(name, None)
        if threads is not None:
            environment[name] = str(threads)
    if threads is not None:
        environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    ends = sorted(path.stat().st_mtime for path in output.glob("case_*.json"))
    return seconds, (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 1 / seconds


def differing(one: Path, other: Path) -> int:
    """Voxels in which the label maps of two folders differ."""
    maps = [
        [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("*.nii.gz"))]
        for folder in (one, other)
    ]
    return sum(int(np.count_nonzero(a != b)) for a, b in zip(*maps, strict=True))


# ---- the engine ---------------------------------------------------------------------------------------------------


def engine_cost(count: int = 200) -> dict[str, float]:
    """Seconds that the engine adds to a case: what cases that do nothing take, each on the one worker there is."""
    here = timed(count, Workers(1))
    there = timed(count, Workers(2))
    return {"this_process_s": here / count, "dask_s": there / count}


def timed(count: int, workers: Workers) -> float:
    """Seconds from the first row to the last."""
    ends: list[float] = []

    def on_row(row: Row[int, int]) -> None:
        assert row.saved == row.item * row.item, row.error
        ends.append(time.perf_counter())

    run_batch(range(count), Tiny(), name=str, progress=Progress(), on_row=on_row, workers=workers)
    assert len(ends) == count
    return ends[-1] - ends[0]


def simulate(count: int) -> dict[str, float]:
    """Tiny cases through two workers: seconds, and the driver's memory at a tenth of them, at the end, at its peak."""
    driver = psutil.Process()
    memory: list[float] = []
    ends: list[float] = []

    def on_row(row: Row[int, int]) -> None:
        assert row.saved == row.item * row.item, row.error
        ends.append(time.perf_counter())
        if len(ends) % max(1, count // 100) == 0:
            memory.append(driver.memory_info().rss / MB)

    run_batch(range(count), Tiny(), name=str, progress=Progress(), on_row=on_row, workers=Workers(2))
    tenth = len(memory) // 10
    return {
        "cases": count,
        "seconds": ends[-1] - ends[0],
        "seconds_first_half": ends[count // 2] - ends[0],
        "driver_mb_at_a_tenth": memory[tenth],
        "driver_mb_at_the_end": memory[-1],
        "driver_mb_peak": max(memory),
    }


# ---- report -------------------------------------------------------------------------------------------------------


def report_real(real: object) -> None:
    """The table of the ways."""
    assert isinstance(real, dict)
    first = real["one worker, one thread"]
    print("| way | seconds | cases a minute, started | throughput to one worker, one thread | differing voxels |")
    print("|---|---|---|---|---|")
    for way, row in real.items():
        ratio = row["cases_per_minute"] / first["cases_per_minute"]
        print(
            f"| {way} | {row['seconds']:.1f} | {row['cases_per_minute']:.2f} | {ratio:.2f} (with the start "
            f"{first['seconds'] / row['seconds']:.2f}) | {row['differing_voxels']} |"
        )
    threaded = real["one worker, all threads"]["seconds"]
    print(f"The default takes {real['the default']['seconds'] / threaded:.2f} × one worker with all threads.\n")


def report_engine(numbers: dict[str, object]) -> None:
    """The engine's cost beside a real case's."""
    engine, real = numbers["engine"], numbers.get("real")
    assert isinstance(engine, dict)
    through, here = 1e3 * engine["dask_s"], 1e3 * engine["this_process_s"]
    print(f"The engine takes {through:.2f} ms a case through Dask, {here:.2f} ms in one process.")
    if isinstance(real, dict):
        case = 60 / real["one worker, one thread"]["cases_per_minute"]
        print(f"A real case takes {case:.2f} s by one thread: {100 * engine['dask_s'] / case:.2f} % of it.\n")


def report_simulation(rows: object) -> None:
    """The table of the simulation."""
    assert isinstance(rows, list)
    print("| tiny cases | seconds | ms a case | second half / first half | driver MB at a tenth | at the end | peak |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        half = (row["seconds"] - row["seconds_first_half"]) / row["seconds_first_half"]
        print(
            f"| {row['cases']} | {row['seconds']:.1f} | {1e3 * row['seconds'] / row['cases']:.2f} | {half:.2f} | "
            f"{row['driver_mb_at_a_tenth']:.0f} | {row['driver_mb_at_the_end']:.0f} | {row['driver_mb_peak']:.0f} |"
        )


if __name__ == "__main__":
    main()
