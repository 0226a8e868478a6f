"""A picture of a segmentation on its image: axial, coronal and sagittal planes as a radiologist reads them.

Whatever the voxel order, the patient's right is on the left of axial and coronal planes, anterior is up or left, and
superior is up. All planes share one scale in millimetres. Matplotlib draws, through its object-oriented interface only:
nothing here touches the global state of pyplot, so it works in threads and inside other programs.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .components import keep_largest
from .errors import DependencyError, GeometryError
from .files import atomic_path
from .geometry import Geometry
from .image import Image, Segmentation
from .planes import PLANES, Plane, windowed

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DOTS_PER_INCH: Final = 150
_PREFERRED: Final = ("flair", "t1ce")
_FILL_OPACITY: Final = 0.28
_MARGIN_MM: Final = 10.0
# Inches.
_PLANES_WIDTH: Final = 10.5
_PLANES_HEIGHT: Final = 9.0
_GAP: Final = 0.12
_EDGE: Final = 0.25
_HEADER: Final = 0.32
_FOOTER: Final = 0.62
_LEGEND: Final = 2.9
_LEGEND_ENTRY: Final = 0.46
_MOST_DASHES: Final = 3  # for which there is room beside the word "reference"
_SMALLEST_HEIGHT: Final = 2.2

_DASHES: Final = (0, (3.5, 2.5))
_GROUND: Final = "#000000"
_TEXT: Final = "#f2f2f2"
_DIM: Final = "#b4b4b4"
_WARNING: Final = "#ffc247"


@dataclass(frozen=True)
class _Scene:
    """What is drawn, with axes along left, posterior, superior.

    Attributes:
        geometry: grid of all arrays.
        channels: modality → intensities scaled to 0 … 1, (z, y, x).
        masks: region → bool (z, y, x), the largest first.
        references: the same of the reference; empty where there is none.
        colours: region → red, green, blue, 0 to 1.
        centre: voxel (i, j, k) through which the planes go.
        low_mm, high_mm: the part of the grid that is shown, in mm from its first corner along x, y, z.
    """

    geometry: Geometry
    channels: Mapping[str, FloatArray]
    masks: Mapping[str, BoolArray]
    references: Mapping[str, BoolArray]
    colours: Mapping[str, tuple[float, float, float]]
    centre: tuple[int, int, int]
    low_mm: FloatArray
    high_mm: FloatArray

    @property
    def extent_mm(self) -> FloatArray:
        """Shown width along x, y, z."""
        return self.high_mm - self.low_mm


def overlay_png(
    image: Image,
    segmentation: Segmentation,
    path: Path,
    *,
    title: str,
    note: str = "",
    modalities: Sequence[str] | None = None,
    reference: Segmentation | None = None,
) -> None:
    """Write the picture that `overlay_figure` draws as a PNG file, whole or not at all.

    Args:
        image: as in `overlay_figure`, and so for all that follow.
        segmentation: drawn as translucent areas with outlines.
        path: the file.
        title: first line.
        note: second line, in a warning colour.
        modalities: a row of planes for each.
        reference: drawn as dashed outlines.

    Raises:
        OutputError: where the file cannot be written.
        InputError, GeometryError, DependencyError: as `overlay_figure`.
    """
    figure = overlay_figure(
        image, segmentation, title=title, note=note, modalities=modalities, reference=reference
    )
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH, facecolor=_GROUND)


def overlay_figure(
    image: Image,
    segmentation: Segmentation,
    *,
    title: str,
    note: str = "",
    modalities: Sequence[str] | None = None,
    reference: Segmentation | None = None,
) -> Any:
    """Draw three planes through the largest piece of the largest region, a row for each modality.

    Intensities are shown from the 0.5th to the 99.5th percentile of the modality's voxels that are not 0. Where regions
    overlap, the smallest one fills the area and each has its outline.

    Args:
        image: in any voxel order; of an oblique grid, the planes follow the scan.
        segmentation: on the image's grid.
        title: first line.
        note: second line, in a warning colour.
        modalities: which ones; flair and t1ce where the image has them, else its first, where None.
        reference: another segmentation on the same grid; its regions are found by the names in `segmentation`.

    Returns:
        A `matplotlib.figure.Figure` of `DOTS_PER_INCH`; its axes are the planes, row by row.

    Raises:
        GeometryError: where a segmentation is on another grid.
        InputError: where a modality is not in the image.
        DependencyError: where matplotlib is not installed.
    """
    shown = tuple(modalities or [m for m in _PREFERRED if m in image.channels] or image.modalities[:1])
    image.stack(shown)  # the sentence about what is missing
    for other in (segmentation, reference):
        if other is not None and not other.geometry.is_same_grid(image.geometry):
            raise GeometryError(
                f"{other.name} cannot be drawn on {image.name}: their grids differ "
                f"({other.geometry.difference(image.geometry)}). Resample it onto the image's grid first."
            )
    scene = _scene(image, segmentation, reference, shown)
    return _Drawing(scene, title, note).draw()


def _scene(
    image: Image, segmentation: Segmentation, reference: Segmentation | None, shown: Sequence[str]
) -> _Scene:
    geometry, order = image.geometry.reoriented("LPS")
    channels = {name: windowed(order.apply(image.channels[name])) for name in shown}
    regions = {region.name: order.apply(mask) for region, mask in segmentation.masks()}
    by_size = sorted(regions, key=lambda name: -int(np.count_nonzero(regions[name])))
    masks = {name: regions[name] for name in by_size}
    references: dict[str, BoolArray] = {}
    if reference is not None:
        references = {name: order.apply(reference.mask(name)) for name in by_size if name in reference.scheme.names}
    head = np.any([channel > 0.08 for channel in channels.values()], axis=0)
    for mask in (*masks.values(), *references.values()):
        head |= mask
    low, high = _box_mm(head, geometry)
    colours = {
        region.name: (region.colour_rgb[0] / 255, region.colour_rgb[1] / 255, region.colour_rgb[2] / 255)
        for region in segmentation.scheme.regions
    }
    target = next((mask for mask in (*masks.values(), *references.values()) if mask.any()), None)
    centre = _middle(head, geometry) if target is None else _middle(keep_largest(target), geometry)
    return _Scene(geometry, channels, masks, references, colours, centre, low, high)


def _box_mm(mask: BoolArray, geometry: Geometry) -> tuple[FloatArray, FloatArray]:
    """Corners (x, y, z) of the box around a mask with a margin, in mm from the grid's corner; all of an empty mask."""
    low, high = np.zeros(3), np.asarray(geometry.size_ijk, dtype=float)
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != 2 - axis)))
        if filled.size:
            low[axis], high[axis] = filled[0], filled[-1] + 1
    spacing = np.asarray(geometry.spacing_ijk_mm)
    return low * spacing - _MARGIN_MM, high * spacing + _MARGIN_MM


