"""What is asked for when packages are missing, with the two ways in which Slicer installs them."""

from __future__ import annotations

import importlib.util
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

    ensureDependencies()


def test_missing_is_what_is_absent_or_of_another_version(dependencies):
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in ("numpy>=1", "numpy>=999", "no-such-package-here")]
    assert [str(r) for r in dependencies.missingRequirements(asked)] == ["numpy>=999", "no-such-package-here"]


def test_slicers_packaging_gets_constraints_that_hold_slicers_packages(dependencies, monkeypatch, dialogs):
    import numpy as np

    from BrainSegSAMLib.errors import DependencyError

    calls = []

    def pip_ensure(requirements, constraints, requester):
        calls.append(([str(r) for r in requirements], constraints.read_text().splitlines(), requester))

    packaging_module(monkeypatch, pip_ensure)
    with pytest.raises(DependencyError, match="no-such-package-here"):  # it was not really installed
        dependencies.ensureDependencies()
    ((requirements, constraints, requester),) = calls
    assert requirements == ["no-such-package-here>=1"]
    assert f"numpy=={np.__version__}" in constraints
    assert any(line.startswith("torch==") for line in constraints)
    assert requester == "BrainSegSAM"


@pytest.mark.parametrize("error", [RuntimeError("User declined"), subprocess.CalledProcessError(1, "pip")])
def test_a_refusal_or_a_failure_is_a_sentence(dependencies, monkeypatch, dialogs, error):
    from BrainSegSAMLib.errors import DependencyError

    def pip_ensure(requirements, constraints, requester):
        raise error

    packaging_module(monkeypatch, pip_ensure)
    with pytest.raises(DependencyError, match=r"needed and were not installed: no-such-package-here>=1 \("):
        dependencies.ensureDependencies()


@pytest.mark.parametrize("answer", [True, False])
def test_before_slicer_5_11_it_asks_itself(dependencies, monkeypatch, dialogs, answer):
    import slicer

    from BrainSegSAMLib.errors import DependencyError

    installed = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", installed.append, raising=False)
    dialogs.answer = answer
    with pytest.raises(DependencyError, match="no-such-package-here"):
        dependencies.ensureDependencies()
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
        dependencies.ensureDependencies()
    asked = []
    logic = SimpleNamespace(installTorch=lambda askConfirmation: asked.append(askConfirmation))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    with pytest.raises(DependencyError, match="was not installed"):
        dependencies.ensureDependencies()
    assert asked == [True]


def test_apply_says_what_is_missing_and_starts_nothing(widget, volume, bench, dialogs, monkeypatch):
    from BrainSegSAMWidgets import PredictPanel

    from BrainSegSAMLib.errors import DependencyError

    def refuse():
        raise DependencyError("PyTorch is needed.")

    monkeypatch.setattr(PredictPanel, "ensureDependencies", refuse)
    volume("a_flair")
    volume("a_t1ce")
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    widget.ui.applyButton.click()
    assert dialogs.messages == [("errorDisplay", "PyTorch is needed.")]
    dialogs.messages.clear()
    assert not widget.logic.running
