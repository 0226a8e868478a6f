"""A new result in place of an older one: of its own object, on the slices that were followed, where masks allow it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.labels import Region
from Testing.slicer.results import BLOCK, EFFECT, OTHER, SHAPE, box, fill, rotation, transform, voxels


@pytest.fixture
def effect(editor):
    """The host of an active effect."""
    editor.setActiveEffectByName(EFFECT)
    return editor.activeEffect()


@pytest.fixture
def door(editor):
    from BrainSegSAMEffects import EffectResult

    return EffectResult


@pytest.fixture
def occupied(editor, effect, door):
    """Segment B holds OTHER; A is selected."""
    editor.setCurrentSegmentID("B")
    fill(effect, door, OTHER)
    editor.setCurrentSegmentID("A")
    return editor


OLD = box(SHAPE, (2, 12), (8, 24), (14, 34))  # of the same object as BLOCK
LESION = box(SHAPE, (4, 8), (2, 4), (2, 6))  # another one
HERE = range(3, 10)  # slices that were followed: all of BLOCK's, not all of OLD's


def on_slices(mask, slices):
    kept = np.zeros_like(mask)
    kept[list(slices)] = mask[list(slices)]
    return kept


def replace(effect, door, mask, slices=HERE, plane="axial"):
    target = door.Target.of(effect)
    labelmap = target.labelmap(mask, target.sourceGeometry)
    upright = target.sourceGeometry.reoriented("LPS")[0]
    removed = door.sameObject(target, labelmap, upright, plane, slices)
    door.fillSegment(effect, target, labelmap, add=True, removed=removed)


def test_a_result_takes_the_place_of_its_object_alone(editor, effect, door):
    """Of that object what lies on other slices stays, and other objects stay everywhere."""
    before = OLD | LESION
    fill(effect, door, before)
    replace(effect, door, BLOCK)
    assert np.array_equal(voxels(editor, "A"), (before & ~on_slices(OLD, HERE)) | BLOCK)
    editor.undo()
    assert np.array_equal(voxels(editor, "A"), before)
    editor.redo()
    replace(effect, door, np.zeros(SHAPE, dtype=bool))
    assert np.array_equal(voxels(editor, "A"), (before & ~on_slices(OLD, HERE)) | BLOCK), "nothing in place of nothing"


@pytest.mark.parametrize(("plane", "axis", "slices", "stored"), [
    ("axial", 0, range(5, 9), range(5, 9)), ("coronal", 1, range(14, 24), range(12, 22)),
    ("sagittal", 2, range(4, 12), range(28, 36)),
])  # fmt: skip
def test_slices_are_those_of_the_plane_on_axes_lps(editor, effect, door, plane, axis, slices, stored):
    """The volume is stored RAS, so coronal and sagittal slices are counted against its voxels."""
    fill(effect, door, OLD)
    replace(effect, door, BLOCK, slices, plane)
    gone = np.moveaxis(on_slices(np.moveaxis(OLD, axis, 0), stored), 0, axis) & ~BLOCK
    assert gone.any()
    assert np.array_equal(voxels(editor, "A"), (OLD & ~gone) | BLOCK)


AREAS = {
    "EditAllowedEverywhere": np.ones(SHAPE, dtype=bool),
    "EditAllowedInsideSingleSegment": OTHER,
    "EditAllowedInsideAllSegments": OTHER | OLD | LESION,
    "EditAllowedOutsideAllSegments": ~OTHER,
}


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("by_intensity", [False, True])
@pytest.mark.parametrize("overwrite", ["OverwriteAllSegments", "OverwriteNone"])
def test_replacing_honours_masks_and_leaves_other_segments_alone(occupied, effect, door, area, by_intensity, overwrite):
    """Slicer's own eraser would reach beyond the mask here, and give what it erases to the segment that is the mask."""
    import slicer

    from BrainSegSAMLib import mrml

    parameters = occupied.mrmlSegmentEditorNode()
    parameters.SetOverwriteMode(parameters.OverwriteNone)
    before = OLD | LESION
    fill(effect, door, before)  # overlaps B
    parameters.SetOverwriteMode(getattr(parameters, overwrite))
    parameters.SetMaskMode(getattr(slicer.vtkMRMLSegmentationNode, area))
    parameters.SetMaskSegmentID("B")
    parameters.SetSourceVolumeIntensityMask(by_intensity)
    parameters.SetSourceVolumeIntensityMaskRange(90.0, 110.0)
    intensities, _ = mrml.read_volume_node(occupied.sourceVolumeNode())
    allowed = AREAS[area] & (((intensities >= 90) & (intensities <= 110)) | (not by_intensity))
    replace(effect, door, BLOCK)
    gone, added = on_slices(OLD, HERE) & ~BLOCK & allowed, BLOCK & allowed
    assert gone.any()
    assert added.any()
    assert np.array_equal(voxels(occupied, "A"), (before & ~gone) | added)
    assert np.array_equal(voxels(occupied, "B"), OTHER if overwrite == "OverwriteNone" else OTHER & ~added)
    occupied.undo()
    assert np.array_equal(voxels(occupied, "A"), before)
    assert np.array_equal(voxels(occupied, "B"), OTHER)


