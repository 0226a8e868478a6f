"""The command that users come for: cases in, segmentations with their records out.

Every case gives `<case_id>.nii.gz` (label map), `<case_id>.seg.nrrd` (overlapping segments with names, colours and
codes) and `<case_id>.json` (its record). A method of several stages also gives `<case_id>_<stage>.nii.gz` for each, and
where the modality whose grid the result has is a DICOM series, there is `<case_id>.seg.dcm` (DICOM SEG).
The record is written last and names the others with their hashes, so a case is finished exactly when its record is
there and true; `--resume` relies on that. `run.json` sums the run up, and `measurements.csv` lists what was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from .backends.devices import resolve_device
from .batch import Row, Workers, run_batch
from .cases import Case, find_cases, load_image
from .components import as_rows, statistics
from .dicom import is_dicom
from .dicom_seg import DICOM_SEG_SUFFIX, write_dicom_seg
from .errors import BrainSegSAMError, Cancelled, DependencyError, InputError, ModelError, OutputError
from .files import check_writable, read_json, sha256_of, write_json
from .image import Image, Segmentation
from .measurements import MEASUREMENTS_FILE, write_measurements
from .methods import load_predictor
from .methods.contract import Predictor
from .modalities import ModalityTable
from .models.catalogue import find_model
from .models.store import Model, load_model
from .progress import Progress
from .runs import RECORD_VERSION, RUN_FILE, versions
from .segmentation_files import write_label_map, write_seg_nrrd

DICOM_SEG: Final = "dicom_seg"
_USUAL: Final = frozenset({"label_map", "segmentation"})


@dataclass(frozen=True)
class PredictJob:
    """What to segment, with what, and where to.

    Attributes:
        model: name in the catalogue, or model folder.
        source: what `cases.find_cases` takes.
        output: folder for the results; made where missing.
        device: "auto", or a torch device name.
        resume: skip cases whose record says that they are finished with the same model, settings and inputs.
        trust: allow weights that need arbitrary unpickling.
        reference: modality whose grid the result has; the model's first where None.
        table: names of modalities.
        overrides: settings of the method to use instead of the model's, e.g. {"mirroring": False}.
        workers: how many processes on this machine; None sizes it to the machine and the cases.
        scheduler: address of a running Dask cluster to use instead; see `batch.Workers`.
    """

    model: str
    source: Path
    output: Path
    device: str = "auto"
    resume: bool = False
    trust: bool = False
    reference: str | None = None
    table: ModalityTable | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    workers: int | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case_id: the case.
        status: "done", "skipped" (finished by an earlier run) or "failed".
        outputs: kind ("label_map", "segmentation", "record", where there is one "dicom_seg", and the names of stages) →
            file.
        error: why it failed, as a sentence.
        notes: what a user should know of the result, a sentence each.
    """

    case_id: str
    status: str
    outputs: Mapping[str, Path] = field(default_factory=dict)
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A job with everything that can be known before any work.

    Attributes:
        job: what was asked for.
        model: read and checked.
        device: the device that will be used; on a running cluster as asked for, and each worker looks for itself.
        todo: cases to work on.
        results: of cases that need no work: finished earlier, or unusable.
    """

    job: PredictJob
    model: Model
    device: str
    todo: tuple[Case, ...]
    results: tuple[CaseResult, ...]


def plan(job: PredictJob) -> Plan:
    """Find the model and the cases, and say which of them need work; writes nothing.

    Raises:
        ModelError: where the model cannot be used.
        InputError: where no case can be used, or the device or the reference modality is not there.
    """
    model = load_model(find_model(job.model))
    if job.reference is not None and job.reference not in model.modalities:
        raise InputError(
            f"The reference modality '{job.reference}' is not one of the model's: {', '.join(model.modalities)}."
        )
    # A running cluster's devices are not this machine's: each worker looks for itself.
    device = job.device if job.scheduler else resolve_device(job.device)
    todo, results = [], []
    for case in find_cases(job.source, modalities=model.modalities, table=job.table):
        if case.problem:
            results.append(CaseResult(case.case_id, "failed", error=case.problem))
        elif job.resume and _is_finished(case, job, model):
            results.append(CaseResult(case.case_id, "skipped", output_paths(job.output, case.case_id)))
        else:
            todo.append(case)
    return Plan(job, model, device, tuple(todo), tuple(results))


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
        _write_run_record(planned, results, status=status, started=started)
        write_measurements(_measured(results), job.output / MEASUREMENTS_FILE)
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
        lines += [f"          {name}: {case.modalities[name]}" for name in model.modalities]
    for result in planned.results:
        reason = f"cannot be used: {result.error}" if result.error else "finished by an earlier run"
        lines.append(f"Case    {result.case_id}: {reason}")
    return lines


def output_paths(
    folder: Path, case_id: str, stages: Iterable[str] = (), *, dicom_seg: bool = False
) -> dict[str, Path]:
    """Where the results of a case lie, those of a method's stages included."""
    return {
        "label_map": folder / f"{case_id}.nii.gz",
        "segmentation": folder / f"{case_id}.seg.nrrd",
        **({DICOM_SEG: folder / f"{case_id}{DICOM_SEG_SUFFIX}"} if dicom_seg else {}),
        **{stage: folder / f"{case_id}_{stage}.nii.gz" for stage in stages},
        "record": folder / f"{case_id}.json",
    }


