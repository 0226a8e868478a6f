"""The picture, read back from its pixels: sides, aspect, colours, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError, InputError, OutputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image, Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.pictures import DOTS_PER_INCH, overlay_figure, overlay_png

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# x left, y posterior, z superior: 120 × 160 × 100 mm with 2 × 2 × 5 mm voxels.
LPS = Geometry.axis_aligned((20, 80, 60), (5.0, 2.0, 2.0), (-60.0, -80.0, -50.0))
PLANES = ("axial", "coronal", "sagittal")


def block(geometry: Geometry, low_lps: tuple[float, ...], high_lps: tuple[float, ...]) -> NDArray[np.bool_]:
    """The voxels whose centres lie in a box of physical space: made without knowing how the grid is stored."""
    k, j, i = np.indices(geometry.shape_zyx)
    places = geometry.to_lps(np.stack([i, j, k], axis=-1))
    inside: NDArray[np.bool_] = np.all((places >= low_lps) & (places <= high_lps), axis=-1)
    return inside


def examination(geometry: Geometry) -> tuple[Image, Segmentation]:
    """A grey head that fills the box of 100 × 140 × 80 mm, a red lesion left, anterior, superior in it."""
    head = block(geometry, (-50, -70, -40), (50, 70, 40))
    lesion = block(geometry, (20, -50, 10), (40, -20, 30))
    grey = np.where(head, 100, 0).astype(np.float32)
    grey[block(geometry, (-40, 20, -30), (-20, 50, -10))] = 10  # a dark part away from the planes makes a window
    scheme = LabelScheme((Region("Lesion", (1,), RED),))
    return Image(geometry, {"flair": grey}), Segmentation(geometry, scheme, lesion.astype(np.uint8))


def panels(figure: Any, path: Path) -> list[NDArray[np.float64]]:
    """The pixels (rows from the top, columns, rgb 0 … 1) of each plane, cut out of the file."""
    pixels = imread(path)[..., :3]
    height, width = pixels.shape[:2]
    parts = []
    for axes in figure.axes:
        box = axes.get_position()
        rows = slice(round((1 - box.y1) * height), round((1 - box.y0) * height))
        parts.append(pixels[rows, round(box.x0 * width) : round(box.x1 * width)])
    return parts


def drawn(tmp_path: Path, geometry: Geometry) -> list[NDArray[np.float64]]:
    image, segmentation = examination(geometry)
    overlay_png(image, segmentation, tmp_path / "overlay.png", title="case")
    return panels(overlay_figure(image, segmentation, title="case"), tmp_path / "overlay.png")


def extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last row, first and last column."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def place_of_lesion(pixels: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of the red, as shares of the head's height from above and of its width from the left."""
    red = (pixels[..., 0] - pixels[..., 1]) > 0.15
    top, bottom, left, right = extent(head_of(pixels))
    rows, columns = np.nonzero(red)
    return (rows.mean() - top) / (bottom - top), (columns.mean() - left) / (right - left)


