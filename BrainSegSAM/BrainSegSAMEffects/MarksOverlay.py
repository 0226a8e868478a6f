"""Marks on a slice view, drawn over it: the box that is dragged, and points inside and outside the object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import vtk

BOX_RGB = (0.34, 0.71, 0.91)  # far from the outline's yellow, also for those who see fewer colours
INSIDE_RGB = (0.2, 1.0, 0.2)
OUTSIDE_RGB = (1.0, 0.2, 0.2)
_ARM = 5  # pixels from the middle of a point's cross to its ends

XY = tuple[float, float]


class MarksOverlay:
    """What is drawn over one slice view; nothing of it stays after `clear`.

    Args:
        scriptedEffect: the effect's host, which adds and removes actors.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        self._scriptedEffect = scriptedEffect
        self._widget: Any = None
        self._actors: list[Any] = []

    @property
    def widget(self) -> Any:
        """The slice view that is drawn over, or None."""
        return self._widget

    def show(self, widget: Any, corners: Sequence[XY], points: Sequence[tuple[XY, bool]]) -> None:
        """Draw these marks instead of those before.

        Args:
            widget: the slice view.
            corners: of the box, in order, in the view's pixels; () for no box.
            points: in the view's pixels; and whether each is inside the object.
        """
        self.clear()
        self._widget = widget
        if corners:
            self._add([[*corners, corners[0]]], BOX_RGB)
        for (x, y), inside in points:
            cross = [[(x - _ARM, y), (x + _ARM, y)], [(x, y - _ARM), (x, y + _ARM)]]
            self._add(cross if inside else cross[:1], INSIDE_RGB if inside else OUTSIDE_RGB)

    def clear(self) -> None:
        """Take everything away."""
        for actor in self._actors:
            self._scriptedEffect.removeActor2D(self._widget, actor)
        self._actors, self._widget = [], None

    def _add(self, lines: Sequence[Sequence[XY]], colour: tuple[float, float, float]) -> None:
        points, cells = vtk.vtkPoints(), vtk.vtkCellArray()
        for line in lines:
            cells.InsertNextCell(len(line))
            for x, y in line:
                cells.InsertCellPoint(points.InsertNextPoint(x, y, 0.0))
        drawn = vtk.vtkPolyData()
        drawn.SetPoints(points)
        drawn.SetLines(cells)
        mapper = vtk.vtkPolyDataMapper2D()
        mapper.SetInputData(drawn)
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetColor(*colour)
        actor.GetProperty().SetLineWidth(2)
        self._actors.append(actor)
        self._scriptedEffect.addActor2D(self._widget, actor)
