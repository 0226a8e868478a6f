"""DICOM series for tests: MR slices on any grid, complete enough for the checkers of the standard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from BrainSegSAMLib.geometry import Geometry


def write_mr_series(
    folder: Path,
    array: NDArray[np.uint16],
    grid: Geometry,
    *,
    description: str = "T2 FLAIR",
    study: str = "study",
    without: tuple[str, ...] = (),
    changed: dict[str, str] | None = None,
) -> list[Path]:
    """One file a slice; k runs along the slices' normal, as GDCM sorts them. Names do not tell the order.

    Args:
        folder: where to; made where missing.
        array: uint16 (z, y, x).
        grid: right-handed, or the stack would run the other way when it is read.
        description: of the series, from which its UIDs are made too.
        study: text from which the study's UIDs are made.
        without: keywords that are left out, as anonymisers do.
        changed: keyword → other value.

    Returns:
        The files, in the order of k.
    """
    assert np.linalg.det(grid.direction_lps) > 0
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(3).permutation(len(array))
    files = []
    for k, plane in enumerate(array):
        dataset = _slice(plane, grid, k, description, study)
        for keyword, value in (changed or {}).items():
            setattr(dataset, keyword, value)
        for keyword in without:
            delattr(dataset, keyword)
        files.append(folder / f"{numbers[k]:04d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def _slice(plane: NDArray[np.uint16], grid: Geometry, k: int, description: str, study: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = _uid(study, description, str(k))
    dataset.StudyDate, dataset.StudyTime = "20250102", "101112"
    dataset.AccessionNumber = "A1"
    dataset.Modality = "MR"
    dataset.Manufacturer = "Maker"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = description
    dataset.PatientName = "Größe^Jürgen"
    dataset.PatientID = "P7"
    dataset.PatientBirthDate = "19600229"
    dataset.PatientSex = "O"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "SK", ""
    dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime = "2D", "90", "5000"
    dataset.EchoTrainLength, dataset.SliceThickness = "1", f"{grid.spacing_ijk_mm[2]:.6g}"
    dataset.StudyInstanceUID = _uid(study)
    dataset.SeriesInstanceUID = _uid(study, description)
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "S1", "4", str(k + 1)
    dataset.FrameOfReferenceUID = _uid(study, "frame")
    dataset.PositionReferenceIndicator, dataset.PatientPosition, dataset.BodyPartExamined = "", "HFS", "BRAIN"
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in grid.to_lps(np.array([0, 0, k]))]
    dataset.ImageOrientationPatient = [f"{value:.8f}" for value in grid.direction_lps[:, :2].T.ravel()]
    i, j, _ = grid.spacing_ijk_mm
    dataset.PixelSpacing = [f"{j:.6g}", f"{i:.6g}"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = plane.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.ascontiguousarray(plane, dtype="<u2").tobytes()
    return dataset


def _uid(*parts: str) -> str:
    return generate_uid(entropy_srcs=list(parts))