def head_of(pixels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Bright pixels, without the letters at the edges: those lie outside the head's rows or columns."""
    bright = pixels.max(axis=2) > 0.15
    return (bright & (bright.mean(axis=1, keepdims=True) > 0.3)) & (bright.mean(axis=0, keepdims=True) > 0.3)


STORED = {
    "LPS": LPS,
    "RAS": LPS.reoriented("RAS")[0],
    "ILA": LPS.reoriented("ILA")[0],
}


@pytest.mark.parametrize("stored", STORED)
def test_sides_whatever_the_voxel_order(tmp_path: Path, stored: str) -> None:
    assert STORED[stored].orientation == stored
    axial, coronal, sagittal = drawn(tmp_path, STORED[stored])
    # The lesion's centre is at x 30 (left), y -35 (anterior), z 20 (superior) of a head of ±50, ±70, ±40 mm.
    right_to_left, front_to_back, top_to_bottom = 80 / 100, 35 / 140, 20 / 80
    for plane, expected in (
        (axial, (front_to_back, right_to_left)),
        (coronal, (top_to_bottom, right_to_left)),
        (sagittal, (top_to_bottom, front_to_back)),
    ):
        assert place_of_lesion(plane) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("stored", STORED)
def test_same_scale_along_all_axes(tmp_path: Path, stored: str) -> None:
    """5 mm slices are not squashed: every plane shows the head with the millimetres that it has."""
    # Faces of the head's outermost voxels: centres every 2, 2 and 5 mm from -60, -80 and -50.
    width, depth, height = 102, 142, 85
    scales = []
    for pixels, (down, across) in zip(
        drawn(tmp_path, STORED[stored]), ((depth, width), (height, width), (height, depth)), strict=True
    ):
        top, bottom, left, right = extent(head_of(pixels))
        scales += [(bottom - top + 1) / down, (right - left + 1) / across]
    assert np.ptp(scales) / np.mean(scales) < 0.04


def test_letters(tmp_path: Path) -> None:
    image, segmentation = examination(LPS)
    figure = overlay_figure(image, segmentation, title="case")
    expected = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
    for axes, name in zip(figure.axes, PLANES, strict=True):
        by_place = {(text.get_position()): text.get_text() for text in axes.texts}
        left, right = min(by_place, key=lambda p: p[0]), max(by_place, key=lambda p: p[0])
        top, bottom = max(by_place, key=lambda p: p[1]), min(by_place, key=lambda p: p[1])
        assert "".join(by_place[place] for place in (left, right, top, bottom)) == expected[name]


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_says_what_is_shown(tmp_path: Path) -> None:
    image, segmentation = examination(LPS)
    reference = Segmentation(LPS, segmentation.scheme, np.roll(segmentation.label_map, 3, axis=1))
    figure = overlay_figure(
        image, segmentation, title="case $1$ · model", note="Demonstration, not for clinical use.", reference=reference
    )
    said = texts(figure)
    volume = segmentation.volume_ml("Lesion")
    assert {"case $1$ · model", "Demonstration, not for clinical use.", "Lesion", "20 mm", "reference"} <= set(said)
    assert f"{volume:.1f} mL  (reference {volume:.1f} mL)" in said
    assert any(text.startswith("flair · axial · S ") for text in said)
    assert any(text.startswith("flair · sagittal · L ") for text in said)
    assert not any("oblique" in text for text in said)


def test_no_text_leaves_the_picture_or_overlaps(tmp_path: Path) -> None:
    image, segmentation = examination(LPS)
    figure = overlay_figure(image, segmentation, title="a long case id " * 15, note="Not for clinical use. " * 12)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    for position, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[position + 1 :]), figure.texts[position].get_text()


