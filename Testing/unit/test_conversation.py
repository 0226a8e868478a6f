"""The interface's half of the protocol, with a process that is only played and a clock that is turned by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from BrainSegSAMLib import __version__, conversation, processes, wire
from BrainSegSAMLib.errors import WorkerError

posix = pytest.mark.skipif(os.name == "nt", reason="signals")
NOBODY = 999_999_999  # no process has this id


class Stage:
    """A conversation, and what both sides say; `now` is the time."""

    def __init__(self):
        self.now, self.ends, self.log, self.killed, self.process_id = 0.0, [], [], 0, 0
        self.conversation = conversation.Conversation(self, clock=lambda: self.now)

    def start(self):
        pass

    def write(self, data):
        pass

    def kill(self):
        self.killed += 1

    def say(self, **message):
        self.conversation.feed_output(wire.encode(message))

    def hello(self, pid=NOBODY, version=__version__, protocol=wire.PROTOCOL):
        self.say(type="hello", protocol=protocol, version=version, pid=pid)

    def ask(self):
        return self.conversation.request("other", {}, self.tell)

    def tell(self, what, value):
        if what in ("done", "failed"):
            self.ends.append(value)
        elif what == "log":
            self.log.append(value)

    def wait(self, seconds, step=0.1):
        for _ in range(round(seconds / step)):
            self.now += step
            self.conversation.tick()


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


# ---- processes that belong to others


@posix
def test_children_of_a_former_request_are_nobody_to_end(stage, sleeper):
    one = stage.ask()
    stage.hello()
    stage.say(type="alive", id=one.number, children={sleeper.pid: processes.started(sleeper.pid)})
    stage.say(type="result", id=one.number, data={})
    assert stage.ends == [{}]
    stage.conversation.quit()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)


@posix
def test_an_id_that_was_given_to_another_process_is_left_alone(stage, sleeper):
    one = stage.ask()
    stage.hello()
    stage.say(type="alive", id=one.number, children={sleeper.pid: "before"})
    stage.conversation.quit()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)
    two = stage.ask()
    stage.hello()
    stage.say(type="alive", id=two.number, children={sleeper.pid: processes.started(sleeper.pid)})
    stage.conversation.quit()
    assert sleeper.wait() == -signal.SIGKILL


@posix
def test_what_never_said_hello_is_ended_with_its_children(stage):
    code = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    launcher = subprocess.Popen([sys.executable, "-c", code + ".pid, flush=True); time.sleep(60)"],
                                stdout=subprocess.PIPE, text=True)  # fmt: skip
    with launcher.stdout:
        child = int(launcher.stdout.readline())
    stage.process_id = launcher.pid
    stage.ask()
    stage.wait(conversation.START_S + 1)
    launcher.wait()
    assert "did not start within 60 seconds" in str(stage.ends[0])
    assert stage.killed == 1
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True).stdout
    assert state[:1] in ("", "Z")


# ---- silence


def test_silence_is_a_hang_unless_the_worker_computes(stage, monkeypatch):
    seconds = [5.0]
    monkeypatch.setattr(processes, "processor_seconds", lambda _pid: seconds[0])
    stage.ask()
    stage.hello()
    stage.wait(conversation.HANG_S + 1)
    seconds[0] = 9.0
    stage.wait(conversation.HANG_S + 1)
    assert stage.ends == []
    stage.wait(conversation.HANG_S + 1)
    assert "has not answered for 30 seconds" in str(stage.ends[0])


@pytest.mark.parametrize("said_hello", [True, False])
def test_a_computer_that_slept_has_no_hang(stage, monkeypatch, said_hello):
    monkeypatch.setattr(processes, "processor_seconds", lambda _pid: None)
    stage.ask()
    if said_hello:
        stage.hello()
    stage.wait(1)
    stage.now += 3600
    stage.wait(conversation.HANG_S - 2)
    assert stage.ends == []
    stage.wait(conversation.START_S)
    assert isinstance(stage.ends[0], WorkerError)


# ---- what it says


@pytest.mark.parametrize("other", [{"protocol": 1}, {"version": "0.0.1"}])
def test_another_version_is_refused_with_the_end_of_the_log(stage, other):
    stage.ask()
    stage.conversation.feed_errors(b"a word of warning\n")
    stage.hello(**other)
    (error,) = stage.ends
    assert "is of another version" in str(error)
    assert f"than this one ({__version__}, protocol {wire.PROTOCOL})" in str(error)
    assert str(error).endswith("a word of warning")
    assert stage.killed == 1


def test_a_progress_bar_is_one_short_line(stage):
    stage.ask()
    bar = "".join(f"\r{i}%|####    | {i}/5000 [00:00<00:00, 11.1it/s]" for i in range(5000)).encode()
    for start in range(0, len(bar), 4096):
        stage.conversation.feed_errors(bar[start : start + 4096])
    stage.conversation.feed_errors(b"\r\n" + b"x" * 100_000 + b"\n")
    stage.conversation.ended(3)
    assert stage.log == ["4999%|####    | 4999/5000 [00:00<00:00, 11.1it/s]", "x" * 500 + " …"]
    assert len(str(stage.ends[0])) < 1000


def test_a_long_message_is_no_line_of_the_log(stage):
    one = stage.ask()
    stage.hello()
    stage.say(type="result", id=one.number, data={"text": "x" * 100_000})
    assert stage.ends == [{"text": "x" * 100_000}]


LAUNCHER = "error: [/bin/python-real] exit abnormally - Report the problem."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "exit code 0"), ((137,), "was killed from outside, most likely because the computer ran out of memory"),
     ((None, signal.SIGTERM), "crashed (SIGTERM)"), ((None,), "The worker process crashed. Try again"),
     ((1, 0, "", [LAUNCHER]), "crashed or was killed, most likely because the computer ran out of memory"),
     ((1, 0, "", ["Fatal Python error: Segmentation fault", LAUNCHER]), "The worker process crashed. Try again"),
     ((1, 0, "", ["No module named x"]), "exit code 1"), ((None, 0, "No such file"), "could not start: No such file")],
)  # fmt: skip
def test_why_a_process_ended(arguments, words):
    assert words in conversation.why_ended(*arguments)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_survive_any_cutting(size):
    data = "eins\r\nzwölf – 2 mm³\n\n10 %\r20 %\r30 %\r\n1\r2\r\rlast\r".encode()
    lines = wire.Lines()
    got = [line for start in range(0, len(data), size) for line in lines.feed(data[start : start + size])]
    assert got == ["eins", "zwölf – 2 mm³", "", "30 %"]
    assert lines.end() == ["last"]
    assert lines.end() == []


def test_what_is_written_over_takes_no_memory():
    lines = wire.Lines()
    for _ in range(100):
        assert lines.feed(b"\r" + b"x" * 1000) == []
    assert len(lines._rest) < 3000


def test_a_line_that_fails_leaves_nothing_in_memory(monkeypatch):
    import numpy as np

    made = []
    real = wire._create
    monkeypatch.setattr(wire, "_create", lambda name, size: (made.append(name), real(name, size))[1])
    kept = []
    for value in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            wire.line_of({"type": "result", "data": {"array": np.zeros(100_000), "other": value}}, kept)
    assert len(made) == 2
    assert not any(wire._path(name).exists() for name in made)
    assert kept == []
    line = wire.line_of({"type": "result", "data": {"array": np.zeros(100_000)}}, kept)
    assert wire.unpack(json.loads(line))["data"]["array"].shape == (100_000,)
    assert len(kept) == 1
