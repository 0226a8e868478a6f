"""SAM's network: built as segment-anything builds it, and given only weights that fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from BrainSegSAMLib.backends.sam import load
from BrainSegSAMLib.backends.sam_architecture import OFFICIAL, SamArchitecture
from BrainSegSAMLib.backends.sam_network import build
from BrainSegSAMLib.backends.weights import shapes_of
from BrainSegSAMLib.errors import DependencyError, ModelError

SMALL = SamArchitecture(
    image_size=64, embed_dim=16, depth=2, num_heads=2, global_att_blocks=(1,), window_size=3, width=16,
    decoder_depth=1, decoder_heads=2, decoder_mlp_dim=32,
)  # fmt: skip


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_equals_what_segment_anything_builds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from segment_anything import sam_model_registry

    # Random numbers for gigabytes take long, and are not what is compared.
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    builders: dict[str, Callable[[], torch.nn.Module]] = sam_model_registry
    with torch.device("meta"):
        theirs, ours = builders[name](), build(OFFICIAL[name])
    assert shapes_of(ours.state_dict()) == shapes_of(theirs.state_dict())
    assert SamArchitecture.recognise(shapes_of(theirs.state_dict())) == name
    assert str(ours) == str(theirs), "parts, and settings such as the epsilon of a normalisation"
    windows = [[block.window_size for block in network.image_encoder.blocks] for network in (ours, theirs)]  # type: ignore[union-attr]
    assert windows[0] == windows[1]
    assert not ours.training


def test_the_pixel_statistics_are_segment_anythings() -> None:
    from segment_anything.modeling import Sam

    theirs = Sam(*[torch.nn.Identity()] * 3)
    ours: Any = build(SMALL)
    assert torch.equal(ours.pixel_mean, theirs.pixel_mean)
    assert torch.equal(ours.pixel_std, theirs.pixel_std)


def test_medsam_is_vit_b_with_other_pictures() -> None:
    assert replace(OFFICIAL["medsam"], pictures="sam") == OFFICIAL["vit_b"]


def test_the_numbers_survive_json() -> None:
    for architecture in (*OFFICIAL.values(), SMALL, replace(SMALL, pictures="window", box_as_mask=True)):
        assert SamArchitecture.from_dict(architecture.as_dict()) == architecture


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image_size": 250}, "250 is not a multiple of the patch size 16"),
        ({"image_size": 0}, "must be positive"),
        ({"image_size": 1024.0}, "'image_size' .* of type int"),
        ({"global_att_blocks": [12]}, "must exist"),
        ({"global_att_blocks": "5"}, "list of whole numbers"),
        ({"num_heads": 5}, "do not divide"),
        ({"width": 100}, "multiple of 8"),
        ({"decoder_heads": 3}, "mask decoder's heads"),
        ({"pictures": "rgb"}, "pictures are 'rgb', but there are: sam, medsam, window"),
        ({"box_as_mask": 1}, "'box_as_mask' .* of type bool"),
        ({"stages": [1]}, "A SAM architecture has no field 'stages'"),
    ],
)
def test_numbers_that_make_no_network_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        SamArchitecture.from_dict({**OFFICIAL["vit_b"].as_dict(), **changes})


def test_without_segment_anything_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("segment_anything.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(DependencyError, match="pip install segment-anything"):
        build(SMALL)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = build(SMALL).state_dict()
    path = tmp_path / "weights.pt"
    torch.save({"model": weights}, path)
    load(SMALL, path)
    with pytest.raises(ModelError, match=r"does not fit the SAM network of this model: .* has the shape"):
        load(replace(SMALL, embed_dim=32), path)
    with pytest.raises(ModelError, match=r"lacks .* parameters, such as 'image_encoder.blocks.2"):
        load(replace(SMALL, depth=3), path)
    torch.save({"encoder.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"no weights of SAM: it names its parameters encoder.weight"):
        load(SMALL, path)


def test_a_checkpoint_of_another_published_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"vit_b": SMALL, "vit_l": replace(SMALL, depth=3)}
    monkeypatch.setattr("BrainSegSAMLib.backends.sam_architecture.OFFICIAL", sizes)
    path = tmp_path / "sam_vit_l.pth"
    torch.save(build(sizes["vit_l"]).state_dict(), path)
    with pytest.raises(ModelError, match="holds the weights of 'vit_l', but 'vit_b' is expected"):
        load(SMALL, path)
