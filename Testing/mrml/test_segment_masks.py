"""One segment on a grid of one's choice: the same as all segments at once, wherever it lies."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.mrml import node_to_segmentation, segment_mask, segmentation_to_node


def segment_ids(node):
    contents = node.GetSegmentation()
    return {contents.GetNthSegment(index).GetName(): contents.GetNthSegmentID(index)
            for index in range(contents.GetNumberOfSegments())}  # fmt: skip


def test_a_segment_alone_is_what_it_is_among_all(case, ijk_to_ras, parent):
    volume, segmentation = case(ijk_to_ras, parent)
    node = segmentation_to_node(segmentation, volume)
    own = segmentation.geometry
    centre = own.centre_lps_mm
    turned, _ = own.reoriented("RAS")
    other = Geometry.axis_aligned((30, 32, 34), (1.3, 1.1, 0.7), tuple(centre - [12.0, 17.0, 20.0]))
    before = node.GetMTime(), node.GetSegmentation().GetMTime()
    for geometry in (own, turned, other):
        together = node_to_segmentation(node, geometry=geometry)
        for name, segment_id in segment_ids(node).items():
            found = segment_mask(node, segment_id, geometry)
            np.testing.assert_array_equal(found, together.mask(name))
            assert geometry is other or found.any()
    assert (node.GetMTime(), node.GetSegmentation().GetMTime()) == before


def test_a_segment_beside_the_grid_and_an_empty_one(case):
    volume, segmentation = case()
    node = segmentation_to_node(segmentation, volume)
    node.GetSegmentation().AddEmptySegment("empty", "empty")
    segment_id = segment_ids(node)["Whole tumour"]
    far = Geometry.axis_aligned((4, 5, 6), origin_lps_mm=(500.0, 0.0, 0.0))
    assert not segment_mask(node, segment_id, far).any()
    assert not segment_mask(node, "empty", segmentation.geometry).any()
    with pytest.raises(InputError, match="no segment 'none'"):
        segment_mask(node, "none", segmentation.geometry)
