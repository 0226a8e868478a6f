"""The panel with the real command line as its child."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def add_volume(scene):
    """Maker of volume nodes from an array (z, y, x) on a Geometry."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    def add(name, array, geometry):
        image = vtk.vtkImageData()
        image.SetDimensions(*geometry.size_ijk)
        image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(geometry.ijk_to_ras.ravel().tolist())
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(name)
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(matrix)
        return scene.AddNode(node)

    return add


def test_the_command_lines_own_error_reaches_the_user(widget, volume, bench, dialogs):
    """The toy model's weights are changed after it was described: the real command line refuses them."""
    from BrainSegSAMLib.models.catalogue import find_model

    (find_model("toy") / "weights.bin").write_bytes(b"other")
    widget.logic.worker = None  # the module's own
    volume("a_flair")
    volume("a_t1ce", seed=1)
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    widget.ui.applyButton.click()
    assert bench.wait_until(lambda: not widget.logic.running and not widget.ui.progressBar.visible)
    ((_, text),) = dialogs.messages
    dialogs.messages.clear()
    assert "weights.bin" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_the_bundled_model_segments_a_synthetic_tumour(module, scene, add_volume, dialogs):
    """From volume nodes under a parent transform to segments on the lesion that was drawn in."""
    import vtk

    from BrainSegSAMLib import mrml
    from BrainSegSAMLib.geometry import Geometry
    from BrainSegSAMLib.phantom import make_phantom

    phantom = make_phantom(3)
    geometry = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm)
    transform = vtk.vtkTransform()
    transform.Translate(12, -7, 3)
    transform.RotateWXYZ(20, 0, 1, 1)
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    parent.SetMatrixTransformToParent(transform.GetMatrix())
    nodes = {modality: add_volume(modality, array, geometry) for modality, array in phantom.channels.items()}
    for node in nodes.values():
        node.SetAndObserveTransformNodeID(parent.GetID())
    result = module.BrainSegSAMLogic().predict(nodes, model="glioma-nnunet-tiny", device="cpu")
    assert result.GetTransformNodeID() == parent.GetID()
    world = mrml.volume_node_geometry(nodes["flair"])
    found = mrml.node_to_segmentation(result, geometry=world).mask("Whole tumour")
    truth = phantom.labels > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= 0.7
