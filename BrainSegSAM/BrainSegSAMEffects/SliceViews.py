"""Which slice of a volume the user is looking at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.view_planes import plane_name, slice_index

_USES = {
    getattr(vtk.vtkCommand, f"{name}Event")
    for name in ("LeftButtonPress", "MiddleButtonPress", "RightButtonPress", "MouseWheelForward", "MouseWheelBackward",
                 "KeyPress")
}  # fmt: skip
"""What tells that a view is the one that the user works in; the mouse only crosses others on its way to a button."""


class SliceViews:
    """The slice views of the layout, of which one was used last.

    Args:
        planeOf: gives the grid of what a view shows of a volume; see `InteractiveEffect.plane`.
    """

    def __init__(self, planeOf: Callable[[Any, Geometry], Geometry]) -> None:
        self._planeOf = planeOf
        self._used = ""  # ID of its node

    def hear(self, eventId: int, viewWidget: Any) -> None:
        """An event came from a view."""
        if eventId in _USES:
            self._used = viewWidget.mrmlSliceNode().GetID()

    def shownSlice(self, volume: Geometry, plane: str) -> int:
        """The slice of a plane that a visible view shows: the view that was used last, or the first one.

        Args:
            volume: in world space, stored in any way.
            plane: a key of `prompts.PLANES`.

        Raises:
            InputError: where no view shows one slice of the plane.
        """
        manager = slicer.app.layoutManager()
        views = [manager.sliceWidget(name) for name in manager.sliceViewNames()]
        turned = False
        for view in sorted(views, key=lambda view: view.mrmlSliceNode().GetID() != self._used):
            if not view.mrmlSliceNode().IsViewVisibleInLayout():
                continue
            try:
                grid = self._planeOf(view, volume)
            except GeometryError:
                continue
            if plane_name(grid) != plane:
                continue
            index = slice_index(volume, grid)
            if index is not None:
                return index
            turned = True
        if turned:
            raise InputError(
                _("The view that shows {plane} slices is turned against the volume, so it shows parts of many of its "
                  "slices. Choose 'Rotate to volume plane' in that view, or begin at the segment's largest slice."
                  ).format(plane=_(plane))
            )  # fmt: skip
        raise InputError(
            _("No view shows {plane} slices of the volume; show one, or begin at the segment's largest slice.").format(
                plane=_(plane)
            )
        )
