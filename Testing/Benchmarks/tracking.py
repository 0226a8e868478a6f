"""Speed and memory of tracking, side by side with sam2's own video predictor in one run, as ratios.

python Testing/Benchmarks/tracking.py [--sizes 512 1024] [--slices 60] [--lesions 1 2 4 8] [--depths 20 60 155]
    [--precision auto] [--reference-precision fp32] [--threads 2]
    [--parts speed shares curve memory trained] [--extent 10] [--model glioma-sam2-tiny] [--output FILE]

The reference does what MedSAM2's script does: for every lesion and direction a fresh state, the prompt, and
`propagate_in_video` (sam2 1.1, frames handed over in memory). Both get the same random weights of SAM 2.1 tiny's size,
the same frames (percentile-windowed noise shaped like a brain), the same masks as prompts, the same number of threads;
stop rules are off. Precision: what our tracker chooses by itself, and what sam2 does by itself (float32), unless given;
MedSAM2's script asks for bfloat16 (--reference-precision bf16).
Every mask is compared with the reference's. In the row "rules" our tracks end where a lesion of the given extent ends,
which is what stop rules are for; with random weights the rules themselves have nothing to go by. Part "trained" has the
rules themselves, with the weights of a tracker (--model) on a synthetic case of 155 slices: four prompts of its lesion,
on four slices, tracked with the default settings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.backends.devices import PRECISIONS, resolve_precision
from BrainSegSAMLib.backends.sam2 import Sam2Tracker
from BrainSegSAMLib.backends.sam2_architecture import OFFICIAL, Sam2Architecture
from BrainSegSAMLib.backends.sam2_forward import Sam2Forward, prepare
from BrainSegSAMLib.backends.sam2_network import build, network_arguments
from BrainSegSAMLib.backends.sam2_session import Seed
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.intensity import as_frames, windowed
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracker import load_tracker
from BrainSegSAMLib.methods.ssnet.tracking import Target, track
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.models.catalogue import find_model
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.phantom import ORIGIN_LPS_MM, make_phantom
from BrainSegSAMLib.prompts import Prompt

PARTS = ["speed", "shares", "curve", "memory", "trained"]
PHANTOM_SEED = 900  # of a synthetic case that the bundled tracker has not seen

Logits = dict[int, NDArray[np.float32]]
"""Slice → logits, float32 (rows, columns)."""


# ---- the reference procedure (Testing/unit/test_sam2_tracker.py uses it, too) ---------------------------------------


def reference_predictor(network: torch.nn.Module, architecture: Sam2Architecture) -> Any:
    """sam2's video predictor with the weights of a network; its progress bars are silenced."""
    import sam2.sam2_video_predictor as module

    module.tqdm = lambda iterable, **_: iterable
    predictor = module.SAM2VideoPredictor(**network_arguments(architecture)).eval()
    predictor.load_state_dict(network.state_dict())
    return predictor


def reference_track(predictor: Any, images: torch.Tensor, shape: tuple[int, int], seed: Seed) -> Logits:
    """One object in one direction, in a fresh state of sam2's video predictor.

    Args:
        predictor: as `reference_predictor` makes it.
        images: float32 (slice, 3, S, S), normalised.
        shape: rows and columns of the slices.
        seed: prompt and direction.
    """
    with frames_in_memory(images, shape):
        state = predictor.init_state("in memory")
    if seed.mask is not None:
        predictor.add_new_mask(state, seed.slice_index, 1, seed.mask)
    else:
        predictor.add_new_points_or_box(
            state, seed.slice_index, 1, points=seed.points, labels=seed.point_labels, box=seed.box
        )
    found = predictor.propagate_in_video(state, reverse=seed.direction < 0)
    return {index: logits[0, 0].numpy() for index, _, logits in found}


@contextlib.contextmanager
def frames_in_memory(images: torch.Tensor, shape: tuple[int, int]) -> Iterator[None]:
    """sam2 reads frames from JPEG files alone; within this block it is given tensors."""
    import sam2.sam2_video_predictor as module

    original = module.load_video_frames
    module.load_video_frames = lambda **_: (images, *shape)
    try:
        yield
    finally:
        module.load_video_frames = original


