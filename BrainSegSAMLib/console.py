"""How a command speaks to a terminal, a log file or another program."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from .errors import InputError
from .progress import Listener, ProgressUpdate

STYLES = ("auto", "bar", "plain", "json")
_PLAIN_INTERVAL_S = 5.0


class Console:
    """Results on stdout, sentences on stderr; progress as a bar, as plain lines, or as JSON lines.

    Args:
        style: "bar" (a terminal), "plain" (a log), "json" (a program: one object a line on stdout), or "auto": a bar
            where stderr is a terminal, plain lines elsewhere.
        out: stdout where None.
        err: stderr where None.
    """

    def __init__(self, style: str = "auto", *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        if style == "auto":
            style = "bar" if self._err.isatty() else "plain"
        self.style = style
        self._bar: Any = None
        self._last: tuple[str, float] = ("", 0.0)

    @property
    def listener(self) -> Listener:
        """For `Progress`."""
        shown: dict[str, Callable[[ProgressUpdate], None]] = {
            "bar": self._show_bar,
            "plain": self._show_line,
            "json": self._show_json,
        }
        return shown[self.style]

    def say(self, text: str) -> None:
        """A line of the result; not shown to a program, which gets `result`."""
        if self.style != "json":
            self.close()
            print(text, file=self._out, flush=True)

    def warn(self, text: str) -> None:
        """A sentence for the user on stderr."""
        self.close()
        print(text, file=self._err, flush=True)

    def result(self, data: dict[str, Any]) -> None:
        """The result for a program; nothing for people."""
        if self.style == "json":
            self._write_json({"type": "result", **data})

    def fail(self, text: str) -> None:
        """An error that ends the command: a sentence on stderr, and an object for a program."""
        self.warn(f"Error: {text}")
        if self.style == "json":
            self._write_json({"type": "error", "message": text})

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show_bar(self, update: ProgressUpdate) -> None:
        if self._bar is None:
            from tqdm import tqdm

            layout = "{desc}: {percentage:3.0f}%|{bar}|{postfix}"
            self._bar = tqdm(total=1.0, file=self._err, bar_format=layout, leave=False, dynamic_ncols=True)
        self._bar.set_description(update.stage, refresh=False)
        self._bar.set_postfix_str(" · ".join(filter(None, (_pace(update), _left(update)))), refresh=False)
        self._bar.update(max(0.0, update.fraction - self._bar.n))
        self._bar.refresh()

    def _show_line(self, update: ProgressUpdate) -> None:
        stage, shown = self._last
        now = time.monotonic()
        if update.stage == stage and now - shown < _PLAIN_INTERVAL_S and not update.message:
            return
        self._last = (update.stage, now)
        parts = [f"[{update.fraction:4.0%}] {update.stage}", update.message, _pace(update), _left(update)]
        print(" · ".join(part for part in parts if part), file=self._err, flush=True)

    def _show_json(self, update: ProgressUpdate) -> None:
        self._write_json(
            {
                "type": "progress",
                "stage": update.stage,
                "done": update.done,
                "total": update.total,
                "fraction": round(update.fraction, 4),
                "remaining_s": None if update.remaining_s is None else round(update.remaining_s, 1),
                "message": update.message,
                "unit": update.unit,
                "rate_per_s": None if update.rate_per_s is None else round(update.rate_per_s, 4),
                **({"measured": asdict(update.measured)} if update.measured else {}),
            }
        )

    def _write_json(self, data: dict[str, Any]) -> None:
        print(json.dumps(data), file=self._out, flush=True)


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that works on many cases: how many processes, and where."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=int, metavar="N",
        help="cases at once, each in a process of its own (default: by the machine's cores, memory and GPUs)",
    )  # fmt: skip
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="work on a Dask cluster that runs already, e.g. tcp://10.0.0.1:8786"
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """Name and value of a setting written as NAME=VALUE; the value is JSON, or a bare word.

    Raises:
        InputError: where there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set needs NAME=VALUE, but got '{text}'.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # as in ensemble=union


def _pace(update: ProgressUpdate) -> str:
    """How many are finished and how fast, as people say it: "12 of 100 cases, 3.1 a minute"."""
    if not update.unit:
        return ""
    count = f"{update.done} of {update.total} {update.unit}"
    if update.rate_per_s is None:
        return count
    for seconds, period in ((1, "second"), (60, "minute")):
        if update.rate_per_s * seconds >= 1:
            return f"{count}, {update.rate_per_s * seconds:.1f} a {period}"
    return f"{count}, {update.rate_per_s * 3600:.1f} an hour"


def _left(update: ProgressUpdate) -> str:
    if update.remaining_s is None or update.fraction >= 1.0:
        return ""
    seconds = round(update.remaining_s)
    return f"about {seconds // 60}:{seconds % 60:02d} left"
