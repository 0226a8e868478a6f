"""Cross-validated numbers of boxes and masks: the detector, and segmenters from true and from found boxes.

python Testing/Benchmarks/yolo_medsam_accuracy.py --detector-work WORK --segmenter-work WORK [--before-work WORK]
    [--cases FOLDER] [--folds 0 1 …] [--output FILE]

Each case goes through the networks that have not seen it: the work folders are those that `brainsegsam train` made of
the recipes, and all trainings left out the same cases in each fold. `--before-work` is the training that the decoder
was fine-tuned from; with it, the network before any training is measured, too. Baselines without a network stand beside
them. Dice is that of whole volumes, of the regions of the detector. Average precision counts each connected piece on
each slice of the left-out cases of each fold, however small, and its mean is over folds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from BrainSegSAMLib.backends.checkpoints import load_checkpoint
from BrainSegSAMLib.backends.sam import SamSegmenter
from BrainSegSAMLib.backends.sam_network import build as build_sam
from BrainSegSAMLib.backends.yolo import YoloDetector
from BrainSegSAMLib.backends.yolo_network import build as build_yolo
from BrainSegSAMLib.cases import Case
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.files import read_json
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.labelled_images import labelled_cases, load_labelled
from BrainSegSAMLib.methods.yolo_medsam.detector import Detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectorTrainingConfig
from BrainSegSAMLib.methods.yolo_medsam.measuring import FOUND_BOXES, TRUE_BOXES, Measured, measure
from BrainSegSAMLib.methods.yolo_medsam.medsam_training import architecture_of
from BrainSegSAMLib.methods.yolo_medsam.sam_config import SamTrainingConfig
from BrainSegSAMLib.methods.yolo_medsam.segmenter import Segmenter
from BrainSegSAMLib.metrics.detection import score_boxes, share_found
from BrainSegSAMLib.recipes import Recipe
from BrainSegSAMLib.trainings import MARKER, rounded, weights_path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "Resources/Models/recipes"


def main() -> None:
    """Measure all cases and print the tables."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    works = [work for work in (options.detector_work, options.segmenter_work, options.before_work) if work]
    left_out = common_folds(works)
    recipe = Recipe.read(options.detector_recipe)
    template = recipe.template(Path())
    segmenters = {"fine-tuned": (options.segmenter_work, Recipe.read(options.segmenter_recipe))}
    if options.before_work:
        before = Recipe.read(options.before_recipe)
        segmenters = {"untrained": (None, before), "pre-trained": (options.before_work, before), **segmenters}
    used = [recipe, *(of for _, of in segmenters.values())]
    modalities = list(dict.fromkeys(name for of in used for name in of.model["modalities"]))
    cases = {case.case_id: case for case in labelled_cases(options.cases, modalities)}
    rows: list[dict[str, Any]] = []
    for fold in range(len(left_out)) if options.folds is None else options.folds:
        detector = detector_of(fold, options.detector_work, recipe)
        networks = {name: segmenter_of(fold, work, of) for name, (work, of) in segmenters.items()}
        measured = {i: measured_case(cases[i], modalities, recipe, detector, networks) for i in left_out[fold]}
        score = score_boxes([(one.found, one.known) for one in measured.values()])
        detection = {"P": score.precision, "R": score.recall, "mAP50": score.map50, "mAP50-95": score.map50_95,
                     "found": share_found([(one.linked, one.known) for one in measured.values()])}  # fmt: skip
        for case_id, one in measured.items():
            rows.append({"case": case_id, "fold": fold, "detection": detection, **_as_json(one, template.scheme.names)})
            print(json.dumps(rows[-1]), flush=True)
    print_tables(rows, template.scheme.names)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector-work", type=Path, required=True)
    parser.add_argument("--segmenter-work", type=Path, required=True)
    parser.add_argument("--before-work", type=Path)
    parser.add_argument("--detector-recipe", type=Path, default=RECIPES / "glioma-yolo-tiny.json")
    parser.add_argument("--segmenter-recipe", type=Path, default=RECIPES / "glioma-medsam-tiny.json")
    parser.add_argument("--before-recipe", type=Path, default=RECIPES / "glioma-sam-tiny.json")
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "data" / "glioma")
    parser.add_argument("--folds", nargs="+", type=int, help="only these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    return parser


def common_folds(works: Sequence[Path]) -> list[list[str]]:
    """The cases that each fold of all trainings has not seen."""
    folds = [read_json(work / MARKER)["held_out"] for work in works]
    if any([sorted(fold) for fold in one] != [sorted(fold) for fold in folds[0]] for one in folds):
        raise InputError(f"{', '.join(map(str, works))} did not leave out the same cases in each fold.")
    return list(folds[0])


def detector_of(fold: int, work: Path, recipe: Recipe) -> Detector:
    """The detector of one fold, its weights rounded as a model stores them."""
    config, template = recipe.config({}), recipe.template(Path())
    assert isinstance(config, DetectorTrainingConfig)
    architecture = config.network(len(template.scheme.regions))
    network = _loaded(build_yolo(architecture), work, fold, half=config.half_precision_weights)
    detection = config.detection(template.settings.get("detection"))
    finder = YoloDetector(network, architecture, several_kinds=template.scheme.overlapping)
    return Detector(template, finder, detection, config.lower_percentile, config.upper_percentile)


def segmenter_of(fold: int, work: Path | None, recipe: Recipe) -> Segmenter:
    """The segmenter of one fold, its weights rounded as a model stores them; with random weights without a folder."""
    config, template = recipe.config({}), recipe.template(Path())
    assert isinstance(config, SamTrainingConfig)
    architecture = architecture_of(config)
    torch.manual_seed(config.seed)
    network = build_sam(architecture).eval()
    if work:
        network = _loaded(network, work, fold, half=config.half_precision_weights)
    found = SamSegmenter(network, architecture)
    return Segmenter(template, found, config.lower_percentile, config.upper_percentile, config.head_only)


def _loaded(network: torch.nn.Module, work: Path, fold: int, *, half: bool) -> torch.nn.Module:
    weights = load_checkpoint(weights_path(work, f"fold_{fold}"))["model"]
    network.load_state_dict({name: value.float() if value.is_floating_point() else value
                             for name, value in rounded(weights, half=half).items()})  # fmt: skip
    return network.eval()


def measured_case(
    case: Case, modalities: Sequence[str], recipe: Recipe, detector: Detector, segmenters: Mapping[str, Segmenter]
) -> Measured:
    """What all networks make of one case."""
    scheme = detector.model.scheme
    labelled = load_labelled(case, modalities, scheme, recipe.label_values)
    geometry, order = labelled.image.geometry.reoriented("LPS")
    upright = order.apply(labelled.labels)
    image = Image(geometry, {name: order.apply(one) for name, one in labelled.image.channels.items()}, case.case_id)
    return measure(image, [np.isin(upright, region.labels) for region in scheme.regions], detector, segmenters)


def _as_json(one: Measured, regions: Sequence[str]) -> dict[str, Any]:
    return {
        "known": len(one.known),
        "linked": len(one.linked),
        "dice": {f"{name}, {source}, {regions[kind]}": value for (name, source, kind), value in one.dice.items()},
    }


def print_tables(rows: Sequence[dict[str, Any]], regions: Sequence[str]) -> None:
    """As tables in Markdown."""
    folds = {row["fold"]: row["detection"] for row in rows}
    columns = list(rows[0]["detection"])
    print(f"\n| fold | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for fold, values in sorted(folds.items()):
        print(f"| {fold} | " + " | ".join(f"{values[name]:.3f}" for name in columns) + " |")
    print("| mean | " + " | ".join(f"{np.mean([v[name] for v in folds.values()]):.3f}" for name in columns) + " |")
    names = list(dict.fromkeys(key.split(", ")[0] for key in rows[0]["dice"]))
    for region in regions:
        for source in (TRUE_BOXES, FOUND_BOXES):
            print(f"\n{region}, {source}\n\n| case | fold | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
            values = {row["case"]: [row["dice"][f"{name}, {source}, {region}"] for name in names] for row in rows}
            for row in sorted(rows, key=lambda row: str(row["case"])):
                cells = " | ".join(f"{value:.3f}" for value in values[row["case"]])
                print(f"| {row['case']} | {row['fold']} | {cells} |")
            print("| mean |  | " + " | ".join(f"{v:.3f}" for v in np.mean(list(values.values()), axis=0)) + " |")


if __name__ == "__main__":
    main()
