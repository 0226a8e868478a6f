"""An FTP server on this machine, for tests of URLs: a remote kind that fsspec speaks without a further package."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder to a user with a password; yields its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("pyftpdlib", reason="The FTP server pyftpdlib is not installed, so nothing can be served.")
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.handlers import FTPHandler
        from pyftpdlib.servers import ThreadedFTPServer

    logging.getLogger("pyftpdlib").setLevel(logging.ERROR)
    accounts = DummyAuthorizer()
    accounts.add_user("ann", "secret", str(folder), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": accounts})
    server = ThreadedFTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.1, "handle_exit": False}, daemon=True)
    thread.start()
    try:
        yield f"ftp://ann:secret@127.0.0.1:{server.address[1]}"
    finally:
        server.close_all()
        thread.join(10)
