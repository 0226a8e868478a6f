"""Dice of SSNet's stages in cross-validation: nnU-Net alone, each vote of the tracker, and their ensemble.

python Testing/Benchmarks/ssnet_accuracy.py --prior-work WORK --tracker-work WORK [--cases FOLDER] [--inputs GROUP ...]

Each case goes through an SSNet composed of the two networks that have not seen it: both work folders are those that
`brainsegsam train` made of the two recipes, and both trainings left out the same cases in each fold. All regions
together are one mask, and its Dice with the reference's is what is printed. Without --inputs the tracker sees what it
was trained on; `--inputs flair+t1ce+t2 flair t1ce` makes three votes, of all three modalities and of one each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from BrainSegSAMLib.backends.checkpoints import load_checkpoint, save_checkpoint
from BrainSegSAMLib.cases import Case
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.files import read_json
from BrainSegSAMLib.labelled_images import labelled_cases, load_labelled
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.ssnet.composing import compose
from BrainSegSAMLib.methods.ssnet.predictor import AGREEMENT_STAGE, SSNetPredictor
from BrainSegSAMLib.methods.ssnet.tracker_config import TrackerTrainingConfig
from BrainSegSAMLib.methods.ssnet.tracker_training import WEIGHTS_FILE, architecture_of
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.models.store import load_model, write_model
from BrainSegSAMLib.recipes import Recipe
from BrainSegSAMLib.training_volumes import ORIENTATION

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "Resources/Models/recipes"


@dataclass(frozen=True)
class Row:
    """One case: Dice by stage; mean agreement of its lesions (None where none was tracked); lesions by what became."""

    case_id: str
    fold: int
    dice: dict[str, float]
    agreement: float | None
    lesions: int
    tracked: int
    flagged: int
    seconds: float


def main() -> None:
    """Score all cases and print the table."""
    options = _parser().parse_args()
    prior, tracker = Recipe.read(options.prior_recipe), Recipe.read(options.tracker_recipe)
    left_out = common_folds(options.prior_work, options.tracker_work)
    settings: dict[str, Any] = {"inputs": [group.split("+") for group in options.inputs]}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ssnet-accuracy-") as folder:
        for fold in range(len(left_out)) if options.folds is None else options.folds:
            place = Path(folder) / f"fold_{fold}"
            model = compose(
                prior_of(fold, options.prior_work, prior, place / "prior"),
                tracker_of(fold, options.tracker_work, tracker, place / "tracker"),
                place / "ssnet",
                settings=settings,
            )
            cases = {case.case_id: case for case in labelled_cases(options.cases, model.modalities)}
            predictor = load_predictor(model.folder, device=options.device)
            assert isinstance(predictor, SSNetPredictor)
            for case_id in left_out[fold]:
                rows.append(score(predictor, cases[case_id], prior, fold))
                print(rows[-1], flush=True)
    print_table(rows)
    if options.output:
        content = {"settings": settings, "rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior-work", type=Path, required=True)
    parser.add_argument("--tracker-work", type=Path, required=True)
    parser.add_argument("--prior-recipe", type=Path, default=RECIPES / "glioma-nnunet-tiny.json")
    parser.add_argument("--tracker-recipe", type=Path, default=RECIPES / "glioma-sam2-tiny.json")
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "data" / "glioma")
    parser.add_argument("--inputs", nargs="+", default=[], metavar="GROUP", help="modalities joined by +; one vote")
    parser.add_argument("--folds", nargs="+", type=int, help="only these")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    return parser


def common_folds(*works: Path) -> list[list[str]]:
    """The cases that each fold of both trainings has not seen."""
    first, second = (read_json(work / "prepared.json")["held_out"] for work in works)
    if [sorted(fold) for fold in first] != [sorted(fold) for fold in second]:
        raise InputError(f"{works[0]} and {works[1]} did not leave out the same cases in each fold: {first}, {second}.")
    return list(first)


def prior_of(fold: int, work: Path, recipe: Recipe, folder: Path) -> Path:
    """The nnU-Net of one fold alone, as it was scored, with the recipe's clean-up."""
    scored = load_model(work / "cross_validation")
    files = [file.path for file in scored.weights if not file.path.startswith("fold_") or f"fold_{fold}/" in file.path]
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scored.path_of(path), folder / path)
    return write_model(replace(recipe.template(folder), preprocessing=scored.preprocessing), files=files).folder


def tracker_of(fold: int, work: Path, recipe: Recipe, folder: Path) -> Path:
    """The tracker of one fold alone, its weights rounded as a model stores them."""
    config, template = recipe.config({}), recipe.template(folder)
    assert isinstance(config, TrackerTrainingConfig)
    state = load_checkpoint(work / f"fold_{fold}" / "weights.pt")["model"]
    half = config.half_precision_weights
    folder.mkdir(parents=True)
    stored = {name: value.half() if half and value.is_floating_point() else value for name, value in state.items()}
    save_checkpoint(stored, folder / WEIGHTS_FILE)
    windowing = {"lower": config.lower_percentile, "upper": config.upper_percentile}
    settings = {**template.settings, "architecture": architecture_of(config).as_dict(), "windowing": windowing}
    described = replace(template, preprocessing={"orientation": ORIENTATION}, settings=settings)
    return write_model(described, files=[WEIGHTS_FILE]).folder


def score(predictor: SSNetPredictor, case: Case, recipe: Recipe, fold: int) -> Row:
    """What each stage makes of one case."""
    scheme = recipe.template(Path()).scheme
    labelled = load_labelled(case, predictor.model.modalities, scheme, recipe.label_values)
    result = predictor.predict(labelled.image)
    by_stage = {
        name: round(dice(stage.label_map > 0, labelled.labels > 0), 4)
        for name, stage in result.stages.items()
        if name != AGREEMENT_STAGE
    }
    lesions = result.record["lesions"]
    tracked = [row for row in lesions if row["tracked"]]
    agreement = round(float(np.mean([row["agreement"] for row in tracked])), 4) if tracked else None
    flagged = sum(row["flagged"] for row in tracked)
    return Row(case.case_id, fold, by_stage, agreement, len(lesions), len(tracked), flagged, result.record["seconds"])


def print_table(rows: Sequence[Row]) -> None:
    """As a table in Markdown, means last."""
    stages = list(rows[0].dice)
    print(f"\n| case | fold | {' | '.join(stages)} | agreement | lesions | tracked | flagged | seconds |")
    print("|" + "---|" * (len(stages) + 7))
    for row in sorted(rows, key=lambda row: row.case_id):
        values = " | ".join(f"{row.dice[stage]:.3f}" for stage in stages)
        agreement = "" if row.agreement is None else f"{row.agreement:.3f}"
        counts = f"{row.lesions} | {row.tracked} | {row.flagged}"
        print(f"| {row.case_id} | {row.fold} | {values} | {agreement} | {counts} | {row.seconds:.0f} |")
    means = " | ".join(f"{np.mean([row.dice[stage] for row in rows]):.3f}" for stage in stages)
    known = [row.agreement for row in rows if row.agreement is not None]
    print(f"| mean |  | {means} | {np.mean(known):.3f} |  |  |  |  |" if known else f"| mean |  | {means} | | | | | |")


if __name__ == "__main__":
    main()
