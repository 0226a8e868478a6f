"""The guard of this folder fires: what VTK complains about is seen."""

from __future__ import annotations

import pytest

slicer = pytest.importorskip("slicer")


def test_vtk_errors_are_seen(vtk_complaints):
    (complaint,) = vtk_complaints(lambda: slicer.vtkSegmentation().AddSegment(None))
    assert "Invalid segment" in complaint
    assert not vtk_complaints(lambda: slicer.vtkSegmentation().RemoveAllSegments())
