"""What a segmentation gave: volumes, lesions on which the stages disagree, notes, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .ModelTexts import methodTitle

_ROW_HEIGHT = 24


class ResultView:
    """Shows a result in the widgets of PredictPanel.ui.

    Args:
        ui: the widgets by name.
    """

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        self._lesions: list[Mapping[str, Any]] = []
        for table in (ui.resultTable, ui.lesionTable):
            header = table.horizontalHeader()
            header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
            header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
            header.setFixedHeight(_ROW_HEIGHT)
            table.verticalHeader().setSectionResizeMode(qt.QHeaderView.Fixed)
            table.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
        ui.lesionTable.connect("cellDoubleClicked(int,int)", self._onLesion)
        self.clear()

    def disconnect(self) -> None:
        """Let go of the widgets."""
        self.ui.lesionTable.disconnect("cellDoubleClicked(int,int)", self._onLesion)

    def clear(self) -> None:
        """Show nothing."""
        self.ui.resultWidget.visible = False

    def show(self, segmentationNode: Any, record: Mapping[str, Any]) -> None:
        """Show what was measured and how the result was made.

        Args:
            segmentationNode: with the segments; gives the colours.
            record: as the worker's "predict" answers.
        """
        prediction = record.get("prediction") or {}
        self._showRegions(segmentationNode, record.get("regions") or [])
        notes = [str(note) for note in record.get("notes") or prediction.get("notes") or []]
        self.ui.resultNotesLabel.text = "\n".join(notes)
        self.ui.resultNotesLabel.visible = bool(notes)
        self._lesions = list(prediction.get("lesions") or [])
        self._showLesions()
        self.ui.provenanceText.setPlainText(provenance(record))
        self.ui.provenanceCollapsibleButton.visible = bool(record)
        self.ui.resultWidget.visible = True

    def _showRegions(self, segmentationNode: Any, regions: Sequence[Mapping[str, Any]]) -> None:
        rows = [
            [str(region["region"]), f"{region['volume_ml']:.1f}", str(region["components"]),
             f"{region['largest_diameter_mm']:.1f}"]
            for region in regions
        ]
        _fill(self.ui.resultTable, rows)
        segmentation = segmentationNode.GetSegmentation()
        for row, region in enumerate(regions):
            segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(region["region"]))
            if segment is not None:
                colour = qt.QColor.fromRgbF(*segment.GetColor())
                self.ui.resultTable.item(row, 0).setData(qt.Qt.DecorationRole, colour)

    def _showLesions(self) -> None:
        rows = []
        for lesion in self._lesions:
            agreement = lesion.get("agreement")
            small = lesion.get("tracked") is False  # others come from one opinion alone
            rows.append([
                _("Lesion {number}").format(number=lesion["number"]),
                f"{lesion['volume_mm3'] / 1000:.2f}",
                f"{agreement:.2f}" if agreement is not None else _("too small") if small else "",
                _("yes") if lesion.get("flagged") else "",
            ])  # fmt: skip
        _fill(self.ui.lesionTable, rows)
        self.ui.lesionTable.visible = bool(rows)

    def _onLesion(self, row: int, _column: int) -> None:
        """Bring the slice views to a lesion."""
        centre = self._lesions[row].get("centre_lps_mm")
        if centre is not None:
            slicer.vtkMRMLSliceNode.JumpAllSlices(
                slicer.mrmlScene, -centre[0], -centre[1], centre[2], slicer.vtkMRMLSliceNode.CenteredJumpSlice
            )


def provenance(record: Mapping[str, Any]) -> str:
    """How a result was made, for reading and for a laboratory notebook."""
    prediction = record.get("prediction") or {}
    model = record.get("model") or {}
    lines = [
        (_("Model"), " ".join(
            str(part) for part in (model.get("title"), f"({model['name']})" if model else "", model.get("version"))
            if part)),
        (_("SHA-256"), model.get("sha256") or prediction.get("model_sha256")),
        (_("Method"), methodTitle(str(prediction.get("method") or ""))),
        (_("Device"), record.get("device") or prediction.get("device")),
        (_("Made"), record.get("created")),
        (_("Seconds"), ", ".join(f"{step} {value}" for step, value in (record.get("seconds") or {}).items())),
    ]  # fmt: skip
    for modality, said in (record.get("inputs") or {}).items():
        lines.append((_("Input {modality}").format(modality=modality.upper()), said))
    lines += [(_("Done to inputs"), action) for action in record.get("geometry_actions") or []]
    if prediction.get("settings"):
        lines.append((_("Settings"), json.dumps(prediction["settings"], ensure_ascii=False)))
    lines += [(name, version) for name, version in (record.get("versions") or {}).items()]
    return "\n".join(f"{name}: {value}" for name, value in lines if value)


def _fill(table: Any, rows: Sequence[Sequence[str]]) -> None:
    """Fill a table, its numbers to the right, and make it as high as it needs to be."""
    table.setRowCount(len(rows))
    for row, texts in enumerate(rows):
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            if column:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(row, column, item)
    table.setFixedHeight((len(rows) + 1) * _ROW_HEIGHT + 2 * table.frameWidth)
