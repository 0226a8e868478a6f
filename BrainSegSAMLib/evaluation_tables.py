"""The numbers of an evaluation as tables: cases, summaries over cases, paired comparisons, and what went wrong.

`content` makes one JSON object of the cases' files; everything else (`metrics.json`, `metrics.csv`, the report) is
written from that object, so that no two outputs can disagree.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from .case_evaluation import EVALUATED
from .errors import InputError
from .evaluation_inputs import EvaluationSettings
from .files import cell_text, write_json, write_text
from .json_schema import first_fault
from .metrics import METRICS
from .runs import versions
from .statistics import compare, holm, summarise, worst_first

FORMAT_VERSION: Final = 2
SCHEMA: Final = Path(__file__).with_name("report") / "metrics.schema.json"
CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000
SEED: Final = 0
_FEW_PATIENTS: Final = 20  # see `statistics.summarise`
_TOO_FEW_FOR_A_TEST: Final = 6  # with five pairs, the least p-value of a two-sided signed-rank test is 2/2⁵

Values = dict[str, float | None]
"""Case → value of one metric, of one region, by one method."""


def content(
    cases: Sequence[Mapping[str, Any]],
    settings: EvaluationSettings,
    *,
    methods: Mapping[str, object],
    reference: object,
) -> dict[str, Any]:
    """All numbers of an evaluation.

    Args:
        cases: contents of the cases' files, with or without their pictures; see `case_evaluation`.
        settings: of the evaluation.
        methods: name → where its predictions lie (a path or a URL), in order.
        reference: where the references lie.

    Returns:
        What `metrics.schema.json` describes.
    """
    ordered = sorted(cases, key=lambda case: str(case["case_id"]))
    kept = ("case_id", "patient", "notes", "reference_ml", "methods")
    names, keys = settings.regions, settings.metrics
    patients = {str(case["case_id"]): str(case["patient"]) for case in ordered}
    comparisons, refusals = _comparisons(ordered, list(methods), names, keys, patients=patients)
    return {
        "format_version": FORMAT_VERSION,
        "command": "evaluate",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "reference": str(reference),
        "methods": [{"name": name, "source": str(source)} for name, source in methods.items()],
        "settings": settings.as_dict(),
        "statistics": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED, "unit": "patient"},
        "metrics": [_finite(asdict(METRICS[key])) for key in settings.metrics],
        "cases": [{key: case[key] for key in kept} for case in ordered],
        "summary": _summary(ordered, list(methods), names, keys, patients=patients),
        "comparisons": comparisons,
        "problems": _problems(ordered),
        "doubts": _doubts(ordered, patients),
        "warnings": [*_few(ordered, patients), *refusals],
    }


def values_of(cases: Sequence[Mapping[str, Any]], method: str, region: str, metric: str) -> Values:
    """One metric of every case that a method was evaluated on."""
    return {
        str(case["case_id"]): case["methods"][method]["regions"][region]["metrics"][metric]
        for case in cases
        if case["methods"][method]["status"] == EVALUATED
    }


def write_record(data: Mapping[str, Any], path: Path) -> None:
    """Write `metrics.json`, after it was checked against its schema.

    Raises:
        ValueError: where it breaks the schema, which only a mistake of ours does.
        OutputError: where it cannot be written.
    """
    check_record(data)
    write_json(data, path)


def check_record(data: Mapping[str, Any]) -> None:
    """Check the content of `metrics.json` against its schema; raises as `write_record`."""
    fault = first_fault(data, json.loads(SCHEMA.read_text(encoding="utf-8")))
    if fault:
        raise ValueError(f"metrics.json breaks its schema: {fault}")


def write_csv(data: Mapping[str, Any], path: Path) -> None:
    """Write `metrics.csv`: a line for each case, method and region, and one for a case that is not evaluated.

    Text is as `files.cell_text` gives it; programs that pair cases by their ids had better read `metrics.json`.

    Raises:
        OutputError: where it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    keys = [metric["key"] for metric in data["metrics"]]
    table.writerow(
        ["case_id", "patient", "method", "status", "region", "reference_ml", "prediction_ml", *keys, "problem"]
    )
    for case in data["cases"]:
        for name, method in case["methods"].items():
            start = [cell_text(text) for text in (case["case_id"], case["patient"], name, method["status"])]
            problem = cell_text(method["problem"])
            if not method["regions"]:
                table.writerow([*start, "", "", "", *("" for _ in keys), problem])
            for region, found in method["regions"].items():
                volumes = [_cell(case["reference_ml"][region]), _cell(found["volume_ml"])]
                numbers = [_cell(found["metrics"][key]) for key in keys]
                table.writerow([*start, cell_text(region), *volumes, *numbers, problem])
    write_text(text.getvalue(), path)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def _summary(
    cases: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    regions: Sequence[str],
    metrics: Sequence[str],
    *,
    patients: Mapping[str, str],
) -> list[dict[str, Any]]:
    rows = []
    for method in methods:
        for region in regions:
            means: dict[str, float | None] = {}
            for key in metrics:
                values = values_of(cases, method, region, key)
                summary = summarise(
                    values, patients=patients, confidence=CONFIDENCE, resamples=RESAMPLES, seed=SEED
                )
                means[key] = summary.mean
                worst = worst_first(values, better=METRICS[key].better)[:1]
                rows.append(
                    {"method": method, "region": region, "metric": key, "worst": worst, **_finite(asdict(summary))}
                )
            _assert_possible(means.get("dice"), means.get("iou"), f"{method}, {region}")
    return rows


