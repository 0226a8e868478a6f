"""What the tests of results in the Segment Editor share: masks, and where they are put and found again."""

from __future__ import annotations

import numpy as np

EFFECT = "BrainSegSAM nnU-Net"


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


def transform(scene, matrix, name="moved"):
    from BrainSegSAMLib.mrml.spaces import vtk_matrix

    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtk_matrix(np.asarray(matrix, dtype=float)))
    return node


def rotation(degrees, shift=(0, 0, 0)):
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    return matrix
