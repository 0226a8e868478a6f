"""The folders keep their shape: what is installed, what may lie where, how long a file may be, what it may name."""

from __future__ import annotations

import fnmatch
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

update_file_lists = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("update_file_lists.py"))))
ROOT = update_file_lists.ROOT
MAX_LINES = 500
TEXT_SUFFIXES = {".py", ".md", ".txt", ".json", ".cmake", ".toml", ".ui", ".yaml", ".yml", ".cfg", ""}
# Places where somebody's own machine shows through: home, scratch and work folders, and Windows profiles.
PRIVATE_PATH = re.compile(r"(?<![\w.~}/-])/(?:tmp|home|root|mnt|Users)/\w|[A-Z]:\\\\?Users\\")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    try:
        return update_file_lists.tracked_files()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("This is not a git checkout, so the tracked files are not known.")


def too_long(paths: list[Path]) -> list[str]:
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return [f"{path}: {count} lines" for path, count in counts.items() if count > MAX_LINES]


def private_paths(text: str) -> list[str]:
    return [match.group() for match in PRIVATE_PATH.finditer(text)]


def test_installed_files_are_listed(tracked: list[str]) -> None:
    expected = update_file_lists.as_cmake(update_file_lists.file_lists(tracked))
    assert update_file_lists.LIST_FILE.read_text(encoding="utf-8") == expected, (
        "FileLists.cmake is not what git tracks; run: python Testing/guards/update_file_lists.py"
    )


def test_a_new_file_is_noticed() -> None:
    lists = update_file_lists.file_lists(
        ["BrainSegSAMLib/new.py", "BrainSegSAMLib/a/b.json", "BrainSegSAM/X.py", "Resources/Models/m/w.pth",
         "Resources/draw.py", "BrainSegSAM/CMakeLists.txt", "README.md"]
    )
    assert lists == {
        "BrainSegSAM_MODULE_SCRIPTS": ["X.py"],
        "BrainSegSAM_MODULE_RESOURCES": [],
        "BrainSegSAM_LIBRARY_SCRIPTS": ["BrainSegSAMLib/new.py"],
        "BrainSegSAM_LIBRARY_RESOURCES": ["BrainSegSAMLib/a/b.json", "Resources/Models/m/w.pth"],
    }


def test_installed_names_suit_cmake(tracked: list[str]) -> None:
    # CTK's macro keeps its lists in strings separated by ';' and '|'.
    installed = [path for paths in update_file_lists.file_lists(tracked).values() for path in paths]
    assert [path for path in installed if not re.fullmatch(r"[\w./-]+", path)] == []


def named_but_absent(document: str, text: str, tracked: list[str]) -> list[str]:
    """Python files that a document names: by their names alone where they lie beside it, else by their paths."""
    beside = document.rpartition("/")[0]
    absent = []
    for name in re.findall(r"`([\w./*-]+\.py)`", text):
        path = name if "/" in name else f"{beside}/{name}".lstrip("/")
        if not any(fnmatch.fnmatch(f"/{file}", f"*/{path}") for file in tracked):
            absent.append(f"{document}: {name}")
    return absent


def test_files_that_documents_name_are_there(tracked: list[str]) -> None:
    documents = {path: (ROOT / path).read_text(encoding="utf-8") for path in tracked if path.endswith(".md")}
    assert [fault for path, text in documents.items() for fault in named_but_absent(path, text, tracked)] == []
    files = ["a/b.py", "a/c_d.py", "e/f.py"]
    assert named_but_absent("a/README.md", "`b.py` `c_*.py` `e/f.py` `f.py`", files) == ["a/README.md: f.py"]


def test_one_script_beside_the_module() -> None:
    """Slicer loads every .py that lies directly in a module's folder as a module of its own."""
    assert [path.name for path in (ROOT / "BrainSegSAM").glob("*.py")] == ["BrainSegSAM.py"]


