"""Lines, messages, the child's surroundings, and the module's imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def worker(bench):
    from BrainSegSAMWidgets import WorkerProcess

    return WorkerProcess


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_survive_any_cutting(worker, size):
    data = "eins\r\nzwölf – 2 mm³\n\nlast".encode()
    lines = worker.Lines()
    got = [line for start in range(0, len(data), size) for line in lines.feed(data[start : start + size])]
    assert got == ["eins", "zwölf – 2 mm³", ""]
    assert lines.end() == ["last"]
    assert lines.end() == []


@pytest.mark.parametrize(
    ("line", "is_message"),
    [('{"type": "progress"}', True), ('{"no": "type"}', False), ("{broken", False), ("[1]", False), ("text", False)],
)
def test_only_objects_with_a_type_are_messages(worker, line, is_message):
    assert (worker.parseMessage(line) is not None) == is_message


def test_the_environment_is_a_copy(worker):
    ours = {"PYTHONPATH": "mine", "OTHER": "1"}
    theirs = worker.childEnvironment(Path("library"), ours)
    assert theirs["PYTHONPATH"] == f"library{os.pathsep}mine"
    assert theirs["OTHER"] == "1"
    assert ours == {"PYTHONPATH": "mine", "OTHER": "1"}
    assert worker.childEnvironment(Path("library"), {})["PYTHONPATH"] == "library"


def test_pythonslicer_is_preferred(worker, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "there/PythonSlicer")
    assert worker.pythonCommand() == "there/PythonSlicer"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert worker.pythonCommand() == sys.executable
    monkeypatch.setattr(sys, "executable", "SlicerApp-real")
    with pytest.raises(RuntimeError, match="PythonSlicer was not found"):
        worker.pythonCommand()


def test_the_module_loads_without_the_work(bench):
    """In a fresh interpreter: the module's file brings in neither torch, nor SimpleITK, nor nnU-Net."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'Testing' / 'bench')!r}); import application; "
        "application.start(); import BrainSegSAM; "
        "print(*({'torch', 'SimpleITK', 'nnunetv2', 'scipy', 'matplotlib', 'nrrd', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
