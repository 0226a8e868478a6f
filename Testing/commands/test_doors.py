"""The other commands and doors: models, training and demonstration arguments, the module and Slicer's script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from BrainSegSAMLib import __version__, cli
from BrainSegSAMLib.models.store import load_model, write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my models"
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(folder))
    return folder


def test_a_model_is_imported_listed_described_and_removed(
    make_nnunet: Callable[..., Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_nnunet(tmp_path / "trained")
    arguments = ["models", "import", str(source), "--name", "mine", "--title", "My model", "--orientation", "LPS"]
    assert cli.main([*arguments, "--licence", "CC0-1.0", "--cite", "Me 2026"]) == 0
    assert load_model(models / "mine").orientation == "LPS"
    capsys.readouterr()
    assert cli.main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert next(line for line in listed.splitlines() if line.startswith("mine")).split()[1:4] == [
        "installed", "nnunet", "flair+t1ce"
    ]
    assert str(models) in listed
    assert cli.main(["models", "info", "mine"]) == 0
    described = capsys.readouterr().out
    for part in ("My model", "whole, core", "CC0-1.0", "Me 2026", load_model(models / "mine").sha256):
        assert part in described
    assert cli.main(["models", "remove", "mine"]) == 0
    assert not (models / "mine").exists()
    assert cli.main(["models", "remove", "mine"]) == 2


def test_results_are_shown_as_tables(
    random_model: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(random_model, models / "random")
    table = {"columns": ["case", "whole"], "rows": [["a", 0.91234], ["b", None]], "note": "Two cases."}
    write_model(replace(load_model(models / "random"), results={"Dice": table}))
    assert cli.main(["models", "info", "random"]) == 0
    assert "Dice\ncase  whole\na     0.912\nb\nTwo cases.\n" in capsys.readouterr().out


def test_a_broken_model_is_listed_as_broken(
    random_model: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(random_model, models / "cut")
    (models / "cut" / "plans.json").write_text("{}")
    assert cli.main(["models", "list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cut"))
    assert "broken" in line
    assert "plans.json" in line


def test_what_cannot_be_downloaded_is_said(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "download", "glioma-nnunet-tiny"]) == 2
    assert "comes with BrainSegSAM" in capsys.readouterr().err
    assert cli.main(["models", "download", "glioma-nnunet-tiney"]) == 2
    assert "glioma-nnunet-tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["predict"], ["evaluate"], ["train"], ["models"], ["models", "import"], ["demo"]]
)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--help"]) == 0
    assert "usage: brainsegsam" in capsys.readouterr().out
    if not command:
        assert cli.main([]) == 2


def test_the_module_and_slicers_script_are_the_command_line() -> None:
    script = ROOT / "BrainSegSAM" / "BrainSegSAMScripts" / "brainsegsam.py"
    for command, code, said in (
        (["-m", "BrainSegSAMLib", "--version"], 0, f"brainsegsam {__version__}"),
        ([str(script), "--", "--version"], 0, f"brainsegsam {__version__}"),
        ([str(script), "--", "predict", "--model"], 2, "expected one argument"),
    ):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == code, done.stderr
        assert said in done.stdout + done.stderr


def test_help_loads_no_heavy_package() -> None:
    program = (
        "import sys; from BrainSegSAMLib.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'SimpleITK', 'nnunetv2', 'scipy', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'{heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
