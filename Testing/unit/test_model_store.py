"""The model folder: what is written is read back, and every fault of one gets a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from BrainSegSAMLib.errors import ModelError, OutputError
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology
from BrainSegSAMLib.models import schema
from BrainSegSAMLib.models.schema import stays_inside
from BrainSegSAMLib.models.store import MODEL_FILE, Model, load_model, write_model

TUMOUR = Terminology(Code("SCT", "49755003", "Morphologically Altered Structure"), Code("SCT", "108369006", "Neoplasm"))


def a_model(folder: Path) -> Model:
    """A described model with two small files, one of them in a subfolder."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_bytes(b"{}")
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"some weights")
    return Model(
        folder=folder,
        name="glioma-test",
        title="Glioma (test)",
        method="nnunet",
        modalities=("flair", "t1ce"),
        scheme=LabelScheme(
            (Region("Whole tumour", (1, 2, 3), (0, 255, 0), TUMOUR), Region("Tumour core", (1, 3), (255, 0, 0)))
        ),
        licence="Apache-2.0",
        settings={"mirroring": True, "folds": ["0"], "tile_step_size": 0.5},
        preprocessing={"orientation": "LPS"},
        training={"data": "BraTS 2021", "cases": ["a", "b"], "seed": 1, "date": "2026-11-21", "epochs": 10},
        results={"Dice": {"columns": ["case", "WT"], "rows": [["a", 0.5], ["b", None]], "note": "5-fold"}},
        citations=("Baid et al. 2021",),
        demonstration=True,
        intended_use="Demonstration; not for clinical use.",
    )


