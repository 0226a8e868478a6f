"""The methods by name, and the one way from a model folder to a predictor.

A plain table, read lazily: listing methods costs nothing, and only the method that is used imports its networks.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

from ..errors import DependencyError, ModelError
from ..models.store import load_model
from .contract import Predictor

# Method name, as in model.json → module with `load(model, *, device, trust, overrides) -> Predictor`.
METHODS: dict[str, str] = {
    "nnunet": "BrainSegSAMLib.methods.nnunet.predictor",
    "ssnet": "BrainSegSAMLib.methods.ssnet.predictor",
    "yolo_medsam": "BrainSegSAMLib.methods.yolo_medsam.predictor",
}

# Methods whose models predict nothing by themselves → what to do with such a model.
OTHER_METHODS: dict[str, str] = {
    "sam2_tracker": "it follows what is marked on a slice. Use it with 'brainsegsam track', or make a model of it and "
    "of one that segments with 'brainsegsam models compose'.",
    "yolo_detector": "it finds boxes. Make a model of it and of one that segments what is in them with 'brainsegsam "
    "models compose'.",
    "sam": "it segments what is boxed on slices. Use it with 'brainsegsam prompt', or make a model of it and of one "
    "that finds boxes with 'brainsegsam models compose'.",
}

# Methods that track, and so need the package sam2 beside what Resources/requirements.txt lists.
NEED_SAM2: Final = ("ssnet", "sam2_tracker")


def load_predictor(
    folder: Path | str,
    *,
    device: str = "cpu",
    trust: bool = False,
    overrides: dict[str, object] | None = None,
) -> Predictor:
    """Load a model folder, whatever its method.

    Args:
        folder: with a `model.json`.
        device: torch device name: "cpu", "cuda", "cuda:1", "mps"; never changed silently.
        trust: allow weights that need arbitrary unpickling; only for files of known origin.
        overrides: settings of the method to use instead of the model's own, e.g. {"mirroring": False}.

    Raises:
        ModelError: where the folder or its weights cannot be used, or its method is not known here.
        DependencyError: where a package that the method needs is not installed.
    """
    model = load_model(folder)
    if model.method in OTHER_METHODS:
        raise ModelError(f"The model '{model.name}' does not segment by itself: {OTHER_METHODS[model.method]}")
    if model.method not in METHODS:
        raise ModelError(
            f"The model '{model.name}' needs the method '{model.method}', which this version of BrainSegSAM "
            f"does not have; it has: {', '.join(METHODS)}."
        )
    try:
        module = importlib.import_module(METHODS[model.method])
        predictor: Predictor = module.load(model, device=device, trust=trust, overrides=overrides or {})
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"The method '{model.method}' needs the Python package '{error.name}', which is not installed; "
            "install the requirements listed in Resources/requirements.txt."
        ) from error
    return predictor
