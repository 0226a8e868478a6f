"""What an evaluation is asked to do, and everything about it that can be known before any work."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from .case_layouts import find_groups
from .errors import InputError
from .evaluation_inputs import EvaluationSettings
from .label_sources import own_scheme, read_scheme
from .labels import LabelScheme
from .metrics import BRATS_GLIOMA, DEFAULT_TOLERANCE_MM, LesionRules, chosen
from .modalities import OTHER, REFERENCE, ModalityTable
from .pairs import FoundSegmentation, Pair, find_segmentations, pair_cases
from .remote import Remote, known_to_others
from .remote_cases import fetch_segmentations

CASES_FOLDER: Final = "cases"
ANY_MODALITY: Final = "image"
_NO_IMAGE: Final = (REFERENCE, OTHER)


@dataclass(frozen=True)
class EvaluateJob:
    """What to evaluate, against what, and where to write it.

    Attributes:
        predictions: name of a method → what `pairs.find_segmentations` takes, or a folder behind a URL.
        reference: the same, of the references.
        output: folder for the results; made where missing.
        labels: what `label_sources.read_scheme` takes; what the first predictions say themselves where empty.
        regions: names of those that are evaluated; all where empty.
        metrics: keys of those that are measured; all where empty.
        label_values: value in a reference's label map → value in the scheme.
        images: cases to show the results on, as `cases.find_cases` takes them; what lies beside the references, or what
            was predicted from, where None.
        tolerance_mm: of the surface Dice.
        lesions: what counts as one lesion.
        resample: bring predictions whose voxels lie between the reference's onto those.
        pictures: draw the cases.
        resume: keep the cases that an earlier run finished with the same inputs and settings.
        workers: how many processes; by the machine's cores and memory and the number of cases where None.
        scheduler: address of a Dask cluster that runs already.
    """

    predictions: Mapping[str, Path | Remote]
    reference: Path | Remote
    output: Path | Remote
    labels: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    label_values: Mapping[int, int] = field(default_factory=dict)
    images: Path | None = None
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    lesions: LesionRules = BRATS_GLIOMA
    resample: bool = False
    pictures: bool = True
    resume: bool = False
    workers: int | None = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Plan:
    """A job with everything that can be known before any work.

    Attributes:
        job: what was asked for.
        output: folder on this machine for the results; those of an output behind a URL are copied from it.
        settings: what decides the numbers.
        pairs: every case of either side.
    """

    job: EvaluateJob
    output: Path
    settings: EvaluationSettings
    pairs: tuple[Pair, ...]


@contextlib.contextmanager
def planned(job: EvaluateJob) -> Iterator[Plan]:
    """Find the cases and what their labels mean; writes no results.

    What lies behind URLs is copied to this machine for as long as the block lasts (segmentations, no images).

    Raises:
        InputError: where a source holds nothing, no case is there on both sides, nothing says what the labels mean, or
            a setting cannot be; where a URL cannot be read.
        OutputError: where nothing can be written behind the output's URL.
        ModelError: where the labels are those of a model that cannot be used.
    """
    if not (math.isfinite(job.tolerance_mm) and job.tolerance_mm >= 0):
        raise InputError(f"The tolerance of the surface Dice must be 0 mm or more, not {job.tolerance_mm}.")
    if job.scheduler:
        job = replace(
            job,
            predictions={name: known_to_others(place) for name, place in job.predictions.items()},
            reference=known_to_others(job.reference),
            output=known_to_others(job.output),
            images=job.images.absolute() if job.images else None,
        )
    with tempfile.TemporaryDirectory(prefix="brainsegsam-evaluate-") as name:
        here = Path(name)

        def local(source: Path | Remote, place: str) -> Path:
            if isinstance(source, Path):
                return source
            return fetch_segmentations(source, here / place, table=ModalityTable.default())

        sources = {method: local(source, str(index)) for index, (method, source) in enumerate(job.predictions.items())}
        settings, pairs = _find(job, sources, local(job.reference, "reference"))
        if isinstance(job.output, Path):
            yield Plan(job, job.output, settings, pairs)
            return
        output = here / "output"
        job.output.check_writable()
        if job.resume:
            finished = [path for path in job.output.listing(may_be_missing=True) if path.startswith(f"{CASES_FOLDER}/")]
            job.output.fetch({path: output / path for path in finished})
        yield Plan(job, output, settings, pairs)


def _find(
    job: EvaluateJob, sources: Mapping[str, Path], reference: Path
) -> tuple[EvaluationSettings, tuple[Pair, ...]]:
    """What decides the numbers, and the cases, of sources on this machine."""
    metrics = tuple(metric.key for metric in chosen(job.metrics or None))
    references = find_segmentations(reference)
    predictions = {name: find_segmentations(source) for name, source in sources.items()}
    if reference.is_file() and all(len(found) == 1 for found in (references, *predictions.values())):
        # One file against one file: whoever names them has paired them.
        case_id, patient = references[0].case_id, references[0].patient
        predictions = {n: [replace(f[0], case_id=case_id, patient=patient)] for n, f in predictions.items()}
    if job.labels:
        scheme = read_scheme(job.labels)
    else:
        own = {name: own_scheme(sources[name], found) for name, found in predictions.items()}
        scheme = _said(own.values()) or _required(own_scheme(reference, references))
        predictions = {n: found if own[n] in (None, scheme) else _by_names(found) for n, found in predictions.items()}
    settings = EvaluationSettings(
        scheme,
        tuple(scheme[name].name for name in job.regions or scheme.names),
        metrics,
        job.label_values,
        job.tolerance_mm,
        job.lesions,
        job.resample,
        job.pictures,
    )
    return settings, tuple(pair_cases(references, predictions, images=_images(job.images)))


def _said(schemes: Iterable[LabelScheme | None]) -> LabelScheme | None:
    return next((scheme for scheme in schemes if scheme is not None), None)


def _required(scheme: LabelScheme | None) -> LabelScheme:
    if scheme is None:
        raise InputError(
            "No prediction and no reference that can be read says what its label values mean; say it, e.g. "
            '--labels "Whole tumour=1,2,3" "Tumour core=1,3", or name a model or nnU-Net\'s dataset.json there.'
        )
    return scheme


def _by_names(found: Sequence[FoundSegmentation]) -> list[FoundSegmentation]:
    """The same by their .seg.nrrd files, for methods whose label values mean something else than the first one's."""
    return [replace(one, path=one.segments) if one.segments else one for one in found]


def _images(source: Path | None) -> dict[str, Mapping[str, Path]]:
    if source is None:
        return {}
    groups = find_groups(source, (ANY_MODALITY,), ModalityTable.default())
    return {
        group.case_id: {file.role or ANY_MODALITY: file.path for file in group.files if file.role not in _NO_IMAGE}
        for group in groups
    }
