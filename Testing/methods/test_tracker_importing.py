"""Published checkpoints of SAM 2 and MedSAM2 as trackers: recognised, checked, imported, downloaded."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from BrainSegSAMLib.backends import sam2_architecture
from BrainSegSAMLib.backends.sam2 import load
from BrainSegSAMLib.backends.sam2_architecture import OFFICIAL, Sam2Architecture
from BrainSegSAMLib.backends.sam2_network import build
from BrainSegSAMLib.cli import main
from BrainSegSAMLib.errors import ModelError
from BrainSegSAMLib.methods.ssnet.tracker import TRACKERS
from BrainSegSAMLib.models.catalogue import FOLDER_VARIABLE, Entry, RemoteFile, load_catalogue
from BrainSegSAMLib.models.published import SUFFIXES, import_checkpoint, install_checkpoint
from BrainSegSAMLib.models.store import load_model

SMALL = Sam2Architecture(
    image_size=64, embed_dim=16, stages=(1, 1, 2, 1), global_att_blocks=(3,), window_spec=(8, 4, 4, 2), d_model=32,
    mem_dim=8, memory_attention_layers=1, dim_feedforward=64, num_maskmem=3,
)  # fmt: skip


import_tracker = partial(import_checkpoint, kinds=[TRACKERS])
install_tracker = partial(install_checkpoint, kinds=[TRACKERS])


@pytest.fixture
def small_is_official(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network takes the place of SAM 2.1 tiny, so that nothing large is written."""
    networks = {"sam2.1_tiny": SMALL, "medsam2": replace(SMALL, image_size=32)}
    monkeypatch.setattr(sam2_architecture, "OFFICIAL", networks)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build(SMALL).state_dict()}, path)
    return path


@pytest.mark.usefixtures("small_is_official")
def test_import(checkpoint: Path, tmp_path: Path) -> None:
    model = import_tracker(checkpoint, tmp_path / "models" / "mine", licence="Apache-2.0", citations=["A paper"])
    assert model.method == "sam2_tracker"
    assert model.modalities == ("any",)
    assert model.orientation == "LPS"
    assert Sam2Architecture.from_dict(model.settings["architecture"]) == SMALL
    assert model.settings["windowing"] == {"lower": 0.5, "upper": 99.5}
    assert (model.licence, model.citations) == ("Apache-2.0", ("A paper",))
    assert model.training["settings"] == {"imported_from": "sam2.1_hiera_tiny.pt", "network": "sam2.1_tiny"}
    load_model(model.folder, verify_hashes=True)
    network = load(SMALL, model.path_of(model.weights[0].path)).network
    for name, value in torch.load(checkpoint, weights_only=True)["model"].items():
        assert torch.equal(network.state_dict()[name], value)