def _middle(mask: BoolArray, geometry: Geometry) -> tuple[int, int, int]:
    """The voxel (i, j, k) of the mask that is nearest to its centroid, which may lie outside a curved piece."""
    if not mask.any():
        i, j, k = (n // 2 for n in geometry.size_ijk)
        return i, j, k
    places = np.argwhere(mask)
    spacing = np.asarray(geometry.spacing_zyx_mm)
    distance = (((places - places.mean(axis=0)) * spacing) ** 2).sum(axis=1)
    k, j, i = (int(v) for v in places[int(distance.argmin())])
    return i, j, k


def _pale(colour: tuple[float, float, float]) -> tuple[float, ...]:
    """Half-way to white: seen on the area of its own colour and on bright tissue."""
    return tuple(0.5 + 0.5 * part for part in colour)


class _Drawing:
    """A figure being drawn; positions are in inches from its lower left corner."""

    def __init__(self, scene: _Scene, title: str, note: str) -> None:
        self._scene = scene
        widths = [float(scene.extent_mm[plane.across]) for plane in PLANES]
        self._row_mm = max(float(scene.extent_mm[plane.down]) for plane in PLANES)
        rows = len(scene.channels)
        self._scale = min(_PLANES_WIDTH / sum(widths), _PLANES_HEIGHT / rows / self._row_mm)  # inches per mm
        self._row = self._row_mm * self._scale + _HEADER
        self._planes_width = sum(widths) * self._scale + 2 * _GAP
        self._width = _EDGE + self._planes_width + 2 * _EDGE + _LEGEND
        letters = int((self._width - 2 * _EDGE) / 0.115)  # of the title's size
        self._title = textwrap.wrap(title, letters) or [""]
        self._note = textwrap.wrap(note, int(letters * 1.15))
        self._top = 0.2 + 0.3 * len(self._title) + 0.25 * len(self._note)
        body = max(rows * self._row, _SMALLEST_HEIGHT)
        self._height = self._top + body + _FOOTER
        figure = matplotlib_module("figure").Figure(figsize=(self._width, self._height), dpi=DOTS_PER_INCH)
        figure.set_facecolor(_GROUND)
        self._figure = figure

    def draw(self) -> Any:
        y = self._height - 0.34
        for line in self._title:
            self._say(_EDGE, y, line, size=13, weight="bold")
            y -= 0.3
        for line in self._note:
            self._say(_EDGE, y + 0.02, line, size=11, colour=_WARNING)
            y -= 0.25
        for row, (modality, channel) in enumerate(self._scene.channels.items()):
            top = self._height - self._top - row * self._row
            left = _EDGE
            for plane in PLANES:
                left += self._draw_plane(plane, modality, channel, left, top) + _GAP
        self._draw_legend()
        self._draw_footer()
        return self._figure

    def _draw_plane(self, plane: Plane, modality: str, channel: FloatArray, left: float, top: float) -> float:
        """One plane with its letters; returns its width in inches."""
        scene, scale = self._scene, self._scale
        width = float(scene.extent_mm[plane.across]) * scale
        height = float(scene.extent_mm[plane.down]) * scale
        bottom = top - _HEADER - (self._row_mm * scale + height) / 2
        box = (left / self._width, bottom / self._height, width / self._width, height / self._height)
        axes = self._figure.add_axes(box)
        axes.set_axis_off()
        position = plane.position(scene.geometry, scene.centre)
        self._say(left + 0.05, bottom + height + 0.07, f"{modality} · {position}", size=9.5, colour=_DIM)

        index = scene.centre[plane.normal]
        size, spacing = scene.geometry.size_ijk, scene.geometry.spacing_ijk_mm
        across_mm, down_mm = size[plane.across] * spacing[plane.across], size[plane.down] * spacing[plane.down]
        extent = (0.0, across_mm, down_mm, 0.0)
        grey = plane.slice_of(channel, index)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear", aspect="auto")
        fill = np.zeros((*grey.shape, 4))
        for name, mask in scene.masks.items():
            fill[plane.slice_of(mask, index)] = (*scene.colours[name], _FILL_OPACITY)
        axes.imshow(fill, extent=extent, interpolation="nearest", aspect="auto")
        for name, mask in scene.masks.items():
            self._outline(axes, plane, mask, scene.colours[name], dashed=False)
        for name, mask in scene.references.items():
            self._outline(axes, plane, mask, scene.colours[name], dashed=True)
        low, high = scene.low_mm[plane.down], scene.high_mm[plane.down]
        axes.set_xlim(scene.low_mm[plane.across], scene.high_mm[plane.across])
        # Rows of planes with superior up were turned over, and so is the part that is shown.
        axes.set_ylim(*((down_mm - low, down_mm - high) if plane.down == 2 else (high, low)))
        self._letter_edges(axes, plane)
        return width

    def _outline(
        self, axes: Any, plane: Plane, mask: BoolArray, colour: tuple[float, float, float], *, dashed: bool
    ) -> None:
        inside = np.pad(plane.slice_of(mask, self._scene.centre[plane.normal]), 1)
        if not inside.any():
            return
        spacing = self._scene.geometry.spacing_ijk_mm
        x = (np.arange(inside.shape[1]) - 0.5) * spacing[plane.across]
        y = (np.arange(inside.shape[0]) - 0.5) * spacing[plane.down]
        if not dashed:
            axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=1.1)
            return
        # Black below, and pale above.
        axes.contour(x, y, inside, levels=[0.5], colors=["black"], linewidths=1.9, alpha=0.5)
        axes.contour(x, y, inside, levels=[0.5], colors=[_pale(colour)], linewidths=1.3, linestyles=[_DASHES])

    def _letter_edges(self, axes: Any, plane: Plane) -> None:
        stroke = matplotlib_module("patheffects").withStroke(linewidth=2.5, foreground="black")
        places = ((0.012, 0.5, "left", "center"), (0.988, 0.5, "right", "center"),
                  (0.5, 0.988, "center", "top"), (0.5, 0.012, "center", "bottom"))
        for letter, (x, y, horizontal, vertical) in zip(plane.letters, places, strict=True):
            axes.text(x, y, letter, transform=axes.transAxes, ha=horizontal, va=vertical, color=_TEXT, fontsize=11,
                      fontweight="bold", path_effects=[stroke], family="DejaVu Sans")

    def _draw_legend(self) -> None:
        scene = self._scene
        left = _EDGE + self._planes_width + 2 * _EDGE
        y = self._height - self._top - _HEADER - 0.1
        room = int((y - _FOOTER) / _LEGEND_ENTRY) - (1 if scene.references else 0)
        largest = list(scene.masks)  # too many for the room: the largest ones, in the order of the scheme
        names = set(largest if len(largest) <= room else largest[: max(room - 1, 1)])
        for name in (name for name in scene.colours if name in names):
            self._swatch(left, y - 0.12, scene.colours[name])
            self._say(left + 0.34, y, textwrap.shorten(name, 26, placeholder=" …"), size=11, weight="bold")
            self._say(left + 0.34, y - 0.19, self._volumes(name), size=10, colour=_DIM)
            y -= _LEGEND_ENTRY
        if len(names) < len(largest):
            self._say(left, y, f"and {len(largest) - len(names)} smaller regions", size=10, colour=_DIM)
            y -= _LEGEND_ENTRY
        if scene.references:
            shown = [scene.colours[name] for name in scene.references if name in names][:_MOST_DASHES]
            for place, colour in enumerate(shown):
                height = y + 0.04 + 0.07 * ((len(shown) - 1) / 2 - place)
                self._line(left, left + 0.26, height, linestyle=_DASHES, linewidth=1.4, colour=_pale(colour))
            self._say(left + 0.34, y, "reference", size=11)

    def _volumes(self, name: str) -> str:
        millilitres = self._scene.geometry.voxel_volume_mm3 / 1000
        text = f"{np.count_nonzero(self._scene.masks[name]) * millilitres:.1f} mL"
        if name in self._scene.references:
            text += f"  (reference {np.count_nonzero(self._scene.references[name]) * millilitres:.1f} mL)"
        return text

    def _draw_footer(self) -> None:
        smallest = min(float(self._scene.extent_mm[plane.across]) for plane in PLANES)
        length = next((mm for mm in (50, 20, 10, 5, 2, 1) if mm <= 0.4 * smallest), 1)
        y, left = 0.42, _EDGE + 0.05
        right = left + length * self._scale
        self._line(left, right, y, linestyle="solid", linewidth=2.5)
        self._say(right + 0.1, y - 0.05, f"{length} mm", size=10)
        words = "Radiological convention: the patient's right is on the left of axial and coronal planes."
        oblique = self._scene.geometry.obliqueness_degrees
        if oblique > 1:
            words += f" The planes follow the scan, which is {oblique:.0f}° oblique."
        self._say(_EDGE + 0.05, 0.14, words, size=9, colour=_DIM)

    def _swatch(self, x: float, y: float, colour: tuple[float, float, float]) -> None:
        lines = {"facecolor": colour, "edgecolor": colour, "linewidth": 1.4}
        place = (x / self._width, y / self._height)
        size = (0.22 / self._width, 0.22 / self._height)
        box = matplotlib_module("patches").Rectangle(place, *size, transform=self._figure.transFigure, **lines)
        self._figure.add_artist(box)

    def _line(
        self, left: float, right: float, y: float, *, linestyle: Any, linewidth: float, colour: Any = _TEXT
    ) -> None:
        line = matplotlib_module("lines").Line2D(
            (left / self._width, right / self._width), (y / self._height,) * 2,
            color=colour, linestyle=linestyle, linewidth=linewidth, solid_capstyle="butt",
            transform=self._figure.transFigure,
        )
        self._figure.add_artist(line)

    def _say(
        self, x: float, y: float, text: str, *, size: float, colour: str = _TEXT, weight: str = "normal"
    ) -> None:
        # parse_math: a case id may hold dollar signs.
        self._figure.text(
            x / self._width, y / self._height, text, fontsize=size, color=colour, fontweight=weight,
            family="DejaVu Sans", parse_math=False,
        )


def matplotlib_module(part: str) -> Any:
    """A module of matplotlib, imported at its first use because that takes a good part of a second.

    Raises:
        DependencyError: where it is not installed.
    """
    try:
        return importlib.import_module(f"matplotlib.{part}")
    except ImportError as error:
        raise DependencyError(
            "The Python package matplotlib is needed for pictures and reports; install it with: pip install matplotlib"
        ) from error
