"""Draws the buttons of the three Segment Editor effects: `python Resources/make_icons.py`.

The U of the network around a lesion; a box around a lesion; a lesion followed through three slices.
"""

from __future__ import annotations

import numpy as np
from make_logo import (
    BOX,
    CORTEX,
    ENHANCING,
    ROOT,
    TUMOUR_CORE,
    WHITE_MATTER,
    WHOLE_TUMOUR,
    Area,
    Drawing,
    Layer,
    draw,
)
from matplotlib.image import imsave
from numpy.typing import NDArray

SIZE = 48
EDGE = (46, 58, 78)


def network(x: Layer, y: Layer) -> list[Area]:
    """A U of blocks that holds a lesion in three regions."""
    arms = [(side * (0.80 - 0.10 * step), -0.72 + 0.46 * step, 0.15) for step in range(3) for side in (-1, 1)]
    blocks = [_block(x - cx, y - cy, half, 0.17) for cx, cy, half in [*arms, (0.0, 0.74, 0.42)]]
    distance = np.hypot(x, y + 0.10)
    return [
        *[(block, EDGE) for block in blocks],
        *[(_block(x - cx, y - cy, half - 0.05, 0.12), BOX) for cx, cy, half in [*arms, (0.0, 0.74, 0.42)]],
        (distance < 0.40, WHOLE_TUMOUR),
        (distance < 0.26, TUMOUR_CORE),
        (distance < 0.14, ENHANCING),
    ]


def box(x: Layer, y: Layer) -> list[Area]:
    """A lesion in a dragged box, with a point inside and one outside."""
    half = np.maximum(np.abs(x), np.abs(y))
    turn = np.arctan2(y, x)
    distance = np.hypot(x, y) / (1 + 0.10 * np.cos(3 * turn + 0.5))
    corners = [(half > 0.0) & (np.hypot(x - sx * 0.82, y - sy * 0.82) < 0.17) for sx in (-1, 1) for sy in (-1, 1)]
    return [
        (distance < 0.60, EDGE),
        (distance < 0.53, TUMOUR_CORE),
        ((half < 0.90) & (half > 0.72), EDGE),
        ((half < 0.86) & (half > 0.76), BOX),
        *[(corner, EDGE) for corner in corners],
        *[(np.hypot(x - sx * 0.82, y - sy * 0.82) < 0.11, CORTEX) for sx in (-1, 1) for sy in (-1, 1)],
    ]


def track(x: Layer, y: Layer) -> list[Area]:
    """A lesion that grows from slice to slice, and an arrow along them."""
    areas: list[Area] = []
    for offset, radius in ((-0.40, 0.14), (0.0, 0.24), (0.40, 0.34)):
        u, v = x - offset * 0.9, y - offset * 0.9
        areas += [
            (_block(u, v, 0.50, 0.50), EDGE),
            (_block(u, v, 0.44, 0.44), WHITE_MATTER),
            (np.hypot(u, v) < radius, TUMOUR_CORE),
        ]
    along, across = (x + y) / np.sqrt(2), (x - y - 0.85) / np.sqrt(2)
    arrow = (np.abs(across) < 0.07) & (np.abs(along) < 0.62)
    for end in (-1, 1):
        tip = 0.86 - end * along
        arrow |= (tip > 0) & (tip < 0.32) & (np.abs(across) < 0.62 * tip)
    return [*areas, (arrow, BOX)]


def _block(x: Layer, y: Layer, half_width: float, half_height: float) -> NDArray[np.bool_]:
    return np.asarray((np.abs(x) < half_width) & (np.abs(y) < half_height))


ICONS: dict[str, Drawing] = {
    "SegmentEditorNNUNetEffect": network,
    "SegmentEditorMedSAMBoxEffect": box,
    "SegmentEditorSAMTrackEffect": track,
}

if __name__ == "__main__":
    for name, drawing in ICONS.items():
        imsave(ROOT / "Resources" / "Icons" / f"{name}.png", draw(drawing, SIZE), metadata={"Software": ""})
