"""The panel is to use: with the keyboard, on a small screen, in other languages, and it says why something is off."""

from __future__ import annotations

import itertools

import pytest

DECISIVE = ("applyButton", "cancelButton", "useModelButton", "downloadButton", "removeButton", "importButton",
            "trainStartButton", "trainStopButton", "trainResetButton", "evaluateStartButton", "evaluateStopButton",
            "evaluateShowButton")  # fmt: skip
ONLY_SHOWN = {"QWidget", "QFrame", "QLabel", "QScrollArea", "QScrollBar", "qMRMLWidget"}
"""Classes that need no tooltip; a label that shows what has no words of its own may have one."""


# ---- to use


def controls(ui):
    """All that can be operated, or needs an explanation, by name; without the parts of Qt's own widgets."""
    widgets = {name: w for name, w in vars(ui).items() if w.isWidgetType() and not name.startswith("qt_")}
    return {name: w for name, w in widgets.items() if w.className() not in ONLY_SHOWN and "Scroll" not in name}


def test_every_control_has_a_tooltip(widget):
    found = controls(widget.ui)
    classes = {control.className() for control in found.values()}
    assert {"ctkCollapsibleButton", "QProgressBar", "ctkPathLineEdit", "QTabBar"} <= classes
    assert len(found) > 65
    assert [name for name, control in found.items() if not control.toolTip] == []
    assert all(selector.toolTip for selector in widget.panel.predict.inputSelectors.values())


def test_disabled_buttons_say_why(widget):
    tips = {}
    for name in DECISIVE:
        button = getattr(widget.ui, name)
        if not button.enabled:
            tips[name] = button.toolTip
    assert {"applyButton", "cancelButton", "downloadButton", "trainStartButton", "evaluateStartButton"} <= set(tips)
    assert all(tip.endswith(".") for tip in tips.values())


def test_every_path_can_be_chosen_with_the_mouse(widget, tmp_path, monkeypatch):
    """A folder by the field's own button, and by another one a file, where one will do."""
    import qt
    from BrainSegSAMWidgets import Dialogs

    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", staticmethod(lambda *_args: str(tmp_path)))
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_args: ("/a/file", "")))
    monkeypatch.setattr(Dialogs, "openFile", lambda title, filters: f"/chosen {filters}")
    edits = {name: w for name, w in vars(widget.ui).items() if w.className() == "ctkPathLineEdit"}
    assert len(edits) == 8
    node = widget.logic.getParameterNode()
    for name, edit in edits.items():
        edit.browse()
        assert edit.currentPath == str(tmp_path), name
        assert getattr(node, name.removesuffix("Edit")) == str(tmp_path)
    files = {name: w for name, w in vars(widget.ui).items() if name.endswith("FileButton")}
    withFiles = ("importSource", "trainData", "evaluateReference", "evaluateImages")
    assert set(files) == {f"{name}FileButton" for name in withFiles}
    for name, button in files.items():
        button.click()
        chosen = edits[name.replace("FileButton", "Edit")].currentPath
        assert chosen.endswith("(*.csv)" if "import" not in name else ".safetensors)")
    monkeypatch.setattr(Dialogs, "openFile", lambda title, filters: "")
    widget.ui.trainDataFileButton.click()
    assert node.trainData.startswith("/chosen")


def test_the_tab_key_goes_from_top_to_bottom(widget, bench):
    import qt

    for page in (widget.ui.segmentTab, widget.ui.modelsTab, widget.ui.trainTab, widget.ui.evaluateTab):
        widget.panel.showPage(page)
        bench.wait_until(lambda: False, seconds=0.02)
        places, stop = [], page
        for _step in range(400):
            stop = stop.nextInFocusChain()
            reached = stop.focusPolicy & qt.Qt.TabFocus and stop.isVisibleTo(page) and page.isAncestorOf(stop)
            if reached and stop.width > 0:
                place = stop.mapTo(page, qt.QPoint(0, 0))
                places.append((place.y() // 12, place.x(), stop.objectName))
            if stop is page:
                break
        assert len(places) >= 4
        assert places == sorted(places), page.objectName


@pytest.fixture
def bundled(open_panel, volume, bench, tmp_path, monkeypatch, no_installing):
    """The panel as users have it: with the catalogue and the models that ship, and four volumes chosen."""
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path))
    widget = open_panel()
    for seed, name in enumerate(("flair", "t1", "t1ce", "t2")):
        volume(f"a_{name}", seed=seed)
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    return widget


