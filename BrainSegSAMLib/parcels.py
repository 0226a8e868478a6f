"""Cases of an evaluation for workers that do not see this machine's files: segmentations travel, and so do results.

Segmentations are small once they are compressed, so each case takes its own along, and is read when its turn comes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from .case_evaluation import CaseEvaluator
from .errors import InputError
from .evaluation_inputs import EvaluationSettings, LoadedPair
from .pairs import FAILED, READY, Pair
from .progress import Progress
from .volumes import voxels_below


@dataclass(frozen=True)
class Parcel:
    """A case with its segmentations.

    Attributes:
        pair: its paths are those of where it was packed.
        contents: of the reference and of what is compared with it, path → name relative to its folder → bytes of the
            file, and of those with its voxels where it is a header.
    """

    pair: Pair
    contents: Mapping[Path, Mapping[str, bytes]]


class Parcels(Sequence[Parcel]):
    """Cases that are packed when they are asked for, so that memory holds those under way alone.

    What cannot be packed is a problem of its method, or of all where it is the reference.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Parcel: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Parcel]: ...

    def __getitem__(self, index: int | slice) -> Parcel | Sequence[Parcel]:
        if isinstance(index, slice):
            return Parcels(self._pairs[index])
        pair = self._pairs[index]
        files = [one.found.path for one in pair.candidates.values() if one.found is not None]
        files += [pair.reference] if pair.reference is not None else []
        contents, problems = {}, {}
        for path in files:
            try:
                contents[path] = _packed(path)
            except InputError as error:
                problems[path] = str(error)
        return Parcel(_without(pair, problems), contents)


def _packed(path: Path) -> dict[str, bytes]:
    try:
        return {name: (path.parent / name).read_bytes() for name in (path.name, *voxels_below(path))}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror or error}.") from error


def _without(pair: Pair, problems: Mapping[Path, str]) -> Pair:
    """The case where some files cannot be used."""
    of_all = problems.get(pair.reference, "") if pair.reference else ""
    candidates = {}
    for name, one in pair.candidates.items():
        problem = of_all or (problems.get(one.found.path, "") if one.found else "")
        candidates[name] = replace(one, status=FAILED, problem=problem) if problem and one.status == READY else one
    return replace(pair, candidates=candidates)


@dataclass(frozen=True)
class ParcelEvaluator:
    """What is done with each parcel, see `batch.CaseWork`: as `CaseEvaluator`, but the result comes back.

    Attributes:
        settings: of the evaluation.
    """

    settings: EvaluationSettings

    def load(self, item: Parcel) -> LoadedPair:
        """Unpack a case and read it; its background comes from its images, where this machine sees them."""
        with tempfile.TemporaryDirectory(prefix="brainsegsam-parcel-") as name:
            places = {path: Path(name) / str(index) / path.name for index, path in enumerate(item.contents)}
            for path, place in places.items():
                for relative, content in item.contents[path].items():
                    (place.parent / relative).parent.mkdir(parents=True, exist_ok=True)
                    (place.parent / relative).write_bytes(content)
            loaded = self._evaluator.load(_moved(item.pair, places))
        # Names of files that are gone would say nothing.
        problems = {name: _named(text, places) for name, text in loaded.problems.items()}
        notes = {name: [_named(text, places) for text in texts] for name, texts in loaded.notes.items()}
        return replace(loaded, pair=item.pair, problems=problems, notes=notes)

    def compute(self, loaded: LoadedPair, progress: Progress) -> dict[str, Any]:
        """Measure and draw a case; gives the content of its file, whose fingerprint is not known here."""
        return self._evaluator.compute(loaded, progress)

    def save(self, item: Parcel, computed: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002  (of the protocol)
        """Hand it back: the file is written where the evaluation was started."""
        return computed

    @property
    def _evaluator(self) -> CaseEvaluator:
        return CaseEvaluator(self.settings, Path())


def _moved(pair: Pair, places: Mapping[Path, Path]) -> Pair:
    candidates = {
        name: replace(one, found=replace(one.found, path=places[one.found.path]))
        if one.found is not None and one.found.path in places
        else one
        for name, one in pair.candidates.items()
    }
    return replace(pair, reference=places.get(pair.reference) if pair.reference else None, candidates=candidates)


def _named(text: str, places: Mapping[Path, Path]) -> str:
    for path, place in places.items():
        text = text.replace(str(place), path.name)
    return text
