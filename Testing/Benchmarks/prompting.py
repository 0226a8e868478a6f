"""Speed and memory of masks from boxes, side by side with MedSAM's published procedure in one run, as ratios.

python Testing/Benchmarks/prompting.py [--architecture medsam] [--slices 60] [--boxes 1 5] [--precisions fp32 bf16]
    [--threads 2] [--parts further volume memory] [--output FILE]

The reference does what MedSAM's script does with one picture and one box: resize, normalise, encode, decode, back to
the picture's grid, threshold; for each box anew. Both get the same weights, slices (percentile-windowed noise shaped
like a brain), boxes and number of threads; the reference computes in fp32. Every mask is compared.

No weights can be downloaded here, so they are random, and the masks of random weights follow no box. So that a mask is
a place with an edge, as it is for real weights, the mask decoder is first fitted to ellipses in boxes for some steps
(--steps 0 leaves it random).

Part "further": one more box on a slice that is encoded, as a share of the first. Part "volume": one or more boxes on
each slice. Part "memory": peak of a process of its own, for each precision and for the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from BrainSegSAMLib.backends.sam import Marks, SamSegmenter
from BrainSegSAMLib.backends.sam_architecture import OFFICIAL, SamArchitecture
from BrainSegSAMLib.backends.sam_forward import SamForward
from BrainSegSAMLib.backends.sam_network import build
from Testing.Benchmarks.tracking import clocks, make_frames

PARTS = ["further", "volume", "memory"]
SIDE = 240


# ---- the reference procedure (Testing/unit/test_sam_segmenter.py uses it, too) --------------------------------------


def published_procedure(network: Any, picture: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.float32]:
    """What MedSAM's `MedSAM_Inference.py` does with one picture and one box.

    Args:
        network: segment-anything's `Sam`.
        picture: uint8 (rows, columns, 3).
        box: column0, row0, column1, row1, counted from the outer corner of the first pixel.

    Returns:
        Probabilities, float32 (rows, columns); the object is where they are above 0.5.
    """
    from skimage.transform import resize

    size = network.image_encoder.img_size
    stretched = resize(picture, (size, size), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    scaled = (stretched - stretched.min()) / np.clip(stretched.max() - stretched.min(), 1e-8, None)
    image = torch.tensor(scaled).float().permute(2, 0, 1)[None]
    rows, columns = picture.shape[:2]
    corners = torch.tensor(np.array([box]) / np.array([columns, rows, columns, rows]) * size, dtype=torch.float)
    with torch.no_grad():
        features = network.image_encoder(image)
        sparse, dense = network.prompt_encoder(points=None, boxes=corners[:, None], masks=None)
        logits, _ = network.mask_decoder(
            image_embeddings=features,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        probabilities = torch.nn.functional.interpolate(
            torch.sigmoid(logits), size=(rows, columns), mode="bilinear", align_corners=False
        )
    return probabilities[0, 0].numpy()


def intersection_over_union(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Of two masks; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


# ---- what is segmented ----------------------------------------------------------------------------------------------


def make_boxes(slices: int, count: int, side: int = SIDE) -> NDArray[np.float64]:
    """Boxes of different sizes in the middle of each slice: (slice, count, 4), whole numbers are centres of pixels."""
    draw = np.random.default_rng(1)
    centres = draw.uniform(0.3 * side, 0.7 * side, (slices, count, 2))
    halves = draw.uniform(0.05 * side, 0.2 * side, (slices, count, 2))
    return np.concatenate([centres - halves, centres + halves], axis=-1)


def ellipses(boxes: torch.Tensor, side: int, scale: float) -> torch.Tensor:
    """The ellipse in each box (box, 4), on a grid: float32 (box, side, side); boxes are `scale` times as large."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2 / scale, (boxes[:, 2:] - boxes[:, :2]) / 2 / scale
    centres = torch.arange(side) + 0.5
    across = ((centres[None] - middle[:, 0, None]) / half[:, 0, None]) ** 2
    down = ((centres[None] - middle[:, 1, None]) / half[:, 1, None]) ** 2
    return (down[:, :, None] + across[:, None, :] < 1).float()


