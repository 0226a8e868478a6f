"""The demonstration: one case segmented, measured and pictured; without one, a synthetic case with a known lesion.

It is the whole way that a user's images go, through the same `predict`, and it fails where a lesion that was put in is
not found again, so that an installation can be trusted or not within a minute or two.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .cases import Case, load_image
from .components import RegionStatistics, statistics
from .errors import InputError, OutputError
from .files import atomic_path, cell_text, write_text
from .geometry import Geometry
from .headers import check_nifti
from .image import Image, Segmentation
from .itk import image_of, quiet_itk, simpleitk
from .labels import LabelScheme
from .metrics import dice
from .models.store import Model
from .phantom import CHANNELS, ORIGIN_LPS_MM, Phantom, make_phantom
from .pictures import overlay_png
from .predict import CaseResult, PredictJob, plan, run
from .progress import Progress
from .resample import resample_segmentation
from .segmentation_files import read_segmentation, write_label_map

MODEL: Final = "glioma-nnunet-tiny"
SEED: Final = 2026
"""Of the synthetic case; no synthetic case of the bundled model's training has it."""

MINIMUM_DICE: Final = 0.7
"""Agreement with the lesion that was put in, below which the demonstration fails."""

SYNTHETIC_FOLDER: Final = "synthetic-case"
_SYNTHETIC_SCHEME: Final = LabelScheme.plain({"necrotic core": 1, "edema": 2, "enhancing tumour": 3})
_BRATS_2021_ET, _BRATS_2023_ET = 4, 3


@dataclass(frozen=True)
class DemoRow:
    """One region: its measures, and its Dice against the reference, 0 to 1, or None where it cannot be compared."""

    region: str
    measures: RegionStatistics
    dice: float | None


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        case_id: the case.
        model: that segmented it.
        rows: one per region, in the model's order.
        lesion_dice: Dice, 0 to 1, of all regions together against all labels of the reference; None without one.
        files: what ("label map", "segmentation", "record", "volumes", "picture", "input") → where.
        notes: what a reader of the numbers must know, a sentence each.
        problem: why the demonstration failed, as a sentence; "" where it did not.
    """

    case_id: str
    model: Model
    rows: tuple[DemoRow, ...]
    lesion_dice: float | None
    files: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    problem: str = ""

    def text(self) -> str:
        """Table of the regions, notes, and where every file lies, for people."""
        wide = max(len("region"), *(len(row.region) for row in self.rows))
        lines = [f"{self.case_id}, segmented with {self.model.name}:", ""]
        lines.append(f"  {'region':<{wide}}  volume [mL]  components  largest diameter [mm]   Dice")
        for row in self.rows:
            measures = row.measures
            dice = "–" if row.dice is None else f"{row.dice:.3f}"
            lines.append(
                f"  {row.region:<{wide}}  {measures.volume_ml:11.1f}  {measures.components:10d}"
                f"  {measures.largest_diameter_mm:21.1f}  {dice:>5}"
            )
        lines.append("")
        if self.lesion_dice is not None:
            lines.append(f"Dice of the whole lesion: {self.lesion_dice:.3f}.")
        lines += self.notes
        lines += ["", *(f"  {what:<12} {path}" for what, path in self.files.items())]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Reference:
    """A reference on the image's grid; `comparable`: its values mean what the model's do."""

    segmentation: Segmentation
    comparable: bool
    notes: tuple[str, ...]


def run_demo(
    output: Path,
    *,
    case: Path | None = None,
    model: str = MODEL,
    device: str = "auto",
    seed: int = SEED,
    progress: Progress | None = None,
) -> DemoResult:
    """Segment one case and write its segmentation, a table (`volumes.csv`) and a picture (`overlay.png`).

    Args:
        output: folder for the results; made where missing. A synthetic case is written there too.
        case: one case, as `cases.find_cases` takes it; a synthetic one is made where None. The label values of its
            reference, where it has one, are taken to mean what the model's do; a value 4 is BraTS 2021's enhancing
            tumour, which is 3 since 2023, and is read as 3 where the model knows 3 and not 4.
        model: name in the catalogue, or model folder.
        device: "auto", or a torch device name.
        seed: of the synthetic case.
        progress: of the whole.

    Returns:
        What came out. Its `problem` tells where the synthetic lesion was found with a Dice below `MINIMUM_DICE`.

    Raises:
        InputError: where the source holds no usable case or more than one, or the case cannot be segmented.
        ModelError: where the model cannot be used.
        OutputError: where something cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    source = case
    if source is None:
        progress.stage("Making a synthetic case", until=0.1)
        source = write_synthetic_case(output / SYNTHETIC_FOLDER / f"synthetic-{seed}", seed)
    planned = plan(PredictJob(model=model, source=source, output=output, device=device))
    chosen = _only_case(planned.todo, planned.results, source)
    finished = run(planned, progress=progress.part("Segmenting", until=0.85))[0]
    if finished.status == "failed":
        raise InputError(finished.error)

    progress.stage("Measuring", until=0.9)
    image, _ = load_image(chosen, planned.model.modalities)
    segmentation = read_segmentation(finished.outputs["label_map"], planned.model.scheme)
    reference = _reference(chosen, planned.model.scheme, image.geometry)
    rows = _rows(segmentation, reference)
    files = _files(finished, output, source if case is None else None)
    write_text(_csv(rows), files["volumes"])

    progress.stage("Drawing the picture", until=1.0)
    _draw(image, segmentation, reference, planned.model, files["picture"])
    lesion_dice = None
    if reference is not None:
        lesion_dice = dice(segmentation.label_map > 0, reference.segmentation.label_map > 0)
    notes = (reference.notes if reference else ()) + _caution(planned.model)
    problem = ""
    if case is None and (lesion_dice is None or lesion_dice < MINIMUM_DICE):
        problem = (
            f"The lesion that was put into the synthetic case was not found again: Dice {lesion_dice or 0:.3f}, "
            f"at least {MINIMUM_DICE} is expected of '{planned.model.name}'. Do not use this installation with it."
        )
    return DemoResult(chosen.case_id, planned.model, rows, lesion_dice, files, notes, problem)


