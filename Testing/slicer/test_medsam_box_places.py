"""The MedSAM box effect and where things lie: other grids, transforms, masks, and volumes that it cannot use."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.slicer.interactive import SHAPE, ball, centre_view, done, draw, expected_on, voxels


@pytest.fixture
def effect(choose_effect):
    return choose_effect("BrainSegSAM MedSAM box", "a-boxes")


def test_an_oblique_view_and_transforms(bench, editor, layout, effect, source, mouse, scene):
    """A tilted view of a volume under a transform, into a segmentation under another one."""
    source.SetAndObserveTransformNodeID(transform(scene, 12, (3, -4, 5)).GetID())
    moved = transform(scene, -7, (1, 2, 3))
    editor.segmentationNode().SetAndObserveTransformNodeID(moved.GetID())
    from BrainSegSAMLib import mrml

    grid = mrml.volume_node_geometry(source)
    centre = grid.to_lps((20, 18, 10)) * [-1, -1, 1]
    view = layout.sliceWidget("Green")
    node = view.mrmlSliceNode()
    node.SetSliceToRASByNTP(0.3, 0.9, 0.2, 1, 0.1, -0.3, *centre, 0)
    node.UpdateMatrices()
    across = [node.GetSliceToRAS().GetElement(row, 0) for row in range(3)]
    down = [node.GetSliceToRAS().GetElement(row, 1) for row in range(3)]
    corner = [c + 15 * a + 15 * d for c, a, d in zip(centre, across, down, strict=True)]
    opposite = [c - 15 * a - 15 * d for c, a, d in zip(centre, across, down, strict=True)]
    mouse.drag(view, corner, opposite)
    done(bench, effect)
    assert effect.preview.visible, effect.statusLabel.text
    effect.applyButton.click()
    found = voxels(editor)
    normal = np.array([node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
    indices = np.argwhere(np.ones(grid.shape_zyx))[:, ::-1]
    off = np.abs((grid.to_lps(indices) * [-1, -1, 1] - centre) @ normal).reshape(grid.shape_zyx)
    assert off[found].max() < 2.2, "two voxels' extent at most, as the segmentation is turned against the volume"
    near = ball(grid.shape_zyx) & (off < 0.4)
    assert np.count_nonzero(near & found) > 0.9 * np.count_nonzero(near)
    assert np.count_nonzero(found & ~ball(grid.shape_zyx)) < 0.2 * np.count_nonzero(found)


@pytest.mark.parametrize("mode", ["OverwriteAllSegments", "OverwriteVisibleSegments", "OverwriteNone"])
def test_overwriting_is_as_the_editor_has_it(bench, editor, layout, effect, source, mouse, mode):
    other = np.zeros(SHAPE, bool)
    other[9:12, 10:20, 15:40] = True
    draw(editor, other, "B")
    node = editor.mrmlSegmentEditorNode()
    node.SetOverwriteMode(getattr(node, mode))
    editor.segmentationNode().GetDisplayNode().SetSegmentVisibility("B", False)
    box_and_apply(bench, layout, effect, source, mouse)
    marked = expected_on(SHAPE, 0, 10)
    np.testing.assert_array_equal(voxels(editor), marked)
    taken = marked if mode == "OverwriteAllSegments" else np.zeros(SHAPE, bool)
    np.testing.assert_array_equal(voxels(editor, "B"), other & ~taken)
    editor.undo()
    assert not voxels(editor).any()
    np.testing.assert_array_equal(voxels(editor, "B"), other)


@pytest.mark.parametrize("mode", ["EditAllowedInsideSingleSegment", "EditAllowedOutsideAllSegments"])
def test_the_editable_area_is_honoured(bench, editor, layout, effect, source, mouse, mode):
    import slicer

    other = np.zeros(SHAPE, bool)
    other[9:12, 10:20, 15:40] = True
    draw(editor, other, "B")
    before = expected_on(SHAPE, 0, 4)
    draw(editor, before)
    node = editor.mrmlSegmentEditorNode()
    node.SetMaskMode(getattr(slicer.vtkMRMLSegmentationNode, mode))
    node.SetMaskSegmentID("B")
    node.SetOverwriteMode(node.OverwriteNone)
    box_and_apply(bench, layout, effect, source, mouse)
    allowed = other if mode == "EditAllowedInsideSingleSegment" else ~(other | before)
    np.testing.assert_array_equal(voxels(editor), (expected_on(SHAPE, 0, 10) & allowed) | before)
    np.testing.assert_array_equal(voxels(editor, "B"), other)


def test_the_editable_intensities_are_honoured(bench, editor, layout, effect, source, mouse):
    from vtk.util.numpy_support import vtk_to_numpy

    values = vtk_to_numpy(source.GetImageData().GetPointData().GetScalars()).reshape(SHAPE)
    values[:, :, 20:] += 50  # of the ball: 450
    source.GetImageData().Modified()
    node = editor.mrmlSegmentEditorNode()
    node.SourceVolumeIntensityMaskOn()
    node.SetSourceVolumeIntensityMaskRange(420, 2000)
    box_and_apply(bench, layout, effect, source, mouse)
    expected = expected_on(SHAPE, 0, 10)
    expected[:, :, :20] = False
    np.testing.assert_array_equal(voxels(editor), expected)


def box_and_apply(bench, layout, effect, source, mouse):
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    assert effect.preview.visible
    effect.applyButton.click()
    assert effect.statusLabel.text == "Applied; Undo takes it back."


# ---- segmentations with other voxels


FACTORS = [(1, 1, 4), (2, 2, 2), (3, 1, 1)]


def finer(editor, volume, factors):
    """The segmentation's voxels become the volume's, each cut into so many."""
    source = editor.sourceVolumeNode()
    fine = volume("fine", size=tuple(n * f for n, f in zip((40, 36, 20), factors, strict=True)))
    spacing = [s / f for s, f in zip(source.GetSpacing(), factors, strict=True)]
    fine.SetSpacing(*spacing)
    fine.SetOrigin(*[o - s / 2 + part / 2 for o, s, part in
                     zip(source.GetOrigin(), source.GetSpacing(), spacing, strict=True)])  # fmt: skip
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(fine)


def cut(mask, factors):
    """A mask on such voxels."""
    for axis, factor in zip((2, 1, 0), factors, strict=True):
        mask = mask.repeat(factor, axis=axis)
    return mask


def own_voxels(editor):
    """Bool (z, y, x) of segment A on the segmentation's own voxels, and their grid in world space."""
    from BrainSegSAMLib import mrml

    found = mrml.node_to_segmentation(editor.segmentationNode())
    return found.mask("A"), found.geometry


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("where", [9.7, 10.0, 10.3])
def test_a_box_fills_its_slice_of_a_finer_segmentation(
    bench, editor, layout, effect, source, mouse, volume, factors, where
):
    """All of it, also where the view cuts the slice beside its middle."""
    finer(editor, volume, factors)
    view, low, high = centre_view(layout, source, index=where)
    mouse.drag(view, low, high)
    done(bench, effect)
    effect.applyButton.click()
    np.testing.assert_array_equal(own_voxels(editor)[0], cut(expected_on(SHAPE, 0, 10), factors))
    np.testing.assert_array_equal(voxels(editor), expected_on(SHAPE, 0, 10))


