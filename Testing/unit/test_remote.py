"""Folders behind URLs, with a real FTP server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from BrainSegSAMLib.cases import Case, find_cases, load_image
from BrainSegSAMLib.errors import InputError, OutputError
from BrainSegSAMLib.modalities import ModalityTable
from BrainSegSAMLib.remote import Remote, location
from BrainSegSAMLib.remote_cases import fetch_case, fetch_segmentations, mirror, named_as, results_for, state_of
from BrainSegSAMLib.segmentation_files import read_segmentation
from Testing.ftp_server import serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as url:
        yield folder, url


def write_volume(path: Path, value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), value, np.int16)), str(path))


def test_what_is_a_url() -> None:
    assert location("cases") == Path("cases")
    assert location("C:/cases") == Path("C:/cases")
    assert location("C://cases") == Path("C://cases")
    assert location("file:///data/x") == Path("/data/x")
    remote = location("ftp://ann:secret@host:21/cases/")
    assert remote == Remote("ftp://ann:secret@host:21/cases")
    assert str(remote) == "ftp://host:21/cases"
    assert "secret" not in f"{remote} {remote!r} {[remote]}"


def test_cases_are_found_by_their_names_and_read_from_copies(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    for case in ("p1", "p2"):
        for index, modality in enumerate(("flair", "t1ce")):
            write_volume(folder / "cases" / case / f"{case}_{modality}.nii.gz", index)
    with named_as(Remote(f"{url}/cases")) as (named, root, listing):
        assert {path.stat().st_size for path in named.rglob("*.nii.gz")} == {0}, "names only"
        found = find_cases(named, modalities=("flair", "t1ce"))
        top = named
    assert [case.case_id for case in found] == ["p1", "p2"]
    case = found[1]
    relative = {name: path.relative_to(top) for name, path in case.modalities.items()}
    local, states = fetch_case(root, replace(case, modalities=relative), ("flair", "t1ce"), tmp_path / "copies")
    image, _ = load_image(local, ("flair", "t1ce"))
    assert image.channels["t1ce"].max() == 1
    assert states == {name: state_of(path, listing) for name, path in relative.items()}
    write_volume(folder / "cases" / "p2" / "p2_t1ce.nii.gz", 7)
    later = Remote(f"{url}/cases").listing()
    assert state_of(relative["flair"], later) == states["flair"]
    assert state_of(relative["t1ce"], later) != states["t1ce"]


def test_a_header_brings_its_voxels(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    write_volume(folder / "p1" / "flair.mhd", 5)
    with named_as(Remote(url)) as (named, root, _listing):
        (case,) = find_cases(named, modalities=("flair",))
        relative = {"flair": case.modalities["flair"].relative_to(named)}
    local, _ = fetch_case(root, replace(case, modalities=relative), ("flair",), tmp_path / "copies")
    assert load_image(local, ("flair",))[0].channels["flair"].max() == 5


def test_a_header_changes_with_its_voxels(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    header = Path("p1/flair.nhdr")
    states = []
    for value in (5, 6):
        write_volume(folder / header, value)
        (folder / header).with_suffix(".raw").rename(folder / "p1" / "voxels")
        text = (folder / header).read_text()
        (folder / header).write_text(text.replace("flair.raw", "voxels"))
        os.utime(folder / header, (1, 1))
        os.utime(folder / "p1" / "voxels", (value, value))
        with named_as(Remote(url)) as (_named, root, listing):
            states.append(state_of(header, listing))
        case = Case("p1", {"flair": header})
        local, copied = fetch_case(root, case, ("flair",), tmp_path / str(value))
        assert copied == {"flair": states[-1]}
        assert load_image(local, ("flair",))[0].channels["flair"].max() == value
    assert states[0] != states[1]


def test_a_header_names_no_file_outside_its_folder(served: tuple[Path, str], tmp_path: Path) -> None:
    """A server must not decide where on this machine a file is written."""
    folder, url = served
    (folder / "taken").write_text("taken")
    for name in ("../taken", str(tmp_path / "taken")):
        write_volume(folder / "p1" / "flair.mhd")
        header = (folder / "p1" / "flair.mhd").read_text()
        (folder / "p1" / "flair.mhd").write_text(header.replace("flair.raw", name))
        with pytest.raises(InputError, match=r"flair.mhd names a file .* outside its own folder"):
            fetch_case(Remote(url), Case("p1", {"flair": Path("p1/flair.mhd")}), ("flair",), tmp_path / "copies" / "1")
    assert not (tmp_path / "taken").exists()
    assert not (tmp_path / "copies" / "1" / "taken").exists()


def test_segmentations_bring_their_voxels(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    write_volume(folder / "found" / "p1.mhd", 3)
    write_volume(folder / "found" / "p2.mhd")
    (folder / "found" / "p2.raw").unlink()
    (folder / "found" / "other.raw").write_bytes(b"1" * 1000)
    copy = fetch_segmentations(Remote(f"{url}/found"), tmp_path, table=ModalityTable.default())
    assert sorted(path.name for path in copy.iterdir()) == ["p1.mhd", "p1.raw", "p2.mhd"]
    assert read_segmentation(copy / "p1.mhd").label_map.max() == 3


def test_a_table_behind_a_url(served: tuple[Path, str]) -> None:
    folder, url = served
    write_volume(folder / "volumes" / "a.nii.gz")
    (folder / "cases.csv").write_text("case_id,flair\np1,volumes/a.nii.gz\np2,volumes/b.nii.gz\n")
    with named_as(Remote(f"{url}/cases.csv")) as (named, root, _listing):
        first, second = find_cases(named, modalities=("flair",))
        assert first.problem == ""
        assert first.modalities["flair"].relative_to(named.parent) == Path("volumes/a.nii.gz")
        assert "does not exist" in second.problem
        assert root == Remote(url)


def test_files_are_written_whole_and_removed(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    remote = Remote(f"{url}/results/new")
    assert remote.listing(may_be_missing=True) == {}
    (tmp_path / "one").write_bytes(b"1" * 200_000)
    (tmp_path / "two.json").write_text('{"two": 2}')
    remote.put({"one": tmp_path / "one", "deeper/two.json": tmp_path / "two.json"})
    assert (folder / "results" / "new" / "one").read_bytes() == b"1" * 200_000
    (tmp_path / "one").write_bytes(b"2")
    remote.put({"one": tmp_path / "one"})
    listing = remote.listing()
    assert {name: file.size for name, file in listing.items()} == {"one": 1, "deeper/two.json": 10}
    assert list(remote.read_jsons(["deeper/two.json", "three.json"])) == [{"two": 2}, None]
    remote.remove(["one", "not there"])
    remote.check_writable()
    assert [path.name for path in (folder / "results" / "new").rglob("*") if path.is_file()] == ["two.json"]


@pytest.mark.parametrize("name", ["case[1].json", "case*.json", "ca?se.json"])
@pytest.mark.parametrize("kind", ["ftp", "memory"])
def test_names_that_look_like_patterns_are_names(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, name: str
) -> None:
    """FTP renames; of a file in memory, as in an object store, fsspec makes a copy, and would look for a pattern."""
    remote = Remote("memory://patterns" if kind == "memory" else f"{request.getfixturevalue('served')[1]}/results")
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"22")
    remote.put({"case1.json": tmp_path / "one", name: tmp_path / "two"})
    assert {path: file.size for path, file in remote.listing().items()} == {"case1.json": 1, name: 2}
    remote.fetch({name: tmp_path / "back"})
    assert (tmp_path / "back").read_bytes() == b"22"
    remote.remove([name, "case1.json"])
    assert remote.listing(may_be_missing=True) == {}


def test_what_is_not_there_is_named(served: tuple[Path, str]) -> None:
    folder, url = served
    with pytest.raises(InputError, match=r"nowhere cannot be read: .* does not exist"):
        Remote(f"{url}/nowhere").listing()
    with pytest.raises(InputError, match="cannot be read"):
        Remote("ftp://127.0.0.1:1/cases").listing()
    with pytest.raises(InputError, match="Protocol not known"):
        Remote("nonsense://cases").listing()
    (folder / "blocked").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        Remote(f"{url}/blocked/results").check_writable()


def test_a_mirror_copies_what_changed(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    for name in ("a", "b", "c"):
        write_volume(folder / "cases" / name / "flair.nii.gz")
    local = mirror(Remote(f"{url}/cases"), tmp_path / "mirror")
    assert local == tmp_path / "mirror" / "cases"
    before = {path.parent.name: path.stat().st_mtime_ns for path in local.rglob("*.nii.gz")}
    assert set(before) == {"a", "b", "c"}
    write_volume(folder / "cases" / "b" / "flair.nii.gz", 7)
    (folder / "cases" / "c" / "flair.nii.gz").unlink()
    mirror(Remote(f"{url}/cases"), tmp_path / "mirror")
    after = {path.parent.name: path.stat().st_mtime_ns for path in local.rglob("*.nii.gz")}
    assert set(after) == {"a", "b"}
    assert after["a"] == before["a"]
    assert after["b"] != before["b"]


def test_results_are_copied_at_the_end(served: tuple[Path, str]) -> None:
    folder, url = served
    with results_for(Remote(f"{url}/results")) as local:
        (local / "cases").mkdir()
        (local / "cases" / "a.json").write_text("1")
    assert (folder / "results" / "cases" / "a.json").read_text() == "1"
