"""The self-tests that are made for Slicer, run unchanged on the bench."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "Python" / "BrainSegSAMSelfTest.py"
QUICK = [
    "test_effects_are_registered_once", "test_every_effect_opens_and_leaves_nothing",
    "test_a_result_goes_through_the_editors_own_path", "test_the_panel_opens", "test_the_worker_starts_and_answers",
]
SLOW = ["test_the_demonstration_model_finds_the_lesion"]


@pytest.fixture
def self_tests(bench, module, scene, layout, dialogs):
    spec = importlib.util.spec_from_file_location("BrainSegSAMSelfTest", FILE)
    found = importlib.util.module_from_spec(spec)
    sys.modules["BrainSegSAMSelfTest"] = found
    spec.loader.exec_module(found)
    return found.BrainSegSAMSelfTest


def run(self_tests, name):
    import unittest

    result = unittest.TestResult()
    self_tests(name).run(result)
    assert result.testsRun == 1
    assert not result.skipped
    assert not result.failures + result.errors, "\n".join(text for _, text in result.failures + result.errors)


@pytest.mark.parametrize("name", QUICK)
def test_quick(self_tests, name):
    run(self_tests, name)


@pytest.mark.parametrize("name", QUICK)
def test_quick_in_a_fresh_slicer(hidden, self_tests, name):
    """As in the workflow's first step, before anything is installed."""
    run(self_tests, name)


def test_the_modules_own_test_in_a_fresh_slicer(hidden, module, scene):
    module.BrainSegSAMTest().runTest()


def test_what_needs_packages_is_left_out_in_a_fresh_slicer(hidden, self_tests):
    import unittest

    result = unittest.TestResult()
    self_tests(SLOW[0]).run(result)
    assert [reason for _test, reason in result.skipped] == ["torch, nnunetv2 is not installed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_with_a_model(self_tests, name):
    run(self_tests, name)


def test_none_is_forgotten(self_tests):
    import unittest

    assert set(unittest.defaultTestLoader.getTestCaseNames(self_tests)) == {*QUICK, *SLOW}


@pytest.fixture
def get_slicer():
    spec = importlib.util.spec_from_file_location("get_slicer", FILE.with_name("get_slicer.py"))
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize(("system", "name"), [("Linux", "linux"), ("Darwin", "macosx"), ("Windows", "win")])
def test_where_slicer_is_downloaded(get_slicer, system, name):
    address = get_slicer.address(system, "5.12")
    assert address == f"https://download.slicer.org/download?os={name}&stability=release&version=5.12"


def test_how_slicer_is_run(get_slicer, tmp_path, monkeypatch):
    """The command names files that exist; the shortest path is the program, not one of its libraries' namesakes."""
    for place in ("Slicer-5.12/Slicer", "Slicer-5.12/lib/Slicer/Slicer"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    monkeypatch.setattr(get_slicer.platform, "system", lambda: "Darwin")
    command = get_slicer.command(tmp_path)
    assert command[0] == str((tmp_path / "Slicer-5.12" / "Slicer").resolve())
    for option in ("--additional-module-paths", "--python-script"):
        assert Path(command[command.index(option) + 1]).exists()
    with pytest.raises(FileNotFoundError, match="download it first"):
        get_slicer.executable(tmp_path, "PythonSlicer")


def test_installing_holds_what_slicer_brings(get_slicer, monkeypatch):
    import subprocess

    import numpy as np

    commands, real = [], subprocess.run

    def run(command, **options):
        if "install" not in command:
            return real(command, **options)
        commands.append((command, Path(command[command.index("--constraint") + 1]).read_text().splitlines()))
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    assert get_slicer.install(sys.executable) == 7
    ((command, held),) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert Path(command[command.index("--requirement") + 1]).is_file()
    assert f"numpy=={np.__version__}" in held
    assert {line.partition("==")[0].lower() for line in held} >= {"numpy", "scipy", "simpleitk", "pillow"}
    assert not any(line.startswith("pip==") for line in held)


def test_slicers_script_ends_with_the_outcome(self_tests, monkeypatch):
    """As Slicer runs it: `main()` is 0 where all self-tests pass."""
    import unittest

    spec = importlib.util.spec_from_file_location("run_self_tests", FILE.with_name("run_self_tests.py"))
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    passing, failing = unittest.FunctionTestCase(lambda: None), unittest.FunctionTestCase(lambda: 1 / 0)
    for cases, code in (([passing], 0), ([passing, failing], 1), ([], 1)):
        suite = unittest.TestSuite(cases)
        monkeypatch.setattr(unittest.defaultTestLoader, "loadTestsFromNames", lambda names, s=suite: s)
        assert script.main() == code
