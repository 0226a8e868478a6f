"""The two-way transformer against segment-anything's and sam2's own, with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from BrainSegSAMLib.backends.two_way import two_way

WIDTH, HEADS, SIDE = 32, 4, 6


def made_by_segment_anything() -> Any:
    from segment_anything.modeling.transformer import TwoWayTransformer

    return TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=HEADS, mlp_dim=48)


def made_by_sam2() -> Any:
    from sam2.modeling.sam.transformer import TwoWayTransformer

    return TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=HEADS, mlp_dim=48)


def with_every_part(transformer: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms are zeros and ones at first, and would hide a part that is left out."""
    with torch.no_grad():
        for value in transformer.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return transformer


@pytest.mark.parametrize("make", [made_by_segment_anything, made_by_sam2])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_equals_the_packages_own(make: Any, tokens: int) -> None:
    torch.manual_seed(tokens)
    transformer: Any = with_every_part(make()).double()
    image = torch.randn(3, WIDTH, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    position = torch.randn(1, WIDTH, SIDE, SIDE, dtype=torch.float64)
    asked = torch.randn(3, tokens, WIDTH, dtype=torch.float64, requires_grad=True)
    inputs = [image, asked, *transformer.parameters()]
    expected = transformer(image, position.expand(3, -1, -1, -1), asked)
    found = two_way(transformer, image.flatten(2).transpose(1, 2), position[0].flatten(1).T, asked)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    losses = [sum((value**3).sum() for value in both) for both in (found, expected)]
    gradients = [torch.autograd.grad(loss, inputs, allow_unused=True) for loss in losses]
    for mine, theirs in zip(*gradients, strict=True):
        # A key's bias moves all scores of a softmax alike, so its gradient is nothing but rounding.
        torch.testing.assert_close(torch.zeros_like(theirs) if mine is None else mine, theirs, atol=1e-8, rtol=1e-6)
