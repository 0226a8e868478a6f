"""Batches on Dask workers: what fails, what dies, what is cancelled; with work that costs nothing."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from BrainSegSAMLib import cluster_worker
from BrainSegSAMLib.batch import Row, Workers, core_count, local_processes, run_batch
from BrainSegSAMLib.cluster_worker import CaseError, Task, end, work_on
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from Testing.batch_stand_ins import Start, Tiny
from Testing.dask_cluster import HandStarted, dask_cluster

pytestmark = pytest.mark.skipif(os.name == "nt", reason="The stand-ins kill their process by a POSIX signal.")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandStarted]:
    """Two workers."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), workers=2) as found:
        wait_for_workers(found, 2)
        yield found


def wait_for_workers(cluster: HandStarted, count: int) -> None:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=300)


def attempts(folder: Path, case: str) -> int:
    return len((folder / case).read_text().splitlines())


def test_failures_are_named_deaths_are_survived_and_nothing_is_done_twice(tmp_path: Path) -> None:
    cases = ["a", "b", "corrupt", "hiccup", "fatal", "c", "deadly", "d", "e"]
    rows: dict[str, Row[str, str]] = {}
    said: list[str] = []
    updates: list[ProgressUpdate] = []

    def on_row(row: Row[str, str]) -> None:
        assert row.item not in rows, "each case has one row"
        rows[row.item] = row

    run_batch(
        cases, Start(tmp_path), name=str, progress=Progress(updates.append), on_row=on_row, workers=Workers(2),
        tell=said.append,
    )  # fmt: skip
    assert set(rows) == set(cases)
    assert {case: row.error for case, row in rows.items() if row.error} == {
        "corrupt": "corrupt cannot be read.",
        "deadly": "Its worker process died each time, probably for want of memory; work on it with fewer workers, "
        "or on a machine with more memory.",
    }
    assert all(rows[case].saved == case.upper() for case in cases if case not in ("corrupt", "deadly"))
    assert attempts(tmp_path, "corrupt") >= 3
    assert attempts(tmp_path, "hiccup") >= 3
    # Whatever was beside a dying worker may have been begun twice, but what was finished stays finished.
    finishings = (tmp_path / "finishings").read_text().split()
    assert sorted(finishings) == sorted(set(finishings))
    starts = [line.split() for line in (tmp_path / "starts").read_text().splitlines()]
    assert len({pid for pid, _, _ in starts}) == len(starts) >= 3, "one start in each process"
    assert str(os.getpid()) not in {pid for pid, _, _ in starts}
    assert {(device, threads) for _, device, threads in starts} == {("cpu", str(local_threads(2)))}
    assert "dashboard: http://127.0.0.1:" in said[0]
    last = updates[-1]
    assert (last.done, last.total, last.unit) == (9, 9, "cases")
    assert last.rate_per_s is not None


def local_threads(count: int) -> int:
    return local_processes(100, Workers(count), memory_gb=0.001).threads


def test_a_cancel_stops_the_workers(tmp_path: Path) -> None:
    progress = Progress()
    begun = time.monotonic()

    def cancel() -> None:
        while not (tmp_path / "slow-1").exists():
            time.sleep(0.05)
        progress.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    rows: list[Row[str, str]] = []
    with pytest.raises(Cancelled):
        run_batch(
            ["slow-1", "slow-2", "slow-3"], Start(tmp_path), name=str, progress=progress, on_row=rows.append,
            workers=Workers(2),
        )  # fmt: skip
    thread.join()
    assert rows == []
    assert time.monotonic() - begun < 300
    assert not list(tmp_path.glob("*.done"))


def test_work_that_cannot_be_set_up_ends_the_batch(tmp_path: Path) -> None:
    for count in (1, 2):
        rows: list[Row[str, str]] = []
        with pytest.raises(BrainSegSAMError, match="The model is not there"):
            run_batch(
                ["a", "b"], Start(tmp_path, broken=True), name=str, progress=Progress(), on_row=rows.append,
                workers=Workers(count),
            )  # fmt: skip
        assert rows == []


