"""Which processes there are, and that only those are ended that are meant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from BrainSegSAMLib import processes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows ends a worker's children by itself.")

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(60)"


@pytest.fixture
def sleeper():
    process = subprocess.Popen(SLEEPER)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def family():
    """A process and its child."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *SLEEPER], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    yield parent, child
    parent.kill()
    parent.wait()
    processes.end_all({child: processes.started(child)})


@pytest.fixture(params=["proc", "ps"])
def source(request, monkeypatch, tmp_path):
    """What the system is asked by: Linux' folder, or the program that macOS has as well."""
    if request.param == "ps":
        monkeypatch.setattr(processes, "_PROC", tmp_path)
    elif not Path("/proc/self/stat").exists():
        pytest.skip("This system has no such folder.")


def test_children_and_theirs_are_found(source, family):
    parent, child = family
    found = processes.descendants(os.getpid())
    assert {parent.pid, child} <= set(found)
    assert found[child] == processes.started(child) != ""
    assert set(processes.descendants(parent.pid)) == {child}
    assert processes.descendants(child) == processes.descendants(0) == {}


def test_a_tree_is_ended(source, family):
    parent, child = family
    processes.end_tree(parent.pid)
    assert parent.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while processes.started(child) and not _is_zombie(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_zombie(pid):
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout[:1] in ("Z", "")


def test_an_id_that_belongs_to_another_process_now_is_left_alone(source, sleeper):
    processes.end_all({sleeper.pid: "some time before"})
    processes.end_all({sleeper.pid: ""})
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)
    processes.end_all({sleeper.pid: processes.started(sleeper.pid)})
    assert sleeper.wait() == -signal.SIGKILL
    assert processes.started(sleeper.pid) == ""


def test_computing_is_told_from_sleeping(source, sleeper):
    before = time.process_time()
    while time.process_time() - before < 1.2:  # some systems say whole seconds
        pass
    assert processes.processor_seconds(os.getpid()) >= 1
    assert processes.processor_seconds(sleeper.pid) < 1
    sleeper.kill()
    sleeper.wait()
    assert processes.processor_seconds(sleeper.pid) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:01.50\n", 1.5), ("12:00", 720.0), ("1:00:03", 3603.0), ("2-01:00:00", 176400.0)]
)
def test_times_of_ps(text, seconds, monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    monkeypatch.setattr(processes, "_ps", lambda *_options: text)
    assert processes.processor_seconds(1) == seconds
