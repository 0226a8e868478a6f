"""What is asked for when packages are missing, with the two ways in which Slicer installs them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def dependencies(bench, monkeypatch, tmp_path):
    """The module under test, with a requirements file that asks for a package that does not exist."""
    from BrainSegSAMWidgets import Dependencies

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\n\nno-such-package-here>=1\nnumpy>=1\n")
    monkeypatch.setattr(Dependencies, "resource_path", lambda *parts: requirements)
    return Dependencies


def packaging_module(monkeypatch, pip_ensure):
    module = ModuleType("slicer.packaging")
    module.pip_ensure = pip_ensure
    import slicer

    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    monkeypatch.setattr(slicer, "packaging", module, raising=False)


def test_nothing_is_asked_when_all_is_there(bench, dialogs):
    from BrainSegSAMWidgets.Dependencies import ensureDependencies

    ensureDependencies("nnunet")


def test_missing_is_what_is_absent_or_of_another_version(dependencies):
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in ("numpy>=1", "numpy>=999", "no-such-package-here")]
    assert [str(r) for r in dependencies.missingRequirements(asked)] == ["numpy>=999", "no-such-package-here"]


@pytest.mark.parametrize("where", ["panel", "effect"])
def test_what_the_check_needs_is_imported_before_a_button_is_pressed(request, bench, monkeypatch, where):
    from BrainSegSAMWidgets import Dependencies

    read = []
    monkeypatch.setattr(Dependencies, "readRequirements", lambda: read.append(1) or [])
    Dependencies.lookAhead.cache_clear()
    if where == "panel":
        request.getfixturevalue("open_panel")()
    else:
        request.getfixturevalue("editor").setActiveEffectByName("BrainSegSAM nnU-Net")
    assert bench.wait_until(lambda: read)
    Dependencies.lookAhead()
    bench.wait_until(lambda: False, seconds=0.1)
    assert len(read) == 1, "once a session"


def test_slicers_packaging_gets_constraints_that_hold_slicers_packages(dependencies, monkeypatch, dialogs):
    import numpy as np

    from BrainSegSAMLib.errors import DependencyError

    calls = []

    def pip_ensure(requirements, constraints, requester):
        calls.append(([str(r) for r in requirements], constraints.read_text().splitlines(), requester))

    packaging_module(monkeypatch, pip_ensure)
    with pytest.raises(DependencyError, match="no-such-package-here"):  # it was not really installed
        dependencies.ensureDependencies("nnunet")
    ((requirements, constraints, requester),) = calls
    assert requirements == ["no-such-package-here>=1"]
    assert f"numpy=={np.__version__}" in constraints
    assert any(line.startswith("torch==") for line in constraints)
    assert requester == "BrainSegSAM"


FAULTS = [RuntimeError("User declined"), subprocess.CalledProcessError(1, "pip"), OSError(28, "No space left"),
          ImportError("DLL load failed"), ValueError("what pip never raised before")]  # fmt: skip


@pytest.mark.parametrize("error", FAULTS)
def test_a_refusal_or_a_failure_is_a_sentence(dependencies, monkeypatch, dialogs, error):
    from BrainSegSAMLib.errors import DependencyError

    def pip_ensure(requirements, constraints, requester):
        raise error

    packaging_module(monkeypatch, pip_ensure)
    with pytest.raises(DependencyError, match=r"needed and were not installed: no-such-package-here>=1 \("):
        dependencies.ensureDependencies("nnunet")


@pytest.mark.parametrize("answer", [True, False])
def test_before_slicer_5_11_it_asks_itself(dependencies, monkeypatch, dialogs, answer):
    import slicer

    from BrainSegSAMLib.errors import DependencyError

    installed = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", installed.append, raising=False)
    dialogs.answer = answer
    with pytest.raises(DependencyError, match="no-such-package-here"):
        dependencies.ensureDependencies("nnunet")
    ((kind, question),) = dialogs.messages
    dialogs.messages.clear()
    assert kind == "confirmOkCancelDisplay"
    assert "no-such-package-here" in question
    assert len(installed) == int(answer)
    if answer:
        assert installed[0][:2] == ["no-such-package-here>=1", "--constraint"]


def test_torch_comes_from_slicers_extension(dependencies, monkeypatch):
    from BrainSegSAMLib.errors import DependencyError

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(DependencyError, match="Install the PyTorch extension"):
        dependencies.ensureDependencies("nnunet")
    asked = []
    logic = SimpleNamespace(installTorch=lambda askConfirmation: asked.append(askConfirmation))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    with pytest.raises(DependencyError, match="was not installed"):
        dependencies.ensureDependencies("nnunet")
    assert asked == [True]


@pytest.fixture
def without_torch(bench, monkeypatch):
    """PyTorch is missing; holds what Slicer's extension raises when it shall install it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a))
    faults = []

    def installTorch(askConfirmation):
        raise faults.pop()

    logic = SimpleNamespace(installTorch=installTorch)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    return faults


@pytest.mark.parametrize("error", FAULTS)
def test_torch_that_cannot_be_installed_is_said(without_torch, error):
    from BrainSegSAMWidgets.Dependencies import ensureDependencies

    from BrainSegSAMLib.errors import DependencyError

    without_torch.append(error)
    with pytest.raises(DependencyError, match="PyTorch is needed and was not installed") as caught:
        ensureDependencies("nnunet")
    assert str(error) in str(caught.value)


