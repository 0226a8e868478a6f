"""The command that measures predictions against references: label maps in; tables, a record and a report out.

In the output folder lie `metrics.csv` (a line for each case, method and region), `metrics.json` (everything, checked
against `report/metrics.schema.json`), `report.html` (one file that needs nothing else) and `cases/` (a file a case, by
which `--resume` knows what is finished).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from .batch import Row, Workers, run_batch
from .case_evaluation import (
    CaseEvaluator,
    case_file,
    dropped_cases,
    failed_case,
    fingerprint,
    is_finished,
    read_case,
    summary_line,
)
from .errors import InputError, OutputError
from .evaluation_inputs import EvaluationSettings
from .evaluation_plan import CASES_FOLDER, EvaluateJob, Plan, planned
from .evaluation_tables import content, write_csv, write_record
from .files import check_writable, read_json
from .label_sources import parse_label_values
from .metrics import BRATS_GLIOMA, DEFAULT_TOLERANCE_MM, METRICS, LesionRules
from .pairs import FAILED, Pair
from .parcels import Parcel, ParcelEvaluator, Parcels
from .progress import Progress
from .remote import Remote, location
from .report import write_report

__all__ = ["EvaluateJob", "Evaluation", "Plan", "add_arguments", "describe", "job_from_options", "planned", "run"]

_MEMORY_GB: Final = 2.0
Evaluator = TypeVar("Evaluator")


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        content: of `metrics.json`.
        files: what ("table", "record", "report") → where.
    """

    content: Mapping[str, Any]
    files: Mapping[str, str]


def run(
    plan: Plan,
    *,
    progress: Progress | None = None,
    on_case: Callable[[Pair, str, bool], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Evaluation:
    """Do what was planned.

    Args:
        plan: from `planned`.
        progress: of the whole run.
        on_case: told of every case as soon as its file is there: the case, what came out, and whether an earlier run
            had finished it.
        tell: gets a sentence on the cluster that is used.

    Raises:
        OutputError: where something cannot be written.
        InputError: where the workers cannot be had.
        Cancelled: when the progress was cancelled; the files of finished cases stay.
    """
    progress = progress or Progress()
    job, settings = plan.job, plan.settings
    folder = plan.output / CASES_FOLDER
    files = {"table": "metrics.csv", "record": "metrics.json", "report": "report.html"}
    paths = {kind: plan.output / name for kind, name in files.items()}
    check_writable(folder)
    on_case = on_case or (lambda _pair, _text, _kept: None)
    kept: list[Pair] = []
    todo: list[Pair] = []
    for pair in plan.pairs:
        (kept if job.resume and is_finished(pair, settings, folder) else todo).append(pair)
    stale = [case_file(folder, pair.case_id) for pair in todo]
    _remove(plan, [*paths.values(), *stale, *dropped_cases(plan.pairs, folder)])
    for pair in kept:
        on_case(pair, summary_line(read_case(pair, settings, folder)), True)
    crashed = _evaluate_all(plan, todo, folder, progress.part("Evaluating", until=0.9), on_case, tell)
    progress.stage("Summing up", until=0.95)
    cases = [_without_picture(pair, settings, folder, crashed) for pair in plan.pairs]
    data = content(cases, settings, methods=job.predictions, reference=job.reference)
    write_csv(data, paths["table"])
    write_record(data, paths["record"])
    progress.stage("Writing the report", until=1.0)
    write_report(data, paths["report"], picture=partial(_picture, folder, settings.pictures))
    if isinstance(job.output, Remote):
        job.output.put({path.name: path for path in paths.values()})
    shown = {kind: f"{str(job.output).rstrip('/')}/{path.name}" for kind, path in paths.items()}
    return Evaluation(data, shown)


def _evaluate_all(
    plan: Plan,
    todo: Sequence[Pair],
    folder: Path,
    progress: Progress,
    on_case: Callable[[Pair, str, bool], None],
    tell: Callable[[str], None] | None,
) -> dict[str, str]:
    """Write the file of each case; gives what crashed: case id → why."""
    job, settings = plan.job, plan.settings
    crashed: dict[str, str] = {}

    def on_row(row: Row[Pair, str]) -> None:
        if row.saved is None:
            crashed[row.item.case_id] = row.error
        on_case(row.item, row.saved if row.saved is not None else FAILED, False)

    def on_parcel(row: Row[Parcel, dict[str, Any]]) -> None:
        pair, said, error = row.item.pair, None, row.error
        if row.saved is not None:
            try:
                said = here.save(pair, {**row.saved, "fingerprint": fingerprint(pair, settings)})
            except (InputError, OutputError) as failure:
                error = str(failure)
        on_row(Row(pair, said, error))

    copies = Remote(f"{job.output.url.rstrip('/')}/{CASES_FOLDER}") if isinstance(job.output, Remote) else None
    here = CaseEvaluator(settings, folder, copies)
    workers = Workers(job.workers, job.scheduler)
    if job.scheduler and any(isinstance(p, Remote) for p in (*job.predictions.values(), job.reference, job.output)):
        # The cluster's workers see neither this machine's copies nor its folder for results.
        run_batch(
            Parcels(todo), partial(_same, ParcelEvaluator(settings)), name=lambda parcel: parcel.pair.case_id,
            progress=progress, on_row=on_parcel, workers=workers, tell=tell,
        )  # fmt: skip
    else:
        run_batch(
            todo, partial(_same, here), name=lambda pair: pair.case_id,
            progress=progress, on_row=on_row, workers=workers, memory_gb=_MEMORY_GB, tell=tell,
        )  # fmt: skip
    return crashed


def _same(evaluator: Evaluator, _device: str) -> Evaluator:
    """Every process does the same; none needs a device."""
    return evaluator


def _remove(plan: Plan, paths: Iterable[Path]) -> None:
    """Take away what an earlier run left, here and behind a URL, so that nothing old stands beside what is new."""
    names = {path.relative_to(plan.output).as_posix(): path for path in paths}
    for path in names.values():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} of an earlier run cannot be replaced: {error.strerror}.") from error
    if isinstance(plan.job.output, Remote):
        plan.job.output.remove(names.keys() & plan.job.output.listing(may_be_missing=True).keys())


def _without_picture(
    pair: Pair, settings: EvaluationSettings, folder: Path, crashed: Mapping[str, str]
) -> dict[str, Any]:
    if pair.case_id in crashed:
        return failed_case(pair, crashed[pair.case_id])
    found = read_case(pair, settings, folder)
    return {key: value for key, value in found.items() if key != "picture"}


def _picture(folder: Path, wanted: bool, case_id: str) -> dict[str, Any] | None:
    path = case_file(folder, case_id)
    found: dict[str, Any] | None = read_json(path).get("picture") if wanted and path.exists() else None
    return found


# ---- command line ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options; those of the workers and of progress are the caller's."""
    parser.add_argument(
        "--predictions", required=True, nargs="+", metavar="[NAME=]FOLDER",
        help="results of predict, or any label maps named by case; several are compared with each other",
    )
    parser.add_argument(
        "--reference", required=True, type=location,
        help="the experts' segmentations: label maps named by case, case folders, or a CSV manifest",
    )
    parser.add_argument("--output", required=True, type=location, help="folder for tables and report")
    parser.add_argument(
        "--labels", nargs="+", default=[], metavar="LABELS",
        help='what label values mean: "NAME=1,2,3" for each region, a model, or a JSON file (default: as the '
        "predictions say)",
    )
    parser.add_argument("--regions", nargs="+", default=[], metavar="NAME", help="only these regions")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help=f"only these metrics, of: {', '.join(METRICS)}"
    )
    parser.add_argument(
        "--label-values", nargs="+", default=[], metavar="FILE=MEANT",
        help="label values of the references that mean another one, e.g. 4=3",
    )
    parser.add_argument("--images", type=Path, help="cases to show the results on (default: what lies beside)")
    parser.add_argument(
        "--tolerance-mm", type=float, default=DEFAULT_TOLERANCE_MM, metavar="MM",
        help=f"of the surface Dice (default: {DEFAULT_TOLERANCE_MM:g})",
    )
    parser.add_argument(
        "--lesion-dilation", type=int, default=BRATS_GLIOMA.dilation_voxels, metavar="VOXELS",
        help="steps of dilation that join pieces of the reference to one lesion (default: "
        f"{BRATS_GLIOMA.dilation_voxels}, as for glioma in BraTS 2023)",
    )
    parser.add_argument(
        "--lesion-ignored-mm3", type=float, default=BRATS_GLIOMA.ignored_mm3, metavar="MM3",
        help="volume up to which lesions of the reference do not count (default: "
        f"{BRATS_GLIOMA.ignored_mm3:g}, as there)",
    )
    parser.add_argument("--resample", action="store_true", help="bring predictions on other grids onto the references'")
    parser.add_argument("--no-pictures", action="store_true", help="leave the pictures of the cases out")
    parser.add_argument("--resume", action="store_true", help="keep the cases that an earlier run finished")


