"""Draws the extension's logo and the module's icon: `python Resources/make_logo.py`.

An axial brain with a lesion in three nested regions and a prompt box around it: what the extension does, at 128 pixels.
Drawn four times as large and averaged down, so that edges are smooth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (ROOT / "BrainSegSAM.png", ROOT / "Resources" / "Icons" / "BrainSegSAM.png")
SIZE = 128
OVERSAMPLING = 4

Layer = NDArray[np.float64]
Area = tuple[NDArray[np.bool_], tuple[int, int, int]]
Drawing = Callable[[Layer, Layer], list[Area]]

BACKGROUND = (22, 34, 54)
CORTEX = (222, 226, 232)
WHITE_MATTER = (176, 184, 196)
VENTRICLE = (70, 84, 108)
WHOLE_TUMOUR = (88, 190, 96)
TUMOUR_CORE = (240, 190, 60)
ENHANCING = (224, 70, 66)
BOX = (86, 196, 255)


def draw(layers: Drawing, size: int) -> NDArray[np.float64]:
    """RGBA (size, size, 4), values 0 to 1; transparent where no layer is."""
    n = size * OVERSAMPLING
    y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1] * 2, indexing="ij")  # -1 to 1, y downwards
    image = np.zeros((n, n, 4))
    for inside, colour in layers(x, y):
        image[inside] = (*(c / 255 for c in colour), 1.0)
    weight = image[..., 3:]
    pixels = (image * np.concatenate([weight] * 3 + [np.ones_like(weight)], axis=2)).reshape(
        size, OVERSAMPLING, size, OVERSAMPLING, 4
    ).mean(axis=(1, 3))
    pixels[..., :3] /= np.maximum(pixels[..., 3:], 1e-9)  # colours were weighted by alpha
    return np.asarray(pixels.clip(0, 1))


def logo(x: Layer, y: Layer) -> list[Area]:
    """The areas of the logo, from back to front; x to the right and y downwards, both from -1 to 1."""
    angle = np.arctan2(y, x)
    # Egg-shaped axial outline, narrower in front (top), with gyri as a ripple of its rim.
    width = 0.66 + 0.07 * y
    radius = np.hypot(x / width, y / 0.82)
    rim = 1.0 + 0.022 * np.cos(22 * angle)
    brain = radius < rim
    inner = radius < 0.80 + 0.07 * np.cos(11 * angle + 0.6) + 0.03 * np.cos(22 * angle)
    fissure = (np.abs(x) < 0.022) & (np.abs(y) > 0.40)
    ventricles = np.zeros_like(brain)
    for side in (-1, 1):
        u = x * side - 0.10 - 0.32 * (y * 0.9) ** 2
        ventricles |= (np.hypot(u / 0.055, y / 0.36) < 1) & (x * side > 0.02)
    lesion_x, lesion_y = x - 0.335, y + 0.24
    turn = np.arctan2(lesion_y, lesion_x)
    distance = np.hypot(lesion_x, lesion_y) / (1 + 0.10 * np.cos(3 * turn + 0.5) + 0.05 * np.cos(5 * turn))
    half = np.maximum(np.abs(lesion_x), np.abs(lesion_y))
    box = (half < 0.290) & (half > 0.250)
    return [
        (rounded_square(x, y, 0.98, 0.24), BACKGROUND),
        (brain, CORTEX),
        (brain & inner, WHITE_MATTER),
        (brain & fissure, BACKGROUND),
        (ventricles, VENTRICLE),
        (distance < 0.212, WHOLE_TUMOUR),
        (distance < 0.142, TUMOUR_CORE),
        (distance < 0.080, ENHANCING),
        (box, BOX),
    ]


def rounded_square(x: Layer, y: Layer, half: float, corner: float) -> NDArray[np.bool_]:
    """A square around the middle, of half a side's length, with round corners."""
    dx, dy = (np.maximum(np.abs(v) - (half - corner), 0) for v in (x, y))
    return np.asarray(np.hypot(dx, dy) < corner)


if __name__ == "__main__":
    for target in TARGETS:
        target.parent.mkdir(parents=True, exist_ok=True)
        imsave(target, draw(logo, SIZE), metadata={"Software": ""})
