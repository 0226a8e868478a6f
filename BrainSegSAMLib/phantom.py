"""A synthetic brain MRI with a glioma-like lesion: flair, t1, t1ce, t2 and the labels that were put in.

It exists so that the demonstration, a few training cases and the tests need no patient's images. The brain is drawn
from formulas: ellipsoids for the parts, level sets of smooth noise for the sulci and the lesion, a contrast table for
the tissues. All random fields live on lattices fixed in millimetres, so one seed is the same brain on every grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Array = NDArray[np.float32]
Point = tuple[float, float, float]

CHANNELS: Final = ("flair", "t1", "t1ce", "t2")
ORIGIN_LPS_MM: Final[Point] = (0.0, -239.0, 0.0)
"""Centre of voxel (0, 0, 0) for every phantom; the axes run left, posterior, superior, as in BraTS."""

NCR, ED, ET = 1, 2, 3
HEALTHY: Final = ("csf", "sulcus", "gm", "wm", "deep", "vessel")

_CENTRE_XY_MM: Final = (119.0, 129.5)
_LATTICE_MM: Final = (-24.0, 268.0)

# Contrast in z-scores, flair, t1, t1ce, t2 in each row; set such that the rendered brain, which is blurred and has a
# bias field, has about the z-scores of real cases (see Source in make_phantom).
_CONTRAST: Final[dict[str, tuple[float, float, float, float]]] = {
    "csf": (-3.3, -3.8, -3.3, 3.5),
    "sulcus": (-2.5, -3.2, -2.4, 1.7),
    "gm": (0.00, -0.35, -0.25, 0.10),
    "wm": (-0.28, 0.70, 0.45, -0.33),
    "deep": (-0.10, 0.15, 0.10, -0.28),
    "vessel": (-0.8, 0.8, 7.0, -0.6),
    "ED": (1.15, 0.10, -0.08, 0.75),
    "NCR": (0.95, -0.40, -0.50, 1.6),
    "ET": (1.20, 0.28, 2.15, 1.6),
}
_SPREAD: Final[dict[str, tuple[float, float, float, float]]] = {
    "ED": (0.25, 0.15, 0.15, 0.2),
    "NCR": (0.5, 0.3, 0.25, 0.5),
    "ET": (0.4, 0.2, 0.4, 0.3),
}
_LEVEL: Final = {"flair": 620.0, "t1": 600.0, "t1ce": 700.0, "t2": 580.0}
_VARIATION: Final = {"flair": 0.29, "t1": 0.21, "t1ce": 0.26, "t2": 0.40}
"""Intensity of one z-score over the level; with it the brain has the measured standard deviation over mean."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic case.

    Attributes:
        channels: "flair", "t1", "t1ce", "t2": float32, zyx; exactly 0 outside the brain, >= 1 inside.
        labels: uint8, zyx: 0 background, 1 necrotic core, 2 edema, 3 enhancing tumour (BraTS 2023).
        spacing_zyx_mm: voxel size.
    """

    channels: dict[str, Array]
    labels: NDArray[np.uint8]
    spacing_zyx_mm: Point


@dataclass(frozen=True)
class _Grid:
    """The part of the voxel grid around the head: one mm coordinate vector per axis and its place in the whole."""

    axes: tuple[Array, Array, Array]
    box: tuple[slice, slice, slice]
    spacing: Point

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0


@dataclass(frozen=True)
class _Lesion:
    """Where the lesion is and how large, in the anatomical frame (x left, y anterior, z superior; mm, mL)."""

    centre: Point
    lobes: tuple[tuple[Point, float], ...]
    core_ml: float
    whole_ml: float
    rim_mm: float


def make_phantom(
    seed: int,
    *,
    shape_zyx: tuple[int, int, int] = (155, 240, 240),
    spacing_zyx_mm: Point = (1.0, 1.0, 1.0),
    lesion: bool = True,
) -> Phantom:
    """Make one synthetic case.

    Args:
        seed: chooses shape, contrast, lesion and noise; the same seed is the same brain on every grid.
        shape_zyx: voxels; the head is complete when shape times spacing covers 155 x 240 x 240 mm.
        spacing_zyx_mm: voxel size, > 0.
        lesion: False leaves the lesion (and the shift it causes) out; labels are then all 0.

    Returns:
        The case; voxel (0, 0, 0) lies at ORIGIN_LPS_MM.

    Raises:
        InputError: a negative seed, an empty shape or a spacing that is not positive.

    Source:
        Our own construction. The contrast table imitates z-scores within the brain, volumes and extents measured on
        eight cases of BraTS 2021 (Baid et al. 2021, arXiv:2107.02314).
    """
    if seed < 0 or min(shape_zyx) < 1 or min(spacing_zyx_mm) <= 0:
        msg = f"A phantom needs seed >= 0, shape >= 1 and spacing > 0; got {seed}, {shape_zyx}, {spacing_zyx_mm}."
        raise InputError(msg)
    grid = _grid(shape_zyx, spacing_zyx_mm)
    plan = _plan_lesion(np.random.default_rng([seed, 1])) if lesion else None
    x, y, z = _anatomical_coordinates(grid, seed, plan)
    parts = _brain_parts(x, y, z)
    inside = _brain_mask(parts, grid, seed)
    flat = [a[inside] for a in (x, y, z)]
    tissue = _tissues(flat, [p[inside] for p in parts], grid, inside, seed)
    labels = np.zeros(inside.shape, np.uint8)
    if plan is not None:
        tissue.update(_draw_lesion(plan, tissue, grid, inside, seed))
        labels[inside] = _label(tissue)
    channels = _render(tissue, grid, inside, seed)
    whole = np.zeros(shape_zyx, np.uint8)
    whole[grid.box] = labels
    out = {}
    for name, values in channels.items():
        out[name] = np.zeros(shape_zyx, np.float32)
        out[name][grid.box] = values
    return Phantom(channels=out, labels=whole, spacing_zyx_mm=spacing_zyx_mm)


def _grid(shape_zyx: tuple[int, int, int], spacing_zyx_mm: Point) -> _Grid:
    """Only the box around the head is computed: it is two fifths of the BraTS grid."""
    head = ((0.0, 152.0), (34.0, 226.0), (38.0, 200.0))
    axes, box = [], []
    for count, step, (low, high) in zip(shape_zyx, spacing_zyx_mm, head, strict=True):
        first = min(int(np.ceil(low / step)), count)
        last = max(min(int(np.floor(high / step)) + 1, count), first)
        axes.append((np.arange(first, last) * step).astype(np.float32))
        box.append(slice(first, last))
    return _Grid((axes[0], axes[1], axes[2]), (box[0], box[1], box[2]), spacing_zyx_mm)


def _field(seed: int, stream: int, feature_mm: float, axes: Sequence[Array]) -> Array:
    """Smooth noise of mean 0 and standard deviation 1: cubic B-splines on a lattice of `feature_mm`, fixed in space."""
    low, high = _LATTICE_MM
    nodes = int(np.ceil((high - low) / feature_mm)) + 4
    values = np.random.default_rng([seed, 100 + stream]).standard_normal((nodes, nodes, nodes), dtype=np.float32)
    for axis, mm in enumerate(axes):
        at = (mm - low) / feature_mm + 1.0
        t = np.abs(at[:, None] - np.arange(nodes, dtype=np.float32)[None])
        spline = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6).astype(np.float32)
        values = np.moveaxis(np.tensordot(spline, values, axes=(1, axis)), 0, axis)
    # 0.479 is the mean of the sum of squared spline weights on one axis.
    return np.asarray(np.ascontiguousarray(values) / np.float32(0.479**1.5), np.float32)


def _plan_lesion(rng: np.random.Generator) -> _Lesion:
    """Draw place, lobes and volumes."""
    side = rng.choice((-1.0, 1.0))
    angle = rng.uniform(0, 2 * np.pi)
    reach = np.sqrt(rng.uniform(0.1, 1.0))
    centre = (side * rng.uniform(28, 38), 2 + 42 * reach * np.cos(angle), 82 + 20 * reach * np.sin(angle))
    core_ml = float(np.exp(rng.uniform(np.log(6), np.log(50))))
    whole_ml = float(np.clip(core_ml * rng.uniform(1.4, 2.6) + rng.uniform(12, 35), 22, 118))
    radius = (3 * core_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    lobes = [((0.0, 0.0, 0.0), 1.0)]
    for _ in range(int(rng.integers(0, 3))):
        way = rng.standard_normal(3)
        way *= radius * rng.uniform(0.7, 1.2) / np.linalg.norm(way)
        lobes.append(((float(way[0]), float(way[1]), float(way[2])), float(rng.uniform(0.5, 0.8))))
    return _Lesion(centre, tuple(lobes), core_ml, whole_ml, float(rng.uniform(2.0, 5.0)))


def _anatomical_coordinates(grid: _Grid, seed: int, plan: _Lesion | None) -> tuple[Array, Array, Array]:
    """Map each voxel to the template: x left, y anterior of the middle, z above the lowest slice, in mm."""
    rng = np.random.default_rng([seed, 2])
    z, y, x = np.meshgrid(*grid.axes, indexing="ij", sparse=True)
    scale = rng.normal(1.0, 0.025, 3)
    roll, yaw = rng.normal(0, 0.02, 2)
    x, y = x - _CENTRE_XY_MM[0], _CENTRE_XY_MM[1] - y
    px = (x + roll * (z - 75) + yaw * y) * scale[0] + 2.2 * _field(seed, 1, 38, grid.axes)
    py = (y - yaw * x) * scale[1] + 2.6 * _field(seed, 2, 38, grid.axes)
    pz = (z - roll * x - 78) * scale[2] + 78 + 2.6 * _field(seed, 3, 38, grid.axes)
    if plan is not None:
        # Mass effect: the template near the centre is spread outwards; the skull keeps the outline in place.
        cx, cy, cz = plan.centre
        sigma = 9 + 3.2 * plan.core_ml ** (1 / 3) * 1.6
        pull = np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * sigma**2))
        pull *= 0.35 * np.clip(1.15 - np.sqrt((x / 68) ** 2 + (y / 83) ** 2 + ((z - 78) / 60) ** 2), 0, 0.5) / 0.5
        px, py, pz = px + pull * (cx - px), py + pull * (cy - py), pz + pull * (cz - pz)
    return px.astype(np.float32), py.astype(np.float32), pz.astype(np.float32)


def _ellipsoid(x: Array, y: Array, z: Array, centre: Point, radii: Point) -> Array:
    """Depth below the surface of an ellipsoid, roughly in mm; negative outside."""
    r = np.sqrt(
        ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
    )
    return np.asarray((1 - r) * np.float32(np.prod(radii) ** (1 / 3)), np.float32)


def _brain_parts(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """Depth (mm, negative outside) in the cerebrum, the cerebellum and the brainstem."""
    side = np.abs(x)
    up = z - 76
    width = 66 - 0.07 * y - 0.0012 * y * y
    height = np.where(up > 0, 61, 34 - 0.08 * y)
    cerebrum = (1 - (np.abs(x / width) ** 2.3 + np.abs(y / 84) ** 2.2 + np.abs(up / height) ** 2.2) ** (1 / 2.2)) * 66
    temporal = _ellipsoid(side, y, z + 0.15 * y, (40, 2, 52), (23, 46, 25))
    cerebrum = np.maximum(cerebrum, temporal)
    cerebellum = _ellipsoid(side, y, z, (19, -41, 32), (34, 32, 28))
    stem = _ellipsoid(x, y + 0.2 * (z - 40), z, (0, -16, 28), (13, 13, 42))
    return cerebrum.astype(np.float32), cerebellum, stem


def _brain_mask(parts: tuple[Array, Array, Array], grid: _Grid, seed: int) -> NDArray[np.bool_]:
    """Where the skull stripping left the brain: a smooth union of the parts with a slightly ragged edge."""
    smooth = np.float32(4.0)
    union = smooth * np.log(sum(np.exp(np.clip(p, -40, 40) / smooth) for p in parts))
    return np.asarray(union > 1.4 + 0.9 * _field(seed, 4, 6, grid.axes) + 0.8 * _field(seed, 5, 20, grid.axes))


def _soft(depth: NDArray[np.floating], width: float) -> Array:
    """Share of the voxel inside a surface `depth` mm away (0 to 1): partial volume as a logistic step."""
    return np.asarray(1 / (1 + np.exp(np.clip(-depth / width, -30, 30))), np.float32)


def _sulcal_distance(x: Array, y: Array, z: Array, depth: Array, floor_mm: Array, bend: Array, seed: int) -> Array:
    """Distance (mm) to the nearest sulcus.

    Sulci are the zero level of noise that is constant along the way inwards, which makes walls like real folds.
    """
    from scipy import ndimage

    low, high = _LATTICE_MM
    step = 2.0
    line = np.arange(low + 8, high - 8, step, dtype=np.float32)
    noise = _field(seed, 6, 5.0, (line, line, line))
    slope = np.sqrt(sum(np.gradient(noise, step, axis=a) ** 2 for a in range(3)))
    out = np.clip(1 - depth / 66, 0.25, 1) ** -0.75
    places = np.stack([(z - 72) * out + 72, y * out + 120, x * out + 120])
    # The walls are bent on the way in, else every gyrus would be a straight spoke.
    places += 2.6 * bend
    index = (places - line[0]) / step
    value = ndimage.map_coordinates(noise, index, order=1, mode="nearest")
    sharp = ndimage.map_coordinates(slope.astype(np.float32), index, order=1, mode="nearest")
    sheet = np.abs(value) / (0.85 * sharp + 0.06)
    return np.asarray(np.hypot(sheet, np.clip(depth - floor_mm, 0, None)), np.float32)


def _tissues(
    place: list[Array], parts: list[Array], grid: _Grid, inside: NDArray[np.bool_], seed: int
) -> dict[str, Array]:
    """Shares (0 to 1, summing to 1) of the HEALTHY tissues per brain voxel (flat), and of periventricular caps."""
    rng = np.random.default_rng([seed, 3])
    x, y, z = place
    cerebrum, cerebellum, stem = parts
    blur = 0.45 + 0.12 * (float(np.mean(grid.spacing)) - 1.0)
    side = np.abs(x)
    wide = 1.0 + 0.5 * _field(seed, 7, 25, grid.axes)[inside]
    atrophy = rng.uniform(0.25, 0.9)
    bend = np.stack([_field(seed, k, 9, grid.axes)[inside] for k in (11, 12, 13)])
    floor_mm = np.clip(19 + 8 * _field(seed, 8, 18, grid.axes)[inside], 3, 30)
    sulci = _sulcal_distance(x, y, z, cerebrum, floor_mm.astype(np.float32), bend, seed)
    core = _ellipsoid(x, y, z, (0, -4, 72), (40, 47, 25))
    fissure = np.hypot(x + 0.5 * bend[2], np.clip(core, 0, None))
    sylvian = np.hypot(z - 58 + 2.5 * bend[0] + 0.3 * y + 0.12 * (side - 45), np.clip(39 - side, 0, None))
    sylvian = np.hypot(sylvian, np.clip(np.abs(y - 8) - 30, 0, None))
    to_csf = np.minimum(sulci, np.minimum(fissure, sylvian - 0.8)) - atrophy * np.clip(wide, -0.2, 2.2)
    to_csf = np.minimum(to_csf, cerebrum - 0.2)
    leaf = np.abs(np.sin(0.62 * (z - 0.5 * y) + 0.9 * _field(seed, 9, 7, grid.axes)[inside]))
    folia = 2.4 * leaf + 0.13 * np.clip(cerebellum, 0, None)
    in_cerebrum = (cerebrum >= cerebellum) & (cerebrum >= stem - 6)
    in_stem = ~in_cerebrum & (stem >= cerebellum - 3)
    tentorium = np.abs(cerebrum - cerebellum) / 2
    to_csf = np.where(in_cerebrum, to_csf, np.where(in_stem, stem + 0.5, np.minimum(cerebellum, folia) - 0.3))
    to_csf = np.where(in_stem, to_csf, np.minimum(to_csf, tentorium - 0.6)).astype(np.float32)
    ventricle = _ventricles(x, y, z, float(rng.uniform(0.8, 1.35)))
    filled = _soft(ventricle, blur)
    csf = np.maximum(_soft(-to_csf, blur), filled)
    ribbon = np.where(in_cerebrum, 3.3, np.where(in_stem, -4.0, 3.2)).astype(np.float32)
    gm = _soft(ribbon - to_csf, blur) * (1 - csf)
    deep = _deep_gray(side, y, z, blur) * (1 - csf)
    deep = np.where(in_stem, 0.6 * (1 - csf), deep)
    gm = gm * (1 - deep)
    # Vessels: lines where two noise fields are both zero, kept near the sulci.
    first, second = (_field(seed, k, 12, grid.axes)[inside] for k in (10, 14))
    vessel = _soft(1.0 - 7.0 * np.hypot(first, second), 0.3) * _soft(2.0 - to_csf, 0.5)
    sinus = _soft(3.0 - np.hypot(x, np.clip(cerebrum, 0, None) - 1), 0.6) * (np.abs(y + 20) < 65) * (z > 60)
    plexus = _soft(1.6 - np.hypot(side - 21, z - 76), 0.5) * _soft(ventricle, 0.5) * (y < -15)
    vessel = np.maximum(vessel, np.maximum(0.7 * sinus, plexus)).astype(np.float32)
    rest = 1 - vessel
    cap = _soft(4 + ventricle, 1.2) * (1 - csf)
    return {
        "csf": filled * rest,
        "sulcus": (csf - filled) * rest,
        "gm": gm * rest,
        "deep": deep * rest,
        "wm": np.clip(1 - csf - gm - deep, 0, 1) * rest,
        "vessel": vessel,
        "cap": cap,
    }


def _ventricles(x: Array, y: Array, z: Array, size: float) -> Array:
    """Depth (mm) in the lateral, third and fourth ventricles."""
    side = np.abs(x)
    bend = 0.004 * (y - 5) ** 2
    body = _ellipsoid(side - 0.10 * (20 - y), y, z + bend, (7.5, 6, 84), (4.5 * size, 33, 7 * size))
    back = _ellipsoid(side - 0.25 * (-y - 35), y, z, (21, -35, 74), (5 * size, 17, 8 * size))
    horn = _ellipsoid(side, y, z + 0.3 * y, (32, -4, 55), (2.6 * size, 20, 3.4 * size))
    third = _ellipsoid(x, y, z, (0, 0, 68), (2.2 * size, 14, 9))
    fourth = _ellipsoid(x, y, z, (0, -27, 30), (6, 5, 9))
    return np.asarray(np.maximum.reduce([body, back, horn, third, fourth]), np.float32)


def _deep_gray(side: Array, y: Array, z: Array, blur: float) -> Array:
    """Share of caudate, putamen with pallidum, and thalamus."""
    caudate = _ellipsoid(side, y, z + 0.004 * (y - 5) ** 2, (15, 14, 79), (4.2, 17, 8))
    putamen = _ellipsoid(side - 0.15 * (10 - y), y, z, (24, 5, 70), (5.5, 16, 10))
    thalamus = _ellipsoid(side - 0.2 * (-8 - y), y, z, (10, -12, 71), (7.5, 13, 8.5))
    return _soft(np.maximum.reduce([caudate, putamen, thalamus]), blur + 0.3)


def _within_volume(field: Array, allowed: NDArray[np.bool_], volume_ml: float, grid: _Grid) -> float:
    """The level below which the allowed part of the field has this volume."""
    values = field[allowed]
    if values.size == 0:
        return float("-inf")
    count = int(np.clip(round(volume_ml / grid.voxel_ml), 1, values.size))
    return float(np.partition(values, count - 1)[count - 1])


def _draw_lesion(
    plan: _Lesion, tissue: dict[str, Array], grid: _Grid, inside: NDArray[np.bool_], seed: int
) -> dict[str, Array]:
    """Shares of ED, NCR and ET per brain voxel; the level sets are put where the planned volumes are met."""
    z, y, x = np.meshgrid(*grid.axes, indexing="ij", sparse=True)
    x, y = x - _CENTRE_XY_MM[0] - plan.centre[0], _CENTRE_XY_MM[1] - y - plan.centre[1]
    z = z - plan.centre[2]
    coarse, fine = _field(seed, 20, 16, grid.axes)[inside], _field(seed, 21, 6, grid.axes)[inside]
    radius = (3 * plan.core_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    distance = np.full(int(inside.sum()), np.inf, np.float32)
    for (dx, dy, dz), size in plan.lobes:
        lobe = np.sqrt((x - dx) ** 2 + (y - dy) ** 2 + (z - dz) ** 2)[inside] - radius * size
        distance = np.minimum(distance, lobe)
    fluid = tissue["csf"] + tissue["sulcus"]
    solid = fluid < 0.5
    core_field = (distance + 0.20 * radius * coarse + 1.1 * fine).astype(np.float32)
    core_depth = _within_volume(core_field, solid, plan.core_ml, grid) - core_field
    spread = np.minimum(distance, 60) * 0.9 + 3.5 * _field(seed, 22, 14, grid.axes)[inside] + 1.2 * fine
    spread = spread + 7 * (tissue["gm"] + tissue["deep"]) + 25 * fluid
    spread = np.minimum(spread, -core_depth - 4.0).astype(np.float32)
    edge = _within_volume(spread, solid, plan.whole_ml, grid) - spread
    thick = np.clip(plan.rim_mm * (0.9 + 0.75 * _field(seed, 23, 8, grid.axes)[inside]), 0, None)
    blur = 0.5 + 0.12 * (float(np.mean(grid.spacing)) - 1.0)
    free = 1 - np.clip(fluid, 0, 1) ** 2
    core, inner = _soft(core_depth, blur), _soft(core_depth - thick, blur)
    whole = _soft(edge, 0.9) * free
    return {"ED": whole * (1 - core), "NCR": core * inner * free, "ET": core * (1 - inner) * free}


def _label(tissue: dict[str, Array]) -> NDArray[np.uint8]:
    """The class with the largest share, inside voxels that are lesion for the larger part."""
    shares = np.stack([tissue["NCR"], tissue["ED"], tissue["ET"]])
    best = shares.argmax(0).astype(np.uint8) + 1
    return np.where(shares.sum(0) >= 0.5, best, 0).astype(np.uint8)


def _render(tissue: dict[str, Array], grid: _Grid, inside: NDArray[np.bool_], seed: int) -> dict[str, Array]:
    """Intensities per modality: contrast, texture, slice thickness, bias field and Rician noise; float32 zyx."""
    from scipy import ndimage

    lesion = {k: tissue[k] for k in ("ED", "NCR", "ET") if k in tissue}
    healthy = np.ones_like(tissue["wm"]) - sum(lesion.values())
    out = {}
    for m, name in enumerate(CHANNELS):
        rng = np.random.default_rng([seed, 10 + m])
        value = np.zeros_like(healthy)
        for k in HEALTHY:
            value += tissue[k] * np.float32(_CONTRAST[k][m] + rng.normal(0, 0.08))
        if name in ("flair", "t2"):
            value = value + tissue["cap"] * rng.uniform(0.2, 0.7)
        value = value * healthy
        rough = _field(seed, 30 + m, 5, grid.axes)[inside]
        for k, share in lesion.items():
            mean = _CONTRAST[k][m] + rng.normal(0, _SPREAD[k][m])
            value = value + share * (mean + 0.25 * rough + 0.22 * _field(seed, 24, 12, grid.axes)[inside])
        value = value + 0.2 * rough + 0.25 * _field(seed, 40 + m, 14, grid.axes)[inside]
        level = _LEVEL[name] * float(np.exp(rng.normal(0, 0.25)))
        variation = _VARIATION[name] * rng.uniform(0.9, 1.1)
        volume = np.full(inside.shape, 1 + variation * _CONTRAST["sulcus"][m] * 0.7, np.float32)
        volume[inside] = 1 + variation * value
        thickness = rng.uniform(0.2, 2.4)
        sigma = [0.35 + thickness * (a == 0) for a in range(3)]
        noise = [rng.standard_normal(inside.shape, dtype=np.float32) for _ in range(2)]
        volume += np.float32(0.12 * variation) * noise[0]
        volume = ndimage.gaussian_filter(volume, [s / d for s, d in zip(sigma, grid.spacing, strict=True)])
        volume *= 1 + rng.uniform(0.03, 0.07) * _field(seed, 50 + m, 60, grid.axes)
        volume = np.hypot(volume, np.float32(0.07 * variation) * noise[1])
        out[name] = np.where(inside, np.clip(volume * level, 1, None), 0).astype(np.float32)
    return out