def _assert_possible(dice: float | None, iou: float | None, where: str) -> None:
    """Dice is 2·IoU/(1+IoU), a concave function, so its mean cannot be above that function of the mean IoU."""
    if dice is not None and iou is not None:
        assert dice <= 2 * iou / (1 + iou) + 1e-9, f"{where}: mean Dice {dice} is impossible for mean IoU {iou}"


def _comparisons(
    cases: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    regions: Sequence[str],
    metrics: Sequence[str],
    *,
    patients: Mapping[str, str],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every two methods on every metric and region; and a sentence for two that were not measured on the same cases.

    The p-values of one metric (all regions, all pairs of methods) are one family for Holm's correction.
    """
    rows: list[dict[str, Any]] = []
    refusals: list[str] = []
    for key in metrics:
        family = []
        for first, second in combinations(methods, 2):
            for region in regions:
                values = [values_of(cases, method, region, key) for method in (first, second)]
                try:
                    result = compare(*values, better=METRICS[key].better, patients=patients)
                except InputError as error:
                    refusals.append(f"'{first}' and '{second}' are not compared: {error}")
                    break
                family.append(
                    {"first": first, "second": second, "region": region, "metric": key, **_finite(asdict(result))}
                )
        for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
            rows.append({**row, "p_holm": adjusted})
    return rows, list(dict.fromkeys(refusals))


def _problems(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {"case_id": case["case_id"], "method": name, "status": method["status"], "problem": method["problem"]}
        for case in cases
        for name, method in case["methods"].items()
        if method["status"] != EVALUATED
    ]


def _doubts(cases: Sequence[Mapping[str, Any]], patients: Mapping[str, str]) -> list[str]:
    """Inputs that could be measured, but hardly as they were meant."""
    evaluated = _evaluated(cases)
    found = []
    empty = [str(c["case_id"]) for c in evaluated if c["reference_ml"] and not any(c["reference_ml"].values())]
    if empty:
        verb, whose = ("is", "its") if len(empty) == 1 else ("are", "their")
        said = f"The reference of {listed(empty)} {verb} empty"
        found.append(f"{said}: the policy for empty masks decides {whose} values.")
    if len({patients[str(case["case_id"])] for case in evaluated}) == 1:
        found.append("All that is evaluated is of one patient, so there is no confidence interval.")
    return found


def _few(cases: Sequence[Mapping[str, Any]], patients: Mapping[str, str]) -> list[str]:
    count = len({patients[str(case["case_id"])] for case in _evaluated(cases)})
    if not 1 < count < _FEW_PATIENTS:
        return []
    test = ", and no paired test reaches p < 0.05" if count < _TOO_FEW_FOR_A_TEST else ""
    return [f"With {count} patients, bootstrap intervals are narrower than they should be{test}."]


def _evaluated(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [case for case in cases if any(m["status"] == EVALUATED for m in case["methods"].values())]


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """Names as words, the first few of many."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for infinity, which JSON does not know."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
