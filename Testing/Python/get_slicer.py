"""Downloads 3D Slicer, and runs the self-tests in it: for the workflow, and by hand on a machine without Slicer.

    python Testing/Python/get_slicer.py --version 5.12 --into slicer    downloads and unpacks
    python Testing/Python/get_slicer.py --into slicer --install         puts the model packages into its Python
    python Testing/Python/get_slicer.py --into slicer --run             runs the self-tests; ends with their exit code

Needs nothing but Python and the system's own tools.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SERVER = "https://download.slicer.org/download"
SYSTEMS = {"Linux": "linux", "Darwin": "macosx", "Windows": "win"}
TIMEOUT_S = 1800


def main(arguments: list[str] | None = None) -> int:
    """Do what was asked; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="5.12", help="major.minor, or in full (5.12)")
    parser.add_argument("--into", type=Path, required=True, help="folder of Slicer")
    parser.add_argument("--install", action="store_true", help="install the model packages into its Python")
    parser.add_argument("--run", action="store_true", help="run the self-tests in it")
    options = parser.parse_args(arguments)
    if not (options.run or options.install):
        download(options.version, options.into)
        print(executable(options.into))
        return 0
    if options.install:
        return install(executable(options.into, "PythonSlicer"))
    return subprocess.run(command(options.into), check=False, timeout=TIMEOUT_S).returncode


def address(system: str, version: str) -> str:
    """Where the release for a system lies; the server answers with the newest of a major.minor."""
    query = {"os": SYSTEMS[system], "stability": "release", "version": version}
    return f"{SERVER}?{urllib.parse.urlencode(query)}"


def download(version: str, folder: Path) -> None:
    """Download and unpack into a folder."""
    system = platform.system()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        suffix = {"Linux": ".tar.gz", "Darwin": ".dmg", "Windows": ".exe"}[system]
        package = Path(temporary) / f"slicer{suffix}"
        with urllib.request.urlopen(address(system, version), timeout=120) as answer, package.open("wb") as file:
            shutil.copyfileobj(answer, file)
        {"Linux": _unpack_linux, "Darwin": _unpack_macos, "Windows": _unpack_windows}[system](package, folder.resolve())


def install(python: str) -> int:
    """Install the model packages beside what Slicer brings, which stays as it is; pip's exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("\n".join(kept_versions(python)), encoding="utf-8")
        requirements = ROOT / "Resources" / "requirements.txt"
        packages = ["torch", "--requirement", str(requirements), "--constraint", str(constraints)]
        command = [python, "-m", "pip", "install", "--quiet", *packages]
        return subprocess.run(command, check=False, timeout=TIMEOUT_S).returncode


def kept_versions(python: str) -> list[str]:
    """Constraints that hold what the panel holds as well when it installs: see `Dependencies.keptVersions`."""
    panel = ROOT / "BrainSegSAM" / "BrainSegSAMWidgets" / "Dependencies.py"
    tree = ast.parse(panel.read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    held = {name.lower() for name in ast.literal_eval(assigned["_KEPT"])}
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return [f"{one['name']}=={one['version']}" for one in json.loads(listed.stdout) if one["name"].lower() in held]


def _unpack_linux(package: Path, folder: Path) -> None:
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="tar")


def _unpack_macos(package: Path, folder: Path) -> None:
    mounted = package.parent / "mounted"
    subprocess.run(["hdiutil", "attach", package, "-nobrowse", "-mountpoint", mounted], check=True, input=b"Y\n")
    try:
        application = next(mounted.glob("*.app"))
        subprocess.run(["ditto", application, folder / application.name], check=True)
    finally:
        subprocess.run(["hdiutil", "detach", mounted], check=False)


def _unpack_windows(package: Path, folder: Path) -> None:
    # The installer takes the folder as its last argument, without quotes even where it has spaces.
    subprocess.run(f'"{package}" /S /D={folder}', check=True, timeout=TIMEOUT_S)


def executable(folder: Path, name: str = "Slicer") -> str:
    """A program of the Slicer in a folder.

    Raises:
        FileNotFoundError: where there is none.
    """
    suffix = ".exe" if platform.system() == "Windows" else ""
    found = [path for path in folder.resolve().rglob(f"{name}{suffix}") if path.is_file()]
    if not found:
        raise FileNotFoundError(f"There is no {name} in {folder}; download it first.")
    return str(min(found, key=lambda path: len(path.parts)))


def command(folder: Path) -> list[str]:
    """What runs the self-tests; on Linux with a screen in memory where there is none."""
    slicer = [
        executable(folder), "--no-splash", "--testing", "--disable-settings",
        "--additional-module-paths", str(ROOT / "BrainSegSAM"), "--python-script", str(HERE / "run_self_tests.py"),
    ]
    if platform.system() == "Linux" and shutil.which("xvfb-run"):
        return ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1366x768x24", *slicer]
    return slicer


if __name__ == "__main__":
    sys.exit(main())
