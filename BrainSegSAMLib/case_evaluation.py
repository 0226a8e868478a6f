"""One case measured: its reference and every method's prediction in, numbers and a picture out, as one JSON file.

The file is what makes a long evaluation safe to interrupt: a case is finished exactly when its file is there and was
made of the same inputs with the same settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from . import __version__
from .errors import InputError
from .evaluation_inputs import EvaluationSettings, LoadedPair, load_pair
from .files import read_json, write_json
from .image import Segmentation
from .metrics import METRICS, measure_case
from .overlays import overlay
from .pairs import FAILED, READY, Pair
from .progress import Progress
from .remote import Remote
from .volumes import volume_sha256

CASE_VERSION: Final = 1
EVALUATED: Final = "evaluated"


@dataclass(frozen=True)
class CaseEvaluator:
    """What is done with each case of an evaluation; a `batch.CaseWork`.

    Attributes:
        settings: of the evaluation.
        folder: where the cases' files go.
        copies: a folder behind a URL where they shall lie as well.
    """

    settings: EvaluationSettings
    folder: Path
    copies: Remote | None = None

    def load(self, item: Pair) -> LoadedPair:
        """Read a case; what cannot be read is named in `problems`, so that other methods are still evaluated."""
        return load_pair(item, self.settings)

    def compute(self, loaded: LoadedPair, progress: Progress) -> dict[str, Any]:
        """Measure and draw a case; gives the content of its file."""
        pair, reference = loaded.pair, loaded.reference
        names = self.settings.regions
        progress.stage("Measuring", total=len(loaded.predictions) + 1)
        notes = list(loaded.notes[""])
        reference_ml = None
        if reference is not None:
            reference_ml = {region: reference.volume_ml(region) for region in names}
            if not any(reference_ml.values()):
                notes.append("The reference is empty: it has no voxel of any region.")
        methods: dict[str, Any] = {}
        for name, candidate in pair.candidates.items():
            if name in loaded.problems:
                status = candidate.status if candidate.status != READY else FAILED
                methods[name] = {"status": status, "problem": loaded.problems[name], "notes": [], "regions": {}}
                continue
            assert reference is not None
            methods[name] = {
                "status": EVALUATED,
                "problem": "",
                "notes": loaded.notes[name],
                "regions": self._measure(reference, loaded.predictions[name]),
            }
            progress.advance()
        picture = None
        if reference is not None and loaded.predictions and self.settings.pictures:
            picture = overlay(reference, loaded.predictions, regions=names, background=loaded.background)
        return {
            "case_version": CASE_VERSION,
            "fingerprint": fingerprint(pair, self.settings),
            "case_id": pair.case_id,
            "patient": pair.patient,
            "notes": notes,
            "reference_ml": reference_ml,
            "methods": methods,
            "picture": picture,
        }

    def save(self, item: Pair, computed: dict[str, Any]) -> str:
        """Write the case's file; gives what came out in a few words."""
        path = case_file(self.folder, item.case_id)
        write_json(computed, path)
        if self.copies is not None:
            self.copies.put({path.name: path})
        return summary_line(computed)

    def _measure(self, reference: Segmentation, prediction: Segmentation) -> dict[str, Any]:
        chosen = self.settings
        measured = measure_case(
            reference, prediction, regions=chosen.regions, tolerance_mm=chosen.tolerance_mm, lesions=chosen.lesions,
            metrics=chosen.metrics,
        )  # fmt: skip
        return {name: {"volume_ml": prediction.volume_ml(name), "metrics": measured[name]} for name in chosen.regions}


def case_file(folder: Path, case_id: str) -> Path:
    """Where the numbers and the picture of a case lie."""
    return folder / f"{case_id}.json"


def dropped_cases(pairs: Sequence[Pair], folder: Path) -> list[Path]:
    """The files in a folder of cases that an earlier evaluation wrote of cases that are no longer there."""
    kept = {case_file(folder, pair.case_id) for pair in pairs}
    return [path for path in sorted(folder.glob("*.json")) if path not in kept and _is_ours(path)]


def _is_ours(path: Path) -> bool:
    try:
        found = read_json(path)
    except InputError:
        return False
    return isinstance(found, dict) and {"case_version", "fingerprint"} <= set(found)


def read_case(pair: Pair, settings: EvaluationSettings, folder: Path) -> dict[str, Any]:
    """A case's file, in the order of the settings; the file has the order of the alphabet.

    Raises:
        InputError: where it cannot be read.
    """
    found: dict[str, Any] = read_json(case_file(folder, pair.case_id))
    found["methods"] = {name: found["methods"][name] for name in pair.candidates}
    for method in found["methods"].values():
        method["regions"] = {name: method["regions"][name] for name in settings.regions if name in method["regions"]}
        for region in method["regions"].values():
            region["metrics"] = {key: region["metrics"][key] for key in settings.metrics}
    return found


def failed_case(pair: Pair, problem: str) -> dict[str, Any]:
    """What stands in the tables for a case whose file could not be made."""
    methods = {
        name: {
            "status": FAILED if candidate.status == READY else candidate.status,
            "problem": candidate.problem or problem,
            "notes": [],
            "regions": {},
        }
        for name, candidate in pair.candidates.items()
    }
    return {"case_id": pair.case_id, "patient": pair.patient, "notes": [], "reference_ml": None, "methods": methods}


def is_finished(pair: Pair, settings: EvaluationSettings, folder: Path) -> bool:
    """Whether a file lies there that was made of the same inputs with the same settings, and nothing in it failed."""
    try:
        found = read_json(case_file(folder, pair.case_id))
        failed = any(method["status"] == FAILED for method in found["methods"].values())
        return not failed and bool(found["fingerprint"] == fingerprint(pair, settings))
    except (InputError, KeyError, TypeError):
        return False


def fingerprint(pair: Pair, settings: EvaluationSettings) -> str:
    """SHA-256 (64 hexadecimal digits) of all that decides a case's file.

    Raises:
        InputError: where a file cannot be read.
    """
    files = {f"image {name}": path for name, path in pair.images.items()} if settings.pictures else {}
    files |= {f"method {n}": c.found.path for n, c in pair.candidates.items() if c.status == READY and c.found}
    if pair.reference is not None:
        files["reference"] = pair.reference
    content = {
        "version": [CASE_VERSION, __version__],
        "settings": settings.as_dict(),
        "case": [pair.case_id, pair.patient],
        "status": {name: [candidate.status, candidate.problem] for name, candidate in pair.candidates.items()},
        "files": {name: volume_sha256(path) if path.exists() else "" for name, path in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def summary_line(result: Mapping[str, Any]) -> str:
    """What came out of a case, in a few words: the mean over regions of the first metric, for each method."""
    parts = []
    for name, method in result["methods"].items():
        firsts = [next(iter(region["metrics"].items())) for region in method["regions"].values()]
        known = [value for _, value in firsts if value is not None]
        said = f"{METRICS[firsts[0][0]].title} {float(np.mean(known)):.3f}" if known else method["status"]
        parts.append(f"{name} {said}" if len(result["methods"]) > 1 else said)
    return ", ".join(parts)
