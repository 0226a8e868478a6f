"""YOLO networks: sizes, weights, boxes as Ultralytics itself finds them, and no traces outside this process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

# Not by importing it: that is done offline, by the library.
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("Detectors need the extra [detection].", allow_module_level=True)

from BrainSegSAMLib.backends import yolo_package
from BrainSegSAMLib.backends.checkpoints import save_checkpoint
from BrainSegSAMLib.backends.yolo import YoloDetector, load
from BrainSegSAMLib.backends.yolo_architecture import OFFICIAL, YoloArchitecture, named
from BrainSegSAMLib.backends.yolo_network import begin_with, build, read_published
from BrainSegSAMLib.boxes import SliceBox
from BrainSegSAMLib.errors import DependencyError, InputError, ModelError

SMALL = YoloArchitecture("yolov8", 0.33, 0.0625, 256, 1)


@pytest.fixture(scope="module")
def network() -> Any:
    """A small network with random weights that believes in more boxes than a new one does."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(11)
        made = build(SMALL)
        for branch in made.model[-1].cv3:
            branch[-1].bias.data.fill_(-1.0)
            branch[-1].weight.data.mul_(40)
        for name, value in made.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.05)
    return made.eval()


def discerning(architecture: YoloArchitecture) -> Any:
    """A network with random weights that is sure of some boxes and unsure of others, so that none are alike."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(11)
        made: Any = build(architecture)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            made(torch.rand(4, 3, 128, 128))
        for branch in made.model[-1].cv3:
            branch[-1].bias.data.fill_(-1.0)
            branch[-1].weight.data.mul_(8)
    return made.eval()


def as_published(network: Any, path: Path) -> Path:
    """The network in a file as Ultralytics writes it."""
    import torch

    torch.save({"model": network, "train_args": {"imgsz": 64}, "epoch": -1}, path)
    return path


@pytest.fixture(scope="module")
def published(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_published(network, tmp_path_factory.mktemp("published") / "small.pt")


def test_published_sizes_are_those_of_the_package() -> None:
    yolo_package.ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    for name, numbers in OFFICIAL.items():
        plan = yaml_model_load(f"{name}.yaml")
        assert tuple(plan["scales"][plan["scale"]]) == numbers, name


@pytest.mark.parametrize(("name", "millions"), [("yolov5s", 9.1), ("yolo11n", 2.6), ("yolo26n", 2.5)])
def test_published_networks_are_built(name: str, millions: float) -> None:
    made = build(named(name, classes=1))
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_numbers_that_make_no_network() -> None:
    with pytest.raises(InputError, match="no architecture 'yolov5z'"):
        named("yolov5z", classes=1)
    with pytest.raises(ModelError, match="family 'yolov4' is not known"):
        YoloArchitecture("yolov4")
    with pytest.raises(ModelError, match="needs a class"):
        YoloArchitecture(classes=0)
    with pytest.raises(ModelError, match="factors from above 0"):
        YoloArchitecture(width=0.0)
    again = YoloArchitecture.from_dict(SMALL.as_dict())
    assert again == SMALL


def check_like_ultralytics(found: list[SliceBox], published: Path, frames: NDArray[np.uint8], **asked: Any) -> None:
    pictures = [np.ascontiguousarray(np.moveaxis(frame[::-1], 0, -1)) for frame in frames]  # BGR, as it takes them
    model = yolo_package.ultralytics().YOLO(str(published))
    results = model.predict(pictures, imgsz=128, device="cpu", verbose=False, save=False, **asked)
    for index, result in enumerate(results):
        boxes = result.boxes.data.numpy()
        here = [item for item in found if item.index == index]
        assert len(here) == len(boxes) > 0
        np.testing.assert_allclose([item.box for item in here], boxes[:, :4] - 0.5, atol=0.15)
        np.testing.assert_allclose([item.confidence for item in here], boxes[:, 4], atol=0.02)
        assert [item.kind for item in here] == boxes[:, 5].astype(int).tolist()


@pytest.mark.parametrize("shape", [(64, 64), (60, 44)])
def test_the_same_boxes_as_ultralytics(network: Any, published: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    frames = np.random.default_rng(4).integers(0, 255, (3, 3, *shape), dtype=np.uint8)
    own = tmp_path / "own.pt"
    save_checkpoint(network.state_dict(), own)
    detector = load(SMALL, own, device="cpu", precision="fp32")
    found = detector.detect(frames, image_size=128, confidence=0.3, overlap=0.5, batch_size=2)
    check_like_ultralytics(found, published, frames, conf=0.3, iou=0.5)


@pytest.mark.parametrize(("family", "width"), [("yolo11", 0.0625), ("yolo26", 0.125)])
def test_newer_families_too(family: str, width: float, tmp_path: Path) -> None:
    """Of two boxes that overlap the surer one stays, whatever the family: YOLO26 has a branch that sees to that itself,
    but Ultralytics asks the other one."""
    architecture = YoloArchitecture(family, 0.5, width, 256)
    made = discerning(architecture)
    published = as_published(made, tmp_path / "published.pt")
    frames = np.random.default_rng(4).integers(0, 255, (2, 3, 128, 128), dtype=np.uint8)
    detector = YoloDetector(made, architecture)
    counts = []
    for overlap in (0.9, 0.2):
        found = detector.detect(frames, image_size=128, confidence=0.2, overlap=overlap)
        check_like_ultralytics(found, published, frames, conf=0.2, iou=overlap)
        counts.append(len(found))
    assert counts[0] > counts[1]


def test_a_box_is_of_one_kind_unless_kinds_lie_within_each_other(tmp_path: Path) -> None:
    architecture = replace(SMALL, classes=2)
    made = discerning(architecture)
    published = as_published(made, tmp_path / "published.pt")
    frames = np.random.default_rng(4).integers(0, 255, (3, 3, 128, 128), dtype=np.uint8)
    asked = {"image_size": 128, "confidence": 0.2, "overlap": 0.5}
    found = YoloDetector(made, architecture).detect(frames, **asked)
    check_like_ultralytics(found, published, frames, conf=0.2, iou=0.5)
    several = YoloDetector(made, architecture, several_kinds=True).detect(frames, **asked)
    assert len(several) > len(found)
    assert {item.kind for item in found} == {0, 1}


def test_boxes_stay_inside_the_slice_and_none_is_an_empty_list(network: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.pt"
    save_checkpoint({name: value.half() for name, value in network.state_dict().items()}, own)
    detector = load(SMALL, own, device="cpu")
    frames = np.random.default_rng(1).integers(0, 255, (2, 3, 40, 64), dtype=np.uint8)
    for item in detector.detect(frames, image_size=64, confidence=0.01, overlap=0.9):
        column0, row0, column1, row1 = item.box
        assert -0.5 <= column0 < column1 <= 63.5
        assert -0.5 <= row0 < row1 <= 39.5
    assert detector.detect(frames, image_size=64, confidence=0.9999, overlap=0.5) == []
    assert detector.detect(frames[:0], image_size=64, confidence=0.5, overlap=0.5) == []
    thin = np.zeros((1, 3, 1, 200), dtype=np.uint8)
    assert detector.detect(thin, image_size=64, confidence=0.9999, overlap=0.5) == []


def test_boxes_are_not_rounded_to_bfloat16(network: Any) -> None:
    """Which has 8 bits: from pixel 256 on, it knows every second one."""
    frames = np.random.default_rng(2).integers(0, 255, (1, 3, 640, 640), dtype=np.uint8)
    found = YoloDetector(network, SMALL, "bf16").detect(frames, image_size=640, confidence=0.05, overlap=0.9)
    corners = np.array([item.box[2:] for item in found]) + 0.5
    between = corners[(corners > 256) & (corners < 640)]
    assert len(between) > 10
    assert np.count_nonzero(between % 2) > 0.9 * len(between)


def test_files_of_ultralytics_are_read_without_running_them(network: Any, published: Path, tmp_path: Path) -> None:
    import torch

    weights = read_published(published)
    state = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    assert weights.keys() == state.keys()
    assert all(weights[name].equal(value) for name, value in state.items())

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ModelError, match="holds more than data"):
        read_published(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="holds no network"):
        read_published(tmp_path / "other.pt")


def test_beginning_with_a_network_of_other_classes(published: Path) -> None:
    given = read_published(published)
    two = build(replace(SMALL, classes=2))
    copied = begin_with(two, given, published)
    alike = [name for name, value in two.state_dict().items() if name in given and value.equal(given[name])]
    assert len(given) - 6 == copied == len(alike), "all but what tells classes apart at three strides"
    with pytest.raises(ModelError, match="set 'architecture' to that of the file"):
        begin_with(build(replace(SMALL, width=0.125)), given, published)


def test_without_the_package_a_sentence_names_command_and_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(DependencyError, match=r"pip install \"ultralytics.*AGPL-3.0"):
        yolo_package.ultralytics()


def test_settings_of_a_package_that_somebody_else_imported_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = SimpleNamespace(settings={"sync": True})
    monkeypatch.setitem(sys.modules, "ultralytics", theirs)
    assert yolo_package.ultralytics() is theirs
    assert theirs.settings == {"sync": True}


def test_nothing_is_looked_up_or_left_behind(tmp_path: Path) -> None:
    code = """