def intersection_over_union(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of two masks given as logits; 1 where both are empty."""
    union = np.count_nonzero((a > 0) | (b > 0))
    return float(np.count_nonzero((a > 0) & (b > 0)) / union) if union else 1.0


# ---- what is tracked ------------------------------------------------------------------------------------------------


def make_frames(slices: int, side: int = 240) -> NDArray[np.uint8]:
    """Smooth noise in an ellipsoid, uint8 (slice, 3, side, side)."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(slices, side, side)), (1, 3, 3))
    axes = np.meshgrid(*[np.linspace(-1.05, 1.05, n) for n in noise.shape], indexing="ij")
    brain = np.where(sum(axis**2 for axis in axes) < 1, 128 + 60 * noise / noise.std(), 0).clip(0, 255)
    return np.repeat(brain.astype(np.uint8)[:, None], 3, axis=1)


def make_seeds(lesions: int, slices: int, side: int = 240) -> list[Seed]:
    """Discs of different radii on slices around the middle, both directions."""
    rows, columns = np.mgrid[:side, :side]
    seeds = []
    for lesion in range(lesions):
        angle = 2 * np.pi * lesion / max(lesions, 1)
        row, column = side / 2 + side / 5 * np.sin(angle), side / 2 + side / 5 * np.cos(angle)
        mask = (rows - row) ** 2 + (columns - column) ** 2 < (6 + 2 * lesion) ** 2
        key = slices // 2 + (lesion % 3 - 1) * (slices // 10)
        seeds += [Seed(key, direction, mask=mask) for direction in (1, -1)]
    return seeds


def make_network(architecture: Sam2Architecture) -> torch.nn.Module:
    """Random weights; the object-score head says "there" always, so that masks are not empty."""
    torch.manual_seed(0)
    network: Any = build(architecture)
    torch.nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 1.0)
    return network


# ---- measuring ------------------------------------------------------------------------------------------------------


def run_reference(
    predictor: Any, frames: NDArray[np.uint8], seeds: Sequence[Seed], precision: str
) -> tuple[list[Logits], list[NDArray[np.float64]]]:
    """All seeds, one after the other, and the `clocks` of each; preparing the frames counts to the first."""
    found, spent = [], []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        begin = clocks()
        images = prepare(frames, predictor.image_size)
        for seed in seeds:
            found.append(reference_track(predictor, images, frames.shape[2:], seed))
            end = clocks()
            spent.append(end - begin)
            begin = end
    return found, spent


def run_ours(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], seeds: Sequence[Seed], extent: int | None = None
) -> list[Logits]:
    """All seeds together; where an extent is given, each track ends so many slices from its prompt."""
    found: list[Logits] = [{} for _ in seeds]
    with tracker.encode(frames) as features:
        session = tracker.begin(features, seeds)
        while steps := session.step():
            for step in steps:
                found[step.track][step.slice_index] = step.logits
                if extent is not None and abs(step.slice_index - seeds[step.track].slice_index) >= extent:
                    session.stop(step.track)
    return found


def agreement(reference: list[Logits], ours: list[Logits], seeds: Sequence[Seed]) -> dict[str, float]:
    """Over all masks of ours but those on prompted slices, which it returns as given."""
    pairs = [
        (theirs[index], mine[index])
        for theirs, mine, seed in zip(reference, ours, seeds, strict=True)
        for index in mine
        if index != seed.slice_index
    ]
    ious = [intersection_over_union(a, b) for a, b in pairs]
    return {
        "masks": len(pairs),
        "non_empty": sum(bool((a > 0).any()) for a, _ in pairs),
        "lowest_iou": min(ious),
        "mean_iou": float(np.mean(ious)),
        "largest_logit_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "logit_standard_deviation": float(np.std(np.concatenate([a.ravel()[::97] for a, _ in pairs]))),
    }


