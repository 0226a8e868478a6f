"""Fetches one file over HTTP so that it is there whole and right, or not at all.

Data go to `<name>.part`; what an interrupted download left there is continued when the server can tell that its file is
still the same. Size and SHA-256 are checked before the file gets its final name. The network is read in a thread of its
own, so that a cancel takes effect at once even when a server has stalled. Proxies come from the usual environment
variables.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import shutil
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DependencyError, DownloadError, OutputError
from ..files import output_sentence, sha256_of, write_json
from ..progress import Progress

_CHUNK_BYTES = 1 << 16
_CONNECT_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 60.0
_POLL_S = 0.2
_ATTEMPTS_WITHOUT_PROGRESS = 5
_ATTEMPTS_TO_CONNECT = 2


@dataclass(frozen=True)
class _Job:
    url: str
    target: Path
    size: int | None
    sha256: str | None

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        """Beside the part: which state of the server's file it belongs to."""
        return self.target.with_name(self.target.name + ".part.json")


@dataclass(frozen=True)
class _Head:
    status: int
    headers: Mapping[str, str]


class _InterruptedError(Exception):
    """The transfer broke off and may be continued; `connected` tells whether the server had answered."""

    def __init__(self, reason: str, *, connected: bool) -> None:
        super().__init__(reason)
        self.connected = connected


def download_file(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    first_pause_s: float = 1.0,
) -> Path:
    """Download `url` to `target`, or take a file that lies there already.

    Args:
        url: http or https.
        target: final path; its folder is made where it is missing.
        size: published size in bytes, or None.
        sha256: published SHA-256 (hexadecimal), or None.
        progress: gets a stage in bytes (total 0 where the size is unknown); may cancel, and what was received is kept.
        first_pause_s: pause before the first new attempt after a broken connection; doubled each time.

    Returns:
        `target`.

    Raises:
        DownloadError: the address is not http(s), cannot be reached, gives an error, keeps breaking off, or what came
            (or lay there) does not match size or checksum.
        OutputError: the file cannot be written, or the disk is too small.
        Cancelled: when the progress was cancelled; honoured within a second.
    """
    progress = progress or Progress()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"'{url}' is not an http or https address, so it is not downloaded.")
    job = _Job(url, target, size, sha256.lower() if sha256 else None)
    if target.exists():
        _verify(job, target, "Delete or replace it.")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(job, progress, first_pause_s)
        try:
            _verify(job, job.part, "Nothing was kept; try again, and report it if it happens again.")
        except DownloadError:
            _forget(job)
            raise
        job.part.replace(target)
        job.note.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(output_sentence(target, error)) from error
    return target


def _fetch(job: _Job, progress: Progress, pause_s: float) -> None:
    """Fill `job.part`, trying again after broken connections while each attempt brings something."""
    failures, unreached = 0, 0
    while True:
        before = _received(job)
        try:
            _attempt(job, progress)
            return
        except _InterruptedError as interruption:
            failures = 0 if _received(job) > before else failures + 1
            unreached = 0 if interruption.connected else unreached + 1
            if failures >= _ATTEMPTS_WITHOUT_PROGRESS or unreached >= _ATTEMPTS_TO_CONNECT:
                raise DownloadError(_unreachable_sentence(job, interruption)) from interruption
            progress.log(f"The connection broke off ({interruption}); trying again.")
        _wait(pause_s * 2 ** max(failures, unreached), progress)


def _attempt(job: _Job, progress: Progress) -> None:
    """One request. Ends normally only when the server's file has come to its end."""
    headers, offset = _resume_headers(job)
    with contextlib.closing(_receive(job.url, headers, progress)) as messages:
        head = next(messages)
        assert isinstance(head, _Head)
        if head.status == 416 and offset:  # nothing after what we have, or another file: begin anew
            _forget(job)
            raise _InterruptedError("the server could not continue", connected=True)
        _check_status(job, head)
        if head.status != 206:
            offset = 0
        elif not head.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            _forget(job)
            raise _InterruptedError("the server continued in the wrong place", connected=True)
        expected = _expected_size(head, offset, job)
        _check_space(job, expected, offset)
        _note_state(job, head)
        progress.stage(f"Downloading {job.target.name}", total=expected or 0)
        if offset:
            progress.advance(offset)
        received = offset
        with job.part.open("ab" if offset else "wb") as stream:
            for chunk in messages:
                assert isinstance(chunk, bytes)
                stream.write(chunk)
                received += len(chunk)
                progress.advance(len(chunk))
                if job.size is not None and received > job.size:
                    return  # more than published: the check of the size will say so
    if expected is not None and received < expected:
        raise _InterruptedError(f"{received} of {expected} bytes had come", connected=True)


def _resume_headers(job: _Job) -> tuple[dict[str, str], int]:
    """Headers that continue a part, and how many bytes it has; 0 where it cannot be continued safely."""
    headers = {"Accept-Encoding": "identity"}
    offset = _received(job)
    validator = ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        note = json.loads(job.note.read_text(encoding="utf-8"))
        validator = str(note.get("validator", "")) if note.get("url") == job.url else ""
    if not offset or not (validator or job.sha256):
        return headers, 0
    headers["Range"] = f"bytes={offset}-"
    if validator:
        headers["If-Range"] = validator  # a server whose file has changed sends it whole
    return headers, offset


