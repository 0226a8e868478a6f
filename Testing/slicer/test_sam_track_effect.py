"""The SAM tracking effect, on real nodes and views, with a real worker process."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from Testing.slicer.interactive import (
    SHAPE,
    ball,
    centre_view,
    done,
    draw,
    expected_on,
    previewed,
    ras_of,
    voxels,
)


@pytest.fixture
def effect(choose_effect):
    return choose_effect("BrainSegSAM SAM tracking", "c-tracks")


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_an_object_is_followed_both_ways(bench, editor, layout, effect, source, plane, axis):
    draw(editor, expected_on(SHAPE, axis, (10, 18, 20)[axis]))
    effect.scriptedEffect.setParameter("Plane", plane)
    for view in ("Red", "Green", "Yellow"):
        centre_view(layout, source, view)
    before = voxels(editor)
    effect.trackButton.click()
    assert effect.preview.visible or effect.job is not None
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), ball())
    np.testing.assert_array_equal(voxels(editor), before), "a preview changes no segment"
    assert effect.stopsLabel.visible
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball())
    assert not effect.preview.visible
    assert not effect.stopsLabel.visible
    editor.undo()
    np.testing.assert_array_equal(voxels(editor), before)


def test_slices_come_one_by_one(bench, editor, layout, effect, drawn, monkeypatch):
    centre_view(layout, drawn)
    seen = []
    show = effect.showPreview
    monkeypatch.setattr(effect, "showPreview", lambda: (seen.append(set(effect._followed.shown)), show())[0])
    monkeypatch.setattr(effect, "refreshSoon", effect.showPreview)
    effect.trackButton.click()
    done(bench, effect)
    assert len(seen) > 8
    assert seen[0] == {10}
    assert all(before <= after for before, after in itertools.pairwise(seen))


def test_the_outline_grows_while_slices_come(bench, editor, layout, effect, slow_worker, drawn, monkeypatch):
    """By the effect's own timer; what is outlined is never less than before, and all of it in the end."""
    centre_view(layout, drawn)
    outlined = []
    show = effect.preview.show

    def listen(*arguments):
        show(*arguments)
        outlined.append((effect.job is not None, previewed(editor, effect)))

    monkeypatch.setattr(effect.preview, "show", listen)
    effect.trackButton.click()
    done(bench, effect)
    assert len([1 for running, _ in outlined if running]) > 2, "the first slice, and some on the way"
    assert all((before <= after).all() for (_, before), (_, after) in itertools.pairwise(outlined))
    np.testing.assert_array_equal(outlined[0][1], expected_on(SHAPE, 0, 10))
    np.testing.assert_array_equal(outlined[-1][1], ball())


@pytest.mark.parametrize(("direction", "kept"), [("forward", slice(10, None)), ("backward", slice(None, 11))])
def test_a_direction_and_a_range(bench, editor, layout, effect, drawn, direction, kept):
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("Direction", direction)
    effect.trackButton.click()
    done(bench, effect)
    expected = np.zeros(SHAPE, bool)
    expected[kept] = ball()[kept]
    np.testing.assert_array_equal(previewed(editor, effect), expected)


@pytest.mark.parametrize(("value", "unit", "shown"), [(2, "slices", "4.0 mm"), (5.5, "mm", "2 slices")])
def test_a_range_in_slices_or_mm(bench, editor, layout, effect, drawn, value, unit, shown):
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("RangeUnit", unit)
    effect.scriptedEffect.setParameter("Range", value)
    assert effect.range.label.text == shown
    effect.trackButton.click()
    done(bench, effect)
    assert np.flatnonzero(previewed(editor, effect).any(axis=(1, 2))).tolist() == [8, 9, 10, 11, 12]
    assert "the range ended" in effect.statusLabel.text


def test_the_range_stays_the_same_in_the_other_unit(editor, effect, source):
    source.SetSpacing(1, 1, 1.25)
    effect.range.spin.setValue(5)
    assert effect.range.label.text == "6.2 mm"
    effect.range.unitCombo.setCurrentIndex(1)
    node = editor.mrmlSegmentEditorNode()
    assert node.GetAttribute("BrainSegSAM SAM tracking.RangeUnit") == "mm"
    assert node.GetAttribute("BrainSegSAM SAM tracking.Range") == "6.3", "not less than five slices"
    assert effect.range.label.text == "5 slices"
    effect.range.unitCombo.setCurrentIndex(0)
    assert (effect.range.spin.value, effect.range.label.text) == (5, "6.2 mm")
    effect.range.spin.setValue(0)
    effect.range.unitCombo.setCurrentIndex(1)
    assert (effect.range.spin.text, effect.range.label.text) == ("no limit", "")


def test_a_range_that_holds_no_slice_is_refused(editor, layout, effect, drawn, dialogs):
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("RangeUnit", "mm")
    effect.scriptedEffect.setParameter("Range", 1.5)
    effect.trackButton.click()
    assert "1.5 mm ends before the next slice, which is 2 mm away" in dialogs.messages.pop()[1]
    assert effect._followed is None