@pytest.mark.usefixtures("small_is_official")
def test_medsam2_is_known_by_its_name_and_the_size_can_be_given(checkpoint: Path, tmp_path: Path) -> None:
    renamed = checkpoint.rename(tmp_path / "MedSAM2_latest.pt")
    assert import_tracker(renamed, tmp_path / "a").settings["architecture"]["image_size"] == 32
    assert import_tracker(renamed, tmp_path / "b", image_size=96).settings["architecture"]["image_size"] == 96
    with pytest.raises(ModelError, match="100 is not a multiple of 32"):
        import_tracker(renamed, tmp_path / "c", image_size=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MedSAM2_latest.pt", "a", "b"]


@pytest.mark.usefixtures("small_is_official")
def test_what_cannot_be_imported_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    weights = torch.load(checkpoint, weights_only=True)["model"]
    other = tmp_path / "other.pt"
    torch.save({"model": {k: v for k, v in weights.items() if k != "maskmem_tpos_enc"}}, other)
    with pytest.raises(ModelError, match="lacks 1 parameters, such as 'maskmem_tpos_enc'"):
        import_tracker(other, models / "a")
    torch.save({"model": build(replace(SMALL, embed_dim=32)).state_dict()}, other)
    with pytest.raises(ModelError, match="not a checkpoint of a published size"):
        import_tracker(other, models / "a")
    torch.save({"network_weights": {}, "trainer_name": "nnUNetTrainer"}, other)
    with pytest.raises(ModelError, match="holds no weights of a network"):
        import_tracker(other, models / "a")
    other.write_bytes(checkpoint.read_bytes()[:4000])
    with pytest.raises(ModelError, match="cut short"):
        import_tracker(other, models / "a")
    with pytest.raises(ModelError, match="one to three modalities, not 4"):
        import_tracker(checkpoint, models / "a", modalities=["flair", "t1", "t1ce", "t2"])
    with pytest.raises(ModelError, match="cannot be called"):
        import_tracker(checkpoint, models / "No Name")
    assert not models.exists() or list(models.iterdir()) == []
    import_tracker(checkpoint, models / "a")
    with pytest.raises(ModelError, match="There is a model at"):
        import_tracker(checkpoint, models / "a")


@pytest.mark.usefixtures("small_is_official")
def test_the_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    given = ["models", "import", str(checkpoint), "--name", "mine", "--image-size", "96", "--modalities", "adc", "b0"]
    assert main([*given, "--licence", "Apache-2.0"]) == 0
    assert "sam2_tracker" in capsys.readouterr().out
    model = load_model(tmp_path / "models" / "mine")
    assert model.modalities == ("adc", "b0")
    assert model.settings["architecture"]["image_size"] == 96
    assert main(given) == 2
    assert "already" in capsys.readouterr().err


# ---- the catalogue --------------------------------------------------------------------------------------------------


def test_the_catalogue_lists_the_official_trackers() -> None:
    entries = {entry.name: entry for entry in load_catalogue() if entry.method == "sam2_tracker" and entry.file}
    assert set(entries) >= {"sam2.1-tiny", "sam2.1-small", "sam2.1-base-plus", "sam2.1-large", "medsam2"}
    for entry in entries.values():
        assert entry.file is not None
        assert entry.file.filename == entry.file.url.rpartition("/")[2]
        assert entry.file.filename.endswith(SUFFIXES)
        assert entry.modalities == ("any",)


@pytest.fixture
def server(checkpoint: Path) -> Iterator[str]:
    """Serves the checkpoint on this computer."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(checkpoint.parent))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


@pytest.mark.usefixtures("small_is_official")
def test_download_and_import(server: str, checkpoint: Path, tmp_path: Path) -> None:
    file = RemoteFile(f"{server}/{checkpoint.name}", checkpoint.name, None, None)
    described = (file, ("any",), "Apache-2.0", ("A paper",), False, "A note.")
    entry = Entry("far", "Far", "sam2_tracker", "download", None, *described)
    model = install_tracker(entry, models_dir=tmp_path / "models")
    assert (model.name, model.title, model.licence, model.description) == ("far", "Far", "Apache-2.0", "A note.")
    assert [path.name for path in (tmp_path / "models").rglob("*.pt")] == ["tracker.pt"]
    with pytest.raises(ModelError, match="installed already"):
        install_tracker(entry, models_dir=tmp_path / "models")


@pytest.mark.slow
def test_the_real_size(tmp_path: Path) -> None:
    """SAM 2.1 tiny, 39 million parameters with random values: imported, and one slice encoded at 64 pixels."""
    source = tmp_path / "MedSAM2_latest.pt"
    torch.manual_seed(0)
    torch.save({"model": build(OFFICIAL["sam2.1_tiny"]).state_dict()}, source)
    model = import_tracker(source, tmp_path / "medsam2")
    assert Sam2Architecture.from_dict(model.settings["architecture"]) == OFFICIAL["medsam2"]
    tracker = load(replace(OFFICIAL["medsam2"], image_size=64), model.path_of("tracker.pt"))
    assert 38e6 < sum(value.numel() for value in tracker.network.parameters()) < 40e6
    with tracker.encode(np.zeros((1, 3, 32, 32), np.uint8)) as features:
        assert [tuple(level.shape) for level in features.gather([0])] == [
            (1, 32, 16, 16), (1, 64, 8, 8), (1, 256, 4, 4), (1, 16, 256)
        ]  # fmt: skip
