"""Downloads against a server on loopback that misbehaves in every way that was thought of."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from BrainSegSAMLib.errors import Cancelled, DependencyError, DownloadError, OutputError
from BrainSegSAMLib.models.download import download_file
from BrainSegSAMLib.progress import Progress, ProgressUpdate

CONTENT = bytes(i * 31 % 251 for i in range(500_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str = '"first"'
    ranges: bool = True
    length: bool = True
    drop_after: list[int] = field(default_factory=list)  # one number per request that is to break off
    status: list[int] = field(default_factory=list)  # one per request that is to fail
    shift: int = 0  # bytes by which a continuation begins too late
    redirect: bool = False
    stall: threading.Event | None = None
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        state = self.state
        state.asked.append({"path": self.path, **dict(self.headers.items())})
        if state.status:
            self.send_error(state.status.pop(0))
            return
        if state.redirect:
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start()
        body = state.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
        if state.etag:
            self.send_header("ETag", state.etag)
        if state.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if state.stall is not None:
            self.wfile.write(body[:100_000])
            self.wfile.flush()
            state.stall.wait(20)
            return
        self.wfile.write(body[: state.drop_after.pop(0)] if state.drop_after else body)

    def _start(self) -> int:
        asked = self.headers.get("Range", "")
        same = self.headers.get("If-Range", self.state.etag) == self.state.etag
        usable = asked and same and self.state.ranges
        return int(asked.removeprefix("bytes=").rstrip("-")) + self.state.shift if usable else 0

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Server()
    handler = type("BoundHandler", (Handler,), {"state": state})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_address[1]}/weights.zip"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


class Watched(NamedTuple):
    progress: Progress
    updates: list[ProgressUpdate]


@pytest.fixture
def watched() -> Watched:
    updates: list[ProgressUpdate] = []
    return Watched(Progress(updates.append), updates)


def test_whole_download(server: Server, watched: Watched, tmp_path: Path) -> None:
    target = tmp_path / "new" / "weights.zip"
    got = download_file(server.url, target, size=len(CONTENT), sha256=SHA256.upper(), progress=watched.progress)
    assert got == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["weights.zip"]
    assert watched.updates[-1].done == watched.updates[-1].total == len(CONTENT)
    assert "Range" not in server.asked[0]


def test_dropped_connection_is_continued(server: Server, watched: Watched, tmp_path: Path) -> None:
    server.drop_after = [200_000, 150_000]
    target = tmp_path / "weights.zip"
    download_file(server.url, target, sha256=SHA256, progress=watched.progress, first_pause_s=0.01)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 3
    starts = [int(asked["Range"].removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:]]
    assert 0 < starts[0] <= 200_000 < starts[1]
    assert server.asked[1]["If-Range"] == '"first"'
    assert any("broke off" in update.message for update in watched.updates)
    assert watched.updates[-1].done == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.zip"]


def test_interrupted_job_is_continued_by_the_next(server: Server, tmp_path: Path) -> None:
    server.drop_after = [200_000] + [0] * 20
    target = tmp_path / "weights.zip"
    with pytest.raises(DownloadError, match=r"keeps breaking off .*continue where it stopped"):
        download_file(server.url, target, first_pause_s=0.001)
    assert not target.exists()
    assert (tmp_path / "weights.zip.part").stat().st_size > 100_000
    server.drop_after = []
    download_file(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.asked[-1]["Range"].startswith("bytes=")


def test_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.drop_after = [200_000]
    download_file(server.url, tmp_path / "weights.zip", sha256=SHA256, first_pause_s=0.01)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert "Range" in server.asked[1]


def test_file_that_changed_on_the_server_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.drop_after = [200_000] + [0] * 20
    with pytest.raises(DownloadError):
        download_file(server.url, tmp_path / "weights.zip", first_pause_s=0.001)
    server.drop_after, server.content, server.etag = [], CONTENT[::-1], '"second"'
    download_file(server.url, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("note", ["", "[]", '{"url": "http://other/", "validator": "\\"first\\""}'])
def test_part_of_unknown_origin_is_not_continued(server: Server, tmp_path: Path, note: str) -> None:
    (tmp_path / "weights.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "weights.zip.part.json").write_text(note)
    download_file(server.url, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert "Range" not in server.asked[0]


def test_without_etag_a_checksum_allows_to_continue(server: Server, tmp_path: Path) -> None:
    server.etag = ""
    (tmp_path / "weights.zip.part").write_bytes(CONTENT[:1000])
    download_file(server.url, tmp_path / "weights.zip", sha256=SHA256)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert server.asked[0]["Range"] == "bytes=1000-"
    assert "If-Range" not in server.asked[0]


def test_server_that_cannot_continue(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.zip.part").write_bytes(CONTENT)
    server.status = [416]
    download_file(server.url, tmp_path / "weights.zip", sha256=SHA256, first_pause_s=0.01)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT


def test_wrong_byte(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:1000] + b"?" + CONTENT[1001:]
    with pytest.raises(DownloadError, match=r"SHA-256 checksum .* is not the published one"):
        download_file(server.url, tmp_path / "weights.zip", size=len(CONTENT), sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("published", [len(CONTENT) - 100_000, len(CONTENT) + 1])
def test_wrong_size(server: Server, tmp_path: Path, published: int) -> None:
    with pytest.raises(DownloadError, match=f"but {published} are published"):
        download_file(server.url, tmp_path / "weights.zip", size=published)
    assert list(tmp_path.iterdir()) == []


def test_no_content_length(server: Server, watched: Watched, tmp_path: Path) -> None:
    server.length = False
    download_file(server.url, tmp_path / "weights.zip", sha256=SHA256, progress=watched.progress)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert watched.updates[-1].total == 0
    assert watched.updates[-1].done == len(CONTENT)


def test_no_content_length_and_dropped(server: Server, tmp_path: Path) -> None:
    server.length = False
    server.drop_after = [200_000]
    download_file(server.url, tmp_path / "weights.zip", size=len(CONTENT), first_pause_s=0.01)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    download_file(server.url, tmp_path / "weights.zip", first_pause_s=0.01)
    assert len(server.asked) == 3


def test_refusal_is_not_repeated(server: Server, tmp_path: Path) -> None:
    server.status = [404]
    with pytest.raises(DownloadError, match=r"status 404.*put it at '.*weights\.zip'"):
        download_file(server.url, tmp_path / "weights.zip")
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_offline(server: Server, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/weights.zip"
    with pytest.raises(DownloadError) as caught:
        download_file(url, tmp_path / "weights.zip", first_pause_s=0.01)
    assert f"'{url}' cannot be reached" in str(caught.value)
    assert f"put it at '{tmp_path / 'weights.zip'}'" in str(caught.value)
    assert "object at 0x" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_host(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DownloadError, match=r"cannot be reached .*proxy settings"):
        download_file("http://models.invalid/weights.zip", tmp_path / "weights.zip", first_pause_s=0.01)


def test_proxy_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/weights.zip"))
    monkeypatch.setenv("no_proxy", "")
    download_file("http://models.invalid/weights.zip", tmp_path / "weights.zip", sha256=SHA256)
    assert server.asked[0]["path"] == "http://models.invalid/weights.zip"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "weights.zip", "http:///a", ""])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="not an http or https address"):
        download_file(url, tmp_path / "weights.zip")


def test_file_put_there_by_hand_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.zip").write_bytes(CONTENT)
    download_file(server.url, tmp_path / "weights.zip", size=len(CONTENT), sha256=SHA256)
    assert server.asked == []


def test_wrong_file_put_there_by_hand_is_refused_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.zip").write_bytes(CONTENT[::-1])
    with pytest.raises(DownloadError, match="Delete or replace it"):
        download_file(server.url, tmp_path / "weights.zip", sha256=SHA256)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT[::-1]


def test_cancel_while_the_server_is_silent(server: Server, tmp_path: Path) -> None:
    server.stall = threading.Event()
    progress = Progress()
    timer = threading.Timer(0.5, progress.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        download_file(server.url, tmp_path / "weights.zip", progress=progress)
    assert time.monotonic() - started < 10
    server.stall.set()
    timer.join()
    assert not (tmp_path / "weights.zip").exists()


def test_cancel_between_attempts(server: Server, tmp_path: Path) -> None:
    server.status = [503] * 10
    progress = Progress(lambda update: progress.cancel() if "trying again" in update.message else None)
    with pytest.raises(Cancelled):
        download_file(server.url, tmp_path / "weights.zip", progress=progress, first_pause_s=60)


def test_disk_too_small(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"weights\.zip cannot be written: it needs .*BRAINSEGSAM_MODELS"):
        download_file(server.url, tmp_path / "weights.zip")
    assert not (tmp_path / "weights.zip").exists()


def test_disk_full_while_writing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open: Callable[..., object] = Path.open

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: object) -> None:
            pass

        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        return Full() if self.name.endswith(".part") and "r" not in mode else real_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match="disk is full"):
        download_file(server.url, tmp_path / "weights.zip")
    assert not (tmp_path / "weights.zip").exists()


def test_server_that_continues_in_the_wrong_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.zip.part").write_bytes(CONTENT[:1000])
    server.shift = 7
    download_file(server.url, tmp_path / "weights.zip", sha256=SHA256, first_pause_s=0.01)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert "Range" not in server.asked[1]


def test_endless_redirection(server: Server, tmp_path: Path) -> None:
    server.redirect = True
    with pytest.raises(DownloadError, match="cannot be downloaded: Exceeded 30 redirects"):
        download_file(server.url, tmp_path / "weights.zip", first_pause_s=0.01)


def test_without_the_package_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(DependencyError, match="pip install requests"):
        download_file("http://127.0.0.1:9/weights.zip", tmp_path / "weights.zip")


def test_note_of_the_part_names_its_origin(server: Server, tmp_path: Path) -> None:
    server.drop_after = [200_000] + [0] * 20
    with pytest.raises(DownloadError):
        download_file(server.url, tmp_path / "weights.zip", first_pause_s=0.001)
    assert json.loads((tmp_path / "weights.zip.part.json").read_text()) == {"url": server.url, "validator": '"first"'}
