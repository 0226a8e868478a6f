"""DICOM SEG, read back by pydicom alone, by highdicom and by dcmqi."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.dicom_seg import write_dicom_seg
from BrainSegSAMLib.errors import DependencyError, GeometryError, InputError, OutputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology
from BrainSegSAMLib.segmentation_files import read_segmentation
from BrainSegSAMLib.volumes import read_volume

dicom_files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicom_files.py")))

NEOPLASM = Terminology(
    Code("SCT", "49755003", "Morphologically Altered Structure"),
    Code("SCT", "86049000", "Neoplasm, Primary"),
    Code("SCT", "12738006", "Brain"),
)
OVERLAPPING = LabelScheme(
    (
        Region("Ödem und Tumor 腫瘍", (1, 2, 3), (230, 159, 0), NEOPLASM),
        Region("core", (2, 3), (86, 180, 233)),
        Region("not there", (9,), (0, 158, 115)),
    )
)
DCMQI = shutil.which("segimage2itkimage") or shutil.which(
    "segimage2itkimage", path=str(Path(sys.executable).parent)
)


@pytest.fixture
def series(tmp_path: Path, oblique_grid: Geometry) -> Path:
    voxels = np.random.default_rng(1).integers(0, 900, oblique_grid.shape_zyx, dtype=np.uint16)
    dicom_files.write_mr_series(tmp_path / "series", voxels, oblique_grid)
    return tmp_path / "series"


def segmentation_on(grid: Geometry, scheme: LabelScheme = OVERLAPPING) -> Segmentation:
    """Without symmetry, with empty planes on both sides, and a hole in the stack of the second region."""
    labels = np.zeros(grid.shape_zyx, np.uint8)
    labels[1:6, 2:7, 3:9] = 1
    labels[2, 3:5, 4:7] = 2
    labels[4, 3, 4:6] = 3
    return Segmentation(grid, scheme, labels, "case")


def written(segmentation: Segmentation, series: Path) -> Path:
    path = series.parent / "out.seg.dcm"
    write_dicom_seg(segmentation, series, path, algorithm="glioma-nnunet-tiny", version="1.0 (abc)")
    return path


def voxels_at(points_lps: NDArray[np.float64], grid: Geometry) -> set[tuple[int, ...]]:
    """The voxels (i, j, k) of a grid whose centres the points are."""
    ijk = grid.to_ijk(points_lps)
    np.testing.assert_allclose(ijk, np.rint(ijk), atol=1e-4)
    return {tuple(voxel) for voxel in np.rint(ijk).astype(int).tolist()}


def voxels_in(dataset: pydicom.Dataset, grid: Geometry) -> dict[int, set[tuple[int, ...]]]:
    """Segment number → its voxels (i, j, k) of a grid, placed by the standard's equation C.7.6.2.1-1 alone."""
    found: dict[int, set[tuple[int, ...]]] = {int(item.SegmentNumber): set() for item in dataset.SegmentSequence}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    height, width = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    frames = np.reshape(dataset.pixel_array, (-1, dataset.Rows, dataset.Columns))
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        holder = group if "SegmentIdentificationSequence" in group else shared
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        corner = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        rows, columns = np.nonzero(frame)
        points = corner + np.outer(columns * width, cosines[0]) + np.outer(rows * height, cosines[1])
        found[number] |= voxels_at(points, grid)
    return found


def voxels_of(segmentation: Segmentation) -> dict[int, set[tuple[int, ...]]]:
    return {
        number: {tuple(voxel[::-1]) for voxel in np.argwhere(mask).tolist()}
        for number, (_, mask) in enumerate(segmentation.masks(), start=1)
    }


def test_every_voxel_lies_where_the_anatomy_lies(series: Path, oblique_grid: Geometry) -> None:
    segmentation = segmentation_on(oblique_grid)
    dataset = pydicom.dcmread(written(segmentation, series))
    assert voxels_in(dataset, oblique_grid) == voxels_of(segmentation)
    assert dataset.SOPClassUID == pydicom.uid.SegmentationStorage
    assert dataset.SegmentationType == "BINARY"
    assert dataset.SegmentsOverlap == "YES"
    spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    assert spacing == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SLA", "AIR"])
def test_the_order_of_axes_does_not_matter(series: Path, oblique_grid: Geometry, orientation: str) -> None:
    segmentation = segmentation_on(oblique_grid)
    grid, order = oblique_grid.reoriented(orientation)
    moved = Segmentation(grid, OVERLAPPING, np.ascontiguousarray(order.apply(segmentation.label_map)))
    assert voxels_in(pydicom.dcmread(written(moved, series)), oblique_grid) == voxels_of(segmentation)