def height(widget):
    """Of the module's panel where it is as wide as on a screen of 1366 x 768, which shows 640 of it."""
    import slicer

    for _round in range(4):
        slicer.app.processEvents()
    return widget.panel.widget.layout().heightForWidth(410)


def finish(widget, scene, *, lesions=0):
    """A run ends well, with three regions."""
    from BrainSegSAMWidgets.PredictionJob import Result

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "made")
    regions = [{"region": name, "volume_ml": 2.5, "components": 2, "largest_diameter_mm": 12.25}
               for name in ("Whole tumour", "Tumour core", "Enhancing tumour")]  # fmt: skip
    found = [{"number": n, "volume_mm3": 900.0, "agreement": 0.31, "flagged": True} for n in range(1, lesions + 1)]
    record = {"regions": regions, "model": {"name": "x", "title": "t"}, "notes": ["Look at it."] if lesions else [],
              "prediction": {"lesions": found}}  # fmt: skip
    widget.panel.predict.onDone(Result(node, regions, record))


def test_the_panel_fits_a_small_screen(bundled):
    for page in (bundled.ui.segmentTab, bundled.ui.modelsTab, bundled.ui.trainTab, bundled.ui.evaluateTab):
        bundled.panel.showPage(page)
        assert height(bundled) <= 640, page.objectName
        assert bundled.panel.widget.minimumSizeHint().width() <= 420


def test_the_panel_fits_a_small_screen_when_a_run_has_ended(bundled, scene):
    import qt

    ui = bundled.ui
    finish(bundled, scene)
    assert height(bundled) <= 640
    assert ui.resultTable.mapTo(bundled.panel.widget, qt.QPoint(0, 0)).y() + ui.resultTable.height <= 640
    finish(bundled, scene, lesions=4)
    assert height(bundled) <= 640
    ui.inputsCollapsibleButton.collapsed = False  # for another run
    assert bundled.panel.predict.inputSelectors["t1"].isVisibleTo(bundled.panel.widget)


@pytest.mark.parametrize("lesions", [0, 2])
def test_a_result_stays_together_in_a_high_panel(bundled, scene, lesions):
    import qt
    import slicer

    ui, parent = bundled.ui, bundled.parent
    parent.resize(430, 1000)
    finish(bundled, scene, lesions=lesions)
    for _round in range(4):
        slicer.app.processEvents()
    shown = [ui.statusLabel, ui.resultTable, *([ui.resultNotesLabel, ui.lesionTable] if lesions else []),
             ui.provenanceCollapsibleButton, ui.logCollapsibleButton]  # fmt: skip
    places = [(one.mapTo(parent, qt.QPoint(0, 0)).y(), one.height) for one in shown]
    for (top, size), (below, _size) in itertools.pairwise(places):
        assert 0 <= below - (top + size) <= 12, places


def test_words_go_through_translation(widget, both, monkeypatch):
    """Every label and tooltip that Python sets is marked by a translation that marks what it translates."""
    import sys

    for name, module in list(sys.modules.items()):
        if name.startswith("BrainSegSAMWidgets.") and hasattr(module, "_"):
            monkeypatch.setattr(module, "_", lambda text: f"«{text}»")
    widget.panel.predict.checkInputs()
    widget.panel.train.onSettingsChanged()
    widget.panel.checkCanApply()
    ui = widget.ui
    for name in DECISIVE:
        assert getattr(ui, name).toolTip.startswith("«"), name
    for label in (ui.inputsCheckLabel, ui.deviceNoteLabel, ui.trainReasonLabel, ui.evaluateReasonLabel):
        assert label.text.startswith("«")
