"""What becomes of a result: masks, overwriting, undo, other geometries, transforms, and targets that are gone."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.labels import Region


@pytest.fixture
def effect(editor):
    """The host of an active effect."""
    editor.setActiveEffectByName("BrainSegSAM nnU-Net")
    return editor.activeEffect()


@pytest.fixture
def door(editor):
    from BrainSegSAMEffects import EffectResult

    return EffectResult


def voxels(editor, name):
    """Bool (z, y, x) of a segment on the source volume's voxels."""
    from BrainSegSAMLib import mrml

    node = editor.segmentationNode()
    found = mrml.node_to_segmentation(node, geometry=mrml.volume_node_geometry(editor.sourceVolumeNode()))
    return dict((region.name, mask) for region, mask in found.masks())[name]


def box(target, *bounds):
    mask = np.zeros(target.sourceGeometry.shape_zyx, dtype=bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


def test_a_result_fills_the_selected_segment_and_undo_takes_it_back(editor, effect, door):
    target = door.Target.of(effect)
    mask = box(target, (3, 9), (5, 20), (10, 30))
    door.fillSegment(effect, target, target.labelmap(mask, target.sourceGeometry))
    assert np.array_equal(voxels(editor, "A"), mask)
    editor.undo()
    assert not voxels(editor, "A").any()
    editor.redo()
    assert np.array_equal(voxels(editor, "A"), mask)


def test_being_built(door):
    assert Geometry and InputError and Region
