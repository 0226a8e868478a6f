"""The bench is as strict as Slicer, or stricter: what would be wrong there fails here."""

from __future__ import annotations

import sys

import pytest

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Top</class>
 <widget class="qMRMLWidget" name="Top"><layout class="QVBoxLayout" name="box">
  <item><widget class="{widget}" name="inner"/></item></layout></widget>
 <customwidgets>
  <customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends><header>q.h</header></customwidget>
  <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>q.h</header><container>1</container>
  </customwidget></customwidgets>
 <connections>{connections}</connections></ui>"""
CONNECTION = (
    "<connection><sender>Top</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>"
    "<receiver>inner</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>"
)


@pytest.fixture
def qt(bench):
    import qt

    return qt


def load(tmp_path, widget, connections=""):
    import slicer

    path = tmp_path / "panel.ui"
    path.write_text(UI.format(widget=widget, connections=connections))
    return slicer.util.loadUI(str(path))


def test_properties_are_attributes_and_methods_stay(qt):
    button = qt.QPushButton("one")
    button.text = "two"
    assert button.text == "two"
    assert button.isEnabled()
    combo = qt.QComboBox()
    combo.addItems(["a", "b"])
    combo.currentIndex = 1
    assert (combo.currentText, combo.count) == ("b", 2)
    assert qt.Qt.Checked == 2


def test_a_wrong_signal_raises(qt):
    with pytest.raises(AttributeError, match=r"no signal pressed\(int\)"):
        qt.QPushButton().connect("pressed(int)", print)


def test_an_unknown_attribute_raises(qt):
    with pytest.raises(AttributeError, match="no attribute 'txt'"):
        qt.QLabel().txt = "lost"


@pytest.mark.parametrize("value", [[], None, 1])
def test_only_a_bool_is_a_bool(qt, value):
    with pytest.raises(TypeError, match="takes bool"):
        qt.QLabel().visible = value


def test_an_exception_in_a_slot_is_a_complaint(qt, bench):
    def fail(checked):
        raise ValueError("in the slot")

    button = qt.QPushButton()
    button.connect("clicked(bool)", fail)
    button.click()
    assert bench.complaints.take() == ["ValueError in a slot: in the slot"]


def test_what_is_deleted_later_is_gone_and_follows_the_scene_no_longer(qt, scene, volume, monkeypatch):
    import shiboken6
    import slicer

    parent, refreshed = qt.QWidget(), []
    selector = slicer.qMRMLNodeComboBox(parent)
    selector.nodeTypes = ("vtkMRMLScalarVolumeNode",)
    selector.setMRMLScene(scene)
    monkeypatch.setattr(slicer.qMRMLNodeComboBox, "_refresh", lambda self: refreshed.append(self))
    volume("followed")
    assert refreshed
    parent.deleteLater()
    slicer.app.processEvents()
    assert not shiboken6.isValid(selector)
    del refreshed[:]
    volume("not followed")
    assert refreshed == []


def test_a_vtk_error_is_a_complaint(bench):
    import vtk

    vtk.vtkXMLImageDataReader().Update()
    assert any("VTK" in message for message in bench.complaints.take())


def test_an_unknown_widget_is_refused(bench, tmp_path):
    with pytest.raises(RuntimeError, match="no stand-in for ctkNoSuchWidget"):
        load(tmp_path, "ctkNoSuchWidget")


@pytest.mark.parametrize(("connections", "count"), [("", 0), (CONNECTION, 1)])
def test_a_selector_without_its_scene_stays_empty(bench, scene, tmp_path, connections, count):
    top = load(tmp_path, "qMRMLNodeComboBox", connections)
    import slicer

    selector = slicer.util.childWidgetVariables(top).inner
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    top.setMRMLScene(scene)
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "one")
    assert selector.nodeCount() == count


def test_a_parameter_of_an_unknown_type_is_refused(bench):
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Parameters:
        several: set

    with pytest.raises(TypeError, match="does not know parameters"):
        parameterNodeWrapper(Parameters)


def test_references_to_constants_do_not_run_out(bench):
    for constant in (True, False, None):
        assert sys.getrefcount(constant) > 1 << 29