def job_from_options(options: argparse.Namespace) -> EvaluateJob:
    """The job that the command line asks for.

    Raises:
        InputError: where two predictions have one name, or a setting is written in another form.
    """
    return EvaluateJob(
        predictions=_named(options.predictions),
        reference=options.reference,
        output=options.output,
        labels=tuple(options.labels),
        regions=tuple(options.regions),
        metrics=tuple(options.metrics),
        label_values=parse_label_values(options.label_values),
        images=options.images,
        tolerance_mm=options.tolerance_mm,
        lesions=LesionRules(options.lesion_dilation, options.lesion_ignored_mm3),
        resample=options.resample,
        pictures=not options.no_pictures,
        resume=options.resume,
        workers=options.workers,
        scheduler=options.scheduler,
    )


def _named(words: Sequence[str]) -> dict[str, Path | Remote]:
    """Predictions by name: the one given as NAME=FOLDER, else the folder's own."""
    named: dict[str, Path | Remote] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or "/" in name or Path(word).exists():
            name, text = "", word
        place = location(text)
        own = place.resolve().name if isinstance(place, Path) else PurePosixPath(place.url).name
        name = name.strip() or own or text
        if name in named:
            raise InputError(f"Two predictions are called '{name}'; give them names: NAME=FOLDER.")
        named[name] = place
    return named


def describe(evaluation: Evaluation) -> Iterator[str]:
    """The result for people: the first metric by method and region, and where everything lies."""
    data = evaluation.content
    first = data["metrics"][0]
    rows = [row for row in data["summary"] if row["metric"] == first["key"]]
    wide = max(len(f"{row['method']} · {row['region']}") for row in rows)
    yield f"{first['title']:<{wide}}  cases    mean          95 % CI   median"
    for row in rows:
        mean, median = (f"{row[key]:8.3f}" if row[key] is not None else f"{'–':>8}" for key in ("mean", "median"))
        interval = "–" if row["ci_low"] is None else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
        yield f"{row['method'] + ' · ' + row['region']:<{wide}}  {row['count']:5d}{mean}{interval:>17} {median}"
    for kind, path in evaluation.files.items():
        yield f"{kind:<7} {path}"
