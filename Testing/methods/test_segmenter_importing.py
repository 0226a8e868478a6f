"""Published checkpoints of SAM and MedSAM as segmenters; what they share with trackers, `test_tracker_importing` tests.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from BrainSegSAMLib.backends import sam_architecture
from BrainSegSAMLib.backends.sam import Marks
from BrainSegSAMLib.backends.sam2_architecture import Sam2Architecture
from BrainSegSAMLib.backends.sam2_network import build as build_sam2
from BrainSegSAMLib.backends.sam_architecture import SamArchitecture
from BrainSegSAMLib.backends.sam_network import build
from BrainSegSAMLib.cli import main
from BrainSegSAMLib.errors import InputError, ModelError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.ssnet.tracker import TRACKERS
from BrainSegSAMLib.methods.yolo_medsam.segmenter import SEGMENTERS, load_segmenter
from BrainSegSAMLib.models.catalogue import FOLDER_VARIABLE, load_catalogue
from BrainSegSAMLib.models.published import SUFFIXES, import_checkpoint
from BrainSegSAMLib.models.store import Model, load_model
from BrainSegSAMLib.progress import Progress

SMALL = SamArchitecture(
    image_size=64, embed_dim=16, depth=2, num_heads=2, global_att_blocks=(1,), window_size=3, width=16,
    decoder_depth=1, decoder_heads=2, decoder_mlp_dim=32,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small_is_official(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks take the places of the official ones, so that nothing large is written."""
    networks = {"vit_b": SMALL, "vit_l": replace(SMALL, depth=3), "medsam": replace(SMALL, pictures="medsam")}
    monkeypatch.setattr(sam_architecture, "OFFICIAL", networks)


def checkpoint(path: Path, architecture: SamArchitecture = SMALL, *, inside: str | None = None) -> Path:
    torch.manual_seed(0)
    weights = build(architecture).state_dict()
    torch.save(weights if inside is None else {inside: weights, "optimizer": {}, "epoch": 3}, path)
    return path


def imported(source: Path, destination: Path, network: str | None = None) -> Model:
    return import_checkpoint(source, destination, kinds=[TRACKERS, SEGMENTERS], network=network)


def test_each_file_becomes_the_network_that_it_is(tmp_path: Path) -> None:
    """MedSAM has the parameters of ViT-B; a file of its training has them under "model"."""
    large = checkpoint(tmp_path / "sam_vit_l_0b3195.pth", replace(SMALL, depth=3))
    for source, name, pictures in (
        (checkpoint(tmp_path / "sam_vit_b_01ec64.pth"), "vit_b", "sam"),
        (large, "vit_l", "sam"),
        (checkpoint(tmp_path / "medsam_vit_b.pth"), "medsam", "medsam"),
        (checkpoint(tmp_path / "MedSAM_model_best.pth", inside="model"), "medsam", "medsam"),
        (checkpoint(tmp_path / "our_medsam.pth"), "medsam", "medsam"),
    ):
        model = imported(source, tmp_path / "models" / source.stem.lower())
        assert (model.method, model.modalities, model.orientation) == ("sam", ("any",), "LPS")
        assert model.training["settings"]["network"] == name
        assert model.settings["architecture"]["pictures"] == pictures
        assert model.title == f"Segmenter ({name})"
        assert load_segmenter(model, device="cpu", trust=False).network.architecture.depth == 2 + (name == "vit_l")


