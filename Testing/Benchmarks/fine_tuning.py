"""Fine-tuning of SAM's mask decoder: what an epoch costs with kept image features, and which way generalises best.

python Testing/Benchmarks/fine_tuning.py speed [--architectures ViT-B small] [--slices N] [--passes 5] [--threads 1]
    [--output JSON]
python Testing/Benchmarks/fine_tuning.py views --start WORK-FOLDER [--recipe JSON] [--cases FOLDER] [--folds 0 1]
    [--views 1 4 0] [--iterations N] [--output JSON]

* speed: one pass over the same slices of a synthetic case, one box on each, with a ViT-B-sized encoder at 1024 pixels
  (4 slices) and with the small one of the recipe (as many as it learns from together: 16), random weights: from kept
  features, and encoding anew; in seconds of computing of all threads together, so that other work on the machine counts
  little. Both ways learn from the same batches; the largest difference of their losses is printed, and what the
  features of 1,000 slices take.
* views: Dice of the left-out cases, fine-tuned from the networks of a training from scratch (its work folder) with
  features of the slices alone (1), of several views of each (4), and with slices changed and encoded anew (0).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from BrainSegSAMLib.backends.sam_architecture import OFFICIAL, SamArchitecture
from BrainSegSAMLib.files import write_json
from BrainSegSAMLib.labelled_images import labelled_cases
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.yolo_medsam.embeddings import bytes_of
from BrainSegSAMLib.methods.yolo_medsam.medsam_training import architecture_of, train_medsam
from BrainSegSAMLib.methods.yolo_medsam.sam_config import DECODER, SamTrainingConfig
from BrainSegSAMLib.methods.yolo_medsam.sam_fitting import Batch, Learner, SamFit
from BrainSegSAMLib.methods.yolo_medsam.sam_validation import TITLE
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from BrainSegSAMLib.recipes import Recipe
from BrainSegSAMLib.training_volumes import TrainingVolume, make_volume, synthetic_case

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "Resources" / "Models" / "recipes" / "glioma-medsam-tiny.json"
MODALITIES = ("flair", "t1ce", "t2")
VIT_B, SMALL = "ViT-B", "small"


def main() -> None:
    """Measure one part and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "views"])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--architectures", nargs="+", choices=[VIT_B, SMALL], default=[VIT_B, SMALL])
    parser.add_argument("--slices", type=int, help="of one pass; 4 for ViT-B and the recipe's batch where not given")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=Path, help="work folder of the training from scratch")
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "data" / "glioma")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 0])
    parser.add_argument("--iterations", type=int, help="of each network; the recipe's where not given")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = speed(options) if options.part == "speed" else views(options)
    print(json.dumps(found, indent=2))
    if options.output:
        write_json(found, options.output)


# ---- speed ----------------------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one pass over the slices, by architecture."""
    config = Recipe.read(options.recipe).config({})
    assert isinstance(config, SamTrainingConfig)
    made = synthetic_case(1)
    scheme = LabelScheme.plain({"necrosis": 1, "oedema": 2, "enhancing": 3})
    volume = make_volume(made.image, made.labels, MODALITIES, scheme, config.volumes)
    known = {VIT_B: (OFFICIAL["medsam"], 4), SMALL: (architecture_of(config), config.slices_per_iteration)}
    found = {}
    for name in options.architectures:
        architecture, slices = known[name]
        title = f"{name}, {architecture.image_size} pixels"
        found[title] = _one_architecture(volume, config, architecture, options.slices or slices, options.passes)
    return found


def _one_architecture(
    volume: TrainingVolume, config: SamTrainingConfig, architecture: SamArchitecture, slices: int, passes: int
) -> dict[str, Any]:
    config = replace(config, views=1, slices_per_iteration=slices, boxes_per_slice=1, region_weights=())
    with tempfile.TemporaryDirectory() as folder:
        job = SamFit("speed", [volume], [1.0], {}, 1, Path(folder), Path(folder) / "features", precision="fp32")
        learner = Learner(job, config, architecture)
        learner.slices = learner.slices[:: max(1, len(learner.slices) // slices)][:slices]
        features = learner.cache(Progress())
        kept = [learner.batch(number, features) for number in range(passes)]
        images = torch.stack([learner._seen(row, [0], masks_only=False)[0] for row in range(slices)])
        anew = [_same_with_pictures(batch, features.gather(range(slices)), images) for batch in kept]
        optimiser = torch.optim.AdamW(learner.module.parameters(), lr=0.0)

        def run(batch: Batch, encoded: bool) -> float:
            optimiser.zero_grad()
            loss = learner.losses(batch, encoded=encoded)["total"]
            loss.backward()
            optimiser.step()
            return float(loss.detach())

        from_kept = [_timed(lambda b=batch: run(b, True)) for batch in kept]
        from_anew = [_timed(lambda b=batch: run(b, False)) for batch in anew]
    seconds = [min(second for second, _ in runs) for runs in (from_kept, from_anew)]
    return {
        "slices": slices,
        "seconds, features kept": round(seconds[0], 4),
        "seconds, encoded anew": round(seconds[1], 4),
        "ratio": round(seconds[0] / seconds[1], 4),
        "largest difference of losses": max(
            abs(a - b) for (_, a), (_, b) in zip(from_kept, from_anew, strict=True)
        ),
        "GB for 1000 slices": round(bytes_of(1000, learner.forward.level_shapes[0]) / 1e9, 3),
    }


def _same_with_pictures(batch: Batch, features: torch.Tensor, images: torch.Tensor) -> Batch:
    """The batch with the pictures whose features it has."""
    numbers = [next(n for n, one in enumerate(features) if one.equal(wanted)) for wanted in batch.pictures]
    return replace(batch, pictures=images[numbers])


def _timed(run: Callable[[], float]) -> tuple[float, float]:
    started = time.process_time()
    found = run()
    return time.process_time() - started, found


# ---- which way generalises best --------------------------------------------------------------------------------------


def views(options: argparse.Namespace) -> dict[str, Any]:
    """Dice of the left-out cases by the number of views."""
    recipe = Recipe.read(options.recipe)
    found: dict[str, Any] = {}
    for count in options.views:
        changes: dict[str, Any] = {"iterations": options.iterations} if options.iterations else {}
        config = recipe.config(
            {**changes, "trained": DECODER, "views": count, "start_from": str(options.start), "final": False,
             "train_folds": options.folds}
        )  # fmt: skip
        assert isinstance(config, SamTrainingConfig)
        with tempfile.TemporaryDirectory() as folder:
            template = recipe.template(Path(folder) / "model")
            started = time.perf_counter()
            model = train_medsam(
                labelled_cases(options.cases, template.modalities), config, template, work=Path(folder) / "work",
                label_values=recipe.label_values, progress=Progress(_tell),
            )  # fmt: skip
            rows = model.results[TITLE]["rows"]
        found[f"{count} views"] = {
            "seconds": round(time.perf_counter() - started),
            "dice": {row[0]: row[2] for row in rows[:-1]},
            "mean": float(np.mean([row[2] for row in rows[:-1]])),
        }
    return found


def _tell(update: ProgressUpdate) -> None:
    if update.message:
        print(update.message, flush=True)


if __name__ == "__main__":
    main()