def test_what_is_read_is_written_and_another_grid_is_refused(series: Path, oblique_grid: Geometry) -> None:
    _, grid = read_volume(series)
    assert grid.is_same_grid(oblique_grid)
    i, j, k = grid.spacing_ijk_mm
    for other in (
        Geometry(grid.size_ijk, (i, j, k * 1.01), grid.origin_lps_mm, grid.direction_lps),
        Geometry(grid.size_ijk, (i, j, k), tuple(grid.to_lps(np.array([1, 0, 0]))), grid.direction_lps),
        Geometry((11, 9, 6), (i, j, k), grid.origin_lps_mm, grid.direction_lps),
    ):
        with pytest.raises(GeometryError, match=r"another grid than the series .*series: (spacing|position|11×9×6)"):
            written(segmentation_on(other), series)
    assert not (series.parent / "out.seg.dcm").exists()


def test_highdicom_finds_each_segment_on_its_source_image(series: Path, oblique_grid: Geometry) -> None:
    segmentation = segmentation_on(oblique_grid)
    read = highdicom.seg.segread(written(segmentation, series))
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.iterdir()]
    headers.sort(key=lambda header: int(header.InstanceNumber))
    masks = read.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers], assert_missing_frames_are_empty=True
    )
    for index, (_, mask) in enumerate(segmentation.masks()):
        np.testing.assert_array_equal(masks[..., index], mask)
    volume = read.get_volume(rescale_fractional=False)
    assert volume.spacing == pytest.approx(oblique_grid.spacing_zyx_mm)
    referenced = read.ReferencedSeriesSequence
    assert [item.SeriesInstanceUID for item in referenced] == [headers[0].SeriesInstanceUID]
    assert len(referenced[0].ReferencedInstanceSequence) == 7


