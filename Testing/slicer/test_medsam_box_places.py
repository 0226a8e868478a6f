"""The MedSAM box effect and where things lie: other grids, transforms, masks, and volumes that it cannot use."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.slicer.interactive import (
    ball,
    centre_view,
    done,
    voxels,
)


@pytest.fixture
def effect(choose_effect):
    return choose_effect("BrainSegSAM MedSAM box", "a-boxes")


@pytest.fixture
def source(ball_volume):
    return ball_volume


def test_an_oblique_view_and_transforms(bench, editor, layout, effect, source, mouse, scene):
    """A tilted view of a volume under a transform, into a segmentation under another one."""
    import vtk

    def transform(name, degrees, shift):
        matrix = vtk.vtkTransform()
        matrix.Translate(*shift)
        matrix.RotateWXYZ(degrees, 1, 2, 3)
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        node.SetMatrixTransformToParent(matrix.GetMatrix())
        return node

    source.SetAndObserveTransformNodeID(transform("moves the volume", 12, (3, -4, 5)).GetID())
    moved = transform("moves the segmentation", -7, (1, 2, 3))
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


def test_masking_and_overwriting_are_honoured(bench, editor, layout, effect, source, mouse):
    node = editor.mrmlSegmentEditorNode()
    node.SourceVolumeIntensityMaskOn()
    node.SetSourceVolumeIntensityMaskRange(1000, 2000)
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    assert effect.preview.visible
    effect.applyButton.click()
    assert not voxels(editor).any(), "no voxel is in the editable intensity range"