def test_the_panel_says_that_torch_cannot_be_installed(widget, volume, bench, dialogs, without_torch):
    without_torch.append(subprocess.CalledProcessError(1, ["PythonSlicer", "-m", "light_the_torch"]))
    volume("a_flair")
    volume("a_t1ce")
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    widget.ui.applyButton.click()
    ((kind, text),) = dialogs.messages
    dialogs.messages.clear()
    assert kind == "errorDisplay"
    assert widget.ui.statusLabel.text == text
    assert "PyTorch is needed and was not installed" in text
    assert not widget.ui.progressBar.visible
    assert widget.ui.applyButton.enabled


@pytest.fixture
def without_sam2(bench, monkeypatch):
    """All is there but sam2, until `pip_install` was called; holds its arguments and the build's variable."""
    import slicer

    installed = []
    real = importlib.util.find_spec

    def find_spec(name):
        return real(name) if name != "sam2" or installed else None

    def pip_install(arguments):
        installed.append((arguments, os.environ.get("SAM2_BUILD_CUDA")))

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(slicer.util, "pip_install", pip_install, raising=False)
    monkeypatch.delenv("SAM2_BUILD_CUDA", raising=False)
    return installed


@pytest.mark.parametrize("method", ["ssnet", "sam2_tracker"])
def test_models_that_track_get_sam2_built_against_slicers_pytorch(without_sam2, dialogs, method):
    from BrainSegSAMWidgets.Dependencies import ensureDependencies

    ensureDependencies("nnunet")
    assert without_sam2 == [], "nobody else is asked"
    ensureDependencies(method)
    (((requirement, *options), build_cuda),) = without_sam2
    assert requirement == "sam2==1.1.0"
    assert options[:2] == ["--no-build-isolation", "--constraint"]
    assert build_cuda == "0"
    assert "SAM2_BUILD_CUDA" not in os.environ
    ((kind, question),) = dialogs.messages
    dialogs.messages.clear()
    assert kind == "confirmOkCancelDisplay"
    assert "sam2==1.1.0" in question
    ensureDependencies(method)
    assert len(without_sam2) == 1, "it is there now"


def test_sam2_that_is_declined_or_cannot_be_built_can_be_installed_by_hand(without_sam2, dialogs, monkeypatch):
    import slicer
    from BrainSegSAMWidgets.Dependencies import ensureDependencies

    from BrainSegSAMLib.errors import DependencyError

    def fail(arguments):
        raise subprocess.CalledProcessError(1, "pip")

    command = "PythonSlicer -m pip install --no-build-isolation sam2==1.1.0"
    dialogs.answer = False
    with pytest.raises(DependencyError, match=rf"not installed: sam2==1.1.0 \(declined\).*{command}"):
        ensureDependencies("ssnet")
    assert without_sam2 == []
    dialogs.answer = True
    monkeypatch.setattr(slicer.util, "pip_install", fail)
    with pytest.raises(DependencyError, match=f"returned non-zero.*{command}"):
        ensureDependencies("ssnet")
    assert "SAM2_BUILD_CUDA" not in os.environ
    dialogs.messages.clear()


def test_detectors_get_ultralytics_after_its_licence_was_shown(bench, dialogs, monkeypatch, tmp_path):
    import slicer
    from BrainSegSAMWidgets import Dependencies

    from BrainSegSAMLib.errors import DependencyError

    installed = []
    real = Dependencies._version
    monkeypatch.setattr(
        Dependencies, "_version", lambda name: real(name) if name != "ultralytics" or installed else None
    )
    monkeypatch.setattr(slicer.util, "pip_install", installed.append, raising=False)
    dialogs.answer = False
    with pytest.raises(DependencyError, match=r"ultralytics.*declined.*PythonSlicer -m pip install"):
        Dependencies.ensureDetector()
    assert installed == []
    dialogs.answer = True
    Dependencies.ensureDetector()
    ((requirement, option, _constraints),) = installed
    assert requirement.startswith("ultralytics")
    assert option == "--constraint"
    assert all("AGPL-3.0" in question for _kind, question in dialogs.messages)
    dialogs.messages.clear()
    (tmp_path / "detector").mkdir()
    assert Dependencies.findsBoxes(SimpleNamespace(folder=tmp_path, method="yolo_medsam"))
    assert not Dependencies.findsBoxes(SimpleNamespace(folder=tmp_path / "detector", method="yolo_medsam"))


def test_apply_says_what_is_missing_and_starts_nothing(widget, volume, bench, dialogs, monkeypatch):
    from BrainSegSAMWidgets import PredictPanel

    from BrainSegSAMLib.errors import DependencyError

    def refuse(method):
        assert method == "nnunet"
        raise DependencyError("PyTorch is needed.")

    monkeypatch.setattr(PredictPanel, "ensureDependencies", refuse)
    volume("a_flair")
    volume("a_t1ce")
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    widget.ui.applyButton.click()
    assert dialogs.messages == [("errorDisplay", "PyTorch is needed.")]
    dialogs.messages.clear()
    assert not widget.logic.running


def test_measuring_asks_for_little(bench, monkeypatch):
    """As in a Slicer that has nothing yet: neither PyTorch nor nnU-Net is asked for."""
    from BrainSegSAMWidgets import Dependencies

    asked, real = [], Dependencies._version
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(Dependencies, "_version", lambda name: real(name) if asked else None)
    packaging_module(monkeypatch, lambda missing, constraints, requester: asked.extend(r.name for r in missing))
    Dependencies.ensureMeasuring()
    assert asked == ["scikit-image", "matplotlib"]
