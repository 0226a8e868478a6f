from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from BrainSegSAMLib.errors import InputError, OutputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.itk import image_of
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology
from BrainSegSAMLib.resample import resample_segmentation
from BrainSegSAMLib.segmentation_files import read_segmentation, write_label_map, write_seg_nrrd

LESION = Code("SCT", "49755003", "Morphologically Altered Structure")
NEOPLASM = Code("SCT", "86049000", "Neoplasm, Primary")
EDEMA = Code("SCT", "79654002", "Edema")
BRAIN = Code("SCT", "12738006", "Brain")
TUMOUR = LabelScheme(
    (
        Region("Whole tumour", (1, 2, 3), (255, 120, 1), Terminology(LESION, NEOPLASM, BRAIN)),
        Region("Tumour core", (1, 3), (0, 17, 254), Terminology(LESION, NEOPLASM)),
        Region("Ödem: ganz \\ außen", (2,), (86, 180, 233), Terminology(LESION, EDEMA, BRAIN)),
        Region("Enhancing tumour", (3,), (9, 8, 7), Terminology(LESION, NEOPLASM, BRAIN)),
    )
)


@pytest.fixture
def tumour(oblique_grid):
    """Asymmetric, touching the grid's first and last voxel; every label occurs."""
    label_map = np.zeros(oblique_grid.shape_zyx, np.uint8)
    label_map[1:6, 2:8, 3:10] = 2
    label_map[2:4, 3:7, 4:8] = 1
    label_map[3, 3:5, 5:9] = 3
    label_map[0, 0, 0] = 2
    label_map[-1, -1, -1] = 3
    return Segmentation(oblique_grid, TUMOUR, label_map, "tumour")


def same(found, expected):
    assert found.geometry.difference(expected.geometry) == ""
    assert found.scheme.names == expected.scheme.names
    for region, mask in expected.masks():
        np.testing.assert_array_equal(found.mask(region.name), mask)
        assert found.scheme[region.name].colour_rgb == region.colour_rgb
        assert found.scheme[region.name].terminology == region.terminology


def test_overlapping_segments_come_back_with_all_they_carry(tumour, tmp_path):
    write_seg_nrrd(tumour, tmp_path / "a.seg.nrrd")
    same(read_segmentation(tmp_path / "a.seg.nrrd"), tumour)


def test_on_the_same_scheme_the_label_map_comes_back_as_it_was(tumour, tmp_path):
    write_seg_nrrd(tumour, tmp_path / "a.seg.nrrd")
    found = read_segmentation(tmp_path / "a.seg.nrrd", TUMOUR)
    np.testing.assert_array_equal(found.label_map, tumour.label_map)
    assert found.scheme == TUMOUR


