"""The worker and its blocking client, with real processes: what goes well, and every way in which it may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib import conversation, processes, wire, worker
from BrainSegSAMLib.errors import Cancelled, DependencyError, InputError, ModelError, WorkerError
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.worker_client import WorkerClient

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "Testing" / "slicer" / "child.py"
LAUNCHER = CHILD.with_name("launcher.py")

posix = pytest.mark.skipif(os.name == "nt", reason="signals")


@pytest.fixture
def client():
    """Maker of clients whose worker behaves as `child.py` says, and may be started as Slicer starts Python."""
    made = []

    def make(behaviour, *, launched=False):
        launcher = [sys.executable, str(LAUNCHER)] if launched else []
        made.append(WorkerClient([*launcher, sys.executable, str(CHILD), behaviour]))
        return made[-1]

    yield make
    pids = [one.pid for one in made if one.pid]
    for one in made:
        one.close()
    assert ended(*pids)


def is_alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def ended(*pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


_before: set[Path] = set()


@pytest.fixture(autouse=True)
def _what_others_left():
    _before.clear()
    _before.update(Path("/dev/shm").glob("brainsegsam-*"))


def left_in_memory():
    """What this test's processes left; other programs may work at the same time."""
    found = set(Path("/dev/shm").glob("brainsegsam-*")) - _before
    pids = {path: int(path.name.split("-")[1]) for path in found}
    return [path for path, pid in pids.items() if pid == os.getpid() or not is_alive(pid)]


class Heard:
    """Keeps what a client tells, and the processes that the worker names."""

    def __init__(self, then=None):
        self.said, self.then = [], then

    def __call__(self, what, value):
        self.said.append((what, value))
        if what == "progress" and self.then is not None:
            self.then()

    def of(self, kind):
        return [value for what, value in self.said if what == kind]

    @property
    def pids(self):
        return [int(word) for word in self.of("progress")[0]["stage"].split()]


# ---- what goes well


def test_arguments_and_results_come_back_as_they_were(client):
    given = {
        "big": np.arange(100_000, dtype=np.float32).reshape(10, 100, 100),
        "mask": np.arange(7 * 9).reshape(7, 9) % 3 == 0,
        "small": np.array([[1, -2]], np.int16),
        "empty": np.zeros((0, 3), np.uint8),
        "words": ["eins", "zwölf – 2 mm³", None, 2.5, True],
    }
    one = client("echo")
    got = one.request("other", given)["got"]
    for name in ("big", "mask", "small", "empty"):
        assert got[name].dtype == given[name].dtype
        np.testing.assert_array_equal(got[name], given[name])
    assert got["words"] == given["words"]
    got["big"][0] = 0  # ours to write
    assert left_in_memory() == []


def test_one_process_serves_many_requests_and_parts_arrive_before_the_end(client):
    one = client("echo")
    heard = Heard()
    parts = [np.full((300, 300), i, np.uint16) for i in range(3)]
    first = one.request("other", {"parts": parts}, tell=heard)
    assert [what for what, _ in heard.said] == ["partial"] * 3 + ["done"]
    assert [int(data["part"][0, 0]) for data in heard.of("partial")] == [0, 1, 2]
    assert one.request("other", {})["pid"] == first["pid"] == one.pid


def test_what_packages_print_is_log_and_no_message(client):
    heard = Heard()
    volume = {
        "array": np.zeros((8, 10, 12), np.float32),
        "geometry": {"size_ijk": [12, 10, 8], "spacing_ijk_mm": [1.0, 1.0, 2.0], "origin_lps_mm": [0.0, 0.0, 0.0],
                     "direction_lps": np.eye(3).tolist()},
    }
    data = client("succeed").request("predict", {"model": "toy", "device": "cpu", "volumes": {"flair": volume}},
                                     tell=heard)
    assert "a line that nnU-Net prints" in heard.of("log")
    assert wire.segmentation_from(data["segmentation"]).mask("Core").sum() == 2 * 3 * 3
    assert [m["fraction"] for m in heard.of("progress")][-1] == 1.0


