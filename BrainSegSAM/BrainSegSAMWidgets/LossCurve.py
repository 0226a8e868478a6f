"""A small chart of what a training has reached: the loss against the left axis, scores (0 to 1) against the right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

LOSS = "loss"
_LOSS_COLOUR, _SCORE_COLOUR = "#2166ac", "#b2560d"
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 40, 22, 22
_MOST_POINTS = 2000


class LossCurve:
    """Draws into a label.

    Args:
        label: a QLabel of a fixed height; its width is taken as it is.
    """

    def __init__(self, label: Any) -> None:
        self._label = label
        self._networks: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self._last: tuple[str, int] = ("", 1)
        self._drawn = (0, 0)
        self.clear()

    def clear(self) -> None:
        """Forget all and take no room."""
        self._networks = {}
        self._label.visible = False

    def add(self, measured: Mapping[str, Any]) -> None:
        """Take what was measured (the fields of `progress.Measured`), and draw the network that it is of."""
        curves = self._networks.setdefault(str(measured["network"]), {})
        step = int(measured["step"])
        for name, value in measured["values"].items():
            points = curves.setdefault(str(name), [])
            while points and points[-1][0] >= step:  # a training that was gone on with repeats a few steps
                points.pop()
            points.append((step, float(value)))
            if len(points) > _MOST_POINTS:
                del points[1:-1:2]
        self._last = (str(measured["network"]), max(1, int(measured["of"])))
        self._label.visible = True
        self.draw()

    def curves(self, network: str) -> dict[str, list[tuple[int, float]]]:
        """What is known of a network: name → points (step, value)."""
        return self._networks.get(network, {})

    def draw(self) -> None:
        """Draw the network that was measured last."""
        network, steps = self._last
        width, height = max(240, self._label.width), max(120, self._label.height)
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor("#ffffff"))
        painter = qt.QPainter()
        painter.begin(pixmap)
        try:
            _Drawing(painter, width, height, steps).draw(network, self.curves(network))
        finally:
            painter.end()
        self._label.setPixmap(pixmap)


class _Drawing:
    """One drawing of the chart."""

    def __init__(self, painter: Any, width: int, height: int, steps: int) -> None:
        self.painter, self.steps = painter, steps
        self.left, self.right = _LEFT, width - _RIGHT
        self.top, self.bottom = _TOP, height - _BOTTOM

    def draw(self, network: str, curves: Mapping[str, list[tuple[int, float]]]) -> None:
        losses = curves.get(LOSS, [])
        scores = {name: points for name, points in curves.items() if name != LOSS}
        low, high = _range([value for _step, value in losses])
        self._axes(network, low, high, bool(scores))
        self._line(losses, low, high, _LOSS_COLOUR)
        for points in scores.values():
            self._line(points, 0.0, 1.0, _SCORE_COLOUR)
            self._dots(points, 0.0, 1.0, _SCORE_COLOUR)
        self._legend([(LOSS, _("loss"), losses, _LOSS_COLOUR)]
                     + [(name, name, points, _SCORE_COLOUR) for name, points in scores.items()])

    def _axes(self, network: str, low: float, high: float, withScores: bool) -> None:
        painter = self.painter
        intervals = round((high - low) / _step(low, high))
        for tick in range(intervals + 1):
            share = tick / intervals
            y = round(self.bottom - share * (self.bottom - self.top))
            painter.setPen(qt.QColor("#e2e2e2"))
            painter.drawLine(self.left, y, self.right, y)
            painter.setPen(qt.QColor(_LOSS_COLOUR))
            self._text(0, y - 8, self.left - 6, qt.Qt.AlignRight, f"{round(low + share * (high - low), 9) or 0.0:.3g}")
            if withScores:
                painter.setPen(qt.QColor(_SCORE_COLOUR))
                self._text(self.right + 5, y - 8, _RIGHT, qt.Qt.AlignLeft, f"{share:.2g}")
        painter.setPen(qt.QColor("#404040"))
        self._text(self.left, self.bottom + 3, 60, qt.Qt.AlignLeft, "0")
        self._text(self.right - 80, self.bottom + 3, 80, qt.Qt.AlignRight, str(self.steps))
        self._text(self.left + 40, self.bottom + 3, self.right - self.left - 100, qt.Qt.AlignHCenter, network)

    def _legend(self, entries: list[tuple[str, str, list[tuple[int, float]], str]]) -> None:
        x = self.left
        for _key, title, points, colour in entries:
            if points:
                text = f"{title} {points[-1][1]:.3f}"
                self.painter.setPen(qt.QColor(colour))
                self._text(x, 3, 170, qt.Qt.AlignLeft, text)
                x += 130

    def _text(self, x: int, y: int, width: int, alignment: Any, text: str) -> None:
        self.painter.drawText(qt.QRect(x, y, width, 16), int(alignment) | int(qt.Qt.AlignVCenter), text)

    def _point(self, step: int, value: float, low: float, high: float) -> tuple[int, int]:
        x = self.left + (self.right - self.left) * min(1.0, step / self.steps)
        y = self.bottom - (self.bottom - self.top) * min(1.0, max(0.0, (value - low) / (high - low)))
        return round(x), round(y)

    def _line(self, points: list[tuple[int, float]], low: float, high: float, colour: str) -> None:
        pen = qt.QPen(qt.QColor(colour))
        pen.setWidth(2)
        self.painter.setPen(pen)
        places = [self._point(step, value, low, high) for step, value in points]
        for (x1, y1), (x2, y2) in itertools.pairwise(places):
            self.painter.drawLine(x1, y1, x2, y2)
        if len(places) == 1:
            self.painter.drawPoint(*places[0])

    def _dots(self, points: list[tuple[int, float]], low: float, high: float, colour: str) -> None:
        if len(points) > 60:
            return
        for step, value in points:
            x, y = self._point(step, value, low, high)
            self.painter.fillRect(qt.QRect(x - 2, y - 2, 5, 5), qt.QColor(colour))


def _range(values: list[float]) -> tuple[float, float]:
    """Lowest and highest value of the axis, round numbers; never the same."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = _step(low, high)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _step(low: float, high: float) -> float:
    """A round distance between ticks that gives some four to seven of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if rough <= factor * power * 1.0001)
