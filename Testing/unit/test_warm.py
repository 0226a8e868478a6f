"""What the worker keeps for later requests: closed when it is forgotten, at rest while nothing is asked for."""

from __future__ import annotations

import io
import threading
import time

import pytest

from BrainSegSAMLib import worker
from BrainSegSAMLib.worker import Warm


def test_the_most_recent_stay_warm():
    made = []
    warm = Warm({"image": 2})
    for key in ("a", "b", "a", "c", "a", "b"):
        warm.get("image", key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]
    with pytest.raises(ValueError, match="no"):
        warm.get("image", "d", lambda: (_ for _ in ()).throw(ValueError("no")))
    assert warm.find("image", "d") is None
    warm.drop("image")
    assert warm.find("image", "b") is None


def test_what_is_forgotten_is_closed_and_what_stays_rests_while_nothing_is_asked_for(monkeypatch):
    class Kept:
        def __init__(self):
            self.heard = []

        def rest(self):
            self.heard.append("rest")

        def close(self):
            self.heard.append("close")

    service = worker.Service(io.BytesIO(), io.BytesIO())
    one, two = Kept(), Kept()
    service._warm.get("tracks", 1, lambda: one)
    monkeypatch.setattr(worker, "IDLE_S", 0.01)

    def send_soon():
        while not one.heard:
            time.sleep(0.01)
        service._requests.put(None)

    threading.Thread(target=send_soon, daemon=True).start()
    assert service._next() is None
    assert one.heard == ["rest"]
    service._warm.get("tracks", 2, lambda: two)
    assert (one.heard, two.heard) == (["rest", "close"], [])
    service._warm.get("plain", 3, object)
    service._warm.rest()
    service._warm.drop("tracks")
    assert two.heard == ["rest", "close"]