def test_regions_that_do_not_overlap_share_a_layer_and_keep_their_values(tumour, tmp_path):
    plain = Segmentation(tumour.geometry, LabelScheme.plain({"NCR": 1, "ED": 2, "ET": 3}), tumour.label_map)
    write_seg_nrrd(plain, tmp_path / "a.seg.nrrd")
    assert sitk.ReadImage(str(tmp_path / "a.seg.nrrd")).GetNumberOfComponentsPerPixel() == 1
    found = read_segmentation(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(found.label_map, tumour.label_map)
    assert [region.labels for region in found.scheme.regions] == [(1,), (2,), (3,)]
    write_seg_nrrd(tumour, tmp_path / "b.seg.nrrd")
    assert sitk.ReadImage(str(tmp_path / "b.seg.nrrd")).GetNumberOfComponentsPerPixel() == 3


def test_the_same_segmentation_is_the_same_file(tumour, tmp_path):
    write_seg_nrrd(tumour, tmp_path / "a.seg.nrrd")
    write_seg_nrrd(tumour, tmp_path / "b.seg.nrrd")
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()


@given(data=st.data())
def test_any_set_of_masks_survives(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.seg.nrrd"
    shape = (2, 3, 4)
    count = data.draw(st.integers(1, 5))
    bits = data.draw(st.lists(st.integers(0, 2**24 - 1), min_size=count, max_size=count))
    voxels = [np.array([value >> bit & 1 for bit in range(24)], bool).reshape(shape) for value in bits]
    masks = {f"Segment {i}": mask for i, mask in enumerate(voxels)}
    segmentation = Segmentation.from_masks(Geometry.axis_aligned(shape), masks)
    write_seg_nrrd(segmentation, path)
    found = read_segmentation(path)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found.mask(name), mask)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nii.gz", "a.mha"])
def test_large_label_values(dtype, name, tmp_path):
    label_map = np.zeros((3, 4, 5), dtype)
    label_map[1, 2, 3], label_map[0, 0, 1] = 1024, 65535
    scheme = LabelScheme.plain({"thalamus": 1024, "last": 65535})
    segmentation = Segmentation(Geometry.axis_aligned((3, 4, 5)), scheme, label_map)
    (write_seg_nrrd if "seg" in name else write_label_map)(segmentation, tmp_path / name)
    np.testing.assert_array_equal(read_segmentation(tmp_path / name, scheme).label_map, label_map)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_every_door_of_label_maps_keeps_every_voxel_in_its_place(name, tumour, tmp_path):
    write_label_map(tumour, tmp_path / name)
    same(read_segmentation(tmp_path / name, TUMOUR), tumour)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_slightly_skewed_grid_can_still_be_written(tmp_path):
    direction = np.eye(3)
    direction[0, 1] = 5e-4  # hand-rounded direction cosines
    grid = Geometry((5, 4, 3), (1, 1, 1), (0, 0, 0), direction)
    segmentation = Segmentation(grid, LabelScheme.plain({"a": 1}), np.ones((3, 4, 5), np.uint8))
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        write_label_map(segmentation, tmp_path / name)
        assert read_segmentation(tmp_path / name).geometry.difference(grid) == ""


def test_a_label_map_without_a_scheme_gets_plain_names(tumour, tmp_path):
    write_label_map(tumour, tmp_path / "a.nii.gz")
    found = read_segmentation(tmp_path / "a.nii.gz")
    assert found.scheme.names == ("Label 1", "Label 2", "Label 3")
    empty = Segmentation(tumour.geometry, TUMOUR, np.zeros_like(tumour.label_map))
    write_label_map(empty, tmp_path / "b.nii.gz")
    assert not read_segmentation(tmp_path / "b.nii.gz").label_map.any()


@pytest.mark.parametrize(
    ("values", "words"),
    [([0, 1.5], "not whole numbers"), ([0, -1], "run from -1"), ([0, 70000], "run from 0"), ([0, 7], "values 7, ")],
)
def test_what_is_no_label_map_of_the_scheme_is_refused(values, words, tmp_path):
    array = np.resize(np.array(values), (2, 3, 4))
    sitk.WriteImage(image_of(array, Geometry.axis_aligned((2, 3, 4))), str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match=rf"a\.nrrd .*{words}"):
        read_segmentation(tmp_path / "a.nrrd", TUMOUR)


def test_a_float_label_map_of_whole_numbers_is_read(tmp_path):
    array = np.resize(np.array([0.0, 2.0]), (2, 3, 4))
    sitk.WriteImage(image_of(array, Geometry.axis_aligned((2, 3, 4))), str(tmp_path / "a.nii.gz"))
    assert read_segmentation(tmp_path / "a.nii.gz").label_map.dtype == np.uint8


def test_segments_that_do_not_fit_the_scheme_are_refused(tumour, tmp_path):
    write_seg_nrrd(tumour, tmp_path / "a.seg.nrrd")
    with pytest.raises(InputError, match="lacks the segment Lesion; it has Whole tumour, "):
        read_segmentation(tmp_path / "a.seg.nrrd", LabelScheme.plain({"Lesion": 1}))
    apart = LabelScheme.plain({"Whole tumour": 1, "Tumour core": 2})
    with pytest.raises(InputError, match="Tumour core and Whole tumour, a combination"):
        read_segmentation(tmp_path / "a.seg.nrrd", apart)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=x", "segment 'Tumour core' is damaged"),
        (b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=0", "segment 'Tumour core' is damaged"),
        (b"Segment1_Color:=", b"Segment1_Color:=1 ", "segment 'Tumour core' is damaged"),
        (b"Segment1_Layer:=1", b"Segment1_Layer:=7", "names more layers"),
        (b"_LabelValue", b"_Something", "does not say which segments"),
    ],
)
def test_a_damaged_description_is_refused(old, new, words, tumour, tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_seg_nrrd(tumour, path)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=words):
        read_segmentation(path)