def test_names_codes_patient_and_software_are_told(series: Path, oblique_grid: Geometry) -> None:
    dataset = pydicom.dcmread(written(segmentation_on(oblique_grid), series))
    tumour, core, _ = dataset.SegmentSequence
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["Ödem und Tumor 腫瘍", "core", "not there"]
    codes = [
        (tumour.SegmentedPropertyCategoryCodeSequence[0], ("49755003", "SCT", "Morphologically Altered Structure")),
        (tumour.SegmentedPropertyTypeCodeSequence[0], ("86049000", "SCT", "Neoplasm, Primary")),
        (tumour.AnatomicRegionSequence[0], ("12738006", "SCT", "Brain")),
        (core.SegmentedPropertyTypeCodeSequence[0], ("85756007", "SCT", "Tissue")),
    ]
    for item, expected in codes:
        assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == expected
    assert "AnatomicRegionSequence" not in core
    assert (tumour.SegmentAlgorithmType, tumour.SegmentAlgorithmName) == ("AUTOMATIC", "glioma-nnunet-tiny")
    assert tumour.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.0 (abc)"
    source = pydicom.dcmread(next(series.iterdir()), stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert str(dataset[keyword].value) == str(source[keyword].value), keyword
    assert str(dataset.PatientName) == "Größe^Jürgen"
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert dataset.Modality == "SEG"
    assert "not for clinical use" in dataset.ContentDescription


def test_regions_that_do_not_overlap_and_label_values_with_gaps(series: Path, oblique_grid: Geometry) -> None:
    scheme = LabelScheme.plain({"c": 3, "a": 1, "b": 2})
    segmentation = segmentation_on(oblique_grid, scheme)
    dataset = pydicom.dcmread(written(segmentation, series))
    assert dataset.SegmentsOverlap == "NO"
    assert voxels_in(dataset, oblique_grid) == voxels_of(segmentation)


def test_one_region_and_none_at_all(series: Path, oblique_grid: Geometry) -> None:
    single = Segmentation(
        oblique_grid, LabelScheme.plain({"a\\b" + "c" * 80: 7}), segmentation_on(oblique_grid).label_map // 2 * 7
    )
    dataset = pydicom.dcmread(written(single, series))
    assert voxels_in(dataset, oblique_grid) == voxels_of(single)
    assert dataset.SegmentSequence[0].SegmentLabel == "a/b" + "c" * 61
    empty = Segmentation(oblique_grid, OVERLAPPING, np.zeros(oblique_grid.shape_zyx, np.uint8))
    assert voxels_in(pydicom.dcmread(written(empty, series)), oblique_grid) == {1: set(), 2: set(), 3: set()}


@pytest.mark.skipif(DCMQI is None, reason="dcmqi is not installed.")
def test_dcmqi_reads_the_same(series: Path, oblique_grid: Geometry) -> None:
    segmentation = segmentation_on(oblique_grid)
    folder = series.parent / "dcmqi"
    folder.mkdir()
    command = [str(DCMQI), "--inputDICOM", str(written(segmentation, series)), "--outputDirectory", str(folder)]
    done = subprocess.run([*command, "-p", "x", "-t", "nrrd"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for number, voxels in voxels_of(segmentation).items():
        read = read_segmentation(folder / f"x-{number}.nrrd")  # on a grid of its own, without the empty frames
        centres = read.geometry.to_lps(np.argwhere(read.label_map > 0)[:, ::-1])
        assert voxels_at(centres, oblique_grid) == voxels
    said = [item for group in json.loads((folder / "x-meta.json").read_text())["segmentAttributes"] for item in group]
    assert [item["SegmentLabel"] for item in said] == list(OVERLAPPING.names)
    assert said[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "86049000"
    assert said[0]["AnatomicRegionSequence"]["CodeValue"] == "12738006"
    assert [item["recommendedDisplayRGBValue"] for item in said] == [
        list(region.colour_rgb) for region in OVERLAPPING.regions
    ]


# ---- sources that are not as they should be ------------------------------------------------------------------------


def test_what_anonymisers_take_away_is_not_missed(tmp_path: Path, oblique_grid: Geometry) -> None:
    gone = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
            "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer")  # fmt: skip
    voxels = np.ones(oblique_grid.shape_zyx, np.uint16)
    dicom_files.write_mr_series(tmp_path / "series", voxels, oblique_grid, without=gone)
    segmentation = segmentation_on(oblique_grid)
    dataset = pydicom.dcmread(written(segmentation, tmp_path / "series"))
    assert voxels_in(dataset, oblique_grid) == voxels_of(segmentation)


@pytest.mark.parametrize(
    ("without", "says"),
    [("FrameOfReferenceUID", "no Frame Of Reference UID"), ("StudyInstanceUID", "StudyInstanceUID")],
)
def test_a_series_that_cannot_be_referred_to_is_refused(
    tmp_path: Path, oblique_grid: Geometry, without: str, says: str
) -> None:
    voxels = np.ones(oblique_grid.shape_zyx, np.uint16)
    dicom_files.write_mr_series(tmp_path / "series", voxels, oblique_grid, without=(without,))
    with pytest.raises(InputError, match=f"cannot refer to the series .*series: .*{says}.* Export the series again"):
        written(segmentation_on(oblique_grid), tmp_path / "series")


def test_another_name_a_full_disk_and_no_highdicom_are_refused(
    series: Path, oblique_grid: Geometry, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentation = segmentation_on(oblique_grid)
    with pytest.raises(InputError, match=r"must end in \.seg\.dcm"):
        write_dicom_seg(segmentation, series, series.parent / "out.dcm", algorithm="x", version="1")
    (tiny_disk / "filler").write_bytes(b"x" * 60 * 1024)
    with pytest.raises(OutputError, match="the disk is full"):
        write_dicom_seg(segmentation, series, tiny_disk / "out.seg.dcm", algorithm="x", version="1")
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DependencyError, match="pip install highdicom"):
        written(segmentation, series)


# ---- one image with several frames ---------------------------------------------------------------------------------


@pytest.fixture
def enhanced(series: Path) -> Path:
    """The series as one enhanced MR image, made by highdicom, with its frames in no order."""
    slices = [pydicom.dcmread(file) for file in series.iterdir()]
    image = highdicom.legacy.LegacyConvertedEnhancedMRImage(slices, highdicom.UID(), 5, highdicom.UID(), 1)
    order = np.random.default_rng(5).permutation(len(slices))
    image.PixelData = image.pixel_array[order].tobytes()
    image.PerFrameFunctionalGroupsSequence = [image.PerFrameFunctionalGroupsSequence[index] for index in order]
    folder = series.parent / "enhanced"
    folder.mkdir()
    image.save_as(folder / "a.dcm")
    return folder


def test_frames_in_any_order_are_read_and_referred_to(series: Path, enhanced: Path, oblique_grid: Geometry) -> None:
    expected, _ = read_volume(series)
    array, grid = read_volume(enhanced)
    assert grid.is_same_grid(oblique_grid)
    np.testing.assert_array_equal(array, expected)
    segmentation = segmentation_on(grid)
    dataset = pydicom.dcmread(written(segmentation, enhanced))
    assert voxels_in(dataset, oblique_grid) == voxels_of(segmentation)
    source = pydicom.dcmread(enhanced / "a.dcm")
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        referred = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert referred.ReferencedSOPInstanceUID == source.SOPInstanceUID
        group = source.PerFrameFunctionalGroupsSequence[int(referred.ReferencedFrameNumber) - 1]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert position == frame.PlanePositionSequence[0].ImagePositionPatient


def test_frames_that_make_no_volume_are_refused(enhanced: Path) -> None:
    image = pydicom.dcmread(enhanced / "a.dcm")
    groups = image.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    image.save_as(enhanced / "a.dcm")
    with pytest.raises(InputError, match=r"a\.dcm has DICOM frames that are not evenly stacked"):
        read_volume(enhanced)
    del groups[1].PlanePositionSequence
    image.save_as(enhanced / "a.dcm")
    with pytest.raises(InputError, match=r"a\.dcm has DICOM frames without a place in space"):
        read_volume(enhanced)