def test_replacing_on_another_grid_leaves_no_crumbs(editor, effect, door, volume):
    """The segmentation's voxels are finer than the volume's; the older object ends between two of the volume's."""
    fine = volume("fine", size=(80, 72, 40))
    source = editor.sourceVolumeNode()
    fine.SetSpacing(*[s / 2 for s in source.GetSpacing()])
    fine.SetOrigin(*[o - s / 4 for o, s in zip(source.GetOrigin(), source.GetSpacing(), strict=True)])
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(fine)
    from BrainSegSAMLib import mrml

    target = door.Target.of(effect)
    old = box((40, 72, 80), (6, 20), (11, 47), (21, 67))  # odd: half a voxel of the volume's
    other = box((40, 72, 80), (6, 20), (2, 6), (2, 6))
    door.fillSegment(effect, target, target.labelmap(old | other, mrml.volume_node_geometry(fine)))
    replace(effect, door, BLOCK, range(20))
    found = next(mask for region, mask in mrml.node_to_segmentation(
        editor.segmentationNode(), geometry=mrml.volume_node_geometry(fine)).masks() if region.name == "A")
    expected = other | np.kron(BLOCK, np.ones((2, 2, 2), dtype=bool))
    assert np.array_equal(found, expected)


def test_pieces_are_those_of_scipy(bench):
    """Voxels that touch at a corner belong together."""
    from BrainSegSAMEffects.Labelmaps import connectedPieces
    from scipy import ndimage

    for density in (0.0, 0.03, 0.08, 0.2, 1.0):
        mask = np.random.default_rng(1).random((9, 14, 11)) < density
        pieces, count = connectedPieces(mask)
        expected, number = ndimage.label(mask, np.ones((3, 3, 3)))
        assert count == number
        assert np.array_equal(pieces > 0, mask)
        assert len(np.unique(np.stack([pieces[mask], expected[mask]]), axis=1).T) == number, "one for one"


def test_replacing_imports_nothing_big(editor, effect, door, monkeypatch):
    """Importing scipy takes 0.2 s, in which the interface would stand still."""
    for name in ("scipy", "scipy.ndimage"):
        monkeypatch.setitem(sys.modules, name, None)
    fill(effect, door, OLD)
    replace(effect, door, BLOCK)
    assert np.array_equal(voxels(editor, "A"), (OLD & ~on_slices(OLD, HERE)) | BLOCK)


def tilt(degrees):
    """4x4 about the axis R."""
    turned = np.eye(4)
    turned[1:3, 1:3] = rotation(degrees)[:2, :2]
    return turned


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("matrix", [None, rotation(30), tilt(20), rotation(30) @ tilt(20)])
@pytest.mark.parametrize("which", ["few", "all", "none"])
def test_the_same_object_on_slices_that_lie_askew(editor, effect, door, scene, plane, matrix, which):
    """The segmentation's voxels may lie in any way to the slices; looking at every voxel is the oracle."""
    from scipy import ndimage

    from BrainSegSAMLib.mrml.spaces import image_to_ras, parent_to_world
    from BrainSegSAMLib.prompts import PLANES

    node = editor.segmentationNode()
    if matrix is not None:
        node.SetAndObserveTransformNodeID(transform(scene, matrix).GetID())
    fill(effect, door, OLD | LESION)
    target = door.Target.of(effect)
    upright = target.sourceGeometry.reoriented("LPS")[0]
    labelmap = target.labelmap(BLOCK, target.sourceGeometry)
    image = node.GetSegmentation().GetSegment("A").GetRepresentation("Binary labelmap")
    k, j, i = np.indices(door.arrayOf(image).shape).reshape(3, -1) + np.array(image.GetExtent()[4::-2])[:, None]
    place = np.linalg.inv(upright.ijk_to_ras) @ parent_to_world(node) @ image_to_ras(image) @ [i, j, k, np.ones(len(i))]
    number = np.rint(place[2 - PLANES[plane]]).astype(int).reshape(door.arrayOf(image).shape)
    occupied = np.unique(number[door.arrayOf(image) > 0])
    middle = len(occupied) // 2
    slices = {"few": occupied[middle : middle + 3], "all": occupied, "none": occupied + 100}[which].tolist()
    found = door.sameObject(target, labelmap, upright, plane, slices)
    pieces, _count = ndimage.label((door.arrayOf(image) > 0) & np.isin(number, slices), np.ones((3, 3, 3)))
    result = door.arrayOf(door.onGrid(labelmap, image)) > 0
    expected = np.isin(pieces, np.setdiff1d(pieces[result], [0])) & ~result
    kept = door.arrayOf(door.onGrid(found, image)) > 0
    assert np.array_equal(kept, expected)
    assert expected.any() == (which != "none")


def test_a_refused_segment_is_said(editor, effect, door):
    class Fussy:
        def __getattr__(self, name):
            return getattr(editor.segmentationNode().GetSegmentation(), name)

        def AddSegment(self, segment, segment_id):
            return False

    grid = door.Target.of(effect).grid
    with pytest.raises(InputError, match=r"refused the segment 'Core'\. Press Undo"):
        door._addSegment(Fussy(), Region("Core", (2,), (255, 0, 0)), door.zeros(grid))
