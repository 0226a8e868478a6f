"""Zip archives that are larger than they may be, or than they say."""

from __future__ import annotations

import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from BrainSegSAMLib.errors import Cancelled, ModelError, OutputError
from BrainSegSAMLib.models import archives
from BrainSegSAMLib.models.archives import list_archive, unpack
from BrainSegSAMLib.progress import Progress, ProgressUpdate


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("folder/", "")
        stream.writestr("folder/large", b"\0" * 1_000_000)
        stream.writestr("small", b"small")
    return path


def test_listed_files_are_unpacked(archive: Path, tmp_path: Path) -> None:
    assert list_archive(archive) == ["folder/large", "small"]
    updates: list[ProgressUpdate] = []
    unpack(archive, ["folder/large"], tmp_path / "out", progress=Progress(updates.append))
    assert (tmp_path / "out" / "folder" / "large").stat().st_size == 1_000_000
    assert not (tmp_path / "out" / "small").exists()
    assert updates[-1].done == updates[-1].total == 1_000_000


def test_archive_that_grows_too_large(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ModelError, match=r"model\.zip' is refused: it would unpack to"):
        list_archive(archive)


def test_archive_with_too_many_entries(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MAX_ENTRIES", 2)
    with pytest.raises(ModelError, match="has 3 entries, more than any model needs"):
        list_archive(archive)


def test_archive_that_lies_about_its_size(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<L", 1_000_000), struct.pack("<L", 10)))
    assert list_archive(archive) == ["folder/large", "small"]
    with pytest.raises(ModelError, match="damaged"):
        unpack(archive, ["folder/large"], tmp_path / "out")
    assert (tmp_path / "out" / "folder" / "large").stat().st_size <= 10


def test_full_disk(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"model\.zip' cannot be unpacked .*MiB free"):
        unpack(archive, ["folder/large"], tmp_path / "out")


def test_files_are_not_overwritten(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "small").write_bytes(b"precious")
    with pytest.raises(OutputError, match="out cannot be written"):
        unpack(archive, ["small"], tmp_path / "out")
    assert (tmp_path / "out" / "small").read_bytes() == b"precious"


def test_cancel(archive: Path, tmp_path: Path) -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        unpack(archive, ["small"], tmp_path / "out", progress=progress)


def test_absent_archive(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.zip' cannot be read"):
        list_archive(tmp_path / "none.zip")
