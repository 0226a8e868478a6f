from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from BrainSegSAMLib.dicom import find_series, is_dicom
from BrainSegSAMLib.errors import DependencyError, GeometryError, InputError
from BrainSegSAMLib.files import sha256_of
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.headers import check_nifti
from BrainSegSAMLib.itk import image_of, simpleitk
from BrainSegSAMLib.volumes import read_volume, volume_sha256, volume_stem, volume_suffix, voxel_names

ROOT = Path(__file__).resolve().parents[2]


def write_itk(array, grid, path):
    sitk.WriteImage(image_of(array, grid), str(path))


def write_nibabel(array, grid, path):
    nibabel.Nifti1Image(np.ascontiguousarray(array.T), grid.ijk_to_ras).to_filename(path)


def write_dicom(array, grid, folder, *, description="T1w axial", uid=None, skip=()):
    """One file per slice, in a random order of names."""
    folder.mkdir(exist_ok=True)
    uid = uid or generate_uid()
    frame = generate_uid()
    direction = grid.direction_lps
    for k in (k for k in range(len(array)) if k not in skip):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", uid, frame
        data.Modality, data.SeriesDescription, data.InstanceNumber = "MR", description, k + 1
        data.PatientID = data.PatientName = "phantom"
        data.Rows, data.Columns = array.shape[1:]
        data.PixelSpacing = [f"{grid.spacing_ijk_mm[1]:.8g}", f"{grid.spacing_ijk_mm[0]:.8g}"]
        data.SliceThickness = f"{grid.spacing_ijk_mm[2]:.8g}"
        data.ImageOrientationPatient = [f"{v:.10g}" for v in (*direction[:, 0], *direction[:, 1])]
        data.ImagePositionPatient = [f"{v:.10g}" for v in grid.to_lps((0, 0, k))]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = array[k].astype("<u2").tobytes()
        data.save_as(folder / f"{meta.MediaStorageSOPInstanceUID[-12:]}-{k}.dcm", enforce_file_format=True)
    return folder


def right_handed(grid, array):
    """DICOM slices can only be stacked along the cross product of their axes."""
    if np.linalg.det(grid.direction_lps) > 0:
        return grid, array
    matrix = grid.ijk_to_lps
    matrix[:3, 3] = grid.to_lps((0, 0, grid.size_ijk[2] - 1))
    matrix[:3, 2] *= -1
    return Geometry.from_ijk_to_lps(matrix, grid.size_ijk), array[::-1]


DOORS = {
    "a.nii.gz": write_nibabel,
    "b.nii": write_nibabel,
    "c.nii.gz": write_itk,
    "d.nrrd": write_itk,
    "e.nhdr": write_itk,
    "f.mha": write_itk,
    "g.mhd": write_itk,
    "series": write_dicom,
}


@pytest.mark.parametrize("name", DOORS)
def test_every_door_keeps_every_voxel_in_its_place(name, tmp_path, oblique_grid, oblique_array):
    grid, written = right_handed(oblique_grid, oblique_array)
    DOORS[name](written, grid, tmp_path / name)
    array, found = read_volume(tmp_path / name)
    assert array.dtype == np.float32
    assert found.difference(grid) == ""
    np.testing.assert_array_equal(array, written)


def test_a_left_handed_grid_is_read_as_it_is(tmp_path, oblique_grid, oblique_array):
    matrix = oblique_grid.ijk_to_lps
    matrix[:3, 0] *= -1
    grid = Geometry.from_ijk_to_lps(matrix, oblique_grid.size_ijk)
    write_nibabel(oblique_array, grid, tmp_path / "a.nii.gz")
    array, found = read_volume(tmp_path / "a.nii.gz")
    assert found.is_same_grid(grid)
    np.testing.assert_array_equal(array, oblique_array)


