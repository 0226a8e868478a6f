"""The panel is to use: with the keyboard, on a small screen, in other languages, and it says why something is off."""

from __future__ import annotations

DECISIVE = ("applyButton", "cancelButton", "useModelButton", "downloadButton", "removeButton", "importButton",
            "trainStartButton", "trainStopButton", "trainResetButton", "evaluateStartButton", "evaluateStopButton",
            "evaluateShowButton")  # fmt: skip
OPERATED = {"QPushButton", "QToolButton", "QComboBox", "QLineEdit", "QCheckBox", "QPlainTextEdit", "QTableWidget",
            "QTreeWidget", "QTextBrowser", "ctkPathLineEdit", "qMRMLNodeComboBox", "QTabBar"}  # fmt: skip


# ---- to use


def controls(ui):
    inner = ("qt_", "Scroll")  # parts of Qt's own widgets
    return {name: w for name, w in vars(ui).items() if w.className() in OPERATED and not name.startswith(inner)}


def test_every_control_has_a_tooltip(widget):
    found = controls(widget.ui)
    assert len(found) > 45
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


def test_the_panel_fits_a_small_screen(widget, both, bench):
    for page in (widget.ui.segmentTab, widget.ui.modelsTab, widget.ui.trainTab, widget.ui.evaluateTab):
        widget.panel.showPage(page)
        bench.wait_until(lambda: False, seconds=0.02)
        least = widget.panel.widget.minimumSizeHint()
        assert least.width() <= 420
        assert widget.panel.widget.layout().heightForWidth(410) <= 640


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
