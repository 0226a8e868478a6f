"""For tests of interactive requests: a worker's context without its process, and a ball in an oblique volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib import wire, worker
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.interactive import load_image
from BrainSegSAMLib.prompts import slices_first

BoolArray = NDArray[np.bool_]
CENTRE_LPS = np.array([12.0, -7.0, 30.0])
RADIUS_MM = 9.0


def turned(degrees: float) -> NDArray[np.float64]:
    """About two axes, so that no axis stays."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


GRID = Geometry(
    (38, 34, 30), (1.5, 1.0, 1.25), tuple(CENTRE_LPS - turned(15) @ [24.0, 18.0, 19.0]), turned(15)
)  # fmt: skip


def ball(grid: Geometry) -> BoolArray:
    indices = np.argwhere(np.ones(grid.shape_zyx, bool))[:, ::-1]
    inside: BoolArray = np.linalg.norm(grid.to_lps(indices) - CENTRE_LPS, axis=1) < RADIUS_MM
    return inside.reshape(grid.shape_zyx)


class Bench:
    """A worker's context without its process."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.warm = worker.Warm(worker.SIZES)
        self.context = self.fresh()

    def fresh(self) -> worker.Context:
        """As for the next request."""
        self.sent.clear()
        self.context = worker.Context(self.warm, self.sent.append)
        return self.context

    @property
    def partials(self) -> list[dict[str, Any]]:
        return [message["data"] for message in self.sent if message["type"] == "partial"]


def make_bench() -> Bench:
    """With a ball of 900 in noise of 400 as image "one"."""
    made = Bench()
    noise = np.random.default_rng(0).normal(400, 10, GRID.shape_zyx)
    load(made, "one", {"flair": np.where(ball(GRID), 900, noise).astype(np.float32)})
    return made


def load(bench: Bench, name: str, channels: Mapping[str, NDArray[np.float32]], grid: Geometry = GRID) -> dict[str, Any]:
    sent = {m: {"array": array, "geometry": wire.geometry_data(grid)} for m, array in channels.items()}
    return load_image({"image_id": name, "name": name, "channels": sent}, bench.fresh())


def upright() -> tuple[Geometry, Callable[[NDArray[Any]], NDArray[Any]]]:
    geometry, order = GRID.reoriented("LPS")
    return geometry, order.apply


def tracked(model: Path, index: int = 14, **what: Any) -> dict[str, Any]:
    mask = slices_first(upright()[1](ball(GRID)), "axial")[index]
    settings = {"stop_rules": False, "zoom_pixels": None, **what.pop("settings", {})}
    return {
        "image_id": "one", "model": str(model), "device": "cpu", "plane": "axial", "index": index, "mask": mask,
        "settings": settings, **what,
    }  # fmt: skip