def test_scaled_integers_are_read_in_their_units(tmp_path, oblique_grid):
    image = nibabel.Nifti1Image(np.full((4, 5, 6), 7, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "a.nii.gz")
    array, _ = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(array, nibabel.load(tmp_path / "a.nii.gz").get_fdata().T)
    assert array.flat[0] == 7 * 0.5 + 10


def test_a_series_of_one_volume_stored_as_four_dimensional_is_read(tmp_path):
    nibabel.Nifti1Image(np.ones((4, 5, 6, 1), np.float32), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz")[0].shape == (6, 5, 4)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_a_file_cut_short_anywhere_is_refused(name, tmp_path):
    path = tmp_path / name
    noise = np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32)
    write_itk(noise, Geometry.axis_aligned((12, 13, 14)), path)
    whole = path.read_bytes()
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=f"{name} (is|cannot)"):
            read_volume(path)


def test_a_damaged_byte_in_a_compressed_file_is_found(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_itk(np.random.default_rng(0).normal(size=(12, 13, 14)), Geometry.axis_aligned((12, 13, 14)), path)
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="truncated or damaged"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.mhd"])
@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"no image at all\n" * 99, "is not a NIfTI|cannot be")]
)
def test_files_without_an_image_are_refused(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} .*{words}|{name} {words}"):
        read_volume(tmp_path / name)


def test_a_header_without_its_data_file_is_refused(tmp_path):
    write_itk(np.ones((4, 5, 6), np.uint8), Geometry.axis_aligned((4, 5, 6)), tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match=r"a\.mhd cannot be read"):
        read_volume(tmp_path / "a.mhd")


def test_what_is_no_volume_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing\.nii\.gz does not exist"):
        read_volume(tmp_path / "missing.nii.gz")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match=r"a\.txt is not a volume that can be read; use one of \.nii\.gz"):
        read_volume(tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is a folder without volumes or DICOM"):
        read_volume(tmp_path / "empty")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_intensities_that_are_not_finite_are_refused(value, name, dtype, tmp_path):
    array = np.zeros((4, 5, 6), dtype)
    with np.errstate(over="ignore"):  # 1e300 is finite as float64 only
        array[1, 2, 3] = value
    write_itk(array, Geometry.axis_aligned((4, 5, 6)), tmp_path / name)
    with pytest.raises(InputError, match=f"{name} has 1 voxels whose intensity is not a finite number"):
        read_volume(tmp_path / name)


def test_nifti_2_is_refused_by_name(tmp_path):
    nibabel.Nifti2Image(np.ones((4, 5, 6), np.float32), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz is a NIfTI-2 file"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (sitk.Image([6, 5, 4, 3], sitk.sitkFloat32), "4-dimensional"),
        (sitk.Image([6, 5, 4], sitk.sitkVectorUInt8, 3), "3 values per voxel"),
        (sitk.Image([6, 5, 1], sitk.sitkInt16), "single slice"),
        (sitk.Image([1, 5, 6], sitk.sitkInt16), "single slice"),
        (sitk.Image([6, 5], sitk.sitkInt16), "single slice"),
    ],
    ids=["4-D", "RGB", "one slice", "one column", "2-D"],
)
def test_images_of_another_kind_are_refused(suffix, image, words, tmp_path):
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(image, str(path))
    with pytest.raises(InputError, match=f"a.{suffix} .*{words}"):
        read_volume(path)


def nifti_with(path, **fields):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4))
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(raw[348:]))