def _receive(
    url: str, headers: Mapping[str, str], progress: Progress
) -> Generator[_Head | bytes, None, None]:
    """The answer's head, then its bytes; read in a thread, so that a cancel is seen while the network is silent."""
    messages: queue.Queue[_Head | bytes | BaseException | None] = queue.Queue(maxsize=32)
    stop = threading.Event()
    reader = threading.Thread(target=_read, args=(url, headers, messages, stop), name="download", daemon=True)
    reader.start()
    connected = False
    try:
        while True:
            progress.check()
            try:
                message = messages.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if message is None:
                return
            if isinstance(message, BaseException):
                if isinstance(message, (DependencyError, DownloadError)):
                    raise message
                raise _InterruptedError(_short(message), connected=connected) from message
            connected = True
            yield message
    finally:
        stop.set()


def _read(url: str, headers: Mapping[str, str], messages: queue.Queue[object], stop: threading.Event) -> None:
    def put(message: object) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                messages.put(message, timeout=_POLL_S)
                return

    try:
        import requests
    except ImportError:
        put(DependencyError("Downloading needs the Python package requests; install it with 'pip install requests'."))
        return
    try:
        timeout = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
        with requests.get(url, headers=dict(headers), stream=True, timeout=timeout) as response:
            put(_Head(response.status_code, response.headers))
            for chunk in response.iter_content(_CHUNK_BYTES):
                put(chunk)
                if stop.is_set():
                    return
        put(None)
    except (requests.exceptions.InvalidURL, requests.exceptions.TooManyRedirects) as error:
        put(DownloadError(f"'{url}' cannot be downloaded: {error}."))
    except (requests.RequestException, OSError, ValueError) as error:  # ValueError: a broken answer
        put(error)


def _check_status(job: _Job, head: _Head) -> None:
    if head.status in (200, 206):
        return
    if head.status in (408, 425, 429) or head.status >= 500:
        raise _InterruptedError(f"the server answered with status {head.status}", connected=True)
    raise DownloadError(
        f"'{job.url}' cannot be downloaded: the server answered with status {head.status}. "
        f"If you can get the file in another way, put it at '{job.target}'."
    )


def _expected_size(head: _Head, offset: int, job: _Job) -> int | None:
    length = head.headers.get("Content-Length", "")
    if length.isdigit() and not head.headers.get("Content-Encoding"):
        return offset + int(length)
    total = re.fullmatch(r"bytes \d+-\d+/(\d+)", head.headers.get("Content-Range", ""))
    return int(total[1]) if total else job.size


def _check_space(job: _Job, expected: int | None, offset: int) -> None:
    free = shutil.disk_usage(job.target.parent).free
    if expected is not None and expected - offset > free:
        raise OutputError(
            f"{job.target} cannot be written: it needs {(expected - offset) / 2**20:.0f} MiB, but the disk has only "
            f"{free / 2**20:.0f} MiB free; free some space or choose another folder for models (BRAINSEGSAM_MODELS)."
        )


def _note_state(job: _Job, head: _Head) -> None:
    etag = head.headers.get("ETag", "")
    validator = head.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    write_json({"url": job.url, "validator": validator}, job.note)


def _verify(job: _Job, path: Path, advice: str) -> None:
    found = path.stat().st_size
    if job.size is not None and found != job.size:
        raise DownloadError(f"'{path}' has {found} bytes, but {job.size} are published for '{job.url}'. {advice}")
    if job.sha256 is not None and sha256_of(path) != job.sha256:
        raise DownloadError(f"The SHA-256 checksum of '{path}' is not the published one for '{job.url}'. {advice}")


def _received(job: _Job) -> int:
    return job.part.stat().st_size if job.part.is_file() else 0


def _forget(job: _Job) -> None:
    job.part.unlink(missing_ok=True)
    job.note.unlink(missing_ok=True)


def _wait(seconds: float, progress: Progress) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress.check()
        time.sleep(min(_POLL_S, left))


def _unreachable_sentence(job: _Job, interruption: _InterruptedError) -> str:
    if interruption.connected:
        return (
            f"'{job.url}' could not be downloaded, because the connection keeps breaking off ({interruption}). "
            "Try again later: it will continue where it stopped."
        )
    return (
        f"'{job.url}' cannot be reached ({interruption}). Check the network connection and the proxy settings "
        f"(HTTP_PROXY, HTTPS_PROXY), or download the file on another computer and put it at '{job.target}'."
    )


def _short(error: BaseException) -> str:
    """The innermost reason of a chain of network errors, without object addresses."""
    text = re.sub(r"<[^<>]* object at 0x[0-9a-f]+>:? ?", "", str(error))
    reason = re.search(r"(\[Errno -?\d+\] [A-Z][\w ,'-]*|[Tt]imed out|Name or service not known)", text)
    return reason[0] if reason else (text[:160] or type(error).__name__)
