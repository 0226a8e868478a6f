"""SAM 2's network: built as the official configurations build it, and given only weights that fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from BrainSegSAMLib.backends.sam2 import load
from BrainSegSAMLib.backends.sam2_architecture import OFFICIAL, Sam2Architecture
from BrainSegSAMLib.backends.sam2_network import build
from BrainSegSAMLib.backends.weights import shapes_of
from BrainSegSAMLib.errors import DependencyError, ModelError

SMALL = Sam2Architecture(
    image_size=64, embed_dim=16, stages=(1, 1, 2, 1), global_att_blocks=(3,), window_spec=(8, 4, 4, 2), d_model=32,
    mem_dim=8, memory_attention_layers=1, dim_feedforward=64, num_maskmem=3,
)  # fmt: skip
# What the two constructions may differ in: functions, caches, and what only other methods of sam2 look at.
PLAIN = (bool, int, float, str)


def settings_of(module: torch.nn.Module) -> dict[str, Any]:
    """Plain attributes of a network and all its parts, by dotted name."""
    found = {}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, (*PLAIN, Sequence)) and not key.startswith("_"):
                found[f"{name}.{key}"] = value if isinstance(value, PLAIN) else list(value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OFFICIAL if name != "medsam2"])
def test_equals_what_sam2_builds_from_its_own_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sam2 import build_sam

    version, size = name.split("_", 1)
    letter = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}[size]
    # Random numbers for hundreds of megabytes take long, and are not what is compared.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    theirs = build_sam.build_sam2_video_predictor(f"configs/{version}/{version}_hiera_{letter}.yaml", device="cpu")
    ours = build(OFFICIAL[name])
    assert shapes_of(ours.state_dict()) == shapes_of(theirs.state_dict())
    assert Sam2Architecture.recognise(shapes_of(theirs.state_dict())) == name
    assert not ours.training
    mine, official = settings_of(ours), settings_of(theirs)
    differing = {key for key in mine if key in official and mine[key] != official[key]}
    assert differing == set()
    assert set(mine) - set(official) == set()
    # What the video predictor adds to SAM2Base.
    added = {".fill_hole_area", ".non_overlap_masks", ".clear_non_cond_mem_around_input"}
    assert set(official) - set(mine) == added | {".add_all_frames_to_correct_as_cond"}


def test_medsam2_is_tiny_at_512() -> None:
    assert replace(OFFICIAL["medsam2"], image_size=1024) == OFFICIAL["sam2.1_tiny"]
    assert OFFICIAL["medsam2"].image_size == 512


def test_the_numbers_survive_json() -> None:
    for architecture in (*OFFICIAL.values(), SMALL):
        assert Sam2Architecture.from_dict(architecture.as_dict()) == architecture


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image_size": 240}, "240 is not a multiple of 32"),
        ({"image_size": 0}, "not a multiple of 32"),
        ({"image_size": 1024.0}, "'image_size' .* of type int"),
        ({"stages": [1, 2, 7]}, "four stages"),
        ({"stages": "1272"}, "list of whole numbers"),
        ({"global_att_blocks": [3]}, "not be the first of a stage"),
        ({"global_att_blocks": [12]}, "must exist"),
        ({"window_spec": [16, 4, 14, 7], "image_size": 32}, "first window side"),
        ({"num_heads": 5}, "do not divide"),
        ({"d_model": 100}, "multiple of 16"),
        ({"mem_dim": 48}, "multiple of 16 and of mem_dim"),
        ({"num_maskmem": 0}, "must be positive"),
        ({"version": "3"}, "'2' and '2.1'"),
        ({"colour": 1}, "no field 'colour'"),
    ],
)
def test_numbers_that_make_no_network_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        Sam2Architecture.from_dict({**OFFICIAL["sam2.1_tiny"].as_dict(), **changes})


def test_without_sam2_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam2", None)
    for name in [name for name in sys.modules if name.startswith("sam2.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DependencyError, match="pip install --no-build-isolation sam2"):
        build(SMALL)


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    torch.save({"model": build(SMALL).state_dict()}, path)
    return path


def test_weights_are_read_from_every_kind_of_file(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = torch.load(checkpoint, weights_only=True)["model"]
    bare, safe, half = tmp_path / "bare.pth", tmp_path / "safe.safetensors", tmp_path / "half.pt"
    torch.save(weights, bare)
    save_file({name: value.contiguous() for name, value in weights.items()}, safe)
    torch.save({"model": {name: value.half() for name, value in weights.items()}}, half)
    for path, tolerance in ((checkpoint, 0), (bare, 0), (safe, 0), (half, 1e-3)):
        loaded = load(SMALL, path).network.state_dict()
        assert all(value.dtype == torch.float32 for value in loaded.values())
        for name, value in weights.items():
            torch.testing.assert_close(loaded[name], value, rtol=tolerance, atol=tolerance)


def test_weights_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    weights = torch.load(checkpoint, weights_only=True)["model"]
    other = tmp_path / "other.pt"
    for held, complaint in [
        ({"network_weights": {"a": 1}}, "holds no weights of a network by their names, but: network_weights"),
        ({"model": {}}, "holds no weights of a network"),
        ({"model": {"encoder.weight": torch.zeros(1)}}, "no weights of SAM 2: it names its parameters encoder.weight"),
        ({"model": {k: v for k, v in weights.items() if k != "no_mem_embed"}}, "lacks 1 parameters, such as 'no_mem_e"),
        ({"model": {**weights, "extra": torch.zeros(1)}}, "1 that are not known, such as 'extra'"),
        ({"model": {**weights, "no_mem_embed": torch.zeros(1, 1, 8)}}, r"shape \(1, 1, 8\) instead of \(1, 1, 32\)"),
    ]:
        torch.save(held, other)
        with pytest.raises(ModelError, match=complaint):
            load(SMALL, other)
    with pytest.raises(ModelError, match=r"does not fit the SAM 2\.1 network"):
        load(replace(SMALL, d_model=48), checkpoint)
    with pytest.raises(ModelError, match="does not fit the SAM 2 network"):
        load(replace(SMALL, version="2"), checkpoint)


def test_a_damaged_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cut short"):
        load(SMALL, cut)
    with pytest.raises(ModelError, match="no weights file"):
        load(SMALL, tmp_path / "absent.pt")


class Opener:
    """What a file with a program hidden in it unpickles to."""

    def __reduce__(self) -> Any:
        return (open, ("harmless", "w"))


def test_a_file_with_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.save({"model": Opener()}, path)
    with pytest.raises(ModelError, match="--trust"):
        load(SMALL, path)
