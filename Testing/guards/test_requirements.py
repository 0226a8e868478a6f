"""What Slicer's Python is asked for must leave alone what Slicer 5.12 brings."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from BrainSegSAMLib.backends import sam2_package, yolo_package

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself.")

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "Testing" / "guards" / "slicer_5_12.txt"
# PyTorch is installed by Slicer's PyTorch extension, and held as it is; see Dependencies.py.
BROUGHT_OTHERWISE = {"torch", "torchvision", "vtk"}
ONLY_ON_WINDOWS = {"colorama"}  # and so not installed here; it needs nothing itself
NEVER_BY_PIP = {"torch", "torchvision", "vtk", "slicer-core", "pyside6", "pyside6-essentials"}


def slicer_requirements() -> list[Requirement]:
    lines = (ROOT / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def asked_for() -> list[Requirement]:
    """All that is ever installed into Slicer: also what only some models need."""
    return [*slicer_requirements(), Requirement(sam2_package.REQUIREMENT), Requirement(yolo_package.REQUIREMENT)]


def slicers_pins() -> dict[str, str]:
    """Package → version of what must stay as Slicer 5.12 brings it; where that is from is said in the file.

    Small packages that Slicer also brings, such as typing_extensions, may become newer: others need that.
    """
    lines = PINS.read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in (Requirement(line) for line in lines if line[0] != "#")}
    return {name: next(iter(pins[name].specifier)).version for name in held() & set(pins)}


def held() -> set[str]:
    """What `Dependencies.py` holds by constraints while it installs."""
    tree = ast.parse((ROOT / "BrainSegSAM" / "BrainSegSAMWidgets" / "Dependencies.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return {canonicalize_name(name) for name in ast.literal_eval(assigned["_KEPT"])}


def faults(requirements: list[Requirement]) -> list[str]:
    """What installing these alone would change in Slicer."""
    pins, found = slicers_pins(), []
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in NEVER_BY_PIP:
            found.append(f"{requirement} must not be installed by pip inside Slicer")
        if name in pins and not requirement.specifier.contains(pins[name], prereleases=True):
            found.append(f"{requirement} would change Slicer's own {name} {pins[name]}")
    return found


def resolved(requirements: list[Requirement]) -> tuple[list[str], list[str]]:
    """Goes through all that they need, and what that needs, as the packages installed here say it.

    Returns:
        What would move a package that Slicer brings; and what is not installed here, so that nobody knows.
    """
    # Slicer's Python, on any system: a requirement of one system is looked at as well.
    environments = [
        {**default_environment(), "python_version": "3.12", "python_full_version": "3.12.10", "sys_platform": system,
         "platform_system": name, "platform_machine": machine, "extra": ""}
        for system, name, machine in (("linux", "Linux", "x86_64"), ("win32", "Windows", "AMD64"),
                                      ("darwin", "Darwin", "arm64"))
    ]
    pins, moved, unknown = slicers_pins(), [], []
    pending, seen = [(requirement, "requirements.txt") for requirement in requirements], set()
    while pending:
        requirement, asker = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in pins:
            if not requirement.specifier.contains(pins[name], prereleases=True):
                moved.append(f"{asker} needs {requirement}, but Slicer brings {name} {pins[name]}")
            continue  # it stays as Slicer has it
        if name in BROUGHT_OTHERWISE | ONLY_ON_WINDOWS or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            further = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            unknown.append(f"{name}, for {asker}")
            continue
        for one in map(Requirement, further):
            marks = [{**e, "extra": extra} for e in environments for extra in ("", *requirement.extras)]
            if one.marker is None or any(one.marker.evaluate(mark) for mark in marks):
                pending.append((one, name))
    return moved, unknown


def test_the_packages_that_count_are_held() -> None:
    assert {"numpy", "scipy", "simpleitk", "pydicom", "vtk", "torch"} <= held()
    assert slicers_pins()["numpy"] == "2.4.6"


def test_slicers_packages_are_left_alone() -> None:
    assert faults(asked_for()) == []


def test_all_that_they_need_leaves_slicers_packages_alone() -> None:
    moved, unknown = resolved(asked_for())
    assert moved == []
    assert unknown == []


def test_a_change_far_down_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.requires
    changed = {"batchgenerators": ["numpy<2"], "dynamic-network-architectures": ["no-such-package"],
               "iopath": ["pillow<12"], "ultralytics-thop": ["pillow<11"]}  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: changed.get(name) or real(name))
    moved, unknown = resolved(asked_for())
    assert sorted(moved) == [
        "batchgenerators needs numpy<2, but Slicer brings numpy 2.4.6",
        "iopath needs pillow<12, but Slicer brings pillow 12.2.0",
        "ultralytics-thop needs pillow<11, but Slicer brings pillow 12.2.0",
    ]
    assert unknown == ["no-such-package, for dynamic-network-architectures"]


@pytest.mark.parametrize("line", ["numpy<2", "SimpleITK>=2.6", "torch>=2", "vtk"])
def test_a_forced_change_is_noticed(line: str) -> None:
    assert faults([Requirement(line)])


def test_same_versions_as_outside_slicer() -> None:
    """A package that both lists name is asked for alike, so that one set of versions is tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    outside = {r.name.lower(): str(r.specifier) for r in map(Requirement, project["dependencies"])}
    assert {r.name.lower(): str(r.specifier) for r in slicer_requirements()}.items() <= outside.items()


def test_pyproject_admits_slicers_versions() -> None:
    """The same library runs in both places, so its own bounds must admit what Slicer 5.12 brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [f for f in faults([Requirement(d) for d in project["dependencies"]]) if re.search("would change", f)] == []


def test_sam2_is_installed_alike_everywhere() -> None:
    command = " ".join([*sam2_package.PIP_OPTIONS, sam2_package.REQUIREMENT])
    for name in ("README.md", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert command in text, name
        assert all(f"{variable}={value}" in text for variable, value in sam2_package.ENVIRONMENT.items()), name