FILES = ("plans.json", "fold_0/checkpoint_final.pth")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(schema, "_valid", set())
    write_model(a_model(tmp_path / "model"), files=FILES)
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a model.json as a user or a fault would."""
    data = json.loads((folder / MODEL_FILE).read_text())
    edit(data)
    (folder / MODEL_FILE).write_text(json.dumps(data))


def test_round_trip(tmp_path: Path) -> None:
    written = write_model(a_model(tmp_path / "model"), files=FILES)
    loaded = load_model(tmp_path / "model")
    assert loaded.as_dict() == written.as_dict()
    assert loaded.scheme == written.scheme
    assert loaded.scheme["Whole tumour"].terminology == TUMOUR
    assert loaded.orientation == "LPS"
    assert [file.path for file in loaded.weights] == sorted(FILES)
    assert loaded.path_of("fold_0/checkpoint_final.pth").read_bytes() == b"some weights"
    # echo -n 'some weights' | sha256sum
    assert loaded.weights[0].sha256 == "a0c76a31f14d6cbed530bfac73778a5bb84861b795e8bd5d4c8eee29784fb766"
    assert loaded.weights[0].size == 12


def test_hash_follows_what_decides_the_prediction(folder: Path) -> None:
    model = load_model(folder)
    assert model.sha256 == load_model(folder).sha256
    assert replace(model, title="Another", results={}).sha256 == model.sha256
    assert replace(model, settings={"mirroring": False}).sha256 != model.sha256
    assert replace(model, modalities=("t1ce", "flair")).sha256 != model.sha256
    (folder / "plans.json").write_bytes(b"{ }")
    assert write_model(model).sha256 != model.sha256


def test_rewriting_keeps_the_list_of_files(folder: Path) -> None:
    model = write_model(replace(load_model(folder), description="Better described."))
    assert [file.path for file in model.weights] == sorted(FILES)
    assert load_model(folder).description == "Better described."


def test_results_that_are_no_numbers_are_refused_before_writing(folder: Path) -> None:
    before = (folder / MODEL_FILE).read_bytes()
    model = load_model(folder)
    for value in (float("nan"), float("inf"), object()):
        bad = replace(model, results={"Dice": {"columns": ["WT"], "rows": [[value]]}})
        with pytest.raises(ModelError, match=r"model\.json' cannot be written"):
            write_model(bad)
    with pytest.raises(ModelError, match="row 0 of the results 'Dice' has 2 cells for 1 columns"):
        write_model(replace(model, results={"Dice": {"columns": ["WT"], "rows": [["a", 1]]}}))
    assert (folder / MODEL_FILE).read_bytes() == before


def test_writing_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.pth' does not exist"):
        write_model(a_model(tmp_path / "model"), files=["none.pth"])


def test_writing_where_it_is_not_possible(folder: Path) -> None:
    model = load_model(folder)
    (folder / MODEL_FILE).unlink()
    (folder / MODEL_FILE).mkdir()
    (folder / MODEL_FILE / "in_the_way").touch()
    with pytest.raises(OutputError, match=r"model\.json"):
        write_model(model)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        load_model(tmp_path / "none")


def test_folder_without_description(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.json"):
        load_model(tmp_path)
    (tmp_path / "plans.json").touch()
    (tmp_path / "dataset.json").touch()
    with pytest.raises(ModelError, match="models import"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "must hold one JSON object"),
        (b'{"format_version": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "not valid JSON"),
        (b"{}", "the file lacks 'format_version', 'name'"),
        (b" " * (17 * 2**20), "larger than 16 MiB"),
    ],
)
def test_broken_description(folder: Path, content: bytes, sentence: str) -> None:
    (folder / MODEL_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_model(folder)
    assert str(folder / MODEL_FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda d: d.update(format_version=2), "format version 2, .* update BrainSegSAM"),
        (lambda d: d.update(format_version="1"), "'format_version'"),
        (lambda d: d.pop("licence"), "lacks 'licence'"),
        (lambda d: d.update(name="../evil"), "'name' is not valid"),
        (lambda d: d.update(modalities=[]), "'modalities' is not valid"),
        (lambda d: d.update(modalities=["t1", "t1"]), "'modalities'"),
        (lambda d: d.update(modalities="t1"), "'modalities' must be of type array, but is str"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["regions"][0].update(labels=[0]), r"'regions\[0\]\.labels\[0\]'"),
        (lambda d: d["regions"].append(d["regions"][0]), "'regions' is not valid: .*must differ"),
        (lambda d: d["preprocessing"].update(orientation="XYZ"), r"'preprocessing\.orientation'"),
        (lambda d: d["weights"][0].update(sha256="0"), r"'weights\[0\]\.sha256'"),
        (lambda d: d["results"]["Dice"]["rows"].append([{}, 1]), r"results\.Dice\.rows"),
        (lambda d: d["results"]["Dice"]["rows"].append([1]), "1 cells for 2 columns"),
        (lambda d: d["weights"][0].update(path="../outside"), "'../outside', which lies outside the model folder"),
        (lambda d: d["weights"][0].update(path="/etc/passwd"), "outside the model folder"),
        (lambda d: d["weights"][0].update(path="C:\\weights.pth"), "outside the model folder"),
    ],
)
def test_description_that_breaks_a_rule(folder: Path, edit: Callable[[dict[str, Any]], object], sentence: str) -> None:
    change(folder, edit)
    with pytest.raises(ModelError, match=sentence):
        load_model(folder)


def test_long_values_do_not_fill_the_message(folder: Path) -> None:
    change(folder, lambda d: d.update(name="x" * 100_000))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert len(str(caught.value)) < 600


def test_missing_weights(folder: Path) -> None:
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(ModelError, match=r"lacks its file .*checkpoint_final\.pth'. Install"):
        load_model(folder)


def test_a_description_is_checked_again_only_where_it_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interface reads all descriptions each time that it is opened, and most of the time went into checking them."""
    checked = []
    real = schema.check_described
    monkeypatch.setattr(schema, "check_described", lambda *args: (checked.append(args[2]), real(*args))[1])
    models = [load_model(folder), load_model(folder)]
    assert checked == [folder / MODEL_FILE]
    assert models[0].as_dict() == models[1].as_dict()
    assert models[0].settings is not models[1].settings, "what one caller changes is not another's"
    change(folder, lambda data: data.update(title=3))
    for _ in range(2):
        with pytest.raises(ModelError, match="'title' must be of type string"):
            load_model(folder)
    assert len(checked) == 3


def test_weights_cut_short(folder: Path) -> None:
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"some")
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth' is cut short: it has 4 bytes instead of 12"):
        load_model(folder, verify_hashes=False)


def test_weights_too_long(folder: Path) -> None:
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"some more weights")
    with pytest.raises(ModelError, match="has been changed: it has 17 bytes"):
        load_model(folder)


def test_weights_with_another_hash(folder: Path) -> None:
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"same weights")
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth' has been changed: its SHA-256"):
        load_model(folder)
    assert load_model(folder, verify_hashes=False).name == "glioma-test"


@pytest.mark.parametrize("path", ["a", "a/b.c", "a b/ü", "a..b"])
def test_paths_that_stay_inside(path: str) -> None:
    assert stays_inside(path)


@pytest.mark.parametrize(
    "path", ["", ".", "./", "..", "../a", "a/../../b", "a/..", "/a", "//host/a", "C:a", "C:/a", "a\\..\\b", "a\0b"]
)
def test_paths_that_leave(path: str) -> None:
    assert not stays_inside(path)
