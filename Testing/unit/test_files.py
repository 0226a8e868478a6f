from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from BrainSegSAMLib.errors import InputError, OutputError
from BrainSegSAMLib.files import atomic_path, cell_text, read_json, sha256_of, write_json, write_text
from BrainSegSAMLib.measurements import write_measurements

ROOT = Path(__file__).resolve().parents[2]


def test_a_finished_file_takes_its_name_and_nothing_else_is_left(tmp_path):
    final = tmp_path / "new" / "folder" / "a.nii.gz"
    with atomic_path(final) as partial:
        assert partial.parent == final.parent
        assert partial.name.endswith("a.nii.gz")
        partial.write_bytes(b"done")
        assert not final.exists()
    assert final.read_bytes() == b"done"
    assert list(final.parent.iterdir()) == [final]


def test_an_error_leaves_the_old_file_and_no_partial_one(tmp_path):
    final = tmp_path / "a.txt"
    final.write_text("old")

    def write_half():
        with atomic_path(final) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_what_the_system_refuses_becomes_a_sentence(tmp_path, code, words):
    final = tmp_path / "a.txt"
    with pytest.raises(OutputError, match=f"a.txt cannot be written: .*{words}.*choose another"), atomic_path(final):
        raise OSError(code, os.strerror(code))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        write_text("x", tmp_path / "file" / "a.txt")


def test_a_real_full_disk_leaves_no_file(tiny_disk):
    final = tiny_disk / "a.json"
    with pytest.raises(OutputError, match="disk is full"):
        write_json({"much": "x" * 200_000}, final)
    assert not list(tiny_disk.iterdir())
    write_json({"little": 1}, final)
    assert read_json(final) == {"little": 1}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="This system has no SIGKILL.")
def test_a_kill_in_the_middle_leaves_no_file_under_the_final_name(tmp_path):
    final = tmp_path / "a.nii.gz"
    script = f"""
        import os, signal
        from pathlib import Path
        from BrainSegSAMLib.files import atomic_path
        with atomic_path(Path({str(final)!r})) as partial:
            partial.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not final.exists()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_json_is_sorted_readable_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json({"b": 1, "a": "Ödem", "c": [1.5, None]}, path)
    assert path.read_text(encoding="utf-8") == '{\n  "a": "Ödem",\n  "b": 1,\n  "c": [\n    1.5,\n    null\n  ]\n}\n'
    assert read_json(path) == json.loads(path.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": float("nan")}, path)


def test_json_that_cannot_be_read_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"missing\.json cannot be read"):
        read_json(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json is not a valid JSON file"):
        read_json(tmp_path / "bad.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe4"')
    with pytest.raises(InputError, match="not a valid JSON"):
        read_json(tmp_path / "latin.json")


def test_hashes(tmp_path):
    content = bytes(range(256)) * 8192  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match="missing cannot be read"):
        sha256_of(tmp_path / "missing")


def test_the_hash_of_a_folder_knows_names_and_contents(tmp_path):
    folder = tmp_path / "series"
    (folder / "sub").mkdir(parents=True)
    (folder / "1.dcm").write_bytes(b"one")
    (folder / "sub" / "2.dcm").write_bytes(b"two")
    before = sha256_of(folder)
    assert len(before) == 64
    assert sha256_of(folder) == before
    (folder / "1.dcm").rename(folder / "3.dcm")
    renamed = sha256_of(folder)
    (folder / "3.dcm").write_bytes(b"One")
    assert len({before, renamed, sha256_of(folder)}) == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-p1", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_compute_is_text(text, tmp_path):
    shown = text.replace("\r", " ")
    assert cell_text(text) == f"'{shown}"
    assert cell_text(f"p{text}") == f"p{shown}"
    row = {"case_id": text, "region": text, "volume_ml": 0.5, "voxels": 3, "components": 1, "largest_diameter_mm": 2.0}
    write_measurements([row], tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as stream:
        _, cells = csv.reader(stream)
    assert cells == [f"'{shown}", f"'{shown}", "0.500000", "3", "1", "2.000"]
