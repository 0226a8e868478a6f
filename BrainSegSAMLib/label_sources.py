"""What the values of label maps mean, said by a user, or by what lies beside the files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .errors import InputError
from .files import read_json
from .labels import DEFAULT_COLOURS_RGB, LabelScheme, Region
from .methods.nnunet.description import label_scheme
from .models.catalogue import find_model
from .models.store import load_model
from .pairs import FoundSegmentation
from .segmentation_files import names_its_segments, read_segmentation

_DATASET: Final = "dataset.json"
_WORD: Final = re.compile(r"(?P<name>[^=]+)=(?P<values>\d+(?:,\d+)*)")


def read_scheme(words: Sequence[str]) -> LabelScheme:
    """The label scheme that a user names.

    Args:
        words: regions as NAME=VALUES ("Whole tumour=1,2,3"); or one JSON file, nnU-Net's dataset.json or a list of
            regions as in model.json; or one model, by its name in the catalogue or its folder.

    Raises:
        InputError: where it is none of these, or describes no regions.
        ModelError: where a model or a list of regions cannot be used.
    """
    if len(words) == 1 and "=" not in words[0]:
        path = Path(words[0])
        return _from_file(path) if path.suffix.lower() == ".json" else load_model(find_model(words[0])).scheme
    regions = []
    for index, word in enumerate(words):
        match = _WORD.fullmatch(word)
        if match is None:
            raise InputError(
                f"'{word}' does not name a region; write NAME=VALUES, e.g. \"Whole tumour=1,2,3\", or name one model "
                "or one JSON file."
            )
        values = tuple(int(value) for value in match["values"].split(","))
        regions.append(Region(match["name"].strip(), values, DEFAULT_COLOURS_RGB[index % len(DEFAULT_COLOURS_RGB)]))
    return LabelScheme(tuple(regions))


def own_scheme(source: Path, found: Sequence[FoundSegmentation]) -> LabelScheme | None:
    """What a set of segmentations says itself, by the segments of a case or nnU-Net's dataset.json beside it.

    Damaged files are passed over: they are the problem of their cases.

    Args:
        source: where they were found.
        found: all of them.

    Raises:
        InputError, ModelError: where dataset.json cannot be understood.
    """
    for one in found:
        described = one.segments or one.path
        if not names_its_segments(described):
            break
        with contextlib.suppress(InputError):
            return read_segmentation(described).scheme
    folder = source if source.is_dir() else source.parent
    path = next((place / _DATASET for place in (folder, folder.parent) if (place / _DATASET).is_file()), None)
    data = read_json(path) if path is not None else None
    if path is not None and isinstance(data, dict) and isinstance(data.get("labels"), dict):
        return label_scheme(data, path)
    return None


def parse_label_values(words: Sequence[str]) -> dict[int, int]:
    """Value in a file → value in the scheme, from words such as "4=3".

    Raises:
        InputError: where a word is of another form, or a value comes twice.
    """
    values: dict[int, int] = {}
    for word in words:
        match = re.fullmatch(r"(\d+)=(\d+)", word)
        if match is None or int(match[1]) in values:
            raise InputError(f"'{word}' does not say how to read a label value, or says it again; write e.g. 4=3.")
        values[int(match[1])] = int(match[2])
    return values


def _from_file(path: Path) -> LabelScheme:
    data: Any = read_json(path)
    if isinstance(data, Mapping) and "regions" in data:
        data = data["regions"]
    if isinstance(data, list) and all(isinstance(entry, dict) for entry in data):
        return LabelScheme.from_list(data)
    if isinstance(data, Mapping):
        return label_scheme(data if "labels" in data else {"labels": data}, path)
    raise InputError(
        f'{path} does not describe labels; write {{"Whole tumour": [1, 2, 3], …}}, or give nnU-Net\'s dataset.json.'
    )
