"""The tab "Evaluate": folders of predictions and references make a report, by the same command as without Slicer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled

from . import Dialogs
from .Dependencies import ensureMeasuring
from .Fields import Connections, PathFields, allowOrSay, isUrl
from .Task import CommandTask, TaskView

_SOME_FAILED, _DOUBTFUL = 1, 3  # exit codes of the command


class EvaluatePanel:
    """Drives the widgets of EvaluatePanel.ui.

    Args:
        ui: the widgets by name.
        logic: the module's logic; knows which models say what labels mean.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        self.ui = ui
        self.logic = logic
        self._parameterNode: Any = None
        self._labels: list[str] = [""]
        self._report: Path | None = None
        self._filling = False
        view = TaskView(ui.evaluateProgressBar, ui.evaluateStatusLabel, ui.evaluateLogText)
        self.task = CommandTask(view, self.check)
        manifest = _("Manifests (*.csv)")
        self.paths = PathFields(
            {
                "evaluatePredictions": ui.evaluatePredictionsEdit, "evaluateOther": ui.evaluateOtherEdit,
                "evaluateReference": ui.evaluateReferenceEdit, "evaluateImages": ui.evaluateImagesEdit,
                "evaluateOutput": ui.evaluateOutputEdit,
            },
            self.check,
            files={
                "evaluateReference": (ui.evaluateReferenceFileButton, manifest),
                "evaluateImages": (ui.evaluateImagesFileButton, manifest),
            },
        )  # fmt: skip
        ui.evaluateSummaryText.visible = False
        self.fillLabels()
        self._connections = Connections((
            (ui.evaluateLabelsComboBox, "currentIndexChanged(int)", self.onLabelsChosen),
            (ui.evaluateStartButton, "clicked(bool)", self.onStart),
            (ui.evaluateStopButton, "clicked(bool)", self.onStop),
            (ui.evaluateShowButton, "clicked(bool)", self.onShow),
        ))

    def disconnect(self) -> None:
        """Let go of the widgets, and end what runs."""
        self.task.abort()
        self.paths.disconnect()
        self._connections.end()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices that a parameter node holds; None while there is no scene to work in."""
        self._parameterNode = parameterNode
        self.paths.setParameterNode(parameterNode)
        self.fillLabels()
        self.check()

    def fillLabels(self) -> None:
        """Offer every installed model as what says what labels mean."""
        models, _problems = self.logic.installedModels()
        self._labels = ["", *models]
        self._filling = True
        combo = self.ui.evaluateLabelsComboBox
        combo.clear()
        combo.addItem(_("As the predictions say themselves"))
        for model in models.values():
            combo.addItem(_("As in '{title}'").format(title=model.title))
        chosen = self._parameterNode.evaluateLabels if self._parameterNode is not None else ""
        combo.currentIndex = self._labels.index(chosen) if chosen in self._labels else -1
        self._filling = False

    def onLabelsChosen(self, index: int) -> None:
        """Keep the choice in the parameter node."""
        if self._parameterNode is not None and not self._filling and 0 <= index < len(self._labels):
            self._parameterNode.evaluateLabels = self._labels[index]
            self.check()

    # ---- run

    def reasonNotToEvaluate(self) -> str:
        """Why evaluating cannot be started now; "" when it can."""
        if self.task.running:
            return _("An evaluation is running.")
        needed = {
            "evaluatePredictions": _("Choose the folder with the predictions."),
            "evaluateReference": _("Choose the folder with the references."),
            "evaluateOutput": _("Choose a folder for the report."),
        }
        for name, sentence in needed.items():
            if not self.paths.text(name):
                return sentence
        for name in ("evaluatePredictions", "evaluateOther", "evaluateReference", "evaluateImages"):
            text = self.paths.text(name)
            if text and not isUrl(text) and not Path(text).exists():
                return _("There is no '{path}'; choose another.").format(path=text)
        if self.paths.text("evaluateOther") == self.paths.text("evaluatePredictions"):
            return _("Both folders of predictions are the same; leave the second one empty.")
        if self._parameterNode.evaluateLabels not in self._labels:
            return _(
                "The scene asks for the labels of the model '{name}', which is not installed here; download or import "
                "it, or choose others."
            ).format(name=self._parameterNode.evaluateLabels)
        return ""

    def check(self, *_changed: Any) -> None:
        """Enable what can be done, or say why not."""
        if self._parameterNode is None:
            return
        running, reason = self.task.running, self.reasonNotToEvaluate()
        allowOrSay(self.ui.evaluateStartButton, reason, _("Measure the predictions against the references."))
        self.ui.evaluateReasonLabel.text = "" if running else reason
        self.ui.evaluateReasonLabel.visible = bool(self.ui.evaluateReasonLabel.text)
        idle = "" if running else _("No evaluation is running.")
        allowOrSay(self.ui.evaluateStopButton, idle, _("End the evaluation; cases that are finished stay."))
        noReport = "" if self._report is not None else _("No report was written yet.")
        allowOrSay(self.ui.evaluateShowButton, noReport, _("Show the report in your web browser."))

    def arguments(self) -> list[str]:
        """The command that Evaluate runs."""
        node, text = self._parameterNode, self.paths.text
        predictions = [path for path in (text("evaluatePredictions"), text("evaluateOther")) if path]
        words = ["evaluate", "--predictions", *predictions, "--reference", text("evaluateReference"),
                 "--output", text("evaluateOutput"), "--workers", "1"]  # fmt: skip
        if node.evaluateLabels:
            words += ["--labels", node.evaluateLabels]
        if text("evaluateImages"):
            words += ["--images", text("evaluateImages")]
        flags = {
            "--no-pictures": not node.evaluatePictures, "--resample": node.evaluateResample,
            "--resume": node.evaluateResume,
        }  # fmt: skip
        return [*words, *(flag for flag, given in flags.items() if given)]

    def onStart(self, *_checked: Any) -> None:
        """Evaluate; everything else stays usable."""
        self._report = None
        self.ui.evaluateSummaryText.visible = False
        try:
            ensureMeasuring()
            self.task.start(self.arguments(), self._onDone, self._onFailed)
        except BrainSegSAMError as error:
            self.task.view.end(str(error))
            self._onFailed(error)

    def onStop(self, *_checked: Any) -> None:
        """Ask the running evaluation to end."""
        self.task.cancel()

    def onShow(self, *_checked: Any) -> None:
        """Open the report."""
        if self._report is not None:
            Dialogs.openInBrowser(self._report)

    def _onDone(self, data: dict[str, Any]) -> None:
        result = data.get("result") or {}
        said = {
            _SOME_FAILED: _("Done, but some cases could not be evaluated; see the log and the report."),
            _DOUBTFUL: _("Done, but what was given is doubtful; see the log and the report."),
        }
        self.task.view.end(said.get(int(data.get("exit_code") or 0), _("Done.")))
        report = (result.get("files") or {}).get("report", "")
        self._report = Path(report) if report and not isUrl(report) else None
        lines = [str(line) for line in data.get("lines", [])]
        self.ui.evaluateSummaryText.setPlainText("\n".join([*lines, *map(str, result.get("doubts") or [])]))
        self.ui.evaluateSummaryText.visible = bool(lines)
        if self._report is not None and self._parameterNode is not None and self._parameterNode.evaluateOpen:
            Dialogs.openInBrowser(self._report)

    def _onFailed(self, error: BrainSegSAMError) -> None:
        if not isinstance(error, Cancelled):
            Dialogs.showError(str(error))
