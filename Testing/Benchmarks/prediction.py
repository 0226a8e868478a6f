"""Speed and memory of prediction, side by side with `nnUNetv2_predict` in one run, as ratios.

python Testing/Benchmarks/prediction.py [--cases FOLDER] [--model NAME] [--runs N] [--no-mirroring] [--output FILE]

Both get the same weights, folds, tile step and mirroring on the CPU, and the same files. The label maps are compared
voxel by voxel (ours before any clean-up of components). Memory is the peak over a command's process tree, and of its
largest process, sampled four times a second in runs that are not timed, because sampling slows them: on Linux the
proportional set size, in which pages that processes share count once for all of them; elsewhere the resident size,
which counts them once for each.
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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk

from BrainSegSAMLib.case_files import write_case
from BrainSegSAMLib.cases import Case, find_cases, load_image
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.models.catalogue import find_model
from BrainSegSAMLib.models.store import load_model

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"
NO_CLEAN_UP = {"minimum_volume_mm3": {}, "keep_largest": []}


@dataclass
class Measured:
    """One command: wall seconds, median over the runs, and peak megabytes."""

    seconds: float
    tree_mb: float
    largest_mb: float


def main() -> None:
    """Run all comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "data" / "glioma")
    parser.add_argument("--model", default="glioma-nnunet-tiny")
    parser.add_argument("--runs", type=int, default=3, help="of each command; the median counts")
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    model = load_model(find_model(options.model))
    cases = find_cases(options.cases, modalities=model.modalities)[:4]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for case in cases:
            link_case(case, model.modalities, work / "four")
        link_case(cases[0], model.modalities, work / "one")
        numbers = compare(model.folder, cases, work, mirroring=not options.no_mirroring, runs=options.runs)
    numbers["import"] = import_seconds()
    numbers["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report(numbers)
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n")


def compare(folder: Path, cases: list[Case], work: Path, *, mirroring: bool, runs: int) -> dict[str, object]:
    """Four cases by both commands in turn, then one case by nnU-Net's command and as second case of a warm process."""
    settings_file = work / "settings.json"
    settings_file.write_text(json.dumps({"mirroring": mirroring, **NO_CLEAN_UP}))
    peer = peer_command(folder, work / "four", work / "peer", mirroring=mirroring)
    ours = our_command(folder, work / "four", work / "ours", settings_file)
    one = peer_command(folder, work / "one", work / "peer-one", mirroring=mirroring)
    seconds = [[run_command(command)[0] for command in (peer, ours, one)] for _ in range(runs)]
    peer_seconds, ours_seconds, one_seconds = (statistics.median(times) for times in zip(*seconds, strict=True))
    peer_four = Measured(peer_seconds, *run_command(peer, sample_memory=True)[1])
    ours_four = Measured(ours_seconds, *run_command(ours, sample_memory=True)[1])
    warm = warm_seconds(folder, cases, work / "warm", {"mirroring": mirroring, **NO_CLEAN_UP}, runs)
    return {
        "cases": [case.case_id for case in cases],
        "mirroring": mirroring,
        "differing_voxels": {case.case_id: differing(work, case.case_id) for case in cases},
        "foreground_voxels": {case.case_id: foreground(work, case.case_id) for case in cases},
        "peer_four": asdict(peer_four),
        "ours_four": asdict(ours_four),
        "peer_one_seconds": one_seconds,
        "ours_warm_seconds": warm,
        "ratio_four": ours_four.seconds / peer_four.seconds,
        "ratio_warm": warm / one_seconds,
        "ratio_memory_tree": ours_four.tree_mb / peer_four.tree_mb,
        "ratio_memory_largest": ours_four.largest_mb / peer_four.largest_mb,
    }


def link_case(case: Case, modalities: tuple[str, ...], folder: Path) -> None:
    """Lay a case out as nnU-Net expects it: <case>_0000.nii.gz, …"""
    folder.mkdir(exist_ok=True)
    for channel, modality in enumerate(modalities):
        shutil.copy(case.modalities[modality], folder / f"{case.case_id}_{channel:04d}.nii.gz")


def peer_command(folder: Path, source: Path, output: Path, *, mirroring: bool) -> list[str]:
    """nnU-Net's own command on the same folder of weights."""
    folds = [path.name.removeprefix("fold_") for path in sorted(folder.glob("fold_*"))]
    command = [str(Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"), "-i", str(source)]
    command += ["-o", str(output), "-m", str(folder), "-f", *folds, "-device", "cpu"]
    return command if mirroring else [*command, "--disable_tta"]


def our_command(folder: Path, source: Path, output: Path, settings_file: Path) -> list[str]:
    """Our command, with the clean-up of components off, so that label maps can be compared."""
    program = (
        "import json, sys; from pathlib import Path; from BrainSegSAMLib.predict import PredictJob, plan, run;"
        "model, source, output, settings = sys.argv[1:];"
        "overrides = json.loads(Path(settings).read_text());"
        "job = PredictJob(model, Path(source), Path(output), device='cpu', overrides=overrides);"
        "sys.exit(any(result.error for result in run(plan(job))))"
    )
    return [sys.executable, "-c", program, str(folder), str(source), str(output), str(settings_file)]


def run_command(command: list[str], *, sample_memory: bool = False) -> tuple[float, list[float]]:
    """Run a command: wall seconds and peak MB (process tree, largest process); its output is shown where it fails."""
    output = Path(command[command.index("-o") + 1]) if "-o" in command else Path(command[-2])
    shutil.rmtree(output, ignore_errors=True)
    environment = {**os.environ, "nnUNet_raw": "unused", "nnUNet_preprocessed": "unused", "nnUNet_results": "unused"}
    peaks = [0.0, 0.0]
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
            if sample_memory:
                sample(process, peaks)
            process.wait()
            seconds = time.perf_counter() - begin
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read().decode(errors="replace"))
    return seconds, peaks


def sample(process: subprocess.Popen[bytes], peaks: list[float]) -> None:
    """Keep the largest sum over the process tree and the largest process, in MB."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        sizes = []
        for member in [parent, *children(parent)]:
            try:
                sizes.append((member.memory_full_info().pss if LINUX else member.memory_info().rss) / 1e6)
            except (psutil.Error, OSError):  # it has ended in the meantime
                continue
        peaks[0], peaks[1] = max(peaks[0], sum(sizes)), max(peaks[1], *sizes, 0.0)
        time.sleep(0.25)


def children(parent: psutil.Process) -> list[psutil.Process]:
    """All descendants that are still there."""
    try:
        return parent.children(recursive=True)
    except psutil.Error:
        return []


def warm_seconds(folder: Path, cases: list[Case], output: Path, overrides: dict[str, object], runs: int) -> float:
    """Reading, segmenting and writing a second case where the process and the model are warm: the median."""
    predictor = load_predictor(folder, device="cpu", overrides=overrides)
    times = []
    for case in [cases[1], *[cases[0]] * runs]:
        begin = time.perf_counter()
        image, _ = load_image(case, predictor.model.modalities)
        write_case(predictor.predict(image), output, case.case_id, record={})
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def differing(work: Path, case_id: str) -> int:
    """Voxels in which the two label maps differ."""
    return int(np.count_nonzero(label_map(work / "peer", case_id) != label_map(work / "ours", case_id)))


def foreground(work: Path, case_id: str) -> int:
    """Voxels that nnU-Net's own command labels."""
    return int(np.count_nonzero(label_map(work / "peer", case_id)))


def label_map(folder: Path, case_id: str) -> np.ndarray:
    """uint8 (z, y, x)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case_id}.nii.gz")))


def import_seconds() -> dict[str, float]:
    """Medians of 11 fresh interpreters: bare, and with the package imported."""

    def median_of(program: str) -> float:
        times = []
        for _ in range(11):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    bare = median_of("pass")
    return {"bare": bare, "package": median_of("import BrainSegSAMLib")}


def report(numbers: dict) -> None:
    """The table, as Markdown."""
    peer, ours = numbers["peer_four"], numbers["ours_four"]
    rows = [
        ("four cases, seconds", peer["seconds"], ours["seconds"], numbers["ratio_four"]),
        ("one case by the command, against a second case in a warm process, seconds", numbers["peer_one_seconds"],
         numbers["ours_warm_seconds"], numbers["ratio_warm"]),
        ("peak memory of the process tree, MB", peer["tree_mb"], ours["tree_mb"], numbers["ratio_memory_tree"]),
        ("peak memory of the largest process, MB", peer["largest_mb"], ours["largest_mb"],
         numbers["ratio_memory_largest"]),
    ]
    print(f"mirroring {'on' if numbers['mirroring'] else 'off'}; cases {', '.join(numbers['cases'])}")
    print("| | nnUNetv2_predict | BrainSegSAM | ratio |\n|---|---|---|---|")
    for name, theirs, mine, ratio in rows:
        print(f"| {name} | {theirs:.1f} | {mine:.1f} | {ratio:.2f} |")
    print(f"voxels that differ: {numbers['differing_voxels']} of {numbers['foreground_voxels']} labelled")
    extra = numbers["import"]["package"] - numbers["import"]["bare"]
    print(f"import BrainSegSAMLib: {extra * 1000:.0f} ms beyond the interpreter")


if __name__ == "__main__":
    main()