def _run_cases(
    planned: Plan, progress: Progress, keep: Callable[[CaseResult], None], tell: Callable[[str], None] | None
) -> None:
    job = planned.job
    ids = {case.case_id for case in planned.todo} | {result.case_id for result in planned.results}

    def on_row(row: Row[Case, CaseResult]) -> None:
        keep(row.saved or CaseResult(row.item.case_id, "failed", error=row.error))

    run_batch(
        planned.todo,
        Start(job, planned.model, frozenset(id for id in ids if "_" in id)),
        name=lambda case: case.case_id,
        progress=progress,
        on_row=on_row,
        workers=Workers(job.workers, job.scheduler, job.device),
        tell=tell,
    )


@dataclass(frozen=True)
class Start:
    """Loads the predictor in the process that uses it; travels to workers.

    Attributes:
        job: what was asked for.
        model: as it was read where the job was planned; on a worker the same must lie in the same folder, or be
            installed under the same name.
        taken: case ids that the files of a stage could be written over.
    """

    job: PredictJob
    model: Model
    taken: frozenset[str]

    def __call__(self, device: str) -> PredictWork:
        """The work of one process, on a torch device.

        Raises:
            ModelError: where the model is not there, or another one.
        """
        folder = self.model.folder if self.model.folder.is_dir() else find_model(self.model.name)
        predictor = load_predictor(folder, device=device, trust=self.job.trust, overrides=dict(self.job.overrides))
        if predictor.model.sha256 != self.model.sha256:
            raise ModelError(f"The model in '{folder}' is another one here than where the batch was started.")
        return PredictWork(self, predictor)


class PredictWork:
    """Reads, segments and writes a case; see `pipeline.CaseWork`."""

    def __init__(self, start: Start, predictor: Predictor) -> None:
        self._job, self._model, self._taken = start.job, start.model, start.taken
        self._predictor = predictor

    def load(self, case: Case) -> tuple[Image, dict[str, Any]]:
        """The case's image, and the beginning of its record."""
        begin = time.perf_counter()
        modalities = self._model.modalities
        image, actions = load_image(case, modalities, reference=self._job.reference)
        files = {name: case.modalities[name] for name in modalities}
        inputs = {name: {"path": str(file), "sha256": sha256_of(file)} for name, file in files.items()}
        seconds = {"read": round(time.perf_counter() - begin, 3)}
        record = {**_choices(self._job, self._model), "inputs": inputs, "geometry_actions": actions, "seconds": seconds}
        return image, {"case_id": case.case_id, **record}

    def compute(self, loaded: tuple[Image, dict[str, Any]], progress: Progress) -> tuple[Segmentation, dict[str, Any]]:
        """The segmentation, and the record so far."""
        image, record = loaded
        begin = time.perf_counter()
        segmentation = self._predictor.predict(image, progress=progress)
        record["seconds"]["segment"] = round(time.perf_counter() - begin, 3)
        return segmentation, record

    def save(self, case: Case, computed: tuple[Segmentation, dict[str, Any]]) -> CaseResult:
        """Write the case's files."""
        segmentation, record = computed
        for stage in segmentation.stages:
            if f"{case.case_id}_{stage}" in self._taken:
                raise InputError(
                    f"The stage '{stage}' of case '{case.case_id}' would be written over the case "
                    f"'{case.case_id}_{stage}'; rename one of the two cases."
                )
        dicom_seg, note = _write_dicom_seg(segmentation, case, self._job, self._model)
        notes = (*segmentation.record.get("notes", ()), *([note] if note else []))
        record["notes"] = list(notes)
        paths = write_case(segmentation, self._job.output, case.case_id, record=record, dicom_seg=dicom_seg)
        return CaseResult(case.case_id, "done", paths, notes=notes)


def _write_dicom_seg(
    segmentation: Segmentation, case: Case, job: PredictJob, model: Model
) -> tuple[bool, str]:
    """Write a DICOM SEG where the result has the grid of a DICOM series.

    Returns:
        Whether it was written; and where it could not be, why, as a sentence: the other files are there all the same.
    """
    series = case.modalities[job.reference or model.modalities[0]]
    if not (series.is_dir() or is_dicom(series)):
        return False, ""
    path = output_paths(job.output, case.case_id, dicom_seg=True)[DICOM_SEG]
    version = f"{model.version} ({model.sha256[:12]})"
    try:
        write_dicom_seg(segmentation, series, path, algorithm=model.name, version=version)
    except (InputError, DependencyError) as error:
        return False, f"No DICOM SEG was written. {error}"
    return True, ""