@pytest.mark.parametrize("size", [0, -1, np.nan])
def test_a_nifti_voxel_size_that_is_not_positive_is_refused(size, tmp_path):
    nifti_with(tmp_path / "a.nii", pixdim=[1, 1, size, 1, 0, 0, 0, 0])
    with pytest.raises(GeometryError, match=r"a\.nii has the voxel spacing .*not positive"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.mha", b"ElementSpacing = 1 1.5 3", b"ElementSpacing = 1 0 3"),
        ("a.mha", b"ElementSpacing = 1 1.5 3", b"ElementSpacing = 1 -1 3"),
        ("a.mhd", b"ElementSpacing = 1 1.5 3", b"ElementSpacing = 1 x 3"),
        ("a.nrrd", b"(0,1.5,0)", b"(0,0,0)"),
    ],
)
def test_a_spacing_that_is_not_positive_is_refused(name, old, new, tmp_path):
    path = tmp_path / name
    write_itk(np.ones((4, 5, 6), np.float32), Geometry.axis_aligned((4, 5, 6), (3, 1.5, 1)), path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(GeometryError, match=f"{name} has .*not positive"):
        read_volume(path)


@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_sheared_nifti_is_refused_even_where_itk_would_drop_the_shear(qform_code, tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), sheared)
    image.set_sform(sheared, 1)
    image.set_qform(np.eye(4), qform_code)
    image.to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(GeometryError, match=r"a\.nii\.gz .*sform.*not perpendicular"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("a.nrrd", b"(0,1,0)", b"(0.3,1,0)"), ("a.mha", b"TransformMatrix = 1 0 0 0 1", b"TransformMatrix = 1 0 0 0.3 1")],
)
def test_a_direction_that_is_not_orthonormal_is_refused(name, old, new, tmp_path):
    path = tmp_path / name
    write_itk(np.ones((4, 5, 6), np.float32), Geometry.axis_aligned((4, 5, 6)), path)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(GeometryError, match=f"{name}: .*not perpendicular"):
        read_volume(path)


def test_impossible_dimensions_are_refused(tmp_path):
    nifti_with(tmp_path / "a.nii", dim=[3, 4, 0, 6, 1, 1, 1, 1])
    with pytest.raises(InputError, match="impossible dimensions"):
        check_nifti(tmp_path / "a.nii")


def test_a_big_endian_nifti_is_checked_as_well(tmp_path, oblique_grid, oblique_array):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.float32)
    image = nibabel.Nifti1Image(oblique_array.T, oblique_grid.ijk_to_ras, header)
    image.to_filename(tmp_path / "a.nii")
    array, grid = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(array, oblique_array)
    assert grid.is_same_grid(oblique_grid)
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_volume(tmp_path / "a.nii")


def test_a_file_named_gz_that_is_not_compressed_is_read_by_its_content(tmp_path):
    write_itk(np.ones((4, 5, 6), np.uint8), Geometry.axis_aligned((4, 5, 6)), tmp_path / "b.nii.gz")
    (tmp_path / "a.nii").write_bytes(gzip.decompress((tmp_path / "b.nii.gz").read_bytes()))
    check_nifti(tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    check_nifti(tmp_path / "a.nii.gz")


# ---- DICOM ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def slices():
    grid = Geometry.axis_aligned((8, 6, 5), (3.0, 1.0, 1.0), (-10.0, -20.0, 30.0))
    return np.arange(240, dtype=np.float32).reshape(8, 6, 5), grid


def test_several_series_in_one_folder_are_listed(tmp_path, slices):
    write_dicom(*slices, tmp_path / "d", description="T1w axial")
    write_dicom(*slices, tmp_path / "d", description="FLAIR 3D")
    assert sorted(s.description for s in find_series(tmp_path / "d")) == ["FLAIR 3D", "T1w axial"]
    with pytest.raises(InputError, match=r"d holds 2 DICOM series: .*'(T1w axial|FLAIR 3D)' \(8 files\);"):
        read_volume(tmp_path / "d")


def test_one_file_stands_for_its_series(tmp_path, slices):
    array, grid = slices
    write_dicom(array, grid, tmp_path / "d", description="T1w axial")
    write_dicom(array + 1000, grid, tmp_path / "d", description="FLAIR 3D")
    flair = next(s for s in find_series(tmp_path / "d") if s.description == "FLAIR 3D")
    np.testing.assert_array_equal(read_volume(flair.files[3])[0], array + 1000)


def test_missing_slices_are_found(tmp_path, slices):
    with pytest.raises(InputError, match="missing or unevenly spaced slices: 1 of 6 steps"):
        read_volume(write_dicom(*slices, tmp_path / "d", skip=(3,)))


def test_several_images_at_one_position_are_refused(tmp_path, slices):
    uid = generate_uid()
    write_dicom(*slices, tmp_path / "d", uid=uid)
    with pytest.raises(InputError, match="several DICOM images at one position"):
        read_volume(write_dicom(*slices, tmp_path / "d", uid=uid))


def change_dicom(folder, change):
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path)


