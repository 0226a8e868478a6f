"""The command that users come for: cases in, segmentations with their records out.

Every case gives `<case_id>.nii.gz` (label map), `<case_id>.seg.nrrd` (overlapping segments with names, colours and
codes) and `<case_id>.json` (its record). A method of several stages also gives `<case_id>_<stage>.nii.gz` for each, and
where the modality whose grid the result has is a DICOM series, there is `<case_id>.seg.dcm` (DICOM SEG).
The record is written last and names the others with their hashes, so a case is finished exactly when its record is
there and true; `--resume` relies on that. `run.json` sums the run up, and `measurements.csv` lists what was measured.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .backends.devices import resolve_device
from .batch import Row, Workers, run_batch
from .case_files import output_paths
from .cases import Case, find_cases
from .errors import BrainSegSAMError, Cancelled, InputError
from .files import check_writable, read_json, write_json
from .measurements import MEASUREMENTS_FILE, write_measurements
from .models.catalogue import find_model
from .models.store import Model, load_model
from .prediction_work import CaseResult, Earlier, PredictJob, Start, is_finished
from .progress import Progress
from .remote import Remote, RemoteFile, known_to_others
from .remote_cases import named_as, results_for
from .runs import RECORD_VERSION, RUN_FILE, versions

__all__ = ["CaseResult", "Plan", "PredictJob", "describe_plan", "plan", "run"]


@dataclass(frozen=True)
class Plan:
    """A job with everything that can be known before any work.

    Attributes:
        job: what was asked for.
        model: read and checked.
        device: the device that will be used; on a running cluster as asked for, and each worker looks for itself.
        todo: cases to work on.
        results: of cases that need no work: finished earlier, or unusable.
        source: what the paths of cases are relative to, where that is behind a URL.
    """

    job: PredictJob
    model: Model
    device: str
    todo: tuple[Case, ...]
    results: tuple[CaseResult, ...]
    source: Remote | None = None


def plan(job: PredictJob) -> Plan:
    """Find the model and the cases, and say which of them need work; writes nothing.

    Raises:
        ModelError: where the model cannot be used.
        InputError: where no case can be used, or the device or the reference modality is not there.
    """
    folder = find_model(job.model)
    if job.scheduler:
        job = replace(job, source=known_to_others(job.source), output=known_to_others(job.output))
        folder = folder.absolute()
    model = load_model(folder)
    if job.reference is not None and job.reference not in model.modalities:
        raise InputError(
            f"The reference modality '{job.reference}' is not one of the model's: {', '.join(model.modalities)}."
        )
    # A running cluster's devices are not this machine's: each worker looks for itself.
    device = job.device if job.scheduler else resolve_device(job.device)
    cases, source, inputs = _find(job, model)
    outputs = job.output.listing(may_be_missing=True) if job.resume and isinstance(job.output, Remote) else None
    earlier = Earlier(inputs, outputs)
    todo, results = [], []
    for case in cases:
        if case.problem:
            results.append(CaseResult(case.case_id, "failed", error=case.problem))
        elif job.resume and is_finished(case, job, model, earlier):
            folder = job.output if isinstance(job.output, Path) else Path()
            results.append(CaseResult(case.case_id, "skipped", output_paths(folder, case.case_id)))
        else:
            todo.append(case)
    return Plan(job, model, device, tuple(todo), tuple(results), source)


def _find(job: PredictJob, model: Model) -> tuple[list[Case], Remote | None, dict[str, RemoteFile] | None]:
    """The cases; and of a URL what their paths are relative to, and what lies there."""
    if isinstance(job.source, Path):
        return find_cases(job.source, modalities=model.modalities, table=job.table), None, None
    with named_as(job.source) as (named, root, listing):
        top = named.parent if named.is_file() else named
        try:
            found = find_cases(named, modalities=model.modalities, table=job.table)
        except InputError as error:
            raise InputError(str(error).replace(str(top), str(root))) from None
        cases = [_relative(case, top, root) for case in found]
    return cases, root, listing


def _relative(case: Case, top: Path, root: Remote) -> Case:
    """A case whose paths are relative to the URL that stands behind a folder."""
    problem = case.problem.replace(str(top), str(root))
    outside = [path for path in case.modalities.values() if not path.is_relative_to(top)]
    if outside and not problem:
        problem = f"Case '{case.case_id}': {outside[0]} lies outside {root}; write paths relative to the table."
    paths = {} if problem else {name: path.relative_to(top) for name, path in case.modalities.items()}
    return replace(case, modalities=paths, problem=problem)


def run(
    planned: Plan,
    *,
    progress: Progress | None = None,
    on_result: Callable[[CaseResult], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[CaseResult]:
    """Do what was planned.

    Args:
        planned: from `plan`.
        progress: of the whole run.
        on_result: told of every case as soon as it is finished, failed or known to need no work.
        tell: gets a sentence on the cluster, where several workers are used.

    Returns:
        One result per case, by case id; `run.json` in the output folder says the same.

    Raises:
        OutputError: where the output folder cannot be written.
        ModelError: where the weights cannot be used.
        Cancelled: when the progress was cancelled; finished cases stay, and `run.json` says so.
    """
    progress = progress or Progress()
    job = planned.job
    started = time.time()
    if isinstance(job.output, Remote):
        job.output.check_writable()
    else:
        check_writable(job.output)
    results = list(planned.results)

    def keep(result: CaseResult) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    if on_result is not None:
        for result in results:
            on_result(result)
    status = "finished"
    try:
        if planned.todo:
            progress.stage("Loading the model", until=0.02)
            _run_cases(planned, progress, keep, tell)
    except Cancelled:
        status = "cancelled"
        raise
    except BrainSegSAMError as error:
        status = f"failed: {error}"
        raise
    finally:
        results.sort(key=lambda result: result.case_id)
        with results_for(job.output) as folder:
            _write_run_record(planned, results, folder / RUN_FILE, status=status, started=started)
            write_measurements(_measured(results, job.output), folder / MEASUREMENTS_FILE)
    return results


def describe_plan(planned: Plan) -> list[str]:
    """What would run and what is missing, a line each."""
    model = planned.model
    lines = [
        f"Model   {model.title} ({model.name} {model.version}, method {model.method}) in {model.folder}",
        f"Device  {planned.device}",
        f"Output  {planned.job.output}",
    ]
    for case in planned.todo:
        lines.append(f"Case    {case.case_id}: would be segmented from")
        base = f"{planned.source}/" if planned.source else ""
        lines += [f"          {name}: {base}{case.modalities[name]}" for name in model.modalities]
    for result in planned.results:
        reason = f"cannot be used: {result.error}" if result.error else "finished by an earlier run"
        lines.append(f"Case    {result.case_id}: {reason}")
    return lines


def _run_cases(
    planned: Plan, progress: Progress, keep: Callable[[CaseResult], None], tell: Callable[[str], None] | None
) -> None:
    job = planned.job
    ids = {case.case_id for case in planned.todo} | {result.case_id for result in planned.results}

    def on_row(row: Row[Case, CaseResult]) -> None:
        keep(row.saved or CaseResult(row.item.case_id, "failed", error=row.error))

    run_batch(
        planned.todo,
        Start(job, planned.model, planned.source, frozenset(id for id in ids if "_" in id), secrets.token_hex(8)),
        name=lambda case: case.case_id,
        progress=progress,
        on_row=on_row,
        workers=Workers(job.workers, job.scheduler, job.device),
        tell=tell,
    )


def _measured(results: Sequence[CaseResult], output: Path | Remote) -> Iterator[dict[str, Any]]:
    """A row per region of each case that is finished, as its record says; one record is in memory at a time."""
    finished = [result for result in results if result.status != "failed"]
    paths = (result.outputs["record"] for result in finished)
    records = output.read_jsons(str(path) for path in paths) if isinstance(output, Remote) else map(read_json, paths)
    for result, record in zip(finished, records, strict=True):
        for row in record["regions"]:
            yield {"case_id": result.case_id, **row}


def _write_run_record(
    planned: Plan, results: Sequence[CaseResult], path: Path, *, status: str, started: float
) -> None:
    job = planned.job
    counts = {kind: sum(result.status == kind for result in results) for kind in ("done", "skipped", "failed")}
    write_json(
        {
            "record_version": RECORD_VERSION,
            "command": "predict",
            "status": status,
            "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "source": str(job.source),
            "model": {"name": planned.model.name, "folder": str(planned.model.folder), "sha256": planned.model.sha256},
            "device": planned.device,
            "overrides": dict(job.overrides),
            "versions": versions(),
            "counts": counts,
            "cases": [
                {
                    "case_id": result.case_id,
                    "status": result.status,
                    "outputs": {kind: path.name for kind, path in result.outputs.items()},
                    "error": result.error,
                }
                for result in results
            ],
        },
        path,
    )
