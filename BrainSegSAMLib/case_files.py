"""The files of one segmented case: written together, with the record that names them and their hashes last.

So a case is finished exactly when its record is there and true.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from .components import as_rows, statistics
from .dicom_seg import DICOM_SEG_SUFFIX
from .errors import InputError, OutputError
from .files import read_json, sha256_of, write_json
from .image import Segmentation
from .runs import RECORD_VERSION, versions
from .segmentation_files import write_label_map, write_seg_nrrd

DICOM_SEG: Final = "dicom_seg"
USUAL: Final = frozenset({"label_map", "segmentation"})


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
            kind: {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for kind, path in paths.items() if kind != "record"
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
        paths = recorded_paths(folder, case_id, outputs)
        extras = {paths[kind]: outputs[kind]["sha256"] for kind in set(outputs) - USUAL}
        return [path for path, written in extras.items() if path.is_file() and sha256_of(path) == written]
    except (InputError, KeyError, TypeError):
        return []


def recorded_paths(folder: Path, case_id: str, outputs: Iterable[str]) -> dict[str, Path]:
    """Where the outputs lie whose kinds a record lists."""
    kinds = set(outputs)
    return output_paths(folder, case_id, sorted(kinds - USUAL - {DICOM_SEG}), dicom_seg=DICOM_SEG in kinds)
