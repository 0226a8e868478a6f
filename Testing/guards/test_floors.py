"""The library's architecture, read from its import statements: floors, walls between methods, no cycles, light imports.

A module may import from its own floor or below. A new module is put on a floor here first.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "BrainSegSAMLib"

# The longest matching prefix decides.
FLOORS = {
    0: ["view_planes", "json_schema",
        "errors", "progress", "geometry", "image", "labels", "prompts", "resources", "modalities", "phantom", "runs",
        "wire", "processes", "conversation", "lesion_mixing", "settings", "scores", "memory"],
    1: ["files", "headers", "volumes", "itk", "dicom", "cases", "case_layouts", "segmentation_files", "intensity",
        "resample", "components", "labelled_images", "boxes", "crops", "augmentation", "dicom_seg",
        "measurements", "case_files", "remote", "remote_cases",
        "pairs", "planes", "locks"],
    2: ["backends", "metrics", "statistics", "models", "batch", "cluster", "cluster_worker", "pipeline", "pictures",
        "fitting", "trainings", "training_volumes", "overlays"],
    3: ["methods", "label_sources", "evaluation_inputs", "evaluation_plan", "case_evaluation", "evaluation_tables",
        "parcels", "report"],
    4: ["interactive",
        "predict", "track", "train", "evaluate", "reproduce", "models_command", "console", "recipes", "prompt",
        "single_image", "prediction_work"],
    # demo is predict with a case of its own
    5: ["cli", "__main__", "demo", "machine", "worker", "worker_tasks", "worker_client", "mrml", "nnunet_trainers"],
}
COMMANDS = set(FLOORS[4]) - {"console", "recipes", "single_image", "prediction_work"}
MODEL_PACKAGES = {
    "nnunetv2", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures", "acvl_utils",
    "segment_anything", "sam2", "ultralytics", "monai", "timm",
}
HEAVY = {"torch", "torchvision", "SimpleITK", "scipy", "skimage", "matplotlib", "nrrd", "pydicom",
         "dask", "distributed", "fsspec", "psutil", "highdicom", "PIL", "contourpy",
         "slicer", "vtk", "qt", "ctk"} | MODEL_PACKAGES
# nnU-Net loads these files by path inside its own process; they subclass its trainer and so need it at once.
INSIDE_NNUNET = f"{PACKAGE}.nnunet_trainers"
# A network is torch through and through; whoever imports it has decided to use torch.
TORCH_AT_IMPORT = {"network", "loss", "training"}


@dataclass(frozen=True)
class Import:
    """One imported module: its full dotted name, and whether it is loaded as soon as the importing file is."""

    name: str
    at_import: bool


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, name: str) -> set[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[Import] = set()
    _collect(tree, package, True, found)
    return found


def _collect(node: ast.AST, package: str, at_import: bool, found: set[Import]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found |= {Import(alias.name, at_import) for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            found |= {Import(name, at_import) for name in _sources(child, package)}
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        lazy = typing_only or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        _collect(child, package, at_import and not lazy, found)


def _sources(node: ast.ImportFrom, package: str) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        yield f"{base}.{alias.name}"


def floor_of(module: str) -> int | None:
    """Floor of a module of the library; None where the table does not know it; the package itself is below all."""
    inner = module.removeprefix(PACKAGE).lstrip(".")
    if not inner:
        return -1
    for floor, names in FLOORS.items():
        if any(inner == name or inner.startswith(f"{name}.") for name in names):
            return floor
    return None


def read_library(root: Path) -> dict[str, set[Import]]:
    """Module → what it imports; own imports are resolved to modules, so `from .files import x` gives `….files`."""
    files = {module_name(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    graph: dict[str, set[Import]] = {}
    for name, path in files.items():
        graph[name] = {Import(_resolve(i.name, files), i.at_import) for i in imports_of(path, name)}
    return graph


def _resolve(name: str, files: dict[str, Path]) -> str:
    while name.startswith(f"{PACKAGE}.") and name not in files:
        name = name.rpartition(".")[0]
    return name


def own(imports: set[Import]) -> set[str]:
    return {i.name for i in imports if i.name == PACKAGE or i.name.startswith(f"{PACKAGE}.")}


def faults(graph: dict[str, set[Import]]) -> list[str]:
    found = []
    for module, imports in graph.items():
        here = floor_of(module)
        if here is None:
            found.append(f"{module} is on no floor; add it to FLOORS")
            continue
        for target in own(imports):
            there = floor_of(target)
            if there is not None and there > here:
                found.append(f"{module} (floor {here}) imports {target} (floor {there})")
            found += _walls(module, target)
        found += [f"{module} imports {i.name}: model packages belong in backends/" for i in imports
                  if _top(i.name) in MODEL_PACKAGES and not _may_use_models(module)]
        found += [f"{module} imports {i.name} when it is imported; move it into the function that needs it"
                  for i in imports if i.at_import and _top(i.name) in HEAVY and not _may_load(module, i.name)]
    return found + [f"import cycle: {' → '.join(cycle)}" for cycle in cycles(graph)]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _walls(module: str, target: str) -> list[str]:
    inner, other = module.split(".")[1:], target.split(".")[1:]
    if inner[:1] == other[:1] == ["methods"] and len(inner) > 1 and len(other) > 1:
        shared = {"contract"}
        if inner[1] != other[1] and not {inner[1], other[1]} & shared:
            return [f"{module} imports {target}: methods do not know each other"]
    if inner and other and inner[0] != other[0] and {inner[0], other[0]} <= COMMANDS:
        return [f"{module} imports {target}: commands do not know each other"]
    if inner[:1] == ["mrml"] and other[:1] != ["mrml"] and (floor_of(target) or 0) > 0:
        return [f"{module} imports {target}: the MRML bridge stands on floor 0 alone"]
    return []


def _may_use_models(module: str) -> bool:
    return module.startswith((f"{PACKAGE}.backends.", INSIDE_NNUNET))


def _may_load(module: str, imported: str) -> bool:
    if module.startswith(INSIDE_NNUNET):
        return True
    if module.startswith(f"{PACKAGE}.mrml"):
        return _top(imported) in {"slicer", "vtk"}
    return module.startswith(f"{PACKAGE}.methods.") and module.rpartition(".")[2] in TORCH_AT_IMPORT


def cycles(graph: dict[str, set[Import]]) -> list[list[str]]:
    """Import cycles; a package that is imported for a name in its __init__ counts as that __init__."""
    edges = {module: sorted(own(imports) & set(graph) - {module}) for module, imports in graph.items()}
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module):], module])
        elif module not in done:
            for target in edges[module]:
                walk(target, [*path, module])
            done.add(module)

    for module in edges:
        walk(module, [])
    return found


@pytest.fixture(scope="module")
def library() -> dict[str, set[Import]]:
    return read_library(ROOT)


def test_architecture(library: dict[str, set[Import]]) -> None:
    assert faults(library) == []


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("files", "from .methods import contract", "floor 1"),
        ("surprise", "x = 1", "on no floor"),
        ("methods.a.predictor", "from ..b import predictor", "do not know each other"),
        ("predict", "from . import train", "commands"),
        ("methods.a.predictor", "def f():\n    import nnunetv2.paths", "backends"),
        ("backends.nnunet", "import torch", "into the function"),
        ("files", "class A:\n    import SimpleITK", "into the function"),
        ("mrml", "from .files import x", "floor 0 alone"),
        ("cases", "from .files import y", "cycle"),
    ],
)
def test_a_breach_is_noticed(tmp_path: Path, module: str, code: str, complaint: str) -> None:
    base = {"files": "from .cases import z" if complaint == "cycle" else "", "cases": "", "train": "",
            "methods.contract": "", "methods.b.predictor": "", "methods.b": "", "methods.a": "", "methods": ""}
    for name, text in {**base, module: code}.items():
        is_package = name in {"methods", "methods.a", "methods.b"}
        path = tmp_path / PACKAGE / Path(*name.split("."))
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = faults(read_library(tmp_path))
    assert any(complaint in fault for fault in found), found


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "errors.py").write_text("import json")
    (tmp_path / PACKAGE / "files.py").write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom .errors import InputError\n"
        "if TYPE_CHECKING:\n    import torch\ndef f():\n    import SimpleITK\n"
    )
    assert faults(read_library(tmp_path)) == []


def test_imports_stay_light(library: dict[str, set[Import]]) -> None:
    """In a fresh interpreter: neither the package nor anything on floors 0, 1, 2, 4, 5 loads a heavy package."""
    skipped = (INSIDE_NNUNET, f"{PACKAGE}.mrml", f"{PACKAGE}.__main__")
    modules = [m for m in library if floor_of(m) != 3 and not m.startswith(skipped)]
    code = (
        f"import importlib, sys\n"
        f"for name in {modules!r}:\n"
        f"    importlib.import_module(name)\n"
        f"print(*sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_package_itself_loads_nothing() -> None:
    code = f"import sys; before = set(sys.modules); import {PACKAGE}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"__future__"} == {PACKAGE}
