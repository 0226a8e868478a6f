"""Pairs of masks, maps and boxes, made by formulas, for which outside packages were asked for their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Pair:
    reference: BoolArray
    prediction: BoolArray
    spacing_zyx_mm: Spacing
    tolerance_mm: float


def ball(shape: tuple[int, int, int], centre: Any, radius_mm: float, spacing: Spacing = (1.0, 1.0, 1.0)) -> BoolArray:
    """Voxels whose centre is within `radius_mm` of a point given in voxels."""
    steps = [(np.arange(size) - middle) * step for size, middle, step in zip(shape, centre, spacing, strict=True)]
    z, y, x = np.meshgrid(*steps, indexing="ij")
    return np.asarray(z**2 + y**2 + x**2 <= radius_mm**2)


def box(shape: tuple[int, int, int], low: Any, high: Any) -> BoolArray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def waves(shape: tuple[int, int, int], phase: float, level: float) -> BoolArray:
    """Many rounded pieces, some of which touch the edge of the grid."""
    z, y, x = np.meshgrid(*[np.arange(size, dtype=np.float64) for size in shape], indexing="ij")
    field = np.sin(0.7 * z + phase) + np.sin(0.45 * y + 1.3 * phase) + np.cos(0.6 * x - phase)
    return np.asarray(field + 0.3 * np.sin(y * x / 40) > level)


def tube(shape: tuple[int, int, int], bend: float, radius: float) -> BoolArray:
    """A winding vessel along z."""
    z, y, x = np.meshgrid(*[np.arange(size, dtype=np.float64) for size in shape], indexing="ij")
    return np.asarray((y - 16 - bend * np.sin(z / 6)) ** 2 + (x - 15 - 5 * np.cos(z / 9)) ** 2 <= radius**2)


def pairs() -> dict[str, Pair]:
    grid = (24, 40, 36)
    wide = (26, 64, 60)
    many = ball(wide, (8, 10, 10), 5.2) | ball(wide, (8, 50, 46), 4.1) | ball(wide, (18, 8, 48), 1.2)
    many |= box(wide, (16, 34, 4), (21, 39, 9)) | ball(wide, (8, 17, 10), 1.3)  # the last is a satellite of the first
    few = ball(wide, (9, 11, 10), 5.0) | ball(wide, (9, 49, 44), 2.0) | ball(wide, (7, 52, 48), 1.5)
    few |= box(wide, (2, 30, 30), (4, 32, 33)) | box(wide, (22, 60, 0), (24, 64, 2))
    thick = (3.0, 0.5, 1.25)
    return {
        "balls": Pair(
            ball((16, 50, 36), (7, 22, 17), 12.0, thick), ball((16, 50, 36), (8, 26, 16), 10.0, thick), thick, 1.5
        ),
        "waves": Pair(waves((20, 44, 38), 0.0, 1.1), waves((20, 44, 38), 0.35, 1.0), thick, 1.25),
        "lesions": Pair(many, few, (1.0, 1.0, 1.0), 1.0),
        "tube": Pair(tube((40, 32, 32), 6.0, 2.6), tube((40, 32, 32), 5.0, 2.2), (0.7, 0.7, 0.7), 0.7),
        "far apart": Pair(box(grid, (0, 0, 0), (3, 4, 5)), box(grid, (20, 35, 30), (24, 40, 36)), (1.0, 1.0, 2.0), 2.0),
    }


def maps() -> dict[str, tuple[BoolArray, NDArray[np.float64]]]:
    y, x = np.meshgrid(np.arange(61.0), np.arange(83.0), indexing="ij")
    disc = (y - 28) ** 2 + (x - 40) ** 2 <= 18**2
    two = disc & (x > 30) | (y > 50) & (x < 15)
    soft = 1 / (1 + np.exp((np.hypot(y - 31, x - 44) - 17) / 3))
    rough = np.clip(soft + 0.25 * np.sin(0.9 * y) * np.cos(0.7 * x), 0, 1)
    return {
        "soft disc": (disc, soft),
        "rough disc": (disc, rough),
        "two parts": (two, 0.02 + 0.6 * rough),
        "faint": (two, 0.3 * soft),
        "inverted": (disc, 1 - soft),
        "full reference": (np.ones_like(disc), soft),
        "itself": (disc, disc.astype(np.float64)),
    }


def boxes() -> list[tuple[int, int, float, tuple[float, float, float, float]]]:
    """Slice, kind, confidence (0 for a known box) and box, by a fixed congruential generator."""
    state = 12345

    def draw() -> float:
        nonlocal state
        state = (1103515245 * state + 12345) % 2**31
        return state / 2**31

    found: list[tuple[int, int, float, tuple[float, float, float, float]]] = []
    for index in range(40):
        for _ in range(int(draw() * 4)):
            column, row, wide, high = 60 * draw(), 60 * draw(), 5 + 25 * draw(), 5 + 25 * draw()
            kind = int(draw() * 2)
            found.append((index, kind, 0.0, (column, row, column + wide, row + high)))
            for _ in range(int(draw() * 3)):
                a, b, c, d = (4 * draw() - 2 for _ in range(4))
                moved = (column + a, row + b, column + wide + c, row + high + d)
                found.append((index, kind, 0.2 + 0.8 * draw(), moved))
        for _ in range(int(draw() * 3)):
            column, row, wide, high = 60 * draw(), 60 * draw(), 5 + 25 * draw(), 5 + 25 * draw()
            found.append((index, int(draw() * 2), 0.01 + 0.7 * draw(), (column, row, column + wide, row + high)))
    return found
