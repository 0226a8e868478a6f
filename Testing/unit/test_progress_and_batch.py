"""Progress with its cancellation, the pipeline over many cases, and the console."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace

import pytest

from BrainSegSAMLib.console import Console
from BrainSegSAMLib.errors import Cancelled, InputError
from BrainSegSAMLib.pipeline import Row, run_pipeline
from BrainSegSAMLib.progress import Progress, ProgressUpdate


def test_fractions_follow_stages_and_parts() -> None:
    updates: list[ProgressUpdate] = []
    progress = Progress(updates.append)
    progress.stage("first", total=4, until=0.2)
    progress.advance(2)
    part = progress.part("case", until=0.6)
    part.stage("inside", total=2, until=0.5)
    part.advance()
    assert [round(update.fraction, 6) for update in updates] == [0.0, 0.1, 0.2, 0.3]
    assert updates[-1].stage == "case: inside"
    assert updates[-1].remaining_s is not None


def test_a_cancel_reaches_every_part() -> None:
    progress = Progress()
    part = progress.part("case", until=1.0)
    part.check()
    progress.cancel()
    for action in (part.check, progress.advance, lambda: part.stage("next")):
        with pytest.raises(Cancelled):
            action()
    assert part.cancelled


class Steps:
    """Case 1 cannot be read, 2 and 7 cannot be computed, 3 cannot be written."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.loaded: list[int] = []

    def load(self, item: int) -> int:
        self.loaded.append(item)
        if item == 1:
            raise InputError("Case 1 cannot be read.")
        return item

    def compute(self, loaded: int, progress: Progress) -> int:
        progress.stage("computing")
        if loaded == 2:
            raise ZeroDivisionError("two")
        if loaded == 7:
            self.progress.cancel()
            progress.check()
        return loaded * 10

    def save(self, item: int, computed: int) -> int:
        if item == 3 or (item == 5 and self.loaded.count(5) < 3):
            raise InputError(f"Case {item} cannot be written.")
        return computed


def work(items: list[int], progress: Progress, retries: int = 0) -> tuple[list[Row[int, int]], Steps]:
    rows: list[Row[int, int]] = []
    steps = Steps(progress)
    with contextlib.suppress(Cancelled):
        run_pipeline(items, steps, name=str, progress=progress, on_row=rows.append, retries=retries)
    return rows, steps


def test_failures_are_rows_in_order() -> None:
    rows, _steps = work([0, 1, 2, 3, 4], Progress())
    assert [row.item for row in rows] == [0, 1, 2, 3, 4]
    assert [row.saved for row in rows] == [0, None, None, None, 40]
    assert rows[1].error == "Case 1 cannot be read."
    assert "ZeroDivisionError" in rows[2].error
    assert rows[3].error == "Case 3 cannot be written."


def test_a_failure_is_tried_again_from_the_beginning() -> None:
    rows, steps = work([0, 1, 2, 5, 4], Progress(), retries=2)
    assert [row.saved for row in rows] == [0, None, None, 50, 40]
    assert [steps.loaded.count(item) for item in (0, 1, 2, 5, 4)] == [1, 3, 3, 3, 1]


def test_a_cancel_ends_the_pipeline_with_what_was_finished() -> None:
    progress = Progress()
    rows, _steps = work([0, 4, 7, 5], progress)
    assert progress.cancelled
    assert [row.item for row in rows] == [0, 4]


def test_the_pace_is_reported_with_each_case() -> None:
    updates: list[ProgressUpdate] = []
    work([0, 4, 8, 9], Progress(updates.append))
    computing = [update for update in updates if update.stage.endswith("computing")]
    assert [(update.done, update.total, update.unit) for update in computing] == [
        (0, 4, "cases"), (0, 4, "cases"), (1, 4, "cases"), (2, 4, "cases"),
    ]  # fmt: skip
    assert computing[0].rate_per_s is None
    assert computing[3].rate_per_s is not None
    err = io.StringIO()
    Console("plain", out=io.StringIO(), err=err).listener(replace(UPDATE, unit="cases", rate_per_s=0.05))
    assert err.getvalue() == "[ 38%] Segmenting · 3 of 8 cases, 3.0 a minute · about 1:23 left\n"


def test_no_items_no_rows() -> None:
    assert work([], Progress())[0] == []


UPDATE = ProgressUpdate("Segmenting", 3, 8, 0.375, 83.2, "")


def test_plain_lines_are_few() -> None:
    err = io.StringIO()
    console = Console("auto", out=io.StringIO(), err=err)
    assert console.style == "plain"
    for _ in range(50):
        console.listener(UPDATE)
    assert err.getvalue() == "[ 38%] Segmenting · about 1:23 left\n"


def test_a_bar_is_taken_away_before_text() -> None:
    err, out = io.StringIO(), io.StringIO()
    console = Console("bar", out=out, err=err)
    console.listener(UPDATE)
    console.say("case-a: done")
    assert "Segmenting" in err.getvalue()
    assert out.getvalue() == "case-a: done\n"


def test_programs_get_only_json() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console("json", out=out, err=err)
    console.listener(UPDATE)
    console.say("for people")
    console.result({"cases": []})
    console.fail("It failed.")
    assert [json.loads(line)["type"] for line in out.getvalue().splitlines()] == ["progress", "result", "error"]
    assert err.getvalue() == "Error: It failed.\n"
