"""DICOM SEG as segmentations: what was written here, by dcmqi, and what is refused."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from BrainSegSAMLib.dicom_seg import write_dicom_seg
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.itk import image_of
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology
from BrainSegSAMLib.resample import resample_segmentation
from BrainSegSAMLib.segmentation_files import names_its_segments, read_segmentation
from BrainSegSAMLib.volumes import read_volume

dicom_files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicom_files.py")))
DCMQI = shutil.which("itkimage2segimage") or shutil.which("itkimage2segimage", path=str(Path(sys.executable).parent))
NEOPLASM = Terminology(Code("SCT", "49755003", "Morphologically Altered"), Code("SCT", "86049000", "Neoplasm"))
SCHEME = LabelScheme((Region("whole", (1, 2), (230, 159, 0), NEOPLASM), Region("core", (2,), (86, 180, 233))))


@pytest.fixture
def series(tmp_path: Path, oblique_grid: Geometry) -> Path:
    dicom_files.write_mr_series(tmp_path / "series", np.ones(oblique_grid.shape_zyx, np.uint16), oblique_grid)
    return tmp_path / "series"


@pytest.fixture
def segmentation(oblique_grid: Geometry) -> Segmentation:
    labels = np.zeros(oblique_grid.shape_zyx, np.uint8)
    labels[1:3, 2:7, 3:9] = 1
    labels[5, 3:5, 4:7] = 2  # two empty planes between
    return Segmentation(oblique_grid, SCHEME, labels, "case")


def write(segmentation: Segmentation, series: Path) -> Path:
    path = series.parent / "seg" / "out.seg.dcm"
    write_dicom_seg(segmentation, series, path, algorithm="model", version="1")
    return path


def test_what_was_written_is_read(segmentation: Segmentation, series: Path, oblique_grid: Geometry) -> None:
    file = write(segmentation, series)
    for path in (file, file.parent):
        read = read_segmentation(path)
        assert [(r.name, r.colour_rgb, r.terminology) for r in read.scheme.regions] == [
            (r.name, r.colour_rgb, r.terminology) for r in SCHEME.regions
        ]
        back = resample_segmentation(read, oblique_grid)
        for name in SCHEME.names:
            np.testing.assert_array_equal(back.mask(name), segmentation.mask(name))
    known = resample_segmentation(read_segmentation(file, SCHEME), oblique_grid)
    np.testing.assert_array_equal(known.label_map, segmentation.label_map)
    with pytest.raises(InputError, match="lacks the segment other"):
        read_segmentation(file, LabelScheme.plain({"other": 1}))


@pytest.mark.parametrize("planes", [(3,), (1, 5), ()])
def test_one_plane_two_apart_and_none(series: Path, oblique_grid: Geometry, planes: tuple[int, ...]) -> None:
    labels = np.zeros(oblique_grid.shape_zyx, np.uint8)
    for plane in planes:
        labels[plane, 2:5, 7] = 1
    file = write(Segmentation(oblique_grid, LabelScheme.plain({"spot": 1}), labels), series)
    np.testing.assert_array_equal(resample_segmentation(read_segmentation(file), oblique_grid).label_map, labels)


def test_it_is_known_by_its_content(segmentation: Segmentation, series: Path) -> None:
    file = write(segmentation, series)
    plain = file.rename(file.with_name("1-01.dcm"))
    assert names_its_segments(plain)
    assert names_its_segments(plain.parent)
    assert not names_its_segments(series)
    assert not names_its_segments(next(series.iterdir()))


def test_same_names_are_told_apart(segmentation: Segmentation, series: Path) -> None:
    file = write(segmentation, series)
    dataset = pydicom.dcmread(file)
    dataset.SegmentSequence[1].SegmentLabel = dataset.SegmentSequence[0].SegmentLabel
    dataset.save_as(file)
    assert read_segmentation(file).scheme.names == ("whole", "whole (2)")


@pytest.mark.skipif(DCMQI is None, reason="dcmqi is not installed.")
def test_what_dcmqi_wrote_is_read(segmentation: Segmentation, series: Path, oblique_grid: Geometry) -> None:
    folder = series.parent / "dcmqi"
    folder.mkdir()
    attributes = []
    for index, region in enumerate(SCHEME.regions, start=1):
        mask = segmentation.mask(region.name).astype(np.uint8)
        sitk.WriteImage(image_of(mask, oblique_grid), str(folder / f"{index}.nrrd"))
        code = {"CodeValue": "86049000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Neoplasm"}
        attributes.append([{
            "labelID": 1, "SegmentLabel": region.name, "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code, "SegmentedPropertyTypeCodeSequence": code,
            "recommendedDisplayRGBValue": list(region.colour_rgb),
        }])  # fmt: skip
    described = {"SeriesDescription": "s", "SeriesNumber": "3", "InstanceNumber": "1", "ContentCreatorName": "Doe"}
    (folder / "meta.json").write_text(json.dumps({**described, "segmentAttributes": attributes}))
    files = ",".join(str(folder / f"{index}.nrrd") for index in (1, 2))
    command = [str(DCMQI), "--inputDICOMDirectory", str(series), "--inputImageList", files, "--inputMetadata",
               str(folder / "meta.json"), "--outputDICOM", str(folder / "out.dcm")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    read = read_segmentation(folder / "out.dcm")
    assert [(r.name, r.colour_rgb) for r in read.scheme.regions] == [(r.name, r.colour_rgb) for r in SCHEME.regions]
    back = resample_segmentation(read, oblique_grid)
    for name in SCHEME.names:
        np.testing.assert_array_equal(back.mask(name), segmentation.mask(name))


def test_what_is_no_such_segmentation_is_refused(segmentation: Segmentation, series: Path) -> None:
    file = write(segmentation, series)
    with pytest.raises(InputError, match=r"is a DICOM segmentation .*not an image"):
        read_volume(file)
    dataset = pydicom.dcmread(file)
    dataset.SegmentationType = "FRACTIONAL"
    dataset.save_as(file.with_name("fractional.dcm"))
    with pytest.raises(InputError, match=r"fractional\.dcm holds fractions"):
        read_segmentation(file.with_name("fractional.dcm"))
    del dataset.PixelData
    dataset.SegmentationType = "BINARY"
    dataset.save_as(file.with_name("empty.dcm"))
    with pytest.raises(InputError, match=r"empty\.dcm cannot be read as a DICOM SEG"):
        read_segmentation(file.with_name("empty.dcm"))
