"""From volume nodes through a model to a segmentation node: the same place in the world, however voxels are stored."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.mrml import image_from_volume_nodes, node_to_segmentation, segmentation_to_node

PLAIN = Geometry((18, 24, 10), (1.4, 1.0, 3.0), (-12.0, -20.0, 5.0), np.eye(3))  # anisotropic
CHANNELS = dict(zip(("flair", "t1ce"), np.random.default_rng(5).uniform(1, 900, (2, *PLAIN.shape_zyx)), strict=True))


@pytest.fixture(scope="module")
def predictor(random_model):
    return load_predictor(random_model)


@pytest.mark.parametrize("stored", ["LPS", "RAS", "ILA"])
@pytest.mark.parametrize("oblique_degrees", [0, 12])
@pytest.mark.parametrize("parent_degrees", [None, 18])
def test_a_prediction_lies_where_its_plain_twins_does(
    predictor, make, rotation, stored, oblique_degrees, parent_degrees
):
    acquired = rotation((2, -1, 3), oblique_degrees, (11, -4, 6))
    moved = np.eye(4)
    grid, order = PLAIN.moved_ras(acquired).reoriented(stored)
    nodes = {
        name: make.volume(order.apply(array.astype(np.float32)), grid.ijk_to_ras, name=name)
        for name, array in CHANNELS.items()
    }
    if parent_degrees is not None:
        moved = rotation((1, 2, -1), parent_degrees, (30, 25, -40))
        parent = make.transform(moved)
        for node in nodes.values():
            node.SetAndObserveTransformNodeID(parent.GetID())
    twin = predictor.predict(
        image_from_volume_nodes({n: make.volume(a.astype(np.float32), PLAIN.ijk_to_ras) for n, a in CHANNELS.items()})
    )

    image = image_from_volume_nodes(nodes)
    found = node_to_segmentation(segmentation_to_node(predictor.predict(image), nodes["flair"]))

    to_world_ras = moved @ acquired
    for region in twin.scheme.names:
        expected_ijk = np.argwhere(twin.mask(region))[:, ::-1]
        expected_ras = np.c_[expected_ijk, np.ones(len(expected_ijk))] @ (to_world_ras @ PLAIN.ijk_to_ras).T
        lps = expected_ras[:, :3] * (-1, -1, 1)
        mask = found.mask(region)
        i, j, k = np.rint(found.geometry.to_ijk(lps)).astype(int).T
        overlap = np.count_nonzero(mask[k, j, i])
        assert 2 * overlap / (len(expected_ijk) + np.count_nonzero(mask)) == 1.0, "Dice after mapping"
        centroid = found.geometry.to_lps(np.argwhere(mask)[:, ::-1]).mean(axis=0)
        np.testing.assert_allclose(centroid, lps.mean(axis=0), atol=1e-3)