def test_a_tilted_gantry_is_refused(tmp_path, slices):
    def tilt(data):
        data.ImagePositionPatient[1] += 0.3 * data.InstanceNumber

    folder = write_dicom(*slices, tmp_path / "d")
    change_dicom(folder, tilt)
    with pytest.raises(GeometryError, match="stacked obliquely"):
        read_volume(folder)


def test_slices_of_different_orientations_are_refused(tmp_path, slices):
    def turn(data):
        if data.InstanceNumber == 8:
            data.ImageOrientationPatient = [1, 0, 0, 0, 0.8, 0.6]

    folder = write_dicom(*slices, tmp_path / "d")
    change_dicom(folder, turn)
    with pytest.raises(InputError, match=r"different orientations|holds 2 DICOM series"):
        read_volume(folder)


def test_slices_without_a_position_are_refused(tmp_path, slices):
    folder = write_dicom(*slices, tmp_path / "d")
    change_dicom(folder, lambda data: data.__delattr__("ImagePositionPatient"))
    with pytest.raises(InputError, match="d "):
        read_volume(folder)


def test_a_single_dicom_slice_is_refused(tmp_path, slices):
    with pytest.raises(InputError, match="single slice"):
        read_volume(write_dicom(*slices, tmp_path / "d", skip=range(1, 8)))


@pytest.mark.parametrize("k", [0, 3, 7])
def test_a_truncated_dicom_file_is_refused(k, tmp_path, slices):
    folder = write_dicom(*slices, tmp_path / "d")
    path = next(folder.glob(f"*-{k}.dcm"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"-{k}.dcm is a DICOM file that is truncated"):
        read_volume(folder)


def test_a_dicom_file_that_is_cut_in_its_header_is_refused(tmp_path, slices):
    folder = write_dicom(*slices, tmp_path / "d")
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:140])
    with pytest.raises(InputError, match=r"\.dcm (is|cannot)"):
        read_volume(path)


def test_slices_of_different_sizes_are_refused(tmp_path, slices):
    array, grid = slices
    uid = generate_uid()
    write_dicom(array, grid, tmp_path / "d", uid=uid, skip=(4, 5, 6, 7))
    write_dicom(array[:, :4], grid, tmp_path / "d", uid=uid, skip=(0, 1, 2, 3))
    with pytest.raises(InputError, match=r"d (cannot be read|holds 2 DICOM series)"):
        read_volume(tmp_path / "d")


def test_other_files_beside_a_series_do_not_matter(tmp_path, slices):
    folder = write_dicom(*slices, tmp_path / "d")
    (folder / "notes.txt").write_text("hello")
    (folder / "DICOMDIR").write_bytes(next(folder.glob("*.dcm")).read_bytes()[:200])
    np.testing.assert_array_equal(read_volume(folder)[0], slices[0])


# ---- the rest ------------------------------------------------------------------------------------------------------


def test_a_missing_simpleitk_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(DependencyError, match="pip install SimpleITK"):
        simpleitk()


