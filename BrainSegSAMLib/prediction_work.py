"""What `predict` does with each case, in the process that does it: this one, or a worker's."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .case_files import DICOM_SEG, USUAL, output_paths, recorded_paths, write_case
from .cases import Case, load_image
from .dicom import is_dicom
from .dicom_seg import write_dicom_seg
from .errors import DependencyError, InputError, ModelError
from .files import read_json, sha256_of
from .image import Image, Segmentation
from .methods import load_predictor
from .methods.contract import Predictor
from .modalities import ModalityTable
from .models.catalogue import find_model
from .models.store import Model
from .progress import Progress
from .remote import Remote, RemoteFile
from .remote_cases import fetch_case, state_of
from .volumes import volume_sha256


@dataclass(frozen=True)
class PredictJob:
    """What to segment, with what, and where to.

    Attributes:
        model: name in the catalogue, or model folder.
        source: what `cases.find_cases` takes, or the same behind a URL.
        output: folder for the results; made where missing.
        device: "auto", or a torch device name.
        resume: skip cases whose record says that they are finished with the same model, settings and inputs.
        trust: allow weights that need arbitrary unpickling.
        reference: modality whose grid the result has; the model's first where None.
        table: names of modalities.
        overrides: settings of the method to use instead of the model's, e.g. {"mirroring": False}.
        workers: how many processes on this machine; None sizes it to the machine and the cases. A script that asks for
            more than this one needs `if __name__ == "__main__":`, as Python's multiprocessing does.
        scheduler: address of a running Dask cluster to use instead; see `batch.Workers`.
    """

    model: str
    source: Path | Remote
    output: Path | Remote
    device: str = "auto"
    resume: bool = False
    trust: bool = False
    reference: str | None = None
    table: ModalityTable | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    workers: int | None = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case_id: the case.
        status: "done", "skipped" (finished by an earlier run) or "failed".
        outputs: kind ("label_map", "segmentation", "record", where there is one "dicom_seg", and the names of stages) →
            file; relative to the output where that is behind a URL.
        error: why it failed, as a sentence.
        notes: what a user should know of the result, a sentence each.
    """

    case_id: str
    status: str
    outputs: Mapping[str, Path] = field(default_factory=dict)
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """Loads the predictor in the process that uses it; travels to workers.

    Attributes:
        job: what was asked for.
        model: as it was read where the job was planned; on a worker the same must lie in the same folder, or be
            installed under the same name.
        source: what the paths of cases are relative to, where that is behind a URL.
        taken: case ids that the files of a stage could be written over.
        run: names this run in the records.
    """

    job: PredictJob
    model: Model
    source: Remote | None
    taken: frozenset[str]
    run: str

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


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case in memory.

    Attributes:
        case: its files on this machine; they are needed until its results are written.
        image: its modalities.
        record: the beginning of its record.
        scratch: a folder of its own for files that come from or go to a URL; gone when nobody needs it any more.
    """

    case: Case
    image: Image
    record: dict[str, Any]
    scratch: Scratch


class Scratch:
    """A temporary folder, made when it is first asked for and removed with the last reference to this."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """Where it is."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="brainsegsam-case-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


class PredictWork:
    """Reads, segments and writes a case; see `pipeline.CaseWork`."""

    def __init__(self, start: Start, predictor: Predictor) -> None:
        self._start, self._predictor = start, predictor

    def finished(self, item: Case) -> CaseResult | None:
        """The result of a case that this run has finished, as its record says."""
        output = self._start.job.output
        try:
            record = _read_record(output, item.case_id)
            if record["run"] != self._start.run:
                return None
            paths = recorded_paths(output if isinstance(output, Path) else Path(), item.case_id, record["outputs"])
            return CaseResult(item.case_id, "done", paths, notes=tuple(record["notes"]))
        except (InputError, KeyError, TypeError):
            return None

    def load(self, item: Case) -> Loaded:
        """Read the case, from a URL by way of a temporary folder."""
        begin = time.perf_counter()
        start, scratch = self._start, Scratch()
        modalities = start.model.modalities
        case, inputs = item, {name: {"path": str(item.modalities[name])} for name in modalities}
        if start.source is not None:
            case, states = fetch_case(start.source, item, modalities, scratch.folder / "inputs")
            for name in modalities:
                inputs[name] = {"path": f"{start.source}/{inputs[name]['path']}", "state": states[name]}
        image, actions = load_image(case, modalities, reference=start.job.reference)
        for name in modalities:
            inputs[name]["sha256"] = volume_sha256(case.modalities[name])
        record = {
            "case_id": case.case_id,
            "run": start.run,
            **choices(start.job, start.model),
            "inputs": inputs,
            "geometry_actions": actions,
            "seconds": {"read": round(time.perf_counter() - begin, 3)},
        }
        return Loaded(case, image, record, scratch)

    def compute(self, loaded: Loaded, progress: Progress) -> tuple[Loaded, Segmentation]:
        """Segment it."""
        begin = time.perf_counter()
        segmentation = self._predictor.predict(loaded.image, progress=progress)
        loaded.record["seconds"]["segment"] = round(time.perf_counter() - begin, 3)
        return loaded, segmentation

    def save(self, item: Case, computed: tuple[Loaded, Segmentation]) -> CaseResult:
        """Write its files."""
        loaded, segmentation = computed
        case_id, output = item.case_id, self._start.job.output
        for stage in segmentation.stages:
            if f"{case_id}_{stage}" in self._start.taken:
                raise InputError(
                    f"The stage '{stage}' of case '{case_id}' would be written over the case '{case_id}_{stage}'; "
                    "rename one of the two cases."
                )
        folder = loaded.scratch.folder / "results" if isinstance(output, Remote) else output
        dicom_seg, note = _write_dicom_seg(segmentation, loaded.case, folder, self._start)
        notes = (*segmentation.record.get("notes", ()), *([note] if note else []))
        record = {**loaded.record, "notes": list(notes)}
        paths = write_case(segmentation, folder, case_id, record=record, dicom_seg=dicom_seg)
        if isinstance(output, Remote):
            paths = _publish(paths, output, case_id)
        return CaseResult(case_id, "done", paths, notes=notes)


