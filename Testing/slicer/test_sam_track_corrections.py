"""Corrections of what SAM tracking has found: painted, followed on from, refused, and gone back from."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import vtk

from Testing.slicer.interactive import (
    SHAPE,
    ball,
    centre_view,
    done,
    draw,
    let_qt_work,
    previewed,
    ras_of,
    voxels,
)


@pytest.fixture
def effect(choose_effect):
    return choose_effect("BrainSegSAM SAM tracking", "c-tracks")


def test_a_correction_is_followed_in_its_own_plane(bench, editor, layout, effect, drawn, mouse):
    """Whatever plane is chosen meanwhile: two sagittal slices are 1 mm apart, two axial ones 2 mm."""
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("Range", 1)
    effect.trackButton.click()
    done(bench, effect)
    view, *_ = centre_view(layout, drawn, index=11)
    mouse.click(view, ras_of(drawn, (20, 18, 11)), "shift")
    effect.planeCombo.setCurrentIndex(2)
    effect.againButton.click()
    done(bench, effect)
    assert effect._followed.shown == [9, 10, 11, 12]


def test_a_correction_goes_on_from_its_slice(bench, editor, layout, effect, drawn, mouse):
    """A wrong slice is painted over; only what lies beyond it is followed anew, and nothing is encoded again."""
    centre_view(layout, drawn)
    effect.trackButton.click()
    done(bench, effect)
    assert not effect.againButton.enabled
    assert "Correct a slice" in effect.againButton.toolTip
    view, *_ = centre_view(layout, drawn, index=13)
    effect.scriptedEffect.setParameter("Brush", 30.0)
    mouse.click(view, ras_of(drawn, (20, 18, 13)), "control")
    effect.scriptedEffect.setParameter("Brush", 2.0)
    mouse.click(view, ras_of(drawn, (20, 18, 13)), "shift")
    let_qt_work()
    painted = np.array(effect._followed.masks[13])
    assert 9 <= painted.sum() <= 14, "a disc of 2 mm on pixels of 1 mm, around where the mouse was"
    assert effect.againButton.enabled
    below = previewed(editor, effect)[:13]
    effect.againButton.click()
    done(bench, effect)
    found = previewed(editor, effect)
    np.testing.assert_array_equal(found[:13], below)
    assert found[13].sum() == painted.sum()
    assert found[13, 18, 20]
    assert painted.sum() < found[14].sum() < ball()[14].sum(), "what is near the disc"
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), found)


def test_a_slice_that_was_not_followed_cannot_be_corrected(bench, layout, effect, drawn, mouse):
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("Range", 1)
    effect.trackButton.click()
    done(bench, effect)
    view, *_ = centre_view(layout, drawn, index=15)
    mouse.click(view, ras_of(drawn, (20, 18, 15)), "shift")
    assert "Nothing was followed onto this slice" in effect.statusLabel.text
    assert not effect.againButton.enabled


def track_and_correct(bench, layout, effect, drawn, mouse, *, index=13, radius=2.0, modifier="shift"):
    centre_view(layout, drawn)
    effect.trackButton.click()
    done(bench, effect)
    view, *_ = centre_view(layout, drawn, index=index)
    effect.scriptedEffect.setParameter("Brush", radius)
    mouse.click(view, ras_of(drawn, (20, 9, index)), modifier)
    let_qt_work()
    return view


def test_what_is_there_stays_where_going_on_is_refused(bench, editor, layout, effect, drawn, mouse, dialogs):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    track_and_correct(bench, layout, effect, drawn, mouse)
    before = previewed(editor, effect)
    job = effect.worker.request("detect", {"image_id": "none"}, Listener())
    effect.againButton.click()
    assert "working on something else" in dialogs.messages.pop()[1]
    assert bench.wait_until(lambda: not job.running)
    effect.showPreview()
    np.testing.assert_array_equal(previewed(editor, effect), before)
    assert effect.againButton.enabled
    effect.againButton.click()
    done(bench, effect)
    effect.applyButton.click()
    assert voxels(editor).any()


@pytest.mark.parametrize("how", ["killed", "cancelled"])
def test_what_was_there_comes_back_where_going_on_ends_early(
    bench, editor, layout, effect, slow_worker, drawn, mouse, dialogs, how
):
    track_and_correct(bench, layout, effect, drawn, mouse, index=10)
    before, shown = previewed(editor, effect), effect._followed.shown
    effect.againButton.click()
    assert bench.wait_until(lambda: effect._followed.shown not in (shown, [10])), "slices come"
    if how == "killed":
        os.kill(effect.worker.pid, signal.SIGKILL)
        assert bench.wait_until(lambda: effect.job is None)
        assert dialogs.messages.pop()
    else:
        effect.cancelButton.click()
        assert "as it was" in effect.statusLabel.text
    np.testing.assert_array_equal(previewed(editor, effect), before)
    assert effect._followed.shown == shown
    assert effect.againButton.enabled
    assert effect.applyButton.enabled
    assert bench.wait_until(lambda: not effect.worker.busy)
    effect.cancelButton.click()
    assert not effect.preview.visible


def test_an_emptied_slice_is_nothing_to_go_on_from(bench, editor, layout, effect, drawn, mouse):
    view = track_and_correct(bench, layout, effect, drawn, mouse, radius=30.0, modifier="control")
    shown = effect._followed.shown
    assert 13 not in shown
    assert not effect.againButton.enabled
    assert "Nothing is left on the corrected slice" in effect.againButton.toolTip
    mouse.click(view, ras_of(drawn, (20, 18, 13)), "shift")
    assert effect.againButton.enabled
    assert effect._followed.shown == sorted([*shown, 13])


def test_a_result_that_is_erased_altogether_cannot_be_applied(bench, editor, layout, effect, source, mouse):
    dark = np.zeros(SHAPE, bool)
    dark[10, 2:6, 2:6] = True  # its neighbours are as dark, so nothing is found on them
    draw(editor, dark)
    view, *_ = centre_view(layout, source)
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.shown == [10]
    effect.scriptedEffect.setParameter("Brush", 30.0)
    mouse.click(view, ras_of(source, (4, 4, 10)), "control")
    assert not effect._refresh.isActive() or bench.wait_until(lambda: not effect._refresh.isActive())
    assert not effect.preview.visible
    assert not effect.applyButton.enabled
    assert "Nothing is left of the result" in effect.applyButton.toolTip
    assert effect.cancelButton.enabled
    mouse.click(view, ras_of(source, (4, 4, 10)), "shift")
    assert effect.preview.visible
    assert effect.applyButton.enabled
    effect.cancelButton.click()
    assert not effect.preview.visible
    assert not effect.cancelButton.enabled
    np.testing.assert_array_equal(voxels(editor), dark)


def test_painting_after_a_refused_track_is_harmless(bench, editor, layout, effect, drawn, mouse, dialogs):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    view, *_ = centre_view(layout, drawn)
    job = effect.worker.request("detect", {"image_id": "none"}, Listener())
    effect.trackButton.click()
    assert "working on something else" in dialogs.messages.pop()[1]
    mouse.click(view, ras_of(drawn, (20, 18, 10)), "shift")
    assert not effect.preview.visible
    assert not effect.applyButton.enabled
    assert bench.wait_until(lambda: not job.running)


def test_a_drag_goes_on_as_it_began(bench, layout, effect, drawn, mouse):
    """Shift may be let go before the button is."""
    from PySide6 import QtCore, QtTest

    view = track_and_correct(bench, layout, effect, drawn, mouse)
    effect.scriptedEffect.setParameter("Brush", 3.0)
    found = np.array(effect._followed.masks[13])
    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(view.mrmlSliceNode().GetXYToRAS(), inverse)

    def place(ijk):
        x, y, *_ = inverse.MultiplyPoint((*ras_of(drawn, ijk), 1.0))
        return QtCore.QPoint(round(x), view.sliceView().height - 1 - round(y))

    target = view.sliceView()
    QtTest.QTest.mousePress(target, QtCore.Qt.LeftButton, QtCore.Qt.ShiftModifier, place((20, 18, 13)))
    QtTest.QTest.mouseMove(target, place((24, 18, 13)))
    QtTest.QTest.mouseRelease(target, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, place((24, 18, 13)))
    assert (effect._followed.masks[13] >= found).all(), "nothing is erased"
