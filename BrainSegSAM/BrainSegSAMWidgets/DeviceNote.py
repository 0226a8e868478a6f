"""What a device means on this machine, in words; asked for in a worker, because it needs torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import qt
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError

from . import WorkerProcess


class DeviceNote:
    """What is known of this machine.

    Args:
        onKnown: told when something has become known.
    """

    _known: dict[str, Any] | None = None  # of the session: it changes with the PyTorch that is installed alone

    def __init__(self, onKnown: Callable[[], None]) -> None:
        self._onKnown = onKnown
        self._worker: Any = None
        self._problem = ""

    def ask(self) -> None:
        """Find out, unless that is known of the PyTorch that is installed, or on its way; returns at once."""
        torch = _installedTorch()
        if not torch:
            DeviceNote._known = None
            self._problem = _("What this computer can run on is known once PyTorch is installed; Apply asks for it.")
            self._onKnown()
        elif self._worker is None and (DeviceNote._known is None or DeviceNote._known["torch"] != torch):
            self._problem = ""
            self._worker = WorkerProcess.newWorker()
            self._worker.request("devices", {}, WorkerProcess.Listener(onDone=self._done, onFailed=self._failed))

    def abort(self) -> None:
        """Stop asking, for when the panel goes."""
        worker, self._worker = self._worker, None
        self._onKnown = lambda: None
        if worker is not None:
            worker.quit()

    def problem(self, device: str) -> str:
        """Why "auto", "cpu", "cuda" or "mps" cannot be used here; "" where it can, or nothing is known yet."""
        known = DeviceNote._known
        if known is None:
            return ""
        if device == "cuda" and not known["gpus"]:
            if known["cuda_built"]:
                return _("There is no NVIDIA GPU here that PyTorch can use; choose another device to run on.")
            return _(
                "The installed PyTorch cannot use an NVIDIA GPU. Choose another device, or install PyTorch anew with "
                "the PyTorch module."
            )
        if device == "mps" and not known["mps"]:
            return _("There is no Apple GPU here that PyTorch can use; choose another device to run on.")
        return ""

    def text(self, device: str) -> str:
        """What a device means here, as a sentence."""
        known = DeviceNote._known
        if known is None:
            return self._problem
        if self.problem(device):
            return self.problem(device)
        kind = str(known["auto"]).partition(":")[0] if device == "auto" else device
        if kind == "cuda":
            first = known["gpus"][0]
            return _("Here: {title}, {memory} GB of memory.").format(title=first["title"], memory=first["memory_gb"])
        if kind == "mps":
            return _("Here: the GPU of this Mac.")
        if device == "auto":
            sentence = _("Here: the processor ({cores} cores), as PyTorch finds no GPU.")
            return sentence.format(cores=known["cores"])
        return _("Here: {cores} cores. A graphics card would be faster.").format(cores=known["cores"])

    def _done(self, data: dict[str, Any]) -> None:
        DeviceNote._known = data
        self._end()

    def _failed(self, error: BrainSegSAMError) -> None:
        self._problem = _("What this computer can run on is not known yet. {reason}").format(reason=error)
        self._end()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            qt.QTimer.singleShot(0, worker.quit)  # not from in here: it is speaking to us just now
        self._onKnown()


def _installedTorch() -> str:
    """Version of the PyTorch that is installed now; "" for none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
