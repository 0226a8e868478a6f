"""What runs in the child process of a training: one task of nnU-Net, described by a JSON file.

nnU-Net finds its folders through environment variables and starts process pools of its own; in a child process neither
reaches the caller. Run as ``python -m BrainSegSAMLib.backends.nnunet_child JOB.json`` by `nnunet_training`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..memory import keep_memory

DATASET_ID = 1
DATASET_NAME = "Dataset001_BrainSegSAM"
PLANS_NAME = "BrainSegSAMPlans"
TRAINER_NAME = "BrainSegTrainer"


def prepare(job: Mapping[str, Any]) -> None:
    """Fingerprint, plan, change the plans as asked, preprocess.

    Args:
        job: "planner", "configuration", "target_spacing_mm" (or None), "overrides" (see `override_plans`), "processes",
            "preprocessed" (folder of the data set).
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([DATASET_ID], num_processes=job["processes"], show_progress_bar=False)
    plan_experiments(
        [DATASET_ID],
        experiment_planner_class_name=job["planner"],
        overwrite_target_spacing=job["target_spacing_mm"],
        overwrite_plans_name=PLANS_NAME,
    )
    plans_file = Path(job["preprocessed"]) / f"{PLANS_NAME}.json"
    plans = json.loads(plans_file.read_text(encoding="utf-8"))
    planned = plans["configurations"]
    if job["configuration"] not in planned:
        sys.exit(f"nnU-Net plans no '{job['configuration']}' for these images, only {', '.join(planned)}.")
    plans["configurations"] = {job["configuration"]: override_plans(planned[job["configuration"]], job["overrides"])}
    plans_file.write_text(json.dumps(plans, indent=1), encoding="utf-8")
    preprocess(
        [DATASET_ID],
        plans_identifier=PLANS_NAME,
        configurations=(job["configuration"],),
        num_processes=(job["processes"],),
        show_progress_bar=False,
    )


def override_plans(planned: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of nnU-Net's plans with the settings that are not None.

    Args:
        planned: one entry of "configurations".
        overrides: "patch_size", "batch_size", "features_per_stage", "convolutions_per_stage",
            "convolutions_per_stage_decoder".
    """
    configuration = {**planned}
    for key in ("patch_size", "batch_size"):
        if overrides[key] is not None:
            configuration[key] = overrides[key]
    if configuration["batch_size"] == 1:
        configuration["batch_dice"] = False
    features = overrides["features_per_stage"]
    if features is None:
        return configuration
    dimensions, stages = len(configuration["patch_size"]), len(features)
    arguments = {
        **planned["architecture"]["arch_kwargs"],
        "n_stages": stages,
        "features_per_stage": features,
        "kernel_sizes": [[3] * dimensions] * stages,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        "n_conv_per_stage": overrides["convolutions_per_stage"] or [2] * stages,
        "n_conv_per_stage_decoder": overrides["convolutions_per_stage_decoder"] or [2] * (stages - 1),
    }
    configuration["architecture"] = {**planned["architecture"], "arch_kwargs": arguments}
    return configuration


def train(job: Mapping[str, Any]) -> None:
    """Train one fold, from its last checkpoint where it has one.

    Args:
        job: "configuration", "fold", "device", "gpus" (more than 1: nnU-Net starts a process for each),
            "threads" (None: torch's own choice).
    """
    import torch
    from nnunetv2.run.run_training import run_training

    if job["gpus"] > 1:
        _end_with_parent(Path(os.environ["BRAINSEGSAM_STOP_FILE"]))
    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])
    run_training(
        str(DATASET_ID),
        job["configuration"],
        job["fold"],
        trainer_class_name=TRAINER_NAME,
        plans_identifier=PLANS_NAME,
        num_gpus=job["gpus"],
        continue_training=True,  # starts anew where there is no checkpoint
        device=torch.device(job["device"]),
    )


def _end_with_parent(stop_file: Path) -> None:
    """Ask the processes of the GPUs to stop where the process that started this one is gone: they see this one only."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        stop_file.touch()

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the task that the job file names."""
    keep_memory()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    {"prepare": prepare, "train": train}[job["task"]](job)


if __name__ == "__main__":
    main()