def test_thick_slices(bench, editor, layout, effect, source):
    """Not far by themselves, and it is said how to go farther; as far as the user says."""
    source.SetSpacing(1, 1, 5)
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(source)
    draw(editor, expected_on(SHAPE, 0, 10))
    effect.scriptedEffect.setParameter("From", "largest")
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.shown == [8, 9, 10, 11, 12]
    assert "5 mm apart" in effect.statusLabel.text
    assert "choose a range to follow it farther" in effect.statusLabel.text
    effect.scriptedEffect.setParameter("Range", 5)
    assert effect.range.label.text == "25.0 mm"
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.shown == list(range(5, 16))
    assert "apart" not in effect.statusLabel.text


def test_the_slice_to_begin_at(bench, editor, layout, effect, drawn, dialogs):
    centre_view(layout, drawn, index=4)
    effect.trackButton.click()
    assert "empty on this slice" in dialogs.messages.pop()[1]
    effect.scriptedEffect.setParameter("From", "largest")
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.begin == 10
    draw(editor, np.zeros(SHAPE, bool))
    effect.trackButton.click()
    assert "is empty in the volume" in dialogs.messages.pop()[1]
    assert effect._followed.begin == 10, "what is on trial stays, where another Track is refused"
    assert effect.applyButton.enabled


def turn(view, ras, normal):
    node = view.mrmlSliceNode()
    node.SetSliceToRASByNTP(*normal, 1, 0.0, -0.01, *ras, 0)
    node.UpdateMatrices()


def test_the_view_to_begin_at(bench, editor, layout, effect, drawn, mouse, dialogs):
    """One that is seen; of several that which was used last; none that cuts through many slices."""
    red, *_ = centre_view(layout, drawn, index=4)
    layout.sliceWidget("Green").mrmlSliceNode().SetOrientation("Axial")
    green, *_ = centre_view(layout, drawn, "Green", index=10)
    effect.trackButton.click()
    assert "empty on this slice" in dialogs.messages.pop()[1], "the first view"
    mouse.click(green, ras_of(drawn, (20, 18, 10)))
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.begin == 10, "the view that was used last"
    effect.cancelButton.click()
    mouse.click(red, ras_of(drawn, (20, 18, 4)))
    red.mrmlSliceNode().SetMappedInLayout(False)
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.begin == 10, "not a view that the layout hides"
    effect.cancelButton.click()
    turn(green, ras_of(drawn, (20, 18, 10)), (0.3, 0.2, 0.93))
    effect.trackButton.click()
    said = dialogs.messages.pop()[1]
    assert "turned against the volume" in said
    assert "Rotate to volume plane" in said
    green.mrmlSliceNode().SetMappedInLayout(False)
    effect.trackButton.click()
    assert "No view shows axial slices" in dialogs.messages.pop()[1]
    assert effect._followed is None


@pytest.mark.parametrize(("plane", "name", "letter"), [
    ("axial", "Red", "S"), ("coronal", "Green", "A"), ("sagittal", "Yellow", "L"),
])  # fmt: skip
def test_where_it_ended_is_said_as_the_views_say_it_and_a_click_goes_there(
    bench, editor, layout, effect, source, plane, name, letter
):
    axis = {"axial": 0, "coronal": 1, "sagittal": 2}[plane]
    draw(editor, expected_on(SHAPE, axis, (10, 18, 20)[axis]))
    effect.scriptedEffect.setParameter("Plane", plane)
    view, *_ = centre_view(layout, source, name)
    effect.scriptedEffect.setParameter("Range", 3)
    effect.trackButton.click()
    done(bench, effect)
    said = re.findall(r'Ended at <a href="(\d+)">([SAL]) (-?[\d.]+) mm</a>: the range ended', effect.statusLabel.text)
    assert len(said) == 2, effect.statusLabel.text
    for index, shown, offset in said:
        assert shown == letter
        effect.statusLabel.linkActivated.emit(index)
        assert view.mrmlSliceNode().GetSliceOffset() == pytest.approx(float(offset), abs=0.051)
        assert effect._views.shownSlice(effect.target.sourceGeometry, plane) == int(index)


def test_the_first_option_that_is_changed_is_kept(editor, choose_effect):
    """The model, which was never chosen, is stored on that occasion, too; so all options are shown again."""
    editor.setActiveEffectByName("BrainSegSAM SAM tracking")
    effect = editor.activeEffect().self()
    effect.range.spin.setValue(7)
    assert editor.mrmlSegmentEditorNode().GetAttribute("BrainSegSAM SAM tracking.Range") == "7"
    assert effect.range.spin.value == 7


def test_options_are_kept_in_the_scene(editor, effect):
    effect.range.spin.setValue(7)
    effect.directionCombo.setCurrentIndex(1)
    node = editor.mrmlSegmentEditorNode()
    assert node.GetAttribute("BrainSegSAM SAM tracking.Range") == "7"
    assert node.GetAttribute("BrainSegSAM SAM tracking.Direction") == "forward"
    effect.scriptedEffect.setParameter("Range", 3)
    assert effect.range.spin.value == 3