def test_the_real_worker_runs_commands_and_says_what_it_does_not_know():
    with WorkerClient() as one:
        heard = Heard()
        data = one.request("command", {"argv": ["models", "list"]}, tell=heard)
        assert data["exit_code"] == 0
        assert any("glioma-nnunet-tiny" in line for line in data["lines"])
        assert heard.of("log") == data["lines"]
        with pytest.raises(ModelError, match="no model 'nonsense'"):
            one.request("command", {"argv": ["models", "info", "nonsense"]})
        with pytest.raises(InputError, match="cannot be used so"):
            one.request("command", {"argv": ["predict", "--nonsense"]})
        with pytest.raises(InputError, match="does not know 'nonsense'"):
            one.request("nonsense", {})
        with pytest.raises(ModelError, match="no model 'nonsense'"):
            one.request("predict", {"model": "nonsense", "volumes": {"flair": _volume()}})
        with pytest.raises(InputError, match="'f' holds 1 voxels that are not a finite number"):
            one.request("predict", {"model": "glioma-nnunet-tiny", "volumes": {"flair": _volume(bad=True)}})
        assert left_in_memory() == []


def _volume(*, bad=False):
    array = np.ones((8, 8, 8), np.float32)
    array[0, 0, 0] = np.nan if bad else 1
    return {"name": "f", "array": array,
            "geometry": {"size_ijk": [8, 8, 8], "spacing_ijk_mm": [1.0, 1.0, 1.0], "origin_lps_mm": [0.0, 0.0, 0.0],
                         "direction_lps": np.eye(3).tolist()}}


# ---- errors


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("unhappy", ModelError, "^The model's weights are damaged.$"),
        ("foreseen_by_nobody", WorkerError, "not foreseen .ZeroDivisionError: division by zero.. Please report"),
        ("out_of_memory", WorkerError, "not enough memory"),
    ],
)
def test_an_error_is_a_sentence_and_the_worker_stays(client, behaviour, kind, message):
    one = client(behaviour)
    with pytest.raises(kind, match=message):
        one.request("other", {})
    pid = one.pid
    with pytest.raises(kind):
        one.request("other", {})
    assert one.pid == pid


def test_a_missing_package_is_said():

    message = worker._failure(ModuleNotFoundError("No module named 'sam2'", name="sam2"))
    with pytest.raises(DependencyError, match="'sam2' is needed"):
        raise conversation.error_from(message)


@posix
def test_a_crash_is_a_sentence_with_the_end_of_the_log_and_the_next_request_works(client):
    one = client("crash")
    with pytest.raises(WorkerError, match=r"crashed \(SIGSEGV\). Try again.*") as caught:
        one.request("other", {"array": np.zeros(100_000)})
    assert "about to crash" in str(caught.value)
    assert one.pid == 0
    with pytest.raises(WorkerError, match="crashed"):  # by a process of its own
        one.request("other", {})
    assert left_in_memory() == []


@posix
@pytest.mark.parametrize("launched", [False, True])
def test_killed_for_memory_is_said_and_its_children_are_ended(client, launched):
    heard = Heard()
    with pytest.raises(WorkerError, match=r"ran out of memory. Close other programs"):
        client("killed", launched=launched).request("other", {}, tell=heard)
    assert ended(*heard.pids)


@posix
def test_slicers_launcher_does_not_hide_a_crash(client):
    with pytest.raises(WorkerError, match=r"The worker process crashed. Try again") as caught:
        client("crash", launched=True).request("other", {})
    assert "about to crash" in str(caught.value)


@pytest.mark.parametrize("launched", [False, True])
def test_an_exit_is_said(client, launched):
    with pytest.raises(WorkerError, match=r"ended unexpectedly \(exit code 3\)"):
        client("leave", launched=launched).request("other", {})


@posix
def test_a_hang_is_noticed(client, monkeypatch):
    monkeypatch.setattr(conversation, "HANG_S", 2.5)
    one = client("stop")
    begin = time.monotonic()
    with pytest.raises(WorkerError, match="has not answered for"):
        one.request("other", {})
    assert 2 < time.monotonic() - begin < 10
    monkeypatch.setattr(conversation, "HANG_S", 1.5)  # but work that takes longer than that is no hang
    assert client("slowly").request("other", {"x": 1})["got"] == {"x": 1}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only known where the system says it so")
