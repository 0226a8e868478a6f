"""The catalogue that ships, and finding, listing and removing models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from BrainSegSAMLib.errors import ModelError, OutputError
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.models.catalogue import (
    Entry,
    discard_download,
    download_model,
    download_path,
    find_entry,
    find_model,
    installed_models,
    is_installed,
    load_catalogue,
    models_folder,
    remove_model,
)
from BrainSegSAMLib.models.store import Model, write_model
from BrainSegSAMLib.resources import resource_path

BUNDLED = {
    "name": "small-model", "title": "Small", "method": "nnunet", "kind": "bundled", "path": "small-model",
    "modalities": ["t1"], "licence": "CC-BY-4.0", "citations": ["A paper"], "demonstration": True, "notes": "A note.",
}  # fmt: skip
REMOTE = {
    "name": "far-model", "title": "Far", "method": "nnunet", "kind": "download", "modalities": ["flair"],
    "licence": "CC-BY-4.0", "citations": [], "demonstration": False,
    "file": {"url": "https://example.org/far.zip", "filename": "far.zip", "size": None, "sha256": None},
}  # fmt: skip


def write_catalogue(path: Path, *models: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"format_version": 1, "models": list(models)}))
    return path


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"weights")
    model = Model(folder, folder.name, "A title", "nnunet", ("t1",), LabelScheme.plain({"lesion": 1}), "CC0-1.0")
    write_model(model, files=["weights"])
    return folder


@pytest.fixture
def catalogue(tmp_path: Path) -> tuple[Entry, ...]:
    (tmp_path / "shipped").mkdir()
    return load_catalogue(write_catalogue(tmp_path / "shipped" / "catalogue.json", BUNDLED, REMOTE))


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_catalogue_that_ships() -> None:
    entries = load_catalogue()
    assert "glioma-nnunet-tiny" in [entry.name for entry in entries]
    for entry in entries:
        assert entry.citations, entry.name
        assert (entry.folder is None) == (entry.kind == "download")
        if entry.file is not None:
            assert entry.file.url.startswith("https://")
            assert entry.file.url.endswith(entry.file.filename)
    assert find_entry("glioma-sam2-tiny").folder == resource_path("Models", "glioma-sam2-tiny")
    tiny = find_entry("glioma-nnunet-tiny")
    assert tiny.demonstration
    assert "not for clinical use" in tiny.notes
    assert tiny.folder == resource_path("Models", "glioma-nnunet-tiny")
    assert tiny.modalities == ("flair", "t1", "t1ce", "t2")


def test_entries(catalogue: tuple[Entry, ...], tmp_path: Path) -> None:
    small, far = catalogue
    assert small.folder == tmp_path / "shipped" / "small-model"
    assert (small.kind, small.file, small.notes) == ("bundled", None, "A note.")
    assert far.folder is None
    assert far.file is not None
    assert far.file.filename == "far.zip"


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda e: e.pop("path"), "is not valid"),
        (lambda e: e.update(file=REMOTE["file"]), "is not valid"),
        (lambda e: e.update(path="../elsewhere"), "leaves the catalogue's folder"),
        (lambda e: e.update(name="Not A Name"), "name"),
        (lambda e: e.update(name="far-model"), "lists 'far-model' twice"),
        (lambda e: e.pop("licence"), "lacks 'licence'"),
    ],
)
def test_broken_catalogue(tmp_path: Path, edit: Callable[[dict[str, Any]], object], sentence: str) -> None:
    entry = dict(BUNDLED)
    edit(entry)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_catalogue(write_catalogue(tmp_path / "catalogue.json", entry, REMOTE))
    assert "catalogue.json" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"url": "file:///etc/passwd"}, {"filename": "../x.zip"}, {"filename": ".x"}, {"sha256": "0"}, {"size": 0}],
)
def test_remote_file_that_is_not_acceptable(tmp_path: Path, change: dict[str, object]) -> None:
    entry = {**REMOTE, "file": {**REMOTE["file"], **change}}  # type: ignore[dict-item]
    with pytest.raises(ModelError, match=r"catalogue\.json"):
        load_catalogue(write_catalogue(tmp_path / "catalogue.json", entry))


def test_absent_catalogue(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.json' cannot be read"):
        load_catalogue(tmp_path / "none.json")


def test_bundled_model(catalogue: tuple[Entry, ...], models_dir: Path) -> None:
    small = catalogue[0]
    assert small.folder is not None
    with pytest.raises(ModelError, match=r"should come with BrainSegSAM, but .* installation is incomplete"):
        find_model("small-model", catalogue=catalogue, models_dir=models_dir)
    assert not is_installed("small-model", catalogue=catalogue, models_dir=models_dir)
    make_model(small.folder)
    assert find_model("small-model", catalogue=catalogue, models_dir=models_dir) == small.folder
    assert is_installed("small-model", catalogue=catalogue, models_dir=models_dir)
    with pytest.raises(ModelError, match="cannot be removed"):
        remove_model("small-model", catalogue=catalogue, models_dir=models_dir)
    with pytest.raises(ModelError, match="nothing to download"):
        download_path(small)


def test_model_of_the_user(catalogue: tuple[Entry, ...], models_dir: Path, tmp_path: Path) -> None:
    own = make_model(models_dir / "my-model")
    make_model(models_dir / "half-removed").rename(models_dir / ".removed-half-removed")
    (models_dir / "no-model").mkdir()
    (models_dir / "a file").touch()
    assert installed_models(catalogue=catalogue, models_dir=models_dir) == {"my-model": own}
    assert find_model("my-model", catalogue=catalogue, models_dir=models_dir) == own
    assert find_model(tmp_path, catalogue=catalogue, models_dir=models_dir) == tmp_path
    assert find_model(str(own), catalogue=catalogue, models_dir=models_dir) == own


def test_model_not_downloaded_yet(catalogue: tuple[Entry, ...], models_dir: Path) -> None:
    with pytest.raises(ModelError, match="models download far-model"):
        find_model("far-model", catalogue=catalogue, models_dir=models_dir)


def test_unknown_model(catalogue: tuple[Entry, ...], models_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"Did you mean 'far-model'\? Known models: small-model, far-model\."):
        find_model("fra-model", catalogue=catalogue, models_dir=models_dir)
    with pytest.raises(ModelError, match=r"'zzzz', neither by name nor as a folder\. Known models"):
        find_model("zzzz", catalogue=catalogue, models_dir=models_dir)
    with pytest.raises(ModelError, match="Did you mean 'small-model'"):
        find_entry("small", catalogue=catalogue)


def test_download_takes_a_file_put_there_by_hand(catalogue: tuple[Entry, ...], models_dir: Path) -> None:
    far = catalogue[1]
    path = download_path(far, models_dir=models_dir)
    assert path.is_relative_to(models_dir)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"archive")
    assert download_model(far, models_dir=models_dir) == path
    assert installed_models(catalogue=catalogue, models_dir=models_dir) == {}
    discard_download(far, models_dir=models_dir)
    discard_download(far, models_dir=models_dir)
    assert not path.parent.exists()


def test_removing(catalogue: tuple[Entry, ...], models_dir: Path) -> None:
    far = make_model(models_dir / "far-model")
    download_path(catalogue[1], models_dir=models_dir).parent.mkdir(parents=True)
    assert remove_model("far-model", catalogue=catalogue, models_dir=models_dir) == far
    assert [path for path in models_dir.rglob("*") if path.is_file()] == []
    for name in ("far-model", "../shipped", ""):
        with pytest.raises(ModelError, match=r"is not installed in .*models'; there are: none"):
            remove_model(name, catalogue=catalogue, models_dir=models_dir)


def test_removing_where_it_is_not_possible(
    catalogue: tuple[Entry, ...], models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(models_dir / "my-model")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match=r"my-model cannot be deleted: you have no permission"):
        remove_model("my-model", catalogue=catalogue, models_dir=models_dir)
    assert folder.is_dir()


def test_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path))
    assert models_folder() == tmp_path
    assert installed_models(catalogue=()) == {}
    monkeypatch.setenv("BRAINSEGSAM_MODELS", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("LOCALAPPDATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for platform, expected in (
        ("linux", ".local/share"),
        ("darwin", "Library/Application Support"),
        ("win32", "AppData/Local"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert models_folder() == tmp_path / expected / "BrainSegSAM" / "models"
