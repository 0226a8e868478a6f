"""A detector in memory: what it shows its network, and where the boxes that come back lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.boxes import SliceBox
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.yolo_medsam.detector import Detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectionSettings
from BrainSegSAMLib.models.store import Model
from BrainSegSAMLib.prompts import slices_first
from BrainSegSAMLib.training_volumes import ORIENTATION


class BrightBox:
    """Instead of a network: the box around what is brighter than 200 in the first channel, wherever that is."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.shape: tuple[int, ...] = ()

    def detect(self, frames: NDArray[np.uint8], **asked: Any) -> list[SliceBox]:
        self.asked, self.shape = asked, frames.shape
        found = []
        for index, frame in enumerate(frames):
            rows, columns = np.nonzero(frame[0] > 200)
            if len(rows):
                edges = (columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5)
                found.append(SliceBox(index, tuple(map(float, edges)), 0, 0.8))
        return found


def detector(network: BrightBox, **settings: Any) -> Detector:
    model = Model(Path(), "m", "M", "yolo_detector", ("flair",), LabelScheme.plain({"lesion": 1}), "MIT")
    return Detector(model, network, DetectionSettings.from_dict(settings), 0.5, 99.5)  # type: ignore[arg-type]


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    """A grey head with a bright lesion on slices 3 to 6, and a bright voxel on slice 8."""
    volume = np.zeros((3, 12, 30, 40), dtype=np.uint8)
    volume[:, 1:11, 6:24, 10:30] = 90
    volume[:, 3:7, 8:12, 20:27] = 250
    volume[:, 8, 20, 12] = 250
    return volume


@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_lesions_lie_in_the_whole_slices(pictures: NDArray[np.uint8], plane: str, head_only: bool) -> None:
    network = BrightBox()
    (lesion,) = detector(network, plane=plane, head_only=head_only).find(pictures)
    bright = slices_first(pictures[0] > 200, plane)
    for item in lesion.boxes:
        rows, columns = np.nonzero(bright[item.index])
        edges = (columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5)
        assert item.box == edges
    assert lesion.confidence == pytest.approx(0.8)
    if plane == "axial":
        assert lesion.slices == (3, 6), "the single slice 8 is dropped"
        assert (network.shape[2:] < (30, 40)) == head_only


def test_settings_reach_the_network(pictures: NDArray[np.uint8]) -> None:
    network = BrightBox()
    settings = {"image_size": 96, "confidence": 0.4, "overlap": 0.3, "link": {"minimum_slices": 1}}
    assert len(detector(network, **settings).find(pictures)) == 2
    asked = {name: network.asked[name] for name in ("image_size", "confidence", "overlap")}
    assert asked == {"image_size": 96, "confidence": 0.4, "overlap": 0.3}


def test_nothing_found_is_no_lesion(pictures: NDArray[np.uint8]) -> None:
    assert detector(BrightBox()).find(np.minimum(pictures, 100)) == ()


def test_a_volume_stored_otherwise_gives_the_same_lesion_in_space() -> None:
    labels = np.zeros((12, 30, 40), dtype=np.float32)
    labels[1:11, 6:24, 10:30] = 90 + np.random.default_rng(0).random((10, 18, 20))
    labels[3:7, 8:12, 20:27] = 900
    plain = Geometry.axis_aligned((12, 30, 40), (4.0, 1.0, 2.0), (3.0, 2.0, 1.0))
    axes = np.array([[0, 0, 1.0], [0, -1.0, 0], [-1.0, 0, 0]])  # stored I, A, L
    turned = Geometry((12, 30, 40), (4.0, 1.0, 2.0), (-70.0, 40.0, 9.0), axes)
    network = detector(BrightBox())
    found = []
    for grid in (plain, turned):
        geometry, order = grid.reoriented(ORIENTATION)
        stored = Image(grid, {"flair": order.undo(labels)})
        brought = Image(geometry, {"flair": order.apply(stored.channels["flair"])})
        (lesion,) = network.find(network.picture(brought))
        column0, row0, column1, row1 = lesion.box
        corners = [(column0, row0, lesion.slices[0]), (column1, row1, lesion.slices[1])]
        found.append(geometry.to_lps(corners) - geometry.centre_lps_mm)
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)


def test_an_image_without_the_modality_is_refused() -> None:
    grid = Geometry.axis_aligned((2, 3, 4), (1.0, 1.0, 1.0))
    image = Image(grid, {"t1": np.ones((2, 3, 4), dtype=np.float32)}, "patient 7")
    with pytest.raises(InputError, match="patient 7: The image lacks flair"):
        detector(BrightBox()).picture(image)
