"""Attention as fast as a device does it, and in little memory, without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# What is held at a time on a CPU: queries, and scores of many keys; of few keys, scores that its cache may keep.
_QUERIES, _SCORES, _CACHED = 512, 2**24, 2**21


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    bias: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attention of one head: values averaged for each query.

    Args:
        query: (batch, query, C).
        key: (batch, key, C).
        value: (batch, key, V); its width may be another.
        bias: added to the scores, where keys are a grid of R rows and K columns: for each query, of each row (batch,
            query, R) and of each column (batch, query, K).

    Returns:
        (batch, query, V).
    """
    import torch

    if query.device.type != "cpu":
        attention = torch.nn.functional.scaled_dot_product_attention
        mask = None if bias is None else _summed(bias)[:, None].to(query.dtype)
        return attention(query[:, None], key[:, None], value.to(query.dtype)[:, None], attn_mask=mask)[:, 0]
    # Torch's CPU kernel wants values as wide as keys and is as slow in 16 bits as in 32; plain products are not. They
    # go by blocks of queries, through the same two buffers again and again.
    kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else query.dtype
    query, key, value = (query * query.shape[-1] ** -0.5).to(kind), key.to(kind).transpose(1, 2), value.to(kind)
    batch, count = len(query), query.shape[1]
    together = max(1, _CACHED // (count * key.shape[2]))
    rows = min(count, _QUERIES, max(64, _SCORES // key.shape[2]))
    scores, weights = query.new_empty(2, together, rows, key.shape[2])
    found = query.new_empty(batch, count, value.shape[2])
    for one in range(0, batch, together):
        for begin in range(0, count, rows):
            part = slice(one, one + together), slice(begin, begin + rows)
            asked = query[part]
            score, weight = (buffer[: len(asked), : asked.shape[1]] for buffer in (scores, weights))
            if bias is None:
                torch.bmm(asked, key[part[0]], out=score)
            else:
                score.copy_(_summed((bias[0][part], bias[1][part])))
                score.baddbmm_(asked, key[part[0]])
            torch.softmax(score, dim=-1, out=weight)
            torch.bmm(weight, value[part[0]], out=found[part])
    return found


def _summed(bias: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Of each row and of each column → of each key: (batch, query, R·K)."""
    of_rows, of_columns = bias
    return (of_rows[..., :, None] + of_columns[..., None, :]).flatten(-2)