@pytest.mark.parametrize("factors", FACTORS)
def test_proposals_fill_a_finer_segmentation_without_gaps(bench, editor, layout, effect, source, volume, factors):
    finer(editor, volume, factors)
    effect.detectVolumeButton.click()
    done(bench, effect)
    done(bench, effect)
    effect.applyButton.click()
    np.testing.assert_array_equal(own_voxels(editor)[0], cut(ball(SHAPE), factors))


@pytest.mark.parametrize("fine", [(1, 1, 1), (2, 1, 4)])
@pytest.mark.parametrize("how", ["box", "proposals"])
def test_turned_against_each_other_by_two_transforms(
    bench, editor, layout, effect, source, mouse, scene, volume, fine, how
):
    """Each voxel is filled that lies in what was found, and none that is farther from it than it is large."""
    from BrainSegSAMLib import mrml

    source.SetAndObserveTransformNodeID(transform(scene, 12, (3, -4, 5)).GetID())
    editor.segmentationNode().SetAndObserveTransformNodeID(transform(scene, -7, (1, 2, 3)).GetID())
    finer(editor, volume, fine)
    grid = mrml.volume_node_geometry(source)
    if how == "box":
        view = layout.sliceWidget("Red")
        node = view.mrmlSliceNode()
        across, _down, normal = (grid.direction_lps * [[-1], [-1], [1]]).T
        node.SetSliceToRASByNTP(*normal, *across, *world(grid, (20, 18, 10.2)), 0)
        node.UpdateMatrices()
        mouse.drag(view, world(grid, (8, 7, 10.2)), world(grid, (32, 29, 10.2)))
        expected = expected_on(SHAPE, 0, 10)
    else:
        effect.detectVolumeButton.click()
        done(bench, effect)
        expected = ball(SHAPE)
    done(bench, effect)
    assert effect.preview.visible, effect.statusLabel.text
    effect.applyButton.click()
    found, own = own_voxels(editor)
    indices = np.argwhere(np.ones(own.shape_zyx, bool))[:, ::-1]
    at = grid.to_ijk(own.to_lps(indices))
    inside = ((at > -0.5) & (at < np.array(grid.size_ijk) - 0.5)).all(axis=1)
    i, j, k = np.rint(np.clip(at, 0, np.array(grid.size_ijk) - 1)).astype(int).T
    lies_in = (expected[k, j, i] & inside).reshape(own.shape_zyx)
    sure = (np.abs(at - np.rint(at)).max(axis=1) < 0.49).reshape(own.shape_zyx)
    assert np.count_nonzero(lies_in) > 200
    assert found[lies_in & sure].all(), "no gaps"
    # A voxel of the segmentation reaches across the slices at most half its diagonal beyond a slice.
    beyond = (np.linalg.norm(own.spacing_ijk_mm) / 2 + 1.0) / 2.0
    grown = np.zeros(SHAPE, bool)
    for step in range(-int(np.ceil(beyond)), int(np.ceil(beyond)) + 1):
        grown |= np.roll(expected, step, axis=0)
    assert grown[k, j, i].reshape(own.shape_zyx)[found & sure].all()


def world(grid, ijk):
    return grid.to_lps(ijk) * [-1, -1, 1]


def transform(scene, degrees, shift):
    import vtk

    matrix = vtk.vtkTransform()
    matrix.Translate(*shift)
    matrix.RotateWXYZ(degrees, 1, 2, 3)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(matrix.GetMatrix())
    return node