def test_what_cannot_be_opened_is_not_dicom(tmp_path):
    assert not is_dicom(tmp_path / "missing")
    assert not is_dicom(tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write_itk(np.ones((4, 5, 6), np.uint8), Geometry.axis_aligned((4, 5, 6)), tmp_path / "a.nii.gz")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("BrainSegSAMLib.volumes.check_nifti", refuse)
    with pytest.raises(InputError, match=r"a\.nii\.gz cannot be read: Permission denied"):
        read_volume(tmp_path / "a.nii.gz")


def test_suffixes():
    assert volume_suffix(Path("a.B.NII.GZ")) == ".nii.gz"
    assert volume_stem(Path("a.B.NII.GZ")) == "a.B"
    assert volume_suffix(Path("a.gz")) == ""


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_header_is_the_same_only_with_its_voxels(suffix, tmp_path):
    path = tmp_path / f"volume{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(path))
    before, header = volume_sha256(path), sha256_of(path)
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8)), str(path))
    assert sha256_of(path) == header
    assert volume_sha256(path) != before
    for name in voxel_names(path):
        (tmp_path / name).unlink()
    assert volume_sha256(path) not in (before, header)


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = brain of Ann.raw\n", ["brain of Ann.raw"]),
        ("a.mhd", "ElementDataFile = LOCAL\n\0\1", []),
        ("a.mhd", "ElementDataFile = LIST\none.raw\ndeeper/two.raw\n", ["one.raw", "deeper/two.raw"]),
        ("a.mhd", "ElementDataFile = slice%02d.raw 1 5 2\n", ["slice01.raw", "slice03.raw", "slice05.raw"]),
        ("a.nhdr", "NRRD0004\ntype: short\ndata file: Größe.raw.gz\n", ["Größe.raw.gz"]),
        ("a.nhdr", "NRRD0004\ndatafile: ./a.raw\r\nencoding: raw\r\n", ["./a.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: LIST 2\none.raw\ntwo.raw\n", ["one.raw", "two.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: s.%d.raw 8 9 1 2\n", ["s.8.raw", "s.9.raw"]),
        ("a.nhdr", "NRRD0004\n", []),
        ("a.nrrd", "NRRD0004\nkey:=data file: x\n", []),
    ],
)
def test_files_with_the_voxels_of_a_header(name, text, names, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert voxel_names(tmp_path / name) == names


def test_a_volume_of_one_file_is_known_by_that(tmp_path, slices):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(tmp_path / "a.nii.gz"))
    for path in (tmp_path / "a.nii.gz", write_dicom(*slices, tmp_path / "d")):
        assert volume_sha256(path) == sha256_of(path)
    with pytest.raises(InputError, match="cannot be read"):
        volume_sha256(tmp_path / "none.mhd")


def test_reading_says_nothing_and_leaves_itk_as_it_was(tmp_path, capfd):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([1, 1, 2, 1]))
    image.set_qform(np.diag([3, 3, 3, 1]), 1)  # ITK warns of a qform that differs from the sform
    image.to_filename(tmp_path / "a.nii.gz")
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    read_volume(tmp_path / "a.nii.gz")
    assert capfd.readouterr() == ("", "")
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads


def test_simpleitk_is_imported_only_when_something_is_read():
    code = "import sys, BrainSegSAMLib.cases, BrainSegSAMLib.segmentation_files; sys.exit('SimpleITK' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_real_volumes_are_read_where_slicer_would_place_them(shared_data):
    for name in ("deep_gray/subject1/labels.nii.gz", "tof/topcow_crop/tof.nii.gz", "ms/patient07/GOLD_STANDARD.nii.gz"):
        array, grid = read_volume(shared_data / name)
        oracle = sitk.ReadImage(str(shared_data / name))
        assert np.array_equal(array, sitk.GetArrayViewFromImage(oracle))
        corner = tuple(n - 1 for n in grid.size_ijk)
        np.testing.assert_allclose(grid.to_lps(corner), oracle.TransformIndexToPhysicalPoint(corner), atol=1e-6)
        assert grid.orientation == ("ILA" if "deep_gray" in name else grid.orientation)
