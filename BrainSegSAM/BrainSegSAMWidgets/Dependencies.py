"""Asks for the Python packages that a segmentation needs, when it is first started; never at import.

Slicer's own packages must come out as they went in: what is installed of them is handed to pip as constraints. PyTorch
comes through Slicer's PyTorch extension, which picks the build for the computer's graphics card. Only models that track
need sam2, which is built against it, and only detectors need ultralytics, whose licence the user must know.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib.backends import sam2_package, yolo_package
from BrainSegSAMLib.errors import DependencyError
from BrainSegSAMLib.methods import NEED_SAM2
from BrainSegSAMLib.resources import resource_path

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_KEPT = ("numpy", "scipy", "SimpleITK", "pillow", "pydicom", "requests", "vtk", "torch", "torchvision")
_FOR_MEASURING = ("scikit-image", "matplotlib")
_REQUESTER = "BrainSegSAM"


def readRequirements(path: Path | None = None) -> list[Requirement]:
    """What `Resources/requirements.txt` asks for."""
    from packaging.requirements import Requirement

    lines = (path or resource_path("requirements.txt")).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def missingRequirements(requirements: list[Requirement]) -> list[Requirement]:
    """Those that are not installed, or in another version."""
    found = [(requirement, _version(requirement.name)) for requirement in requirements]
    return [requirement for requirement, version in found if version is None or version not in requirement.specifier]


def keptVersions() -> list[str]:
    """Constraint lines that hold what is installed now of the packages that must not change."""
    return [f"{name}=={version}" for name in _KEPT if (version := _version(name)) is not None]


@functools.cache
def lookAhead() -> None:
    """Import in a moment, once a session, what the check of the packages needs: a button shall not wait for it."""
    qt.QTimer.singleShot(0, lambda: missingRequirements(readRequirements()))


def ensureDependencies(method: str) -> None:
    """Install what is missing, after asking the user; returns when everything is there. On the main thread only.

    Args:
        method: of the chosen model; those that track need sam2 beside what all need; "" where it is not known yet.

    Raises:
        DependencyError: what is missing and how to get it, where it was refused or could not be installed.
    """
    _ensureTorch()
    _ensure(lambda: missingRequirements(readRequirements()), _install, "")
    if method in NEED_SAM2:
        byHand = _("By hand, in a terminal: {command}").format(command=sam2_package.install_command("PythonSlicer"))
        _ensure(_missingSam2, _installSam2, byHand)


def ensureMeasuring() -> None:
    """Install what measuring segmentations needs, which is neither PyTorch nor nnU-Net; as `ensureDependencies`."""
    needed = [requirement for requirement in readRequirements() if requirement.name in _FOR_MEASURING]
    _ensure(lambda: missingRequirements(needed), _install, "")


def ensureDetector() -> None:
    """Install ultralytics where it is missing, after asking and saying what its licence asks; on the main thread only.

    Raises:
        DependencyError: as `ensureDependencies`.
    """
    byHand = _("By hand, in a terminal: {command}").format(command=yolo_package.install_command("PythonSlicer"))
    _ensure(_missingUltralytics, _installUltralytics, byHand)


def findsBoxes(model: Any) -> bool:
    """Whether a model has a detector in it, or is one."""
    return (model.folder / "detector").is_dir() or model.method == "yolo_detector"


def _ensure(
    findMissing: Callable[[], list[Requirement]], install: Callable[[list[Requirement], Path], None], byHand: str
) -> None:
    missing = findMissing()
    if not missing:
        return
    names = ", ".join(str(r) for r in missing)
    try:
        with tempfile.TemporaryDirectory(prefix="BrainSegSAM-") as folder:
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("\n".join(keptVersions()), encoding="utf-8")
            install(missing, constraints)
    except Exception as error:  # offline, a full disk, declined, …: pip and Slicer name no class for all of it
        message = _("These Python packages are needed and were not installed: {names} ({reason}).")
        raise DependencyError(f"{message.format(names=names, reason=error)} {byHand}".strip()) from error
    importlib.invalidate_caches()
    if findMissing():
        message = _("These Python packages are needed: {names}. Install them, restart Slicer and press Apply again.")
        raise DependencyError(f"{message.format(names=names)} {byHand}".strip())


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
    needed = _("PyTorch is needed and was not installed{reason}.")
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True)
    except Exception as error:  # of pip, or of the import that it tries at its end
        raise DependencyError(needed.format(reason=f" ({error})")) from error
    if torch is None:
        raise DependencyError(needed.format(reason=""))


def _missingSam2() -> list[Requirement]:
    """Whether it can be imported counts, not what it is called: other extensions install it from its repository."""
    from packaging.requirements import Requirement

    return [] if importlib.util.find_spec("sam2") is not None else [Requirement(sam2_package.REQUIREMENT)]


def _installSam2(missing: list[Requirement], constraints: Path) -> None:
    """With options for its build, which `slicer.packaging.pip_ensure` does not hand on.

    Raises:
        RuntimeError: where the user declines.
        CalledProcessError: where pip fails.
    """
    _askToInstall(missing)
    before = {name: os.environ.get(name) for name in sam2_package.ENVIRONMENT}
    os.environ.update(sam2_package.ENVIRONMENT)
    try:
        slicer.util.pip_install(
            [*(str(r) for r in missing), *sam2_package.PIP_OPTIONS, "--constraint", str(constraints)]
        )
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _missingUltralytics() -> list[Requirement]:
    from packaging.requirements import Requirement

    return missingRequirements([Requirement(yolo_package.REQUIREMENT)])


def _installUltralytics(missing: list[Requirement], constraints: Path) -> None:
    """With its licence in the question, which `slicer.packaging` would not show.

    Raises:
        RuntimeError: where the user declines.
        CalledProcessError: where pip fails.
    """
    _askToInstall(missing, note=yolo_package.LICENCE)
    slicer.util.pip_install([*(str(r) for r in missing), "--constraint", str(constraints)])


def _askToInstall(missing: list[Requirement], *, note: str = "") -> None:
    """Raises RuntimeError where the user declines."""
    question = _("BrainSegSAM needs these Python packages:\n\n{names}\n\n{note}Install them into Slicer now?").format(
        names="\n".join(str(r) for r in missing), note=_("Note that {text}").format(text=note) + "\n\n" if note else ""
    )
    if not slicer.util.confirmOkCancelDisplay(question):
        raise RuntimeError(_("declined"))


def _install(missing: list[Requirement], constraints: Path) -> None:
    """Through `slicer.packaging`, which asks and shows progress, or by ourselves before Slicer 5.11.

    Raises:
        RuntimeError: where the user declines.
        CalledProcessError: where pip fails.
    """
    try:
        from slicer import packaging as slicerPackaging
    except ImportError:
        _askToInstall(missing)
        slicer.util.pip_install([*(str(r) for r in missing), "--constraint", str(constraints)])
    else:
        slicerPackaging.pip_ensure(missing, constraints=constraints, requester=_REQUESTER)