def write_case(
    segmentation: Segmentation, folder: Path, case_id: str, *, record: Mapping[str, Any], dicom_seg: bool = False
) -> dict[str, Path]:
    """Write label map, segments, the label maps of stages and, last, the record that names them.

    Args:
        segmentation: what was predicted.
        folder: where to.
        case_id: first part of the files' names.
        record: what is known of the case beyond the segmentation's own record.
        dicom_seg: whether its DICOM SEG lies there already, for the record.

    Raises:
        OutputError: where a file cannot be written; the record of an earlier run is gone by then, so that the case
            counts as unfinished.
    """
    begin = time.perf_counter()
    paths = output_paths(folder, case_id, segmentation.stages, dicom_seg=dicom_seg)
    try:
        for earlier in _earlier_extras(folder, case_id):
            earlier.unlink()
        paths["record"].unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{paths['record']} of an earlier run cannot be replaced: {error.strerror}.") from error
    write_label_map(segmentation, paths["label_map"])
    write_seg_nrrd(segmentation, paths["segmentation"])
    for stage, result in segmentation.stages.items():
        write_label_map(result, paths[stage])
    measures = as_rows(statistics(segmentation))
    seconds = dict(record.get("seconds", {}))
    seconds["write"] = round(time.perf_counter() - begin, 3)
    full = {
        **record,
        "record_version": RECORD_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "prediction": segmentation.record,
        "geometry": segmentation.geometry.as_dict(),
        "regions": measures,
        "outputs": {
            kind: {"file": path.name, "sha256": sha256_of(path)} for kind, path in paths.items() if kind != "record"
        },
        "seconds": seconds,
    }
    if segmentation.stages:
        full["stages"] = {stage: result.scheme.as_list() for stage, result in segmentation.stages.items()}
    write_json(full, paths["record"])
    return paths


def _earlier_extras(folder: Path, case_id: str) -> list[Path]:
    """What an earlier run left beyond the usual, as its record says; it would be taken for a part of a new answer."""
    try:
        outputs = read_json(output_paths(folder, case_id)["record"])["outputs"]
        paths = _recorded_paths(folder, case_id, outputs)
        extras = {paths[kind]: outputs[kind]["sha256"] for kind in set(outputs) - _USUAL}
        return [path for path, written in extras.items() if path.is_file() and sha256_of(path) == written]
    except (InputError, KeyError, TypeError):
        return []


def _recorded_paths(folder: Path, case_id: str, outputs: Iterable[str]) -> dict[str, Path]:
    """Where the outputs lie whose kinds a record lists."""
    kinds = set(outputs)
    return output_paths(folder, case_id, sorted(kinds - _USUAL - {DICOM_SEG}), dicom_seg=DICOM_SEG in kinds)


def _choices(job: PredictJob, model: Model) -> dict[str, Any]:
    """What decides a result beside model and inputs, as JSON gives it back."""
    reference = job.reference or model.modalities[0]
    return {"overrides": json.loads(json.dumps(dict(job.overrides))), "reference": reference}


def _is_finished(case: Case, job: PredictJob, model: Model) -> bool:
    """Whether a true record of this case, model, settings and inputs lies in the output folder."""
    try:
        record = read_json(output_paths(job.output, case.case_id)["record"])
        same_model = record["prediction"]["model_sha256"] == model.sha256
        same_choices = all(record[name] == value for name, value in _choices(job, model).items())
        same_inputs = all(
            record["inputs"][name]["sha256"] == sha256_of(case.modalities[name]) for name in model.modalities
        )
        outputs = record["outputs"]
        paths = _recorded_paths(job.output, case.case_id, outputs)
        complete = set(outputs) >= _USUAL and all(
            sha256_of(paths[kind]) == output["sha256"] for kind, output in outputs.items()
        )
    except (InputError, KeyError, TypeError):
        return False
    return same_model and same_choices and same_inputs and complete


def _measured(results: Iterable[CaseResult]) -> Iterator[dict[str, Any]]:
    """A row per region of each case that is finished, as its record says; one record is in memory at a time."""
    for result in results:
        if result.status != "failed":
            for row in read_json(result.outputs["record"])["regions"]:
                yield {"case_id": result.case_id, **row}


def _write_run_record(planned: Plan, results: Sequence[CaseResult], *, status: str, started: float) -> None:
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
        job.output / RUN_FILE,
    )
