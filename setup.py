"""Puts `Resources/` (models, catalogue, icons) inside the package in a wheel; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithResources(build_py):
    """`build_py`, and the files that lie beside the package in a source tree."""

    def run(self) -> None:
        """Build, then copy; an editable installation finds the folder where it is."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "BrainSegSAMLib" / "Resources"
            unused = shutil.ignore_patterns("__pycache__", "Screenshots", "*.py")
            shutil.copytree("Resources", target, dirs_exist_ok=True, ignore=unused)


setup(cmdclass={"build_py": BuildWithResources})
