"""The report's plots, read back from their SVG: what their axes say, and whose colour their bars have."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from BrainSegSAMLib.report import charts

FIRST, SECOND = "var(--m0)", "var(--m1)"


def cases(
    metric: str, *values: tuple[float | None, ...], methods: tuple[str, ...] = ("A", "B")
) -> list[dict[str, Any]]:
    """A case for each tuple of values, one for each method."""
    return [
        {
            "case_id": f"case{number}",
            "reference_ml": {"whole": 0.05 * number},
            "methods": {
                name: {"regions": {"whole": {"volume_ml": 0.05 * number + 0.03, "metrics": {metric: value}}}}
                for name, value in zip(methods, row, strict=True)
            },
        }
        for number, row in enumerate(values)
    ]


def texts(svg: str) -> list[tuple[str, float, float]]:
    """Every text with its place; that of a turned one is where it is turned about."""
    found = []
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        place = element.get("x"), element.get("y")
        if place[0] is not None and place[1] is not None:
            found.append(("".join(element.itertext()).strip(), float(place[0]), float(place[1])))
    return found


def tick_values(svg: str, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers along an axis (0: x, 1: y) and where they stand."""
    numbers = []
    for text, *place in texts(svg):
        if re.fullmatch(r"[−-]?\d+(\.\d+)?", text):
            numbers.append((float(text.replace("−", "-")), place[axis], place[1 - axis]))
    across = [one[2] for one in numbers]
    common = max(set(across), key=across.count)  # what stands in one row or column is of one axis
    found = np.array([one[:2] for one in numbers if one[2] == common])
    return found[:, 0], found[:, 1]


def bar_heights(svg: str) -> dict[str, float]:
    """Colour → how far its bars reach, in the plot's units."""
    heights = {}
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        colour = re.match(r"fill: (var\(--m\d\))", path.get("style") or "")
        if colour:
            ys = [float(y) for _, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d") or "")]
            heights[colour[1]] = max(ys) - min(ys)
    return heights


@pytest.mark.parametrize("largest", [0.1, 0.013, 1.0, 37.0])
def test_numbers_on_an_axis_are_where_they_say(largest: float) -> None:
    rows = [(largest * share,) for share in (0.0, 0.3, 0.4, 0.9, 1.0)]
    svg = charts.distribution(cases("hd95", *rows, methods=("A",)), ["A"], "whole", "hd95")
    values, places = tick_values(svg, 1)
    assert len(values) >= 3
    slope, offset = np.polyfit(values, places, 1)
    np.testing.assert_allclose(slope * values + offset, places, atol=0.05)


def test_shares_near_one_are_told_apart() -> None:
    """As those of specificity always are."""
    rows = [(0.9991,), (0.9994,), (0.9998,), (1.0,)]
    svg = charts.distribution(cases("specificity", *rows, methods=("A",)), ["A"], "whole", "specificity")
    values, places = tick_values(svg, 1)
    assert values.min() > 0.99
    assert values.max() == 1.0
    assert len(set(values)) == len(values) >= 3
    slope, offset = np.polyfit(values, places, 1)
    np.testing.assert_allclose(slope * values + offset, places, atol=0.1)


def test_names_stay_as_they_are() -> None:
    name = "v1.23456"
    svg = charts.distribution(cases("dice", (0.5,), (0.75,), methods=(name,)), [name], "whole", "dice")
    assert name in [text for text, *_ in texts(svg)]
    svg = charts.volumes(cases("dice", (0.5,), (0.75,), methods=(name,)), name, "whole")
    assert name in (ElementTree.fromstring(svg).get("aria-label") or "")


def test_places_have_no_more_digits_than_can_be_seen() -> None:
    svg = charts.volumes(cases("dice", *[(0.5, 0.6)] * 9), "A", "whole")
    assert not re.search(r'\b(?:d|x|y|transform)="[^"]*\.\d{3}', svg)


@pytest.mark.parametrize(
    ("metric", "rows", "winner"),
    [
        ("dice", [(0.9, 0.8), (0.7, 0.5)], FIRST),
        ("dice", [(0.8, 0.9), (0.5, 0.7)], SECOND),
        ("hd95", [(2.0, 8.0), (3.0, 4.0)], FIRST),
        ("hd95", [(8.0, 2.0), (4.0, 3.0)], SECOND),
        ("volume_difference", [(-1.0, -5.0), (-2.0, -6.0), (-1.0, -4.0)], FIRST),
        ("volume_difference", [(1.0, -5.0), (-2.0, 6.0)], FIRST),
        ("volume_difference", [(-5.0, -1.0), (6.0, 2.0)], SECOND),
    ],
)
def test_bars_have_the_colour_of_the_better_method(
    metric: str, rows: list[tuple[float, float]], winner: str
) -> None:
    heights = bar_heights(charts.differences(cases(metric, *rows), "A", "B", "whole", metric))
    loser = FIRST if winner == SECOND else SECOND
    assert heights[winner] > 20
    assert heights.get(loser, 0.0) == pytest.approx(0, abs=0.02)
    swapped = charts.differences(cases(metric, *rows), "A", "B", "whole", metric, colours=(1, 0))
    assert bar_heights(swapped)[loser] > 20


def test_nothing_to_draw_is_no_plot() -> None:
    nothing = cases("hd95", (None, 1.0), (1.0, None))
    assert charts.differences(nothing, "A", "B", "whole", "hd95") == ""
    assert charts.distribution(cases("hd95", (None, None)), ["A", "B"], "whole", "hd95") == ""
