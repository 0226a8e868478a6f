from __future__ import annotations

import threading

import pytest

from BrainSegSAMLib.errors import Cancelled
from BrainSegSAMLib.progress import Progress


@pytest.fixture
def heard():
    return []


@pytest.fixture
def progress(heard):
    return Progress(heard.append)


def test_stages_fill_the_whole(progress, heard):
    progress.stage("read", total=4, until=0.2)
    progress.advance(2)
    progress.advance(2, message="done")
    progress.stage("predict", total=10, until=1.0)
    progress.advance(5)
    assert [update.fraction for update in heard] == pytest.approx([0, 0.1, 0.2, 0.2, 0.6])
    assert [(update.stage, update.done, update.total) for update in heard[2:4]] == [("read", 4, 4), ("predict", 0, 10)]
    assert heard[2].message == "done"


def test_a_stage_of_unknown_length_and_too_many_units_stay_in_bounds(progress, heard):
    progress.stage("search", until=0.5)
    progress.advance()
    progress.stage("short", total=1, until=0.75)
    progress.advance(7)
    progress.stage("back", total=1, until=0.1)  # never runs backwards
    progress.advance()
    progress.stage("over", total=1, until=9)
    progress.advance()
    assert [update.fraction for update in heard] == pytest.approx([0, 0, 0.5, 0.75, 0.75, 0.75, 0.75, 1])


def test_what_is_left_is_estimated_from_what_was_needed(progress, heard, monkeypatch):
    progress.stage("a", total=4)
    monkeypatch.setattr("time.monotonic", lambda: progress._started + 30)
    progress.advance()
    assert heard[0].remaining_s is None
    assert heard[1].remaining_s == pytest.approx(90)


def test_a_log_line_moves_nothing(progress, heard):
    progress.stage("a", total=2)
    progress.advance()
    progress.log("hello")
    assert (heard[-1].message, heard[-1].fraction) == ("hello", 0.5)


def test_parts_share_the_whole_and_its_cancellation(progress, heard):
    progress.stage("cases", until=0.0)
    first = progress.part("case 1", until=0.5)
    first.stage("read", total=1, until=0.5)
    first.advance()
    second = progress.part("case 2", until=1.0)
    second.stage("predict", total=2)
    second.advance()
    assert [(update.stage, update.fraction) for update in heard[1:]] == [
        ("case 1: read", 0),
        ("case 1: read", 0.25),
        ("case 2: predict", 0.5),
        ("case 2: predict", 0.75),
    ]
    inner = second.part("tile", until=1.0)
    inner.log("x")
    assert heard[-1].stage == "case 2: tile"
    inner.cancel()
    assert progress.cancelled
    with pytest.raises(Cancelled, match="was cancelled"):
        first.advance()


@pytest.mark.parametrize("step", [Progress.check, Progress.advance, lambda p: p.stage("next")])
def test_a_cancel_from_another_thread_stops_the_next_step(step):
    progress = Progress()
    progress.stage("a", total=3)
    step(progress)
    thread = threading.Thread(target=progress.cancel)
    thread.start()
    thread.join()
    with pytest.raises(Cancelled):
        step(progress)


def test_without_a_listener_nothing_happens():
    progress = Progress()
    progress.stage("a", total=1)
    progress.advance()
    progress.log("x")
