"""A small bar of all slices: what was followed, where it began, what was corrected, and where it stopped."""

from __future__ import annotations

from collections.abc import Collection

import qt

_WIDTH, _HEIGHT = 300, 16
_EMPTY, _FOUND, _BEGIN = "#555555", "#ffc800", "#ffffff"
_CORRECTED, _STOP = "#50dc50", "#dc3232"


def stopsPicture(
    count: int, found: Collection[int], begin: int, corrected: Collection[int], stops: Collection[int]
) -> qt.QPixmap:
    """Draw the bar.

    Args:
        count: slices of the volume; the first is on the left.
        found: slices on which something was found.
        begin: the slice that was followed from.
        corrected: slices that were corrected.
        stops: slices at which a rule ended the track.
    """
    picture = qt.QPixmap(_WIDTH, _HEIGHT)
    picture.fill(qt.QColor(_EMPTY))
    painter = qt.QPainter()
    painter.begin(picture)
    width = _WIDTH / max(1, count)
    for index in found:
        painter.fillRect(int(index * width), 4, max(1, round(width)), _HEIGHT - 8, qt.QColor(_FOUND))
    for slices, colour in ((stops, _STOP), (corrected, _CORRECTED), ((begin,), _BEGIN)):
        for index in slices:
            painter.fillRect(int(index * width), 0, max(3, round(width)), _HEIGHT, qt.QColor(colour))
    painter.end()
    return picture