def test_effects_are_where_slicer_looks_for_them() -> None:
    """Slicer takes the file's name as the class's name, and looks for it in the package; each has an icon."""
    folder = ROOT / "BrainSegSAM" / "BrainSegSAMEffects"
    listed = re.search(r"^EFFECTS = \((.*?)\)", (folder / "__init__.py").read_text(encoding="utf-8"), re.M | re.S)
    names = [path.stem for path in folder.glob("SegmentEditor*Effect.py")]
    assert names
    assert sorted(re.findall(r"\w+", listed.group(1) if listed else "")) == sorted(names)
    for name in names:
        assert re.search(rf"^class {name}\(", (folder / f"{name}.py").read_text(encoding="utf-8"), re.M)
        assert (ROOT / "Resources" / "Icons" / f"{name}.png").is_file()


def test_file_length(tracked: list[str]) -> None:
    assert too_long([ROOT / path for path in tracked if path.endswith(".py")]) == []


def test_file_length_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("\n" * (MAX_LINES + 1))
    assert len(too_long([tmp_path / "long.py"])) == 1


def test_no_private_paths(tracked: list[str]) -> None:
    found = {}
    for path in tracked:
        if Path(path).suffix in TEXT_SUFFIXES and path != "Testing/guards/test_files.py":
            hits = private_paths((ROOT / path).read_text(encoding="utf-8"))
            if hits:
                found[path] = hits
    assert found == {}, "Absolute paths of one machine; use paths relative to the repository or a temporary folder."


@pytest.mark.parametrize("text", ["see /home/ann/data", "'/tmp/x'", "(/mnt/y)", r"C:\Users\ann"])
def test_private_path_is_noticed(text: str) -> None:
    assert private_paths(text)


@pytest.mark.parametrize("text", ["../shared/data", "https://example.org/home/x", "BrainSegSAM/home/", "/usr/bin"])
def test_harmless_paths_pass(text: str) -> None:
    assert private_paths(text) == []


def test_catalogue_entry_has_the_keys_of_slicers_schema() -> None:
    """Slicer's schema (slicer-extension-catalog-entry-schema-v1.0.2.json) requires three keys and allows ten."""
    entry = json.loads((ROOT / "BrainSegSAM.json").read_text(encoding="utf-8"))
    assert {"$schema", "category", "scm_url"} <= set(entry)
    assert set(entry) <= {
        "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "dicom_support_rule",
        "build_subdirectory", "enabled", "tier",
    }
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert 1 <= entry["tier"] <= 5


FAKE_SLICER = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/macros.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
"""
# The arguments of Slicer's and CTK's own macros, with their effect (a file goes to its relative place), not their code.
FAKE_MACROS = """
function(_place source_dir)
  foreach(file ${ARGN})
    if(NOT EXISTS ${source_dir}/${file})
      message(FATAL_ERROR "missing: ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${source_dir}/${file} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/${folder})
  endforeach()
endfunction()
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  _place(${CMAKE_CURRENT_SOURCE_DIR} ${MY_SCRIPTS} ${MY_RESOURCES})
endfunction()
function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR;GLOBAL_TARGET" "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR"
    "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  _place(${MY_SOURCE_DIR} ${MY_SCRIPTS} ${MY_RESOURCES})
endfunction()
function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT" "" ${ARGN})
endfunction()
"""


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("cc")), reason="CMake or a compiler is absent.")
def test_an_installed_extension_is_complete(tmp_path: Path) -> None:
    """CMake, with stand-ins for Slicer's macros, installs a tree from which the library and its resources load."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "SlicerConfig.cmake").write_text(FAKE_SLICER)
    (fake / "macros.cmake").write_text(FAKE_MACROS)
    (fake / "nothing.cmake").write_text("")
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DSlicer_DIR={fake}", "-DBUILD_TESTING=ON"]
    install = ["cmake", "--install", str(tmp_path / "build"), "--prefix", str(tmp_path / "installed")]
    for command in (configure, install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "installed" / "lib" / "qt-scripted-modules"
    assert (folder / "BrainSegSAM.py").is_file()
    code = (
        "import BrainSegSAMLib, BrainSegSAMLib.resources as r; print(BrainSegSAMLib.__file__); "
        "print(r.resource_path('UI', 'BrainSegSAM.ui').is_file())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    where, has_panel = done.stdout.split()
    assert Path(where).is_relative_to(folder.resolve())
    assert has_panel == "True"
