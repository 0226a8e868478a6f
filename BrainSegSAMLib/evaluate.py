"""The command that measures predictions against references: label maps in; tables, a record and a report out.

In the output folder lie `metrics.csv` (a line for each case, method and region), `metrics.json` (everything, checked
against `report/metrics.schema.json`), `report.html` (one file that needs nothing else) and `cases/` (a file a case, by
which `--resume` knows what is finished).
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from .batch import Row, Workers, run_batch
from .case_evaluation import (
    EVALUATED,
    FAILED,
    CaseEvaluator,
    EvaluationSettings,
    case_file,
    fingerprint,
    is_finished,
    summary_line,
)
from .cases import find_cases
from .errors import InputError
from .files import check_writable, read_json, write_json
from .label_sources import own_scheme, parse_label_values, read_scheme
from .labels import LabelScheme
from .pairs import FoundSegmentation, Pair, find_segmentations, pair_cases
from .progress import Progress
from .report import write_report

CASES_FOLDER: Final = "cases"


@dataclass(frozen=True)
class EvaluateJob:
    """What to evaluate, against what, and where to write it.

    Attributes:
        predictions: name of a method → what `pairs.find_segmentations` takes; the first is compared with the others.
        reference: the same, of the references.
        output: folder for the results; made where missing.
        labels: what `label_sources.read_scheme` takes; what the first predictions say themselves where empty.
        regions: names of those that are evaluated; all where empty.
        label_values: value in a reference's label map → value in the scheme.
        images: cases to show the results on, as `cases.find_cases` takes them; what lies beside the references, or what
            was predicted from, where None.
        tolerance_mm: of the surface Dice.
        resample: bring predictions on other grids onto the reference's.
        pictures: draw the cases.
        resume: keep the cases that an earlier run finished with the same inputs and settings.
        workers: processes that work on the cases.
    """

    predictions: Mapping[str, Path]
    reference: Path
    output: Path
    labels: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    label_values: Mapping[int, int] = field(default_factory=dict)
    images: Path | None = None
    tolerance_mm: float = 1.0
    resample: bool = False
    pictures: bool = True
    resume: bool = False
    workers: Workers | None = None


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        content: of `metrics.json`.
        report: the page.
        problems: every case that is not evaluated by every method, a sentence each.
        warnings: what a reader of the numbers must know, a sentence each.
    """

    content: Mapping[str, Any]
    report: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A job with everything that can be known before any work."""

    job: EvaluateJob
    settings: EvaluationSettings
    pairs: tuple[Pair, ...]


def plan(job: EvaluateJob) -> Plan:
    """Find the cases and what their labels mean; writes nothing.

    Raises:
        InputError: where a source holds nothing, no case is there on both sides, nothing says what the labels mean, a
            setting cannot be, or predictions and references are the same files.
    """
    if not (math.isfinite(job.tolerance_mm) and job.tolerance_mm >= 0):
        raise InputError(f"The tolerance of the surface Dice must be 0 mm or more, not {job.tolerance_mm}.")
    references = find_segmentations(job.reference)
    predictions = {name: find_segmentations(source) for name, source in job.predictions.items()}
    if len(references) == 1 and all(len(found) == 1 for found in predictions.values()) and job.reference.is_file():
        # One file against one file: the user has paired them.
        predictions = {name: [_renamed(found[0], references[0].case_id)] for name, found in predictions.items()}
    settings = EvaluationSettings(
        _scheme(job, predictions, references), job.label_values, job.tolerance_mm, job.resample, job.pictures
    )
    first = next(iter(predictions))
    by_names = {} if job.labels else {name: _by_names(job, name, settings.scheme) for name in predictions}
    ready = {
        name: [_with_segments(one) if by_names.get(name) else one for one in found]
        for name, found in predictions.items()
    }
    assert first in ready
    return Plan(job, settings, tuple(pair_cases(references, ready, images=_images(job))))
