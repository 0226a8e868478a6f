"""Draws what `tracking.py` measured: seconds over lesions and over slices, by part, beside sam2's own predictor.

python Testing/Benchmarks/tracking_picture.py NUMBERS.json [NUMBERS.json …] --output PICTURE.png

Takes the rows "speed", "shares" and "curve" of the files that `tracking.py --output` wrote, of one image size. The
seconds of sam2's predictor are those of computing, divided by the number of threads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PARTS = {
    "encoder_s": ("image encoder", "#0072B2"),
    "memory_attention_s": ("memory attention", "#E69F00"),
    "decoder_s": ("mask decoder", "#009E73"),
    "memory_encoder_s": ("memory encoder", "#CC79A7"),
    "rest_s": ("rest", "#999999"),
}


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    threads = 1
    for path in options.numbers:
        content = json.loads(path.read_text())
        threads = content["machine"]["threads"]
        for part, found in content.items():
            if part in ("speed", "shares", "curve"):
                rows.setdefault(part, []).extend(found)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=[1.2, 1])
    slices = rows["shares"][0]["slices"]
    stack(left, rows["shares"], "lesions", f"lesions tracked both ways through {slices} slices")
    reference = sorted((row["lesions"], row["reference_cpu_s"] / threads) for row in rows.get("speed", ()))
    if reference:
        left.plot(range(len(reference)), [s for _, s in reference], "k--o", label="sam2's own predictor")
        for place, (_, seconds) in enumerate(reference):
            left.annotate(f"{seconds:.0f}", (place, seconds), textcoords="offset points", xytext=(-6, 6), ha="right")
    left.set_ylabel("seconds")
    left.legend(frameon=False, loc="upper left")
    stack(right, rows["curve"], "slices", f"slices, {rows['curve'][0]['lesions']} lesions")
    right.set_ylabel("seconds")
    figure.suptitle(f"Tracking at {rows['shares'][0]['size']} pixels, SAM 2.1 tiny's size", fontsize=11)
    figure.savefig(options.output, dpi=110)


def stack(axes: Axes, rows: Sequence[dict[str, Any]], key: str, label: str) -> None:
    """Stacked bars of all parts, with the share of the first on it."""
    ordered = sorted(rows, key=lambda row: row[key])
    bottom = [0.0] * len(ordered)
    for part, (name, colour) in PARTS.items():
        seconds = [row[part] for row in ordered]
        axes.bar(range(len(ordered)), seconds, 0.6, bottom, color=colour, label=name)
        bottom = [low + height for low, height in zip(bottom, seconds, strict=True)]
    for place, total in enumerate(bottom):
        axes.annotate(f"{total:.0f}", (place, total), textcoords="offset points", xytext=(0, 3), ha="center")
    axes.set_xticks(range(len(ordered)), [str(row[key]) for row in ordered])
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