def compare(
    size: int, slices: int, counts: Sequence[int], precisions: tuple[str, str], extent: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Wall seconds of both, their ratio, and how well the masks agree, for the first so many of the same lesions.

    The reference shares nothing between lesions, so what it takes for the first few is known from one run of all.

    Args:
        size: the network's image size.
        slices: of the volume.
        counts: numbers of lesions.
        precisions: of ours and of the reference.
        extent: for a row "rules" of four lesions: slices from a prompt to where its tracks end.
    """
    architecture = replace(OFFICIAL["sam2.1_tiny"], image_size=size)
    network = make_network(architecture)
    frames, all_seeds = make_frames(slices), make_seeds(max(counts), slices)
    tracker = Sam2Tracker(network, architecture, precision=precisions[0])
    predictor = reference_predictor(network, architecture)
    warm = [replace(seed, slice_index=0) for seed in all_seeds[:1]]
    run_reference(predictor, frames[:3], warm, precisions[1])
    theirs, spent = run_reference(predictor, frames, all_seeds, precisions[1])
    run_ours(tracker, frames[:3], warm)
    jobs = [("speed", count, None) for count in counts]
    for part, count, ends in [*jobs, ("rules", min(4, max(counts)), extent)]:
        seeds = all_seeds[: 2 * count]
        begin = clocks()
        mine = run_ours(tracker, frames, seeds, ends)
        ours, reference = clocks() - begin, np.sum(spent[: 2 * count], axis=0)
        yield part, {
            "size": size, "slices": slices, "lesions": count, "precision": precisions[0],
            "reference_precision": precisions[1], "extent": ends,
            "ours_s": ours[0], "reference_s": reference[0], "ratio": ours[0] / reference[0],
            "ours_cpu_s": ours[1], "reference_cpu_s": reference[1], "cpu_ratio": ours[1] / reference[1],
            **agreement(theirs[: 2 * count], mine, seeds),
        }  # fmt: skip


def clocks() -> NDArray[np.float64]:
    """Seconds on the wall and of this process's computing; the latter tell whether something else was running."""
    return np.array([time.perf_counter(), time.process_time()])


def shares(size: int, slices: int, lesions: int, precision: str) -> dict[str, Any]:
    """Seconds that ours spends in each part, by timing the network's parts as they are called."""
    architecture = replace(OFFICIAL["sam2.1_tiny"], image_size=size)
    network: Any = make_network(architecture)
    tracker = Sam2Tracker(network, architecture, precision=precision)
    spent: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name, owner, attribute in parts_of():
            stack.enter_context(timed(owner, attribute, name, spent))
        begin = time.perf_counter()
        run_ours(tracker, make_frames(slices), make_seeds(lesions, slices))
        total = time.perf_counter() - begin
    return {"size": size, "slices": slices, "lesions": lesions, "total_s": total, **spent,
            "rest_s": total - sum(spent.values())}


def parts_of() -> list[tuple[str, Any, str]]:
    """Name of each part, and the method that does it: class, and attribute."""
    return [
        ("encoder_s", Sam2Forward, "encode_images"),
        ("memory_attention_s", Sam2Forward, "attend"),
        ("decoder_s", Sam2Forward, "decode"),
        ("memory_encoder_s", Sam2Forward, "encode_memory"),
    ]


@contextlib.contextmanager
def timed(owner: Any, attribute: str, name: str, spent: dict[str, float]) -> Iterator[None]:
    """Within the block, calls of `owner.attribute` add their seconds to `spent[name]`."""
    original = getattr(owner, attribute)
    spent[name] = 0.0

    def measured(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - begin

    setattr(owner, attribute, measured)
    try:
        yield
    finally:
        setattr(owner, attribute, original)


def peak_memory(size: int, slices: int, lesions: int, precision: str) -> dict[str, Any]:
    """Peak resident memory of a process of its own, beyond what it has with the model loaded and the frames made."""
    program = (
        "import json, sys; from Testing.Benchmarks import tracking;"
        "print(json.dumps(tracking.memory_child(*json.loads(sys.argv[1]))))"
    )
    root = Path(__file__).resolve().parents[2]
    arguments = json.dumps([size, slices, lesions, precision, torch.get_num_threads()])
    done = subprocess.run(
        [sys.executable, "-c", program, arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return {"size": size, "slices": slices, "lesions": lesions, **json.loads(done.stdout.splitlines()[-1])}


def memory_child(size: int, slices: int, lesions: int, precision: str, threads: int) -> dict[str, float]:
    """What `peak_memory` runs: megabytes before, and at the peak beyond that."""
    import resource

    import psutil

    torch.set_num_threads(threads)
    architecture = replace(OFFICIAL["sam2.1_tiny"], image_size=size)
    tracker = Sam2Tracker(make_network(architecture), architecture, precision=precision)
    frames, seeds = make_frames(slices), make_seeds(lesions, slices)
    before = psutil.Process().memory_info().rss / 1e6
    with tracker.encode(frames) as features:
        session = tracker.begin(features, seeds)
        while session.step():
            pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)
    return {"model_mb": before, "beyond_model_mb": peak - before}


# ---- with trained weights and the rules themselves -------------------------------------------------------------------


def trained(model: str, precision: str, reference_precision: str) -> dict[str, Any]:
    """Seconds with and without the rules, against the reference, and the Dice of each with the lesion."""
    tracker = load_tracker(load_model(find_model(model)), device="cpu", trust=False, precision=precision)
    network: Any = tracker.network
    made = make_phantom(PHANTOM_SEED)
    geometry, order = Geometry.axis_aligned(made.labels.shape, made.spacing_zyx_mm, ORIGIN_LPS_MM).reoriented("LPS")
    channels = {name: order.apply(array) for name, array in made.channels.items()}
    picture = windowed(channels, tracker.model.modalities, lower=tracker.lower, upper=tracker.upper)
    lesion = order.apply(made.labels) > 0
    inside = np.flatnonzero(lesion.any(axis=(1, 2)))
    keys = [int(inside[int(share * len(inside))]) for share in (0.3, 0.45, 0.6, 0.75)]
    prompts = [Prompt(number + 1, "axial", key, mask=lesion[key]) for number, key in enumerate(keys)]
    found: dict[str, Any] = {}
    for name, rules in (("with_rules", True), ("without_rules", False)):
        settings = TrackingSettings(stop_rules=rules, drop_detached=rules, precision=precision)
        targets = [
            Target(p, reach_of(prompt_extent(p, geometry), geometry, "axial", settings, from_prior=False))
            for p in prompts
        ]
        begin = clocks()
        tracked = track(network, picture, geometry, targets, image_size=tracker.image_size, settings=settings)
        found[f"{name}_s"] = (clocks() - begin)[0]
        found[f"{name}_dice"] = dice(tracked.owner > 0, lesion)
    predictor = reference_predictor(network.network, network.architecture)
    seeds = [Seed(p.index, direction, mask=p.mask) for p in prompts for direction in (1, -1)]
    theirs, spent = run_reference(predictor, as_frames(picture, "axial"), seeds, reference_precision)
    union = lesion & False
    for one in theirs:
        for index, logits in one.items():
            union[index] |= logits > 0
    reference_s = float(np.sum(spent, axis=0)[0])
    return {
        "model": model, "precision": precision, "lesions": len(prompts), "slices": len(lesion), **found,
        "reference_s": reference_s, "reference_dice": dice(union, lesion),
        "ratio_with_rules": found["with_rules_s"] / reference_s,
        "ratio_without_rules": found["without_rules_s"] / reference_s,
    }  # fmt: skip


# ---- the command ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure what was asked for; every row is printed as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--lesions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 60, 100, 155], help="slices, for the curve")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of ours")
    parser.add_argument(
        "--reference-precision", choices=["fp32", "bf16"], default="fp32", help="fp32 is what sam2 does by itself"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--extent", type=int, default=10, help="slices from a prompt to its lesion's end, for 'rules'")
    parser.add_argument("--model", default="glioma-sam2-tiny", help="tracker for the part 'trained'")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads,
               "torch": torch.__version__}
    rows: dict[str, list[dict[str, Any]]] = {}
    for part, row in measured(options):
        rows.setdefault(part, []).append(row)
        print(part, json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
        if options.output:
            options.output.write_text(json.dumps({"machine": machine, **rows}, indent=2) + "\n")


def measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part's rows as they come."""
    precision, depths, lesions = resolve_precision(options.precision, "cpu"), options.depths, options.lesions
    for size in options.sizes:
        if "speed" in options.parts:
            precisions = (precision, options.reference_precision)
            yield from compare(size, options.slices, lesions, precisions, options.extent)
        jobs: dict[str, list[Callable[[], dict[str, Any]]]] = {
            "shares": [partial(shares, size, options.slices, count, precision) for count in lesions],
            "curve": [partial(shares, size, depth, 4, precision) for depth in depths],
            "memory": [partial(peak_memory, size, depths[-1], count, precision) for count in (lesions[0], lesions[-1])],
        }
        for part in jobs:
            for job in jobs[part] if part in options.parts else ():
                yield part, job()
    if "trained" in options.parts:
        yield "trained", trained(options.model, precision, options.reference_precision)


if __name__ == "__main__":
    main()