def write_synthetic_case(folder: Path, seed: int) -> Path:
    """Write the four modalities and the lesion of `phantom.make_phantom` as a case folder of NIfTI files.

    Args:
        folder: of the case; its name becomes the case id.
        seed: of the phantom.

    Returns:
        The folder.

    Raises:
        InputError: where the seed is negative.
        OutputError: where a file cannot be written.
    """
    phantom = make_phantom(seed)
    geometry = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm, ORIGIN_LPS_MM)
    for name in CHANNELS:
        _write_channel(phantom, name, geometry, folder / f"{folder.name}_{name}.nii.gz")
    lesion = Segmentation(geometry, _SYNTHETIC_SCHEME, phantom.labels)
    write_label_map(lesion, folder / f"{folder.name}_seg.nii.gz")
    return folder


def _write_channel(phantom: Phantom, name: str, geometry: Geometry, path: Path) -> None:
    """As whole numbers, like a scanner's."""
    image = image_of(np.rint(phantom.channels[name]).astype(np.int16), geometry)
    with atomic_path(path) as partial:
        partial.touch()  # an ordinary OSError, with its reason, where the folder cannot be written
        try:
            with quiet_itk():
                simpleitk().WriteImage(image, str(partial), True)
            check_nifti(partial)  # ITK reports success for a file that a full disk cut short
        except (RuntimeError, InputError) as error:
            raise OutputError(
                f"{path} cannot be written completely; the disk is probably full. "
                "Free some space or choose another folder."
            ) from error


def _only_case(todo: tuple[Case, ...], unusable: tuple[CaseResult, ...], source: Path) -> Case:
    names = sorted([case.case_id for case in todo] + [result.case_id for result in unusable])
    if len(names) > 1:
        raise InputError(
            f"{source} holds {len(names)} cases ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}), but the "
            "demonstration shows one. Give the folder of one case, or segment all with the command predict."
        )
    if unusable:
        raise InputError(unusable[0].error)
    return todo[0]


def _reference(case: Case, scheme: LabelScheme, grid: Geometry) -> _Reference | None:
    """The case's reference; None where there is none or it cannot be read as a segmentation."""
    if case.reference is None:
        return None
    found = resample_segmentation(read_segmentation(case.reference), grid)
    present = {int(value) for value in np.flatnonzero(np.bincount(found.label_map.ravel())) if value}
    known = {value for region in scheme.regions for value in region.labels}
    notes: list[str] = []
    label_map = found.label_map
    if _BRATS_2021_ET in present - known and _BRATS_2023_ET in known - present:
        label_map = np.where(label_map == _BRATS_2021_ET, _BRATS_2023_ET, label_map).astype(label_map.dtype)
        present = (present - {_BRATS_2021_ET}) | {_BRATS_2023_ET}
        notes.append("The reference's label 4 was read as 3: enhancing tumour in BraTS 2021 and 2023.")
    if not present <= known:
        values = ", ".join(map(str, sorted(present - known)))
        notes.append(
            f"The regions cannot be compared one by one: the reference {case.reference.name} has the label values "
            f"{values}, which the model does not know."
        )
        return _Reference(found, False, tuple(notes))
    return _Reference(Segmentation(grid, scheme, label_map, found.name), True, tuple(notes))


def _rows(segmentation: Segmentation, reference: _Reference | None) -> tuple[DemoRow, ...]:
    rows = []
    for name, measures in statistics(segmentation).items():
        agreement = None
        if reference is not None and reference.comparable:
            agreement = dice(segmentation.mask(name), reference.segmentation.mask(name))
        rows.append(DemoRow(name, measures, agreement))
    return tuple(rows)


def _files(finished: CaseResult, output: Path, synthetic: Path | None) -> dict[str, Path]:
    files = {kind.replace("_", " "): path for kind, path in finished.outputs.items()}
    files |= {"volumes": output / "volumes.csv", "picture": output / "overlay.png"}
    if synthetic is not None:
        files["input"] = synthetic
    return files


def _csv(rows: tuple[DemoRow, ...]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["region", "volume_ml", "components", "largest_diameter_mm", "dice"])
    for row in rows:
        agreement = "" if row.dice is None else f"{row.dice:.4f}"
        measures = row.measures
        volume, diameter = f"{measures.volume_ml:.3f}", f"{measures.largest_diameter_mm:.1f}"
        table.writerow([cell_text(row.region), volume, measures.components, diameter, agreement])
    return text.getvalue()


def _draw(
    image: Image, segmentation: Segmentation, reference: _Reference | None, model: Model, path: Path
) -> None:
    comparable = reference.segmentation if reference is not None and reference.comparable else None
    overlay_png(
        image,
        segmentation,
        path,
        title=f"{image.name} · {model.title}",
        note=" ".join(_caution(model)),
        reference=comparable,
    )


def _caution(model: Model) -> tuple[str, ...]:
    return ("Demonstration, not for clinical use.",) if model.demonstration else ()
