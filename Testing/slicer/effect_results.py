"""What the tests of results that enter a segment share: an active effect, the door to its segments, and objects."""

from __future__ import annotations

import numpy as np
import pytest

EFFECT = "BrainSegSAM nnU-Net"


@pytest.fixture
def effect(editor):
    """The host of an active effect."""
    editor.setActiveEffectByName(EFFECT)
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
    return {region.name: mask for region, mask in found.masks()}[name]


def box(shape, *bounds):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


SHAPE = (20, 36, 40)  # of the editor's source volume
BLOCK = box(SHAPE, (3, 9), (5, 20), (10, 30))
OTHER = box(SHAPE, (5, 15), (10, 30), (5, 15))


def fill(effect, door, mask, *, add=False):
    target = door.Target.of(effect)
    door.fillSegment(effect, target, target.labelmap(mask, target.sourceGeometry), add=add)


@pytest.fixture
def occupied(editor, effect, door):
    """Segment B holds OTHER; A is selected."""
    editor.setCurrentSegmentID("B")
    fill(effect, door, OTHER)
    editor.setCurrentSegmentID("A")
    return editor