def test_a_worker_that_cannot_start_is_left_out(
    cluster: HandStarted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers before the others, and takes cases faster than they do."""
    cases = [*(f"case-{number}" for number in range(20)), "fatal", "corrupt"]
    rows: dict[str, Row[str, str]] = {}
    run_batch(
        cases, Start(tmp_path, one_broken=True), name=str, progress=Progress(),
        on_row=lambda row: rows.update({row.item: row}), workers=Workers(scheduler=cluster.address),
    )  # fmt: skip
    # "fatal" took the only other worker with it, and was done when that one had been started again.
    assert {case: row.error for case, row in rows.items() if row.error} == {"corrupt": "corrupt cannot be read."}
    assert set(rows) == set(cases)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("BrainSegSAMLib")]
    assert re.fullmatch(r"The worker tcp://127.0.0.1:\d+ is left out: The model is not there\.", said)
    broken = (tmp_path / "broken").read_text()
    assert broken not in (tmp_path / "starts").read_text()


def test_a_killed_worker_of_a_running_cluster_takes_nothing_along_that_was_finished(
    cluster: HandStarted, tmp_path: Path
) -> None:
    third = cluster.add_worker()
    wait_for_workers(cluster, 3)
    quick, slow = [f"quick-{number}" for number in range(6)], [f"slow-{number}" for number in range(6)]
    rows: dict[str, Row[str, str]] = {}

    def kill() -> None:
        for case in slow:  # three workers with two cases each
            wait_for(tmp_path / case)
        cluster.kill(third)
        (tmp_path / "enough").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    run_batch(
        [*quick, *slow], Start(tmp_path), name=str, progress=Progress(),
        on_row=lambda row: rows.update({row.item: row}), workers=Workers(scheduler=cluster.address),
    )  # fmt: skip
    thread.join()
    assert {case: row.saved for case, row in rows.items()} == {case: case.upper() for case in [*quick, *slow]}
    assert sorted((tmp_path / "finishings").read_text().split()) == sorted(rows), "each once"
    assert sorted(attempts(tmp_path, case) for case in slow) == [1, 1, 1, 1, 2, 2]
    assert {attempts(tmp_path, case) for case in quick} == {1}


def test_batches_that_share_workers_keep_their_models(cluster: HandStarted, tmp_path: Path) -> None:
    """Each process sets the work of each batch up once, and computes one case at a time."""
    rows: dict[str, list[Row[str, str]]] = {"one": [], "other": []}

    def go(name: str) -> None:
        (tmp_path / name).mkdir()
        run_batch(
            [f"case-{number}" for number in range(16)], Start(tmp_path / name, alone=tmp_path), name=str,
            progress=Progress(), on_row=rows[name].append,
            workers=Workers(scheduler=cluster.address, retries=0),
        )  # fmt: skip

    threads = [threading.Thread(target=go, args=(name,)) for name in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in rows:
        assert [row.error for row in rows[name]] == [""] * 16
        starts = [line.split()[0] for line in (tmp_path / name / "starts").read_text().splitlines()]
        assert len(starts) == len(set(starts)) <= 2


def test_a_worker_forgets_a_batch_whose_driver_is_gone(cluster: HandStarted, tmp_path: Path) -> None:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as living:
        worker = next(iter(living.ncores()))

        def case_of(client: Client, session: str, item: str) -> Any:
            task = Task(session, client.id, Start(tmp_path), ("cpu",), None)
            return client.submit(work_on, task, item, workers=[worker], key=(session, item))

        assert case_of(living, "mine", "a").result(timeout=300) == "A"
        with Client(cluster.address, set_as_default=False) as dying:
            slow = case_of(dying, "dead", "slow-1")
            wait_for(tmp_path / "slow-1")
            assert living.run(kept_sessions, workers=[worker])[worker] == ["mine", "dead"]
        # The slow case stops: this one is computed when it has.
        assert case_of(living, "next", "b").result(timeout=300) == "B"
        assert slow.status == "cancelled"
        assert not (tmp_path / "slow-1.done").exists()
        assert living.run(kept_sessions, workers=[worker])[worker] == ["mine", "next"]
        for name in ("mine", "next"):
            living.run(end, name)
        assert living.run(kept_sessions, workers=[worker])[worker] == []


def kept_sessions() -> list[str]:
    return list(cluster_worker._sessions)


def wait_for(path: Path) -> None:
    waited = time.monotonic()
    while not path.exists():
        assert time.monotonic() - waited < 300
        time.sleep(0.05)


def test_a_worker_keeps_the_batches_that_were_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_worker, "_clients", lambda: None)
    monkeypatch.setattr(cluster_worker, "_device", lambda devices: devices[0])
    monkeypatch.setattr(cluster_worker, "_sessions", {})

    def do(name: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        work_on(Task(name, "me", Start(tmp_path / name), ("cpu",), None), "a")

    for name in "abcabcd":
        do(name)
    assert kept_sessions() == ["b", "c", "d"]
    for name in "bcda":
        do(name)
    starts = {name: len((tmp_path / name / "starts").read_text().splitlines()) for name in "abcd"}
    assert starts == {"a": 2, "b": 1, "c": 1, "d": 1}
    end("c")
    with pytest.raises(CaseError, match="The batch has ended"):
        do("c")


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("BrainSegSAMLib.cluster._CONNECT_S", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        for wrong in (address, "nonsense://x"):
            with pytest.raises(InputError, match="No Dask scheduler answers"):
                run_batch(
                    [1], Tiny(), name=str, progress=Progress(), on_row=lambda row: None,
                    workers=Workers(scheduler=wrong),
                )  # fmt: skip


def test_a_containers_share_of_the_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask import system

    from BrainSegSAMLib import batch

    monkeypatch.setattr(batch, "gpu_devices", list)
    monkeypatch.setattr(batch, "available_memory_gb", lambda: 1000.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    quota = (50_000, 100_000)  # half a core, in microseconds
    monkeypatch.setattr(system, "_try_extract_cgroup_cpu_quota", lambda: quota)
    assert core_count() == 1
    sizes = local_processes(1000, Workers(), memory_gb=4.0)
    assert (len(sizes.devices), sizes.threads) == (1, 1)


def test_sizes_follow_the_machine_and_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    from BrainSegSAMLib import batch

    monkeypatch.setattr(batch, "core_count", lambda: 8)
    monkeypatch.setattr(batch, "available_memory_gb", lambda: 25.0)
    monkeypatch.setattr(batch, "gpu_devices", list)
    sizes = {cases: local_processes(cases, Workers(), memory_gb=4.0) for cases in (1, 3, 5, 1000)}
    assert {cases: (len(size.devices), size.threads) for cases, size in sizes.items()} == {
        1: (1, 8), 3: (1, 8), 5: (2, 4), 1000: (6, 1),
    }  # fmt: skip
    assert len(local_processes(1000, Workers(), memory_gb=100.0).devices) == 1
    assert len(local_processes(3, Workers(16), memory_gb=4.0).devices) == 3
    monkeypatch.setattr(batch, "gpu_devices", lambda: ["cuda:0", "cuda:1"])
    assert local_processes(1000, Workers(device="auto"), memory_gb=4.0).devices == ("cuda:0", "cuda:1")
    assert local_processes(1000, Workers(4, device="auto"), memory_gb=4.0).devices == ("cuda:0", "cuda:1") * 2
    assert local_processes(1000, Workers(), memory_gb=4.0).devices == ("cpu",) * 6
    with pytest.raises(InputError, match="--workers is 0"):
        local_processes(2, Workers(0), memory_gb=4.0)
