"""Dice of whole volumes, tracked from the true mask on the key slice, beside two baselines that need no network.

python Testing/Benchmarks/tracking_accuracy.py --work WORK-FOLDER [--recipe JSON] [--cases FOLDER] [--region NAME]
    [--precision fp32] [--output JSON]

Each case is tracked by the network of the cross-validation that has not seen it; the work folder is the one that
`brainsegsam train` made of the recipe. All rows begin with the same masks: for each object of the region, the
reference's mask on the axial slice where the object is largest.

* tracked: up and down, with the stop rules as a user runs it; and without them.
* copied: the mask on all slices of the object's true extent (which a user would have to know).
* threshold: of the first modality, the value that best separates the mask from the rest of its slice; from slice to
  slice, the pieces above it that touch the one before.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.backends.sam2 import Sam2Tracker, load
from BrainSegSAMLib.cases import Case
from BrainSegSAMLib.labelled_images import labelled_cases, load_labelled, split_patients
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.lesions import key_slice
from BrainSegSAMLib.methods.ssnet.rules import touching
from BrainSegSAMLib.methods.ssnet.tracker_config import TrackerTrainingConfig
from BrainSegSAMLib.methods.ssnet.tracker_training import architecture_of
from BrainSegSAMLib.methods.ssnet.tracker_validation import tracked_mask
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.recipes import Recipe
from BrainSegSAMLib.training_volumes import TrainingVolume, make_volume

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("tracked", "without rules", "copied", "threshold")
SMOOTHING_VOXELS = 1.0

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """Dice of one case by column; seconds that the tracking with rules took."""

    case_id: str
    fold: int
    dice: dict[str, float]
    seconds: float


def main() -> None:
    """Score all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=ROOT / "Resources/Models/recipes/glioma-sam2-tiny.json")
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "data" / "glioma")
    parser.add_argument("--region", help="the first one where not given")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="fp32")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    recipe = Recipe.read(options.recipe)
    config, template = recipe.config({}), recipe.template(options.work)
    assert isinstance(config, TrackerTrainingConfig)
    region = options.region or template.scheme.names[0]
    cases = {case.case_id: case for case in labelled_cases(options.cases, template.modalities)}
    splits = split_patients(list(cases.values()), folds=config.folds, seed=config.seed, held_out=config.held_out)
    rows = []
    for fold, left_out in enumerate(splits):
        weights = rounded_weights(options.work / f"fold_{fold}" / "weights.pt", half=config.half_precision_weights)
        tracker = load(architecture_of(config), weights, precision=options.precision)
        for case_id in left_out:
            volume = prepared(cases[case_id], recipe, config, template)
            rows += score(tracker, volume, template.scheme.names.index(region), fold)
    print_table(region, rows)
    if options.output:
        options.output.write_text(json.dumps([row.__dict__ for row in rows], indent=2) + "\n")


def rounded_weights(path: Path, *, half: bool) -> Path:
    """The weights of a fold as a model would store them."""
    import torch

    state = torch.load(path, weights_only=True)["model"]
    stored = path.with_name("rounded.pt")
    torch.save({n: v.half() if half and v.is_floating_point() else v for n, v in state.items()}, stored)
    return stored


def prepared(case: Case, recipe: Recipe, config: TrackerTrainingConfig, template: Any) -> TrainingVolume:
    """One case in memory, as training sees it."""
    labelled = load_labelled(case, template.modalities, template.scheme, recipe.label_values)
    return make_volume(labelled.image, labelled.labels, template.modalities, template.scheme, config.volumes)


def score(tracker: Sam2Tracker, volume: TrainingVolume, region: int, fold: int) -> list[Row]:
    """The row of one case; none where it has no object of the region."""
    started = time.perf_counter()
    tracked = tracked_mask(tracker, volume, region, settings=TrackingSettings(), progress=Progress())
    seconds = time.perf_counter() - started
    if tracked is None:
        return []
    without = replace(TrackingSettings(), stop_rules=False, drop_detached=False)
    plain = tracked_mask(tracker, volume, region, settings=without, progress=Progress())
    assert plain is not None
    objects = [item.inside(volume.shape_zyx) for item in volume.objects if item.region == region]
    copied, grown = np.zeros((2, *volume.shape_zyx), dtype=bool)
    for item in objects:
        copied |= copied_mask(item)
        grown |= grown_mask(item, volume.pictures[0])
    truth = volume.truth[region]
    masks = dict(zip(COLUMNS, (tracked, plain, copied, grown), strict=True))
    return [Row(volume.case_id, fold, {name: dice(mask, truth) for name, mask in masks.items()}, seconds)]


def copied_mask(item: BoolArray) -> BoolArray:
    """The mask of the key slice on all slices of the object's extent."""
    index = key_slice(item, "axial")
    return item.any(axis=(1, 2))[:, None, None] & item[index]


def grown_mask(item: BoolArray, picture: NDArray[np.uint8]) -> BoolArray:
    """What a threshold learnt on the key slice finds, from slice to slice."""
    smooth = ndimage.gaussian_filter(picture.astype(np.float32), SMOOTHING_VOXELS)
    index = key_slice(item, "axial")
    candidates = np.percentile(smooth[index][item[index]], np.arange(0, 100, 2))
    best = max(candidates, key=lambda value: dice(touching(smooth[index] >= value, item[index]), item[index]))
    found = np.zeros_like(item)
    found[index] = item[index]
    for direction in (1, -1):
        position = index + direction
        while 0 <= position < len(item) and found[position - direction].any():
            found[position] = touching(smooth[position] >= best, found[position - direction])
            position += direction
    return found


def print_table(region: str, rows: list[Row]) -> None:
    """As a table in Markdown, means last."""
    print(f"\n{region}\n\n| case | fold | {' | '.join(COLUMNS)} | seconds |")
    print("|" + "---|" * (len(COLUMNS) + 3))
    for row in sorted(rows, key=lambda row: row.case_id):
        values = " | ".join(f"{row.dice[column]:.3f}" for column in COLUMNS)
        print(f"| {row.case_id} | {row.fold} | {values} | {row.seconds:.1f} |")
    means = [float(np.mean([row.dice[column] for row in rows])) for column in COLUMNS]
    seconds = float(np.mean([row.seconds for row in rows]))
    print(f"| mean |  | {' | '.join(f'{value:.3f}' for value in means)} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
