"""Asks for the Python packages that a segmentation needs, when it is first started; never at import.

Slicer's own packages must come out as they went in: what is installed of them is handed to pip as constraints. PyTorch
comes through Slicer's PyTorch extension, which picks the build for the computer's graphics card.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import DependencyError
from BrainSegSAMLib.resources import resource_path

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_KEPT = ("numpy", "scipy", "SimpleITK", "pillow", "pydicom", "requests", "vtk", "torch", "torchvision")
_REQUESTER = "BrainSegSAM"


def readRequirements(path: Path | None = None) -> list[Requirement]:
    """What `Resources/requirements.txt` asks for."""
    from packaging.requirements import Requirement

    lines = (path or resource_path("requirements.txt")).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def missingRequirements(requirements: list[Requirement]) -> list[Requirement]:
    """Those that are not installed, or in another version."""
    return [r for r in requirements if _version(r.name) is None or _version(r.name) not in r.specifier]


def keptVersions() -> list[str]:
    """Constraint lines that hold what is installed now of the packages that must not change."""
    return [f"{name}=={version}" for name in _KEPT if (version := _version(name)) is not None]


def ensureDependencies() -> None:
    """Install what is missing, after asking the user; returns when everything is there. On the main thread only.

    Raises:
        DependencyError: what is missing and how to get it, where it was refused or could not be installed.
    """
    _ensureTorch()
    missing = missingRequirements(readRequirements())
    if not missing:
        return
    names = ", ".join(str(r) for r in missing)
    with tempfile.TemporaryDirectory(prefix="BrainSegSAM-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(keptVersions()), encoding="utf-8")
        try:
            _install(missing, constraints)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            raise DependencyError(
                _("These Python packages are needed and were not installed: {names} ({reason}).").format(
                    names=names, reason=error
                )
            ) from error
    importlib.invalidate_caches()
    if missingRequirements(readRequirements()):
        raise DependencyError(
            _("These Python packages are needed: {names}. Install them, restart Slicer and press Apply again.").format(
                names=names
            )
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ensureTorch() -> None:
    if importlib.util.find_spec("torch") is not None:
        return
    try:
        import PyTorchUtils  # Slicer's PyTorch extension
    except ImportError:
        raise DependencyError(
            _("PyTorch is needed. Install the PyTorch extension in Slicer's Extensions Manager, restart Slicer and "
              "press Apply again.")
        ) from None
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True) is None:
        raise DependencyError(_("PyTorch is needed and was not installed."))


def _install(missing: list[Requirement], constraints: Path) -> None:
    """Through `slicer.packaging`, which asks and shows progress, or by ourselves before Slicer 5.11.

    Raises:
        RuntimeError: where the user declines.
        CalledProcessError: where pip fails.
    """
    try:
        from slicer import packaging as slicerPackaging
    except ImportError:
        question = _("BrainSegSAM needs these Python packages:\n\n{names}\n\nInstall them into Slicer now?").format(
            names="\n".join(str(r) for r in missing)
        )
        if not slicer.util.confirmOkCancelDisplay(question):
            raise RuntimeError(_("declined")) from None
        slicer.util.pip_install([*(str(r) for r in missing), "--constraint", str(constraints)])
    else:
        slicerPackaging.pip_ensure(missing, constraints=constraints, requester=_REQUESTER)