def test_smaller_region_is_filled_over_the_larger_one(tmp_path: Path) -> None:
    image, _ = examination(LPS)
    masks = block(LPS, (-40, -50, -30), (40, 50, 30)).astype(np.uint8)
    masks[block(LPS, (-20, -25, -15), (20, 25, 15))] = 2
    for regions in ((("Whole", (1, 2), GREEN), ("Core", (2,), BLUE)), (("Core", (2,), BLUE), ("Whole", (1, 2), GREEN))):
        scheme = LabelScheme(tuple(Region(*region) for region in regions))
        overlay_png(image, Segmentation(LPS, scheme, masks), tmp_path / "o.png", title="")
        figure = overlay_figure(image, Segmentation(LPS, scheme, masks), title="")
        axial = panels(figure, tmp_path / "o.png")[0]
        middle = axial[axial.shape[0] // 2, axial.shape[1] // 2]
        assert middle[2] > middle[0] + 0.1
        assert middle[1] == pytest.approx(middle[0], abs=0.02)  # no green mixed in
        assert [text for text in texts(figure) if text in ("Whole", "Core")] == [name for name, _, _ in regions]


def test_reference_is_a_dashed_outline(tmp_path: Path) -> None:
    image, segmentation = examination(LPS)
    nothing = Segmentation(LPS, segmentation.scheme, np.zeros_like(segmentation.label_map))
    plain = overlay_figure(image, nothing, title="")
    compared = overlay_figure(image, nothing, title="", reference=segmentation)
    for axes, other in zip(plain.axes, compared.axes, strict=True):
        assert not axes.collections
        assert len(other.collections) == 2  # a dark line below a pale, dashed one
        _, dashes = other.collections[1].get_linestyle()[0]
        assert dashes is not None
    overlay_png(image, nothing, tmp_path / "o.png", title="", reference=segmentation)
    pixels = panels(compared, tmp_path / "o.png")[0]
    # Nothing is filled: at the centre of the lesion only grey.
    assert place_of_lesion(pixels) == pytest.approx((35 / 140, 80 / 100), abs=0.08)
    top, bottom, left, right = extent(head_of(pixels))
    centre = pixels[round(top + (bottom - top) * 0.25), round(left + (right - left) * 0.8)]
    assert np.ptp(centre) < 0.02


def test_the_legend_shows_the_references_lines_as_they_are_drawn() -> None:
    image, _ = examination(LPS)
    masks = block(LPS, (-40, -50, -30), (40, 50, 30)).astype(np.uint8)
    masks[block(LPS, (-20, -25, -15), (20, 25, 15))] = 2
    scheme = LabelScheme((Region("Whole", (1, 2), GREEN), Region("Core", (2,), BLUE)))
    segmentation = Segmentation(LPS, scheme, masks)
    figure = overlay_figure(image, segmentation, title="", reference=segmentation)
    drawn = {tuple(line.get_edgecolor()[0][:3]) for line in figure.axes[0].collections if line.get_linestyle()[0][1]}
    shown = {tuple(line.get_color()) for line in figure.findobj(Line2D) if line.is_dashed()}
    assert len(drawn) == 2
    assert {tuple(np.round(colour, 6)) for colour in shown} == {tuple(np.round(colour, 6)) for colour in drawn}


def test_rows_are_flair_and_t1ce_by_themselves() -> None:
    image, segmentation = examination(LPS)
    several = Image(LPS, dict.fromkeys(("t1", "t1ce", "flair"), image.channels["flair"]))
    assert len(overlay_figure(several, segmentation, title="").axes) == 6
    assert len(overlay_figure(several, segmentation, title="", modalities=["t1"]).axes) == 3
    only = Image(LPS, {"adc": image.channels["flair"]})
    assert any(text.startswith("adc · ") for text in texts(overlay_figure(only, segmentation, title="")))


def test_many_regions_fit_the_legend() -> None:
    image, _ = examination(LPS)
    labels = np.zeros(LPS.shape_zyx, np.uint8)
    labels[5:15, 10:70, 10:50] = np.arange(1, 41, dtype=np.uint8)
    scheme = LabelScheme.plain({f"A structure with a name that is far too long, number {i}": i for i in range(1, 41)})
    figure = overlay_figure(image, Segmentation(LPS, scheme, labels), title="")
    figure.canvas.draw()
    assert any("smaller regions" in text for text in texts(figure))
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0


def test_oblique_grid_is_said_and_empty_images_are_drawn(tmp_path: Path, oblique_grid: Geometry) -> None:
    nothing = np.zeros(oblique_grid.shape_zyx, np.float32)
    segmentation = Segmentation(oblique_grid, LabelScheme.plain({"x": 1}), nothing.astype(np.uint8))
    figure = overlay_figure(Image(oblique_grid, {"t1": nothing}), segmentation, title="")
    assert any("oblique" in text for text in texts(figure))
    overlay_png(Image(oblique_grid, {"t1": nothing}), segmentation, tmp_path / "o.png", title="")
    pixels = imread(tmp_path / "o.png")
    assert pixels.shape[:2] == pytest.approx(figure.get_size_inches()[::-1] * DOTS_PER_INCH, abs=1)


def test_errors(tmp_path: Path) -> None:
    image, segmentation = examination(LPS)
    other = examination(Geometry.axis_aligned((20, 80, 60), (5.0, 2.0, 2.5)))[1]
    with pytest.raises(GeometryError, match="grids differ"):
        overlay_figure(image, other, title="")
    with pytest.raises(GeometryError, match="grids differ"):
        overlay_figure(image, segmentation, title="", reference=other)
    with pytest.raises(InputError, match="lacks t2"):
        overlay_figure(image, segmentation, title="", modalities=["t2"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        overlay_png(image, segmentation, tmp_path / "file" / "o.png", title="")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
