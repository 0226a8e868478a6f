"""Files that one process at a time holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from BrainSegSAMLib.errors import Cancelled
from BrainSegSAMLib.locks import alone, hold
from BrainSegSAMLib.progress import Progress

HOLDER = """
import sys, time
from pathlib import Path
from BrainSegSAMLib.locks import hold
held = hold(Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(600)
"""


def test_a_file_is_held_until_it_is_closed(tmp_path: Path) -> None:
    first = hold(tmp_path / "lock")
    assert first is not None
    assert hold(tmp_path / "lock") is None
    first.close()
    second = hold(tmp_path / "lock")
    assert second is not None
    second.close()
    assert (tmp_path / "lock").read_bytes() == b""
    with pytest.raises(FileNotFoundError):
        hold(tmp_path / "nowhere" / "lock")


def test_a_killed_process_holds_nothing_any_more(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert hold(tmp_path / "lock") is None
        progress = Progress()

        def waiting() -> None:
            progress.cancel()
            progress.check()

        with pytest.raises(Cancelled), alone(tmp_path / "lock", waiting=waiting):
            pytest.fail("it is held by another process")
    finally:
        process.kill()
        process.communicate()
    with alone(tmp_path / "lock", waiting=lambda: pytest.fail("nobody holds it")):
        assert hold(tmp_path / "lock") is None
