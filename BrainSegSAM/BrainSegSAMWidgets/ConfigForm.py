"""A form made from the dataclasses that hold a training's settings: what matters on top, everything else to search."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import InputError


class ConfigForm:
    """Edits settings; what differs from the recipe is what counts.

    Args:
        mainLayout: where settings that matter go.
        otherLayout: where all others go.
        onChanged: told after each change by the user.
    """

    def __init__(self, mainLayout: Any, otherLayout: Any, onChanged: Callable[[], None]) -> None:
        self._layouts = (mainLayout, otherLayout)
        self._onChanged = onChanged
        self._groups: tuple[Any, ...] = ()
        self._holders: list[Any] = []
        self._editors: dict[str, _Editor] = {}
        self._words = ""

    @property
    def editors(self) -> Mapping[str, Any]:
        """Name, with its prefix → widget."""
        return {name: editor.widget for name, editor in self._editors.items()}

    def names(self, *, matters: bool) -> list[str]:
        """Names of the settings on top, or of all others, as they are shown."""
        return [name for name, editor in self._editors.items() if editor.matters == matters]

    def setGroups(self, groups: Sequence[Any], overrides: Mapping[str, Any]) -> None:
        """Show the settings of a recipe.

        Args:
            groups: as `recipes.settings_groups` gives them.
            overrides: name, with its prefix → value to show instead of the recipe's.
        """
        self.clear()
        self._groups = tuple(groups)
        forms = [self._newForm(layout) for layout in self._layouts]
        for group in self._groups:
            for setting in group.settings:
                name = group.prefix + setting.name
                editor = _Editor(name, setting, group.values[setting.name], self._edited)
                if name in overrides:
                    editor.show(overrides[name])
                forms[0 if setting.matters else 1].addRow(editor.label, editor.widget)
                self._editors[name] = editor
        self.search(self._words)

    def clear(self) -> None:
        """Show no settings, and let go of the widgets."""
        for editor in self._editors.values():
            editor.disconnect()
        for holder in self._holders:
            holder.visible = False
            holder.deleteLater()
        self._editors, self._holders, self._groups = {}, [], ()

    def reset(self) -> None:
        """Back to what the recipe says."""
        for editor in self._editors.values():
            editor.show(editor.default)
        self._onChanged()

    def overrides(self) -> dict[str, Any]:
        """Name, with its prefix → value, of all that differs from the recipe."""
        return {name: editor.value() for name, editor in self._editors.items() if editor.value() != editor.default}

    def problem(self) -> str:
        """Why the settings cannot be used, as a sentence; "" where they can."""
        changed = self.overrides()
        for group in self._groups:
            names = {group.prefix + setting.name: setting.name for setting in group.settings}
            try:
                group.check({names[name]: value for name, value in changed.items() if name in names})
            except InputError as error:
                return str(error)
        return ""

    def search(self, words: str) -> None:
        """Show, of the settings that are not on top, only those in whose name or explanation all words occur."""
        self._words = words
        wanted = words.lower().split()
        for editor in self._editors.values():
            if not editor.matters:
                editor.setVisible(all(word in editor.said for word in wanted))

    def _newForm(self, layout: Any) -> Any:
        holder = qt.QWidget()
        form = qt.QFormLayout(holder)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        form.setRowWrapPolicy(qt.QFormLayout.WrapLongRows)
        layout.addWidget(holder)
        self._holders.append(holder)
        return form

    def _edited(self, *_value: Any) -> None:
        self._onChanged()


class _Editor:
    """One setting: a check box, a choice, or a line of text."""

    def __init__(self, name: str, setting: Any, default: Any, onEdited: Callable[..., None]) -> None:
        self.default = _plain(default)
        self.matters = setting.matters
        self.said = f"{name} {name.replace('_', ' ')} {setting.text}".lower()
        self._onEdited = onEdited
        self._choices = setting.choices
        self._isText = setting.kind == "str"
        self.label = qt.QLabel(_title(name))
        if isinstance(self.default, bool):
            self.widget = qt.QCheckBox()
            self._signal = "toggled(bool)"
        elif self._choices:
            self.widget = qt.QComboBox()
            self.widget.addItems([str(choice) for choice in self._choices])
            self._signal = "currentIndexChanged(int)"
        else:
            self.widget = qt.QLineEdit()
            self._signal = "textEdited(QString)"
        tip = setting.text[:1].upper() + setting.text[1:]
        self.widget.toolTip = self.label.toolTip = "\n".join((
            f"{name}: {tip}", _("The recipe says: {value}").format(value=self._text(self.default) or _("nothing")),
        ))  # fmt: skip
        self.show(self.default)
        self.widget.connect(self._signal, onEdited)

    def disconnect(self) -> None:
        self.widget.disconnect(self._signal, self._onEdited)

    def setVisible(self, visible: bool) -> None:
        self.label.visible = visible
        self.widget.visible = visible

    def show(self, value: Any) -> None:
        before = self.widget.blockSignals(True)
        if isinstance(self.default, bool):
            self.widget.checked = bool(value)
        elif self._choices:
            self.widget.currentIndex = self._choices.index(value) if value in self._choices else 0
        else:
            self.widget.text = self._text(value)
            self.widget.setCursorPosition(0)
        self.widget.blockSignals(before)

    def value(self) -> Any:
        if isinstance(self.default, bool):
            return bool(self.widget.checked)
        if self._choices:
            return self._choices[self.widget.currentIndex]
        text = str(self.widget.text).strip()
        if self._isText:
            return text
        if not text:
            return None
        try:
            return _plain(json.loads(text))
        except ValueError:
            return text  # the setting's own check refuses it with a sentence

    def _text(self, value: Any) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(_plain(value))


def _title(name: str) -> str:
    """A setting's name for people; it stays recognisable, because recipes and the command line use it."""
    part, dot, rest = name.rpartition(".")
    words = rest.replace("_mm", " (mm)").replace("_", " ")
    return f"{part}: {words}:" if dot else words[:1].upper() + words[1:] + ":"


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
