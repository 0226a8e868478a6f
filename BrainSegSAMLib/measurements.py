"""The measurements of all cases of a run as one table (CSV), for spreadsheets and statistics."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from .files import atomic_path, cell_text

MEASUREMENTS_FILE: Final = "measurements.csv"

_DECIMALS: Final = {"volume_ml": 6, "largest_diameter_mm": 3}
_COLUMNS: Final = ("case_id", "region", "volume_ml", "voxels", "components", "largest_diameter_mm")


def write_measurements(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the table whole or not at all; rows may come one at a time, so that any number of cases fits.

    Args:
        rows: what `components.as_rows` gives for each case, with its `case_id`: volume in mL, number of voxels and of
            26-connected pieces, and the largest diameter in mm. A region without a voxel has a row of zeros; a case
            that failed has none.
        path: where to; UTF-8, with a line of the columns' names at its top; text as by `files.cell_text`.

    Raises:
        OutputError: where it cannot be written.
    """
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row in rows:
            table.writerow([_shown(row[column], _DECIMALS.get(column)) for column in _COLUMNS])


def _shown(value: Any, decimals: int | None) -> str:
    return cell_text(str(value)) if decimals is None else f"{value:.{decimals}f}"