def test_segments_of_one_name_are_told_apart(tumour, tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_seg_nrrd(tumour, path)
    path.write_bytes(path.read_bytes().replace(b"_Name:=Enhancing tumour", b"_Name:=Tumour core"))
    assert read_segmentation(path).scheme.names[1::2] == ("Tumour core", "Tumour core (2)")


def test_names_that_slicer_would_not_take_are_refused(tumour, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.seg\.nrrd"):
        write_seg_nrrd(tumour, tmp_path / "a.nrrd")
    with pytest.raises(InputError, match=r"use one of \.nii\.gz"):
        write_label_map(tumour, tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.seg.nrrd"])
def test_a_full_disk_leaves_no_file(name, tiny_disk):
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64)).astype(np.uint8)
    scheme = LabelScheme.plain({f"Label {value}": value for value in range(1, 255)})
    segmentation = Segmentation(Geometry.axis_aligned((40, 64, 64)), scheme, noise)
    with pytest.raises(OutputError, match=f"{name} cannot be written.*disk is"):
        (write_seg_nrrd if "seg" in name else write_label_map)(segmentation, tiny_disk / name)
    assert not list(tiny_disk.iterdir())


def test_a_folder_that_cannot_be_written_is_an_output_error(tumour, tmp_path):
    (tmp_path / "file").write_text("")
    for write, name in ((write_seg_nrrd, "a.seg.nrrd"), (write_label_map, "a.nii.gz")):
        with pytest.raises(OutputError, match="not a folder"):
            write(tumour, tmp_path / "file" / name)


# ---- Slicer's own reader and writer --------------------------------------------------------------------------------


@pytest.fixture
def scene():
    slicer = pytest.importorskip("slicer", reason="The MRML libraries of slicer-core are not installed.")
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(scene)
    return scene, logic


def slicer_mask(segment, grid):
    """A segment's voxels on the whole grid, which must be the segment's own up to cropping."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    image = segment.GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ijk_to_ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    np.testing.assert_allclose(ijk_to_ras, grid.ijk_to_ras, atol=1e-6)
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    part = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    mask = np.zeros(grid.shape_zyx, bool)
    mask[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = part == segment.GetLabelValue()
    return mask


def slicer_node(scene, path, how):
    scene, logic = scene
    if how == "logic":
        return logic.LoadSegmentationFromFile(str(path), True, "node")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


@pytest.mark.slicer
@pytest.mark.parametrize("how", ["logic", "storage node"])
def test_slicer_reads_what_is_written_here(how, tumour, tmp_path, scene):
    write_seg_nrrd(tumour, tmp_path / "a.seg.nrrd")
    segmentation = slicer_node(scene, tmp_path / "a.seg.nrrd", how).GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 4
    assert segmentation.GetSourceRepresentationName() == "Binary labelmap"
    for index, region in enumerate(TUMOUR.regions):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == region.name
        assert [round(c * 255) for c in segment.GetColor()] == list(region.colour_rgb)
        assert Terminology.from_slicer_entry(segment.GetTerminology()) == region.terminology
        np.testing.assert_array_equal(slicer_mask(segment, tumour.geometry), tumour.mask(region.name))


@pytest.mark.slicer
def test_what_slicer_writes_is_read_here(tumour, tmp_path, scene):
    write_seg_nrrd(tumour, tmp_path / "a.seg.nrrd")
    node = slicer_node(scene, tmp_path / "a.seg.nrrd", "logic")
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    storage = scene[0].AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "slicer.seg.nrrd"))
    storage.SetCropToMinimumExtent(True)
    assert storage.WriteData(node)
    same(resample_segmentation(read_segmentation(tmp_path / "slicer.seg.nrrd"), tumour.geometry), tumour)
    same(resample_segmentation(read_segmentation(tmp_path / "slicer.seg.nrrd", TUMOUR), tumour.geometry), tumour)


@pytest.mark.slicer
def test_a_segment_that_slicer_cropped_to_one_corner_goes_back_to_its_place(oblique_grid, tmp_path, scene):
    label_map = np.zeros(oblique_grid.shape_zyx, np.uint8)
    label_map[5, 2, 8] = 1
    point = Segmentation(oblique_grid, LabelScheme.plain({"point": 1}), label_map)
    write_seg_nrrd(point, tmp_path / "a.seg.nrrd")
    node = slicer_node(scene, tmp_path / "a.seg.nrrd", "storage node")
    storage = scene[0].AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "slicer.seg.nrrd"))
    storage.SetCropToMinimumExtent(True)
    assert storage.WriteData(node)
    found = read_segmentation(tmp_path / "slicer.seg.nrrd")
    assert found.label_map.size < label_map.size
    np.testing.assert_array_equal(resample_segmentation(found, oblique_grid).mask("point"), label_map == 1)
