"""Attention by blocks against the plain formula, in 32 and in 16 bits."""

from __future__ import annotations

import pytest
import torch

from BrainSegSAMLib.backends import attention
from BrainSegSAMLib.backends.attention import attend


# All at once; several of the batch at a time; and one at a time, its queries in blocks that do not come out even.
@pytest.mark.parametrize("scores", [2**21, 2 * 150 * 20, 100 * 20])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_formula(scores: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_SCORES", scores)
    torch.manual_seed(0)
    query, key, value = torch.randn(5, 150, 8), torch.randn(5, 20, 8), torch.randn(5, 20, 6)
    of_rows, of_columns = torch.randn(5, 150, 4), torch.randn(5, 150, 5)
    expected = query @ key.transpose(1, 2) / 8**0.5
    if with_bias:
        expected += torch.stack([of_rows[..., n // 5] + of_columns[..., n % 5] for n in range(20)], dim=-1)
    expected = expected.softmax(-1) @ value
    bias = (of_rows, of_columns) if with_bias else None
    torch.testing.assert_close(attend(query, key, value, bias=bias), expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(query, key, value, bias=bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