def make_network(architecture: SamArchitecture, *, steps: int) -> torch.nn.Module:
    """Random weights, the mask decoder fitted to ellipses in boxes on one slice."""
    torch.manual_seed(0)
    network = build(architecture)
    if not steps:
        return network
    forward = SamForward(network, architecture)
    with torch.no_grad():
        (features,) = forward.encode_slices(make_frames(3)[1:2])
    decoder: Any = network.mask_decoder
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    size, pixel = architecture.image_size, architecture.image_size / architecture.logits_size
    for _ in range(steps):
        middle = size * (0.3 + 0.4 * torch.rand(4, 2))
        half = size * (0.05 + 0.15 * torch.rand(4, 2))
        boxes = torch.cat([middle - half, middle + half], dim=1)
        logits = forward.decode(features.expand(4, -1, -1, -1), boxes)
        wanted = ellipses(boxes, architecture.logits_size, pixel)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(5.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


# ---- measuring ------------------------------------------------------------------------------------------------------


def run_reference(
    network: torch.nn.Module, frames: NDArray[np.uint8], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Masks (slice, box, rows, columns), and the `clocks` of each procedure (slice, box, 2)."""
    masks = np.zeros((*boxes.shape[:2], *frames.shape[2:]), bool)
    spent = np.zeros((*boxes.shape[:2], 2))
    for index, frame in enumerate(frames):
        for number, box in enumerate(boxes[index]):
            begin = clocks()
            masks[index, number] = published_procedure(network, frame.transpose(1, 2, 0), box + 0.5) > 0.5
            spent[index, number] = clocks() - begin
    return masks, spent


def run_ours(
    segmenter: SamSegmenter, frames: NDArray[np.uint8], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Masks (slice, box, rows, columns), and the `clocks` of all together."""
    begin = clocks()
    with segmenter.encode(frames) as features:
        marks = {index: Marks(on_slice) for index, on_slice in enumerate(boxes)}
        masks = np.stack([logits > 0 for _, logits in segmenter.find(features, marks)])
    return masks, clocks() - begin


def further(segmenter: SamSegmenter, boxes: int) -> dict[str, Any]:
    """Seconds of the first box on a slice, and of others that come later, one at a time; nothing is warmed up by it."""
    frames = make_frames(3)[1:]
    wanted = make_boxes(2, boxes + 1)
    run_ours(segmenter, frames[:1], wanted[:1])
    spent = []
    with segmenter.encode(frames[1:]) as features:
        for box in wanted[1]:
            begin = clocks()
            list(segmenter.find(features, {0: Marks(box[None])}))
            spent.append((clocks() - begin)[0])
    later = float(np.median(spent[1:]))
    return {"precision": segmenter.precision, "first_s": spent[0], "further_s": later, "ratio": later / spent[0]}


def volume(
    network: torch.nn.Module, architecture: SamArchitecture, slices: int, count: int, precisions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Seconds of both for boxes on each slice, their ratio, and how well the masks agree."""
    frames = make_frames(max(slices, 60))  # of few, the middle ones
    frames = frames[(len(frames) - slices) // 2 :][:slices]
    boxes = make_boxes(slices, count)
    run_reference(network, frames[:1], boxes[:1, :1])
    theirs, spent = run_reference(network, frames, boxes)
    reference = spent.sum(axis=(0, 1))
    for precision in precisions:
        segmenter = SamSegmenter(network, architecture, precision=precision)
        run_ours(segmenter, frames[:1], boxes[:1, :1])
        mine, ours = run_ours(segmenter, frames, boxes)
        pairs = [(a, b) for one, other in zip(theirs, mine, strict=True) for a, b in zip(one, other, strict=True)]
        ious = [intersection_over_union(a, b) for a, b in pairs]
        yield {
            "slices": slices, "boxes": count, "precision": precision, "ours_s": ours[0], "reference_s": reference[0],
            "ratio": ours[0] / reference[0], "ours_cpu_s": ours[1], "reference_cpu_s": reference[1],
            "cpu_ratio": ours[1] / reference[1], "lowest_iou": min(ious), "mean_iou": float(np.mean(ious)),
            "mean_area": float(np.mean([np.count_nonzero(a) for a, _ in pairs])),
        }  # fmt: skip


def peak_memory(architecture: SamArchitecture, precision: str) -> dict[str, Any]:
    """Peak resident memory of a process of its own, beyond what it has with the model loaded and the frames made."""
    program = (
        "import json, sys; from Testing.Benchmarks import prompting;"
        "print(json.dumps(prompting.memory_child(*json.loads(sys.argv[1]))))"
    )
    root = Path(__file__).resolve().parents[2]
    arguments = json.dumps([architecture.as_dict(), precision, torch.get_num_threads()])
    done = subprocess.run(
        [sys.executable, "-c", program, arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return {"precision": precision, **json.loads(done.stdout.splitlines()[-1])}


def memory_child(architecture: dict[str, Any], precision: str, threads: int) -> dict[str, float]:
    """What `peak_memory` runs: megabytes before, and at the peak beyond that; precision "" is the reference."""
    import resource

    import psutil

    torch.set_num_threads(threads)
    described = SamArchitecture.from_dict(architecture)
    network = make_network(described, steps=0)
    frames, boxes = make_frames(3)[1:2], make_boxes(1, 1)
    before = psutil.Process().memory_info().rss / 1e6
    if precision:
        run_ours(SamSegmenter(network, described, precision=precision), frames, boxes)
    else:
        run_reference(network, frames, boxes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)
    return {"model_mb": before, "beyond_model_mb": peak - before}


# ---- the command ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure what was asked for; every row is printed as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=list(OFFICIAL), default="medsam")
    parser.add_argument("--image-size", type=int, help="other than the architecture's own")
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--boxes", type=int, nargs="+", default=[1, 5], help="on each slice")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=600, help="of fitting the mask decoder to ellipses")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
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
    architecture = replace(OFFICIAL[options.architecture], pictures="medsam")  # as the reference has them
    if options.image_size:
        architecture = replace(architecture, image_size=options.image_size)
    if "memory" in options.parts:
        for precision in ("", *options.precisions):
            yield "memory", peak_memory(architecture, precision)
    network = make_network(architecture, steps=options.steps)
    if "further" in options.parts:
        for precision in options.precisions:
            yield "further", further(SamSegmenter(network, architecture, precision=precision), 10)
    if "volume" in options.parts:
        for count in options.boxes:
            for row in volume(network, architecture, options.slices, count, options.precisions):
                yield "volume", row


if __name__ == "__main__":
    main()
