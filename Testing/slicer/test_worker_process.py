"""The Qt side of the worker: everything by events, and what a user's session can do to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="signals")


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self):
        from BrainSegSAMWidgets.WorkerProcess import Listener

        self.progress, self.partial, self.log, self.done, self.failed = [], [], [], [], []
        self.listener = Listener(
            onProgress=self.progress.append, onPartial=self.partial.append, onLog=self.log.append,
            onDone=self.done.append, onFailed=self.failed.append,
        )

    @property
    def ended(self):
        return len(self.done) + len(self.failed)


@pytest.fixture
def ear(bench):
    return Ear


def is_alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def test_a_request_returns_at_once_and_tells_everything(bench, worker, ear):
    one, heard = worker("echo"), ear()
    begin, computing = time.monotonic(), time.thread_time()
    job = one.request("other", {"array": np.arange(100_000), "parts": [1, 2]}, heard.listener)
    assert time.thread_time() - computing < 0.1
    assert time.monotonic() - begin < 1, "it waited for something"
    assert job.running
    assert one.busy
    assert heard.ended == 0
    assert bench.wait_until(lambda: not job.running)
    assert heard.partial == [{"part": 1}, {"part": 2}]
    np.testing.assert_array_equal(heard.done[0]["got"]["array"], np.arange(100_000))
    assert heard.failed == []
    assert not one.busy


def test_the_process_is_kept(bench, worker, ear):
    one, heard = worker("echo"), ear()
    for count in (1, 2):
        one.request("other", {}, heard.listener)
        assert bench.wait_until(lambda count=count: heard.ended == count)
    assert heard.done[0]["pid"] == heard.done[1]["pid"] == one.pid


def test_a_request_from_within_the_end_of_another(bench, worker, ear):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    one, heard = worker("echo"), ear()
    one.request("other", {}, Listener(onDone=lambda data: one.request("other", {"x": 1}, heard.listener)))
    assert bench.wait_until(lambda: heard.ended == 1)
    assert heard.done[0]["got"] == {"x": 1}


def test_two_at_once_are_refused_but_the_newest_mark_waits(bench, worker, ear):
    from BrainSegSAMLib.errors import Cancelled, InputError

    one = worker("slowly")
    first, second, third = ear(), ear(), ear()
    one.request("other", {"n": 1}, first.listener)
    with pytest.raises(InputError, match="working on something else"):
        one.request("other", {}, second.listener)
    one.request("mark", {"n": 2}, second.listener)
    one.request("mark", {"n": 3}, third.listener)
    assert [type(error) for error in second.failed] == [Cancelled]
    assert bench.wait_until(lambda: third.ended == 1)
    assert first.done[0]["got"] == {"n": 1}
    assert third.done[0]["got"] == {"n": 3}
    assert second.done == []
    assert not one.busy


def test_a_waiting_mark_can_be_cancelled(bench, worker, ear):
    one = worker("slowly")
    first, second = ear(), ear()
    one.request("other", {}, first.listener)
    one.request("mark", {}, second.listener).cancel("because")
    assert [str(error) for error in second.failed] == ["because"]
    assert bench.wait_until(lambda: first.ended == 1)
    assert not one.busy


@pytest.mark.parametrize("how", ["cancel", "abandon"])
def test_the_next_request_waits_for_work_that_nobody_wants(bench, worker, ear, how):
    from BrainSegSAMLib.errors import InputError

    one = worker("slowly")
    first, second, third = ear(), ear(), ear()
    job = one.request("other", {"n": 1}, first.listener)
    with pytest.raises(InputError, match="working on something else"):
        one.check()
    getattr(job, how)()
    assert one.busy
    one.check()
    waiting = one.request("predict", {"n": 2}, second.listener)
    for kind in ("other", "mark"):
        with pytest.raises(InputError, match="working on something else"):
            one.request(kind, {"n": 3}, third.listener)
    assert bench.wait_until(lambda: not waiting.running)
    assert first.ended == 1
    assert bool(first.done) is (how == "abandon"), "what was abandoned goes on to its end"
    assert second.done[0]["got"] == {"n": 2}
    assert third.ended == 0
    assert not one.busy


@posix
def test_what_waits_for_a_killed_process_gets_another_one(bench, worker, ear):
    one, first, second = worker("stop"), ear(), ear()
    job = one.request("other", {}, first.listener)
    assert bench.wait_until(lambda: first.progress)
    job.cancel("enough")
    one.request("other", {}, second.listener)
    assert bench.wait_until(lambda: second.progress)
    assert [str(error) for error in first.failed] == ["enough"]


@pytest.mark.parametrize("how", ["cancel", "abandon", "quit"])
def test_what_waited_in_vain_leaves_no_memory(bench, worker, ear, how, monkeypatch):
    from BrainSegSAMLib import wire
    from BrainSegSAMLib.errors import Cancelled

    one, first, second = worker("slowly"), ear(), ear()
    one.request("other", {}, first.listener).abandon()
    shared = wire.share(np.arange(100_000))
    freed = []
    monkeypatch.setattr(wire.Shared, "free", lambda self, real=wire.Shared.free: (freed.append(self), real(self))[1])
    job = one.request("other", {"volumes": [{"array": shared}]}, second.listener)
    one.quit() if how == "quit" else getattr(job, how)()
    assert freed == [shared]
    assert not job.running
    assert [type(error) for error in second.failed] == [Cancelled]
    assert bench.wait_until(lambda: first.ended == 1)


def test_cancel_keeps_the_process(bench, worker, ear):
    from BrainSegSAMLib.errors import Cancelled

    one, heard = worker("wait"), ear()
    job = one.request("other", {}, heard.listener)
    assert bench.wait_until(lambda: heard.progress)
    pid = one.pid
    job.cancel("enough")
    job.cancel("again")
    assert bench.wait_until(lambda: heard.ended == 1)
    assert [(type(e), str(e)) for e in heard.failed] == [(Cancelled, "enough")]
    assert one.pid == pid
    job.cancel()
    assert heard.ended == 1


def test_cancel_before_the_process_is_there(bench, worker, ear):
    one, heard = worker("wait"), ear()
    one.request("other", {}, heard.listener).cancel("too soon")
    assert bench.wait_until(lambda: heard.ended == 1)
    assert str(heard.failed[0]) == "too soon"


@posix
@pytest.mark.parametrize("behaviour", ["deaf", "stop"])
def test_what_does_not_listen_is_killed_after_two_seconds_and_replaced(bench, worker, ear, behaviour):
    from BrainSegSAMLib.errors import Cancelled

    one, heard = worker(behaviour), ear()
    job = one.request("other", {}, heard.listener)
    assert bench.wait_until(lambda: heard.progress)
    pids = [int(word) for word in heard.progress[0]["stage"].split() if word.isdecimal()] or [one.pid]
    begin = time.monotonic()
    job.cancel()
    assert bench.wait_until(lambda: heard.ended == 1)
    assert 1.9 < time.monotonic() - begin < 15
    assert isinstance(heard.failed[0], Cancelled)
    assert bench.wait_until(lambda: not any(map(is_alive, pids)))
    assert one.pid == 0
    again = ear()
    one.request("other", {}, again.listener)
    assert bench.wait_until(lambda: again.progress)
    assert one.pid not in (0, *pids)


@posix
def test_sigkill_is_a_sentence(bench, worker, ear):
    one, heard = worker("wait"), ear()
    one.request("other", {}, heard.listener)
    assert bench.wait_until(lambda: heard.progress)
    os.kill(one.pid, 9)
    assert bench.wait_until(lambda: heard.ended == 1)
    assert "ran out of memory" in str(heard.failed[0])


@posix
def test_a_process_that_dies_while_idle_is_replaced_without_a_word(bench, worker, ear):
    one, heard = worker("echo"), ear()
    one.start()
    assert bench.wait_until(lambda: one.pid)
    pid = one.pid
    os.kill(pid, 9)
    assert bench.wait_until(lambda: one.pid == 0)
    one.request("other", {}, heard.listener)
    assert bench.wait_until(lambda: heard.ended == 1)
    assert heard.done[0]["pid"] not in (0, pid)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("crash", "crashed (SIGSEGV)"), ("old_version", "another version"), ("broken", "No module named"),
     ("launched crash", "The worker process crashed. Try again"), ("launched killed", "computer ran out of memory")],
)  # fmt: skip
@posix
def test_a_failure_is_told_once(bench, worker, ear, behaviour, words):
    from BrainSegSAMLib.errors import WorkerError

    one, heard = worker(behaviour.split()[-1], launched=behaviour.startswith("launched")), ear()
    one.request("other", {}, heard.listener)
    assert bench.wait_until(lambda: heard.ended)
    bench.wait_until(lambda: False, seconds=0.3)
    (error,) = heard.failed
    assert isinstance(error, WorkerError)
    assert words in str(error)
    assert heard.done == []


def test_what_cannot_be_started_is_told_later(bench, ear):
    from BrainSegSAMWidgets.WorkerProcess import Worker

    one, heard = Worker(["no-such-program-here"]), ear()
    one.request("other", {}, heard.listener)
    assert heard.ended == 0
    assert bench.wait_until(lambda: heard.ended == 1)
    assert "could not start" in str(heard.failed[0])
    waited = ear()
    one.request("other", {}, waited.listener).wait()
    assert "could not start" in str(waited.failed[0])


def test_a_failure_to_start_is_not_that_of_the_next_process(bench, ear):
    from BrainSegSAMWidgets.WorkerProcess import Worker

    one, heard, again = Worker(["no-such-program-here"]), ear(), ear()
    one.request("other", {}, heard.listener).wait()  # without the event loop, which hears of it as well
    assert "could not start" in str(heard.failed[0])
    one._command = [sys.executable, str(ROOT / "Testing" / "slicer" / "child.py"), "slowly"]
    one.request("other", {}, again.listener)
    assert bench.wait_until(lambda: again.ended)
    assert again.failed == []
    one.quit(wait=True)


@posix
@pytest.mark.parametrize("launched", [False, True])
def test_what_hangs_before_it_speaks_is_ended(bench, worker, ear, monkeypatch, launched):
    from BrainSegSAMLib import conversation, processes

    monkeypatch.setattr(conversation, "START_S", 1.0)
    one, heard = worker("silent", launched=launched), ear()
    others = set(processes.descendants(os.getpid()))  # workers of other tests
    one.request("other", {}, heard.listener)
    pids = set()
    assert bench.wait_until(
        lambda: pids.update(set(processes.descendants(os.getpid())) - others) or len(pids) > launched
    )
    assert bench.wait_until(lambda: heard.ended)
    assert "did not start within" in str(heard.failed[0])
    assert bench.wait_until(lambda: not any(map(is_alive, pids)))


def test_quit_ends_what_runs(bench, worker, ear):
    from BrainSegSAMLib.errors import Cancelled

    one, heard = worker("wait"), ear()
    one.request("other", {}, heard.listener)
    assert bench.wait_until(lambda: heard.progress)
    pid = one.pid
    one.quit(wait=True)
    assert isinstance(heard.failed[0], Cancelled)
    assert not is_alive(pid)


def test_the_shared_worker_ends_with_slicer(bench, ear, monkeypatch):
    import slicer
    from BrainSegSAMWidgets import WorkerProcess

    monkeypatch.setattr(WorkerProcess, "_shared", [])
    monkeypatch.setattr(WorkerProcess, "_workers", [])
    one = WorkerProcess.sharedWorker()
    assert WorkerProcess.sharedWorker() is one
    other = WorkerProcess.newWorker()
    assert other is not one
    one.start()
    other.start()
    assert bench.wait_until(lambda: one.pid and other.pid)
    pids = [one.pid, other.pid]
    slicer.app.emit("aboutToQuit()")
    assert not any(map(is_alive, pids))
    assert WorkerProcess._workers == []


def test_a_worker_that_was_ended_is_forgotten(bench, ear):
    """A session may run many commands, each in a worker of its own."""
    from BrainSegSAMWidgets import WorkerProcess

    before = len(WorkerProcess._workers)
    one, heard = WorkerProcess.newWorker(), ear()
    job = one.request("command", {"argv": ["models", "list"]}, heard.listener)
    assert len(WorkerProcess._workers) == before + 1
    job.wait()
    one.quit()
    assert len(WorkerProcess._workers) == before
    one.start()  # and known again where it is used again
    assert one in WorkerProcess._workers
    one.quit(wait=True)


@posix
@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize("behaviour", ["echo", "deaf"])
def test_no_process_is_left_when_slicer_dies(bench, behaviour, launched):
    """The parent is killed while its worker is idle, or at work with a child of its own."""
    child = ROOT / "Testing" / "slicer" / "child.py"
    launcher = [sys.executable, str(child.with_name("launcher.py"))] if launched else []
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'Testing' / 'bench')!r}); import application\n"
        "application.start()\n"
        "from BrainSegSAMWidgets.WorkerProcess import Listener, Worker\n"
        f"one = Worker([*{launcher!r}, sys.executable, {str(child)!r}, {behaviour!r}])\n"
        "said = []\n"
        "one.request('other', {}, Listener(onProgress=lambda m: said.append(m['stage']),\n"
        "            onDone=lambda data: said.append(str(data['pid'])), onFailed=lambda e: said.append('0')))\n"
        "application.wait_until(lambda: said)\n"
        "print(*said, flush=True)\n"
        "application.wait_until(lambda: False)\n"
    )
    slicer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    pids = [int(word) for word in slicer.stdout.readline().split()]
    slicer.stdout.close()
    assert pids
    assert all(map(is_alive, pids))
    slicer.kill()
    slicer.wait()
    assert bench.wait_until(lambda: not any(map(is_alive, pids)), seconds=10)


def test_a_script_can_wait_for_what_waits_itself(bench, worker, ear):
    one, first, second = worker("slowly"), ear(), ear()
    one.request("other", {"n": 1}, first.listener).cancel()
    one.request("other", {"n": 2}, second.listener).wait()
    assert first.ended == 1
    assert second.done[0]["got"] == {"n": 2}


def test_a_script_can_wait_without_events(worker, ear):
    one, heard = worker("slowly"), ear()
    job = one.request("other", {"n": 1}, heard.listener)
    job.wait()
    assert heard.done[0]["got"] == {"n": 1}


def test_an_exception_of_a_listener_does_not_block_the_next(bench, worker, ear):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    def fail(data):
        raise ValueError("in the listener")

    one, heard = worker("slowly"), ear()
    one.request("other", {}, Listener(onDone=fail))
    one.request("mark", {}, heard.listener)
    assert bench.wait_until(lambda: heard.ended == 1)
    assert bench.complaints.take() == ["ValueError in a slot: in the listener"]


def test_pythonslicer_is_preferred(bench, monkeypatch):
    from BrainSegSAMWidgets import WorkerProcess

    from BrainSegSAMLib.errors import WorkerError

    monkeypatch.setattr(shutil, "which", lambda name: "there/PythonSlicer")
    assert WorkerProcess.pythonCommand() == "there/PythonSlicer"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert WorkerProcess.pythonCommand() == sys.executable
    monkeypatch.setattr(sys, "executable", "SlicerApp-real")
    with pytest.raises(WorkerError, match="PythonSlicer was not found"):
        WorkerProcess.pythonCommand()


def test_the_environment_is_a_copy(bench):
    from BrainSegSAMLib.worker_client import worker_environment

    ours = {"PYTHONPATH": "mine", "OTHER": "1"}
    theirs = worker_environment(Path("library"), ours)
    assert theirs["PYTHONPATH"] == f"library{os.pathsep}mine"
    assert theirs["OTHER"] == "1"
    assert ours == {"PYTHONPATH": "mine", "OTHER": "1"}
    assert worker_environment(Path("library"), {})["PYTHONPATH"] == "library"


def test_the_module_loads_quickly_and_without_the_work(bench):
    """In a fresh interpreter: the module's file brings in neither torch, nor SimpleITK, nor nnU-Net."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'Testing' / 'bench')!r}); import application; "
        "application.start(); import numpy, time; begin = time.process_time(); import BrainSegSAM; "
        "heavy = ({'torch', 'SimpleITK', 'nnunetv2', 'scipy', 'matplotlib', 'nrrd'} & set(sys.modules)); "
        "print(time.process_time() - begin, *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) <= 0.1