def test_a_long_step_without_a_word_is_no_hang(client, monkeypatch):
    one = client("compute")
    one.request("other", {"count": 1})
    monkeypatch.setattr(conversation, "HANG_S", 1.0)
    begin = time.monotonic()
    assert one.request("other", {"count": 120_000_000}) == {}
    assert time.monotonic() - begin > 1.1, "it was too fast to tell"


def test_a_worker_that_does_not_start_is_noticed(client, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(conversation, "START_S", 0.5)
        with pytest.raises(WorkerError, match="did not start within"):
            client("silent").request("other", {})
    with pytest.raises(WorkerError, match=r"(?s)exit code 1.*No module named BrainSegSAMLib"):
        client("broken").request("other", {})
    with pytest.raises(WorkerError, match="could not start: No such file"), WorkerClient(["no-such-program"]) as one:
        one.request("other", {})


def test_another_version_is_said(client):
    with pytest.raises(WorkerError, match=r"another version \(0.0.1, protocol 0\) than this one"):
        client("old_version").request("other", {})


# ---- cancel


def test_a_cancel_ends_the_work_and_keeps_the_worker(client):
    one, progress = client("wait"), Progress()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        one.request("other", {}, progress=progress, tell=Heard(progress.cancel))
    assert time.monotonic() - begin < conversation.GRACE_S + 5
    pid = one.pid
    assert pid
    again = Progress()
    with pytest.raises(Cancelled):
        one.request("other", {}, progress=again, tell=Heard(again.cancel))
    assert one.pid == pid


def test_a_result_that_is_faster_than_the_cancel_is_thrown_away(client):
    one, progress = client("slowly"), Progress()
    with pytest.raises(Cancelled):
        one.request("other", {"big": np.zeros(100_000)}, progress=progress, tell=Heard(progress.cancel))
    assert one.pid
    assert left_in_memory() == []


@posix
@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize("behaviour", ["deaf", "deaf_with_sessions"])
def test_the_deaf_are_killed_after_two_seconds_with_their_children(client, behaviour, launched):
    one, progress = client(behaviour, launched=launched), Progress()
    heard = Heard()
    timer = threading.Timer(1.6, progress.cancel)  # after a heartbeat, which names children
    timer.start()
    with pytest.raises(Cancelled):
        one.request("other", {}, progress=progress, tell=heard)
    assert len(heard.pids) == 2
    assert ended(*heard.pids, seconds=3)
    assert one.pid == 0


@posix
@pytest.mark.parametrize("launched", [False, True])
def test_to_quit_ends_children_that_were_never_named(client, launched):
    """Those that were started since the last heartbeat, in a session of their own."""

    def interrupt():
        raise KeyboardInterrupt

    heard = Heard(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client("deaf_with_sessions", launched=launched).request("other", {}, tell=heard)
    assert ended(*heard.pids)


# ---- nothing is left


@posix
@pytest.mark.parametrize("behaviour", ["deaf", "deaf_with_sessions", "echo"])
def test_a_worker_ends_with_its_children_when_its_parent_is_killed(tmp_path, behaviour):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from BrainSegSAMLib.worker_client import WorkerClient\n"
        "def tell(what, value):\n"
        "    if what == 'progress': print(value['stage'], flush=True)\n"
        f"one = WorkerClient([sys.executable, {str(CHILD)!r}, {behaviour!r}])\n"
        "print(one.request('other', {}, tell=tell)['pid'], flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.stdout.close()
    assert pids
    assert all(map(is_alive, pids))
    parent.kill()
    parent.wait()
    assert ended(*pids)


def test_an_answer_that_fits_no_message_is_said_and_leaves_nothing_in_memory(client):
    one = client("nonsense")
    with pytest.raises(WorkerError, match=r"not foreseen \(TypeError"):
        one.request("other", {})
    assert one.pid
    assert not list(Path("/dev/shm").glob(f"brainsegsam-{one.pid}-*"))


def test_files_in_the_current_folder_are_not_taken_for_pythons_own(tmp_path, monkeypatch):
    for name in ("queue", "statistics", "BrainSegSAMLib"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a script of the user')\n")
    monkeypatch.chdir(tmp_path)
    with WorkerClient() as one:
        assert one.request("command", {"argv": ["models", "list"]})["exit_code"] == 0


@posix
def test_what_was_sent_to_a_worker_that_died_is_freed(client, monkeypatch):
    shared = []

    def create(name, size, create=wire._create):
        shared.append(name)
        return create(name, size)

    monkeypatch.setattr(wire, "_create", create)
    with pytest.raises(WorkerError):
        client("broken").request("other", {"array": np.zeros(1_000_000)})
    assert len(shared) == 1
    assert left_in_memory() == []


@posix
def test_what_a_dead_process_shared_is_swept(tmp_path):
    code = "import numpy, sys; from BrainSegSAMLib import wire; wire.share(numpy.zeros(100_000)).close()"
    dead = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    dead.wait()
    assert any(f"brainsegsam-{dead.pid}-" in path.name for path in left_in_memory())
    wire.sweep(dead.pid)
    assert left_in_memory() == []


@posix
def test_what_dead_processes_left_is_swept_after_a_while(monkeypatch, tmp_path):
    monkeypatch.setattr(wire, "_MEMORY_FOLDER", tmp_path / "missing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended_process = subprocess.Popen([sys.executable, "-c", ""])
    ended_process.wait()
    old, fresh, ours = (tmp_path / f"brainsegsam-{pid}-{n}-00" for pid, n in
                        ((ended_process.pid, 0), (ended_process.pid, 1), (os.getpid(), 2)))
    for path in (old, fresh, ours):
        path.write_bytes(b"x")
    for path in (old, ours):
        os.utime(path, (0, 0))
    wire.sweep_dead()
    assert sorted(tmp_path.iterdir()) == sorted([fresh, ours])


def test_no_further_process_is_started_for_shared_memory():
    before = processes.descendants(os.getpid())
    array = wire.open_shared(json.loads(json.dumps(wire.share(np.arange(100_000)).reference)))
    assert array[-1] == 99_999
    assert processes.descendants(os.getpid()) == before


@posix
def test_where_there_is_no_memory_folder_files_are_mapped(monkeypatch, tmp_path):
    monkeypatch.setattr(wire, "_MEMORY_FOLDER", tmp_path / "missing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared = wire.share(np.arange(100_000))
    (path,) = tmp_path.iterdir()
    array = wire.open_shared(shared.reference)
    assert not path.exists()
    shared.close()
    assert array.sum() == 99_999 * 50_000
    with pytest.raises(InputError, match="is gone"):
        wire.open_shared(shared.reference)


# ---- messages, masks, caches


@pytest.mark.parametrize(
    ("line", "is_message"),
    [('{"type": "progress"}', True), ('{"no": "type"}', False), ("{broken", False), ("[1]", False), ("text", False)],
)
def test_only_objects_with_a_type_are_messages(line, is_message):
    assert (wire.parse_message(line) is not None) == is_message


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 7, 9), (0, 4)])
def test_masks_travel_bit_by_bit(shape):
    mask = np.random.default_rng(0).random(shape) > 0.5
    packed = json.loads(json.dumps(wire.pack_mask(mask)))
    np.testing.assert_array_equal(wire.unpack_mask(packed), mask)
    assert len(packed["data"]) <= mask.size / 6 + 4


def test_a_grid_travels_exactly():
    from BrainSegSAMLib.geometry import Geometry

    direction, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    geometry = Geometry((5, 6, 7), (0.1 + 0.2, 1 / 3, 2.0), (1e-7, -3.3, 12345.678), direction)
    back = wire.geometry_from(json.loads(json.dumps(wire.geometry_data(geometry))))
    assert (back.size_ijk, back.spacing_ijk_mm) == (geometry.size_ijk, geometry.spacing_ijk_mm)
    np.testing.assert_array_equal(back.ijk_to_lps, geometry.ijk_to_lps)