def _publish(paths: Mapping[str, Path], output: Remote, case_id: str) -> dict[str, Path]:
    """Copy a case's files to a URL, as `write_case` writes them: the earlier record goes first, the new one is last."""
    record = paths["record"].name
    earlier = _read_record(output, case_id)
    new = {path.name for path in paths.values()}
    output.remove([record, *sorted(_named_in(earlier, case_id) - new)])
    output.put({path.name: path for path in paths.values()})
    return {kind: Path(path.name) for kind, path in paths.items()}


def _read_record(output: Path | Remote, case_id: str) -> Any:
    """The record of a case; None, or an error, where there is none."""
    path = output_paths(Path(), case_id)["record"]
    return read_json(output / path) if isinstance(output, Path) else next(iter(output.read_jsons([path.name])))


def _named_in(record: Any, case_id: str) -> set[str]:
    """The names of the files that a record lists."""
    try:
        return {path.name for path in recorded_paths(Path(), case_id, record["outputs"]).values()}
    except (KeyError, TypeError):
        return set()


def _write_dicom_seg(
    segmentation: Segmentation, case: Case, folder: Path, start: Start
) -> tuple[bool, str]:
    """Write a DICOM SEG where the result has the grid of a DICOM series.

    Returns:
        Whether it was written; and where it could not be, why, as a sentence: the other files are there all the same.
    """
    model = start.model
    series = case.modalities[start.job.reference or model.modalities[0]]
    if not (series.is_dir() or is_dicom(series)):
        return False, ""
    path = output_paths(folder, case.case_id, dicom_seg=True)[DICOM_SEG]
    version = f"{model.version} ({model.sha256[:12]})"
    try:
        write_dicom_seg(segmentation, series, path, algorithm=model.name, version=version)
    except (InputError, DependencyError) as error:
        return False, f"No DICOM SEG was written. {error}"
    return True, ""


def choices(job: PredictJob, model: Model) -> dict[str, Any]:
    """What decides a result beside model and inputs, as JSON gives it back."""
    reference = job.reference or model.modalities[0]
    return {"overrides": json.loads(json.dumps(dict(job.overrides))), "reference": reference}


@dataclass(frozen=True)
class Earlier:
    """What can be known of an earlier run's results and of this run's inputs without opening each file.

    Attributes:
        inputs: listing of the source; None where it is a folder of this machine.
        outputs: listing of the output; None where it is a folder of this machine.
    """

    inputs: Mapping[str, RemoteFile] | None = None
    outputs: Mapping[str, RemoteFile] | None = None


def is_finished(case: Case, job: PredictJob, model: Model, earlier: Earlier) -> bool:
    """Whether a true record of this case, model, settings and inputs lies in the output folder.

    Files on this machine are true by their hashes; those behind URLs by what their server says of them.
    """
    try:
        record = _read_record(job.output, case.case_id)
        same_model = record["prediction"]["model_sha256"] == model.sha256
        same_choices = all(record[key] == value for key, value in choices(job, model).items())
        return (
            same_model
            and same_choices
            and all(_is_same(case.modalities[key], record["inputs"][key], earlier) for key in model.modalities)
            and _is_complete(record["outputs"], job.output, case.case_id, earlier)
        )
    except (InputError, KeyError, TypeError):
        return False


def _is_same(path: Path, recorded: Mapping[str, str], earlier: Earlier) -> bool:
    if earlier.inputs is None:
        return recorded["sha256"] == volume_sha256(path)
    return recorded["state"] == state_of(path, earlier.inputs)


def _is_complete(outputs: Mapping[str, Any], output: Path | Remote, case_id: str, earlier: Earlier) -> bool:
    if not set(outputs) >= USUAL:
        return False
    listing = earlier.outputs or {}
    for kind, path in recorded_paths(output if isinstance(output, Path) else Path(), case_id, outputs).items():
        if kind == "record":
            continue
        if isinstance(output, Path):
            if sha256_of(path) != outputs[kind]["sha256"]:
                return False
        elif path.name not in listing or listing[path.name].size != outputs[kind]["bytes"]:
            return False
    return True