def test_the_network_can_be_named(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "fine_tuned.pth")
    said: list[str] = []
    progress = Progress(lambda update: said.append(update.message))
    unnamed = import_checkpoint(source, tmp_path / "a", kinds=[SEGMENTERS], progress=progress)
    assert unnamed.settings["architecture"]["pictures"] == "sam"
    assert any("taken for 'vit_b'" in line and "'medsam'" in line for line in said)
    assert imported(source, tmp_path / "b", "medsam").settings["architecture"]["pictures"] == "medsam"
    with pytest.raises(ModelError, match="holds the weights of 'vit_b', but 'vit_l' is expected"):
        imported(source, tmp_path / "c", "vit_l")
    with pytest.raises(ModelError, match=r"no published network 'vit_x'; there are: sam2\.1_tiny, .*, medsam\."):
        imported(source, tmp_path / "c", "vit_x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "fine_tuned.pth"]


def test_what_is_none_of_them_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "own.pth", replace(SMALL, embed_dim=32))
    with pytest.raises(ModelError, match=r"not a checkpoint of a published size of SAM 2, SAM 2\.1, MedSAM2, SAM"):
        imported(source, tmp_path / "a")
    with pytest.raises(ModelError, match="fit pictures of 64 pixels alone, not of 128; leave out the image size"):
        import_checkpoint(checkpoint(source), tmp_path / "a", kinds=[SEGMENTERS], image_size=128)
    other = Sam2Architecture(
        image_size=64, embed_dim=16, stages=(1, 1, 2, 1), global_att_blocks=(3,), window_spec=(8, 4, 4, 2), d_model=32,
        mem_dim=8, memory_attention_layers=1, dim_feedforward=64, num_maskmem=3,
    )  # fmt: skip
    torch.save(build_sam2(other).state_dict(), source)
    with pytest.raises(ModelError, match="not a checkpoint"):
        import_checkpoint(source, tmp_path / "a", kinds=[SEGMENTERS])
    assert not (tmp_path / "a").exists()


def test_the_command_and_the_segmenter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    source = checkpoint(tmp_path / "sam_vit_b_01ec64.pth")
    given = ["models", "import", str(source), "--name", "mine", "--modalities", "t1ce", "t2", "flair"]
    assert main([*given, "--licence", "Apache-2.0"]) == 0
    assert "Method       sam\n" in capsys.readouterr().out
    model = load_model(tmp_path / "models" / "mine")
    segmenter = load_segmenter(model, device="cpu", trust=False, precision="fp32")
    assert (segmenter.lower, segmenter.upper) == (0.5, 99.5)
    grid = Geometry.axis_aligned((2, 20, 30), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    draw = np.random.default_rng(0)
    channels = {name: draw.normal(400, 50, (2, 20, 30)).astype(np.float32) for name in model.modalities}
    picture = segmenter.picture(Image(grid, channels, "case"), model.modalities)
    assert (picture.shape, picture.dtype) == ((3, 2, 20, 30), np.uint8)
    with segmenter.network.encode(picture.swapaxes(0, 1)) as features:
        ((index, logits),) = segmenter.network.find(features, {1: Marks(np.array([[2.0, 3, 20, 15]]))})
    assert (index, logits.shape) == (1, (1, 20, 30))
    with pytest.raises(InputError, match="case: The image lacks adc"):
        segmenter.picture(Image(grid, channels, "case"), ["adc"])
    with pytest.raises(ModelError, match=r"does not segment by itself: .*brainsegsam prompt"):
        load_predictor(model.folder)


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    model = imported(checkpoint(tmp_path / "sam_vit_b_01ec64.pth"), tmp_path / "mine")
    for changed, complaint in (
        (replace(model, method="nnunet"), "is of the method 'nnunet'; a segmenter is of 'sam'"),
        (replace(model, weights=()), "must list one weights file, but lists 0"),
        (replace(model, settings={}), "does not say its architecture"),
        (replace(model, settings={**model.settings, "windowing": 3}), "has the windowing 3; 'lower'"),
        (replace(model, settings={**model.settings, "windowing": {"lower": "low"}}), "must be percentiles"),
    ):
        with pytest.raises(ModelError, match=complaint):
            load_segmenter(changed, device="cpu", trust=False)


def test_the_catalogue_lists_the_official_segmenters() -> None:
    entries = {entry.name: entry for entry in load_catalogue() if entry.method == "sam" and entry.file}
    assert set(entries) >= {"sam-vit-b", "sam-vit-l", "sam-vit-h", "medsam"}
    for entry in entries.values():
        assert entry.file is not None
        assert entry.file.filename == entry.file.url.rpartition("/")[2]
        assert entry.file.filename.endswith(SUFFIXES)
        assert entry.modalities == ("any",)
    assert entries["medsam"].file.filename.startswith(SEGMENTERS.twins["vit_b"])  # type: ignore[union-attr]
