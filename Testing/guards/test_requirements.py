"""What Slicer's Python is asked for must leave alone what Slicer 5.12 brings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from BrainSegSAMLib.backends import sam2_package

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself.")

ROOT = Path(__file__).resolve().parents[2]
SLICER_5_12 = {
    "numpy": "2.4.6",
    "scipy": "1.17.1",
    "simpleitk": "2.5.5",
    "pillow": "12.2.0",
    "pydicom": "3.0.2",
    "requests": "2.34.2",
}
NEVER_BY_PIP = {"torch", "torchvision", "vtk", "slicer-core", "pyside6", "pyside6-essentials"}


def slicer_requirements() -> list[Requirement]:
    lines = (ROOT / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def faults(requirements: list[Requirement]) -> list[str]:
    found = []
    for requirement in requirements:
        name = requirement.name.lower()
        if name in NEVER_BY_PIP:
            found.append(f"{requirement} must not be installed by pip inside Slicer")
        pin = SLICER_5_12.get(name)
        if pin is not None and pin not in requirement.specifier:
            found.append(f"{requirement} would change Slicer's own {name} {pin}")
    return found


def test_slicers_packages_are_left_alone() -> None:
    assert faults(slicer_requirements()) == []


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