import socket, sys
asked = []
def look_up(*address, **named):
    asked.append(address[0])
    raise OSError("offline")
socket.getaddrinfo = look_up
from BrainSegSAMLib.backends.yolo_package import ultralytics
ultralytics()
from ultralytics.utils.checks import check_font
check_font("Arial.ttf")
check_font("Arial.Unicode.ttf")
from ultralytics.utils import SETTINGS_FILE
print(asked, SETTINGS_FILE)
"""
    home = tmp_path / "home"
    home.mkdir()
    places = {"HOME": home, "XDG_CONFIG_HOME": home / "config", "MPLCONFIGDIR": tmp_path}
    environment = {**os.environ, **{name: str(path) for name, path in places.items()}}
    for name in ("YOLO_CONFIG_DIR", "YOLO_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked, _, settings = done.stdout.strip().partition(" ")
    assert asked == "[]"
    assert not Path(settings).exists(), "gone with the process"
    assert not [path for path in home.rglob("*") if "ltralytics" in path.name]


HOLDER = """
from BrainSegSAMLib.backends.yolo_package import ultralytics
ultralytics()
from ultralytics.utils import SETTINGS_FILE
print(SETTINGS_FILE, flush=True)
input()
"""


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    """And what a living one uses, or one that only begins, is left alone."""
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path))}
    for name in ("YOLO_CONFIG_DIR", "YOLO_OFFLINE"):
        environment.pop(name, None)

    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, tmp_path / Path(process.stdout.readline()).relative_to(tmp_path).parts[0]

    (killed, left), (alive, used) = start(), start()
    fresh = tmp_path / "brainsegsam-ultralytics-fresh"
    fresh.mkdir()
    try:
        killed.kill()
        killed.communicate()
        for folder in (left, used):
            assert folder.is_dir()
            os.utime(folder, (0, 0))
        last, own = start()
        last.communicate("\n")
        assert sorted(tmp_path.iterdir()) == sorted([used, fresh])
        assert own not in (left, used)
    finally:
        alive.communicate("\n")
    assert not used.exists()
