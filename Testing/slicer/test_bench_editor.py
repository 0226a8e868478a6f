"""The bench's Segment Editor and views: real events reach an effect, and what would be wrong in Slicer fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

EFFECT = "BrainSegSAM nnU-Net"


@pytest.fixture
def seen(editor, monkeypatch):
    """Interaction events that reach the active effect, as (event id, x, y, shift, control, view name)."""
    from BrainSegSAMEffects.SegmentEditorNNUNetEffect import SegmentEditorNNUNetEffect

    events = []

    def process(self, interactor, event, widget):
        x, y = interactor.GetEventPosition()
        events.append((event, x, y, interactor.GetShiftKey(), interactor.GetControlKey(), widget.sliceViewName))
        return False

    monkeypatch.setattr(SegmentEditorNNUNetEffect, "processInteractionEvents", process, raising=False)
    editor.setActiveEffectByName(EFFECT)
    return events


def test_mouse_events_reach_the_active_effect(seen, editor, layout):
    import qt
    import vtk
    from PySide6 import QtTest

    view = layout.sliceWidget("Yellow").sliceView()
    mouse = QtTest.QTest
    mouse.mousePress(view, qt.Qt.LeftButton, qt.Qt.ShiftModifier, qt.QPoint(30, 40))
    mouse.mouseMove(view, qt.QPoint(50, 60))
    mouse.mouseRelease(view, qt.Qt.LeftButton, qt.Qt.ControlModifier, qt.QPoint(50, 60))
    pressed = next(event for event in seen if event[0] == vtk.vtkCommand.LeftButtonPressEvent)
    assert pressed[1:] == (30, 259, 1, 0, "Yellow")
    released = next(event for event in seen if event[0] == vtk.vtkCommand.LeftButtonReleaseEvent)
    assert released[1:] == (50, 239, 0, 1, "Yellow")
    assert any(event[0] == vtk.vtkCommand.MouseMoveEvent for event in seen)
    del seen[:]
    editor.setActiveEffect(None)
    mouse.mouseClick(view, qt.Qt.LeftButton, qt.Qt.NoModifier, qt.QPoint(5, 5))
    assert seen == []


def test_an_effect_that_takes_an_event_keeps_it_from_others(editor, layout, monkeypatch):
    import qt
    from BrainSegSAMEffects.SegmentEditorNNUNetEffect import SegmentEditorNNUNetEffect
    from PySide6 import QtTest

    taken, others = [True], []
    monkeypatch.setattr(SegmentEditorNNUNetEffect, "processInteractionEvents", lambda *_: taken[0], raising=False)
    view = layout.sliceWidget("Red").sliceView()
    view.interactor().AddObserver("LeftButtonPressEvent", lambda *_: others.append(1), 0.5)
    editor.setActiveEffectByName(EFFECT)
    QtTest.QTest.mouseClick(view, qt.Qt.LeftButton, qt.Qt.NoModifier, qt.QPoint(5, 5))
    assert others == []
    taken[0] = False
    QtTest.QTest.mouseClick(view, qt.Qt.LeftButton, qt.Qt.NoModifier, qt.QPoint(5, 5))
    assert others == [1]


def test_an_answer_that_is_no_bool_is_a_complaint(editor, layout, bench, monkeypatch):
    import qt
    from BrainSegSAMEffects.SegmentEditorNNUNetEffect import SegmentEditorNNUNetEffect
    from PySide6 import QtTest

    monkeypatch.setattr(SegmentEditorNNUNetEffect, "processInteractionEvents", lambda *_: 1, raising=False)
    editor.setActiveEffectByName(EFFECT)
    QtTest.QTest.mousePress(layout.sliceWidget("Red").sliceView(), qt.Qt.LeftButton, qt.Qt.NoModifier, qt.QPoint(5, 5))
    assert any("not a bool" in message for message in bench.complaints.take())


def test_places_in_a_view(editor, layout):
    """View coordinates, world and voxels agree: the middle of a voxel comes back as this voxel."""
    import qt

    host = editor.effectByName(EFFECT)
    for name in layout.sliceViewNames():
        widget = layout.sliceWidget(name)
        ras = host.xyToRas(qt.QPoint(120, 130), widget)
        back = host.rasToXy(ras, widget)
        assert abs(back.x() - 120) <= 1
        assert abs(back.y() - 130) <= 1
        ijk = host.xyToIjk(qt.QPoint(120, 130), widget, host.sourceVolumeImageData())
        expected = (np.array([ras.x(), ras.y(), ras.z()]) - (-5, 7, 11)) / (1, 1, 2)
        assert np.allclose((ijk.x(), ijk.y(), ijk.z()), np.round(expected), atol=0.51)


def test_the_source_volume_is_drawn(editor, layout):
    pixels = layout.sliceWidget("Red").sliceView().pixels()
    assert pixels.shape == (300, 300, 3)
    assert pixels.std() > 20


def test_views_of_pictures_say_where_they_lie(bench, scene, volume):
    """The letters of the sides are those of the axes that radiologists see."""
    import slicer
    import views

    manager = views.LayoutManager(scene, annotated=True)
    slicer.app.setLayoutManager(manager)
    node = volume("source")
    for name in manager.sliceViewNames():
        manager.sliceWidget(name).mrmlSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
    manager.resetSliceViews()
    said = {}
    for name in manager.sliceViewNames():
        texts = []
        painter = SimpleNamespace(setPen=lambda colour: None, drawText=lambda box, side, text, t=texts: t.append(text))
        manager.sliceWidget(name).sliceView()._annotate(painter)
        said[name] = texts
    assert said["Red"][1:] == ["R", "L", "A", "P"]
    assert said["Yellow"][1:] == ["A", "P", "S", "I"]
    assert said["Green"][1:] == ["R", "L", "S", "I"]
    assert said["Red"][0].startswith("axial · S ")
    assert manager.viewport().grab().width() > 0
    slicer.app.setLayoutManager(None)
    manager.close()
    slicer.app.processEvents()


def test_an_unknown_parameter_is_a_complaint(editor, bench):
    host = editor.effectByName(EFFECT)
    assert host.parameter("NoSuchThing") == ""
    assert any("NoSuchThing" in message for message in bench.complaints.take())


def test_a_parameter_is_text_or_number(editor):
    host = editor.effectByName(EFFECT)
    with pytest.raises(TypeError, match="takes a text or a number"):
        host.setParameter("Flag", True)
    host.setParameter("Range", 1234567.0)
    assert host.parameter("Range") == "1.23457e+06"  # six digits, as QString writes numbers
    assert editor.mrmlSegmentEditorNode().GetAttribute(f"{EFFECT}.Range") == "1.23457e+06"


def test_an_unknown_method_of_the_host_raises(editor):
    host = editor.effectByName(EFFECT)
    with pytest.raises(AttributeError):
        host.isActive()
    with pytest.raises(AttributeError, match="no attribute 'lost'"):
        host.lost = 1


def test_an_exception_in_an_effect_is_a_complaint(editor, bench, monkeypatch):
    from BrainSegSAMEffects.SegmentEditorNNUNetEffect import SegmentEditorNNUNetEffect

    def fail(self):
        raise ValueError("in the effect")

    monkeypatch.setattr(SegmentEditorNNUNetEffect, "activate", fail)
    editor.setActiveEffectByName(EFFECT)
    assert "ValueError in a slot: in the effect" in bench.complaints.take()


def test_placing_markups_ends_the_effect(editor, scene):
    editor.setActiveEffectByName(EFFECT)
    scene.GetNodeByID("vtkMRMLInteractionNodeSingleton").SetCurrentInteractionMode(1)
    assert editor.activeEffect() is None
    scene.GetNodeByID("vtkMRMLInteractionNodeSingleton").SetCurrentInteractionMode(2)


def test_effects_are_found_as_slicer_finds_them(editor):
    """By the folder's name as module and the file's name as class; registering twice changes nothing."""
    import BrainSegSAMEffects
    import slicer

    factory = slicer.qSlicerSegmentEditorEffectFactory.instance()
    before = len(factory.registeredEffects())
    BrainSegSAMEffects.registerEffects()
    assert len(factory.registeredEffects()) == before
    assert before == len(BrainSegSAMEffects.EFFECTS)
    for effect in BrainSegSAMEffects.EFFECTS:
        assert getattr(BrainSegSAMEffects, effect.__name__) is effect
        assert effect.__module__ == f"BrainSegSAMEffects.{effect.__name__}"
