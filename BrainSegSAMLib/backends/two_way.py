"""SAM's two-way transformer, in which tokens ask an image and the image asks them back.

The layers and their weights are those of segment-anything and sam2 alike; the results are the same up to rounding.
There are thousands of places in an image and a handful of tokens, so nothing is projected at the places: a head's
query, key, value and output matrices are multiplied into what the tokens bring, and each direction is two matrix
products of places with tokens times heads. With q = Wq·x + a and k = Wk·y + b of one head, for a token x and a place y,

    q · k = (Wkᵀ·q) · y + q·b        and        Σ p·(Wv·y + c) = Wv·(Σ p·y) + c,

where q·b is the same for all places and so leaves a softmax over them as it is. That takes a half of the operations for
one box (width 256, 8 heads), and about a third of the memory that gradients have to go back through.

Source: Kirillov et al., Segment Anything, arXiv:2304.02643, A ("Lightweight mask decoder"); what is computed is
`TwoWayTransformer` of facebookresearch/segment-anything (Apache-2.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def two_way(transformer: Any, image: Tensor, position: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What tokens and image become; gradients flow where the caller lets them.

    Args:
        transformer: a `TwoWayTransformer`.
        image: float32 (prompt, place, width).
        position: encoding of the places, (place, width) or (prompt, place, width).
        tokens: (prompt, token, width).

    Returns:
        Tokens and image, in the shapes that they were given in.
    """
    marks = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.norm1(layer.self_attn(tokens, tokens, tokens))
        else:
            asking = tokens + marks
            tokens = layer.norm1(tokens + layer.self_attn(asking, asking, tokens))
        placed = image + position
        tokens = layer.norm2(tokens + _from_image(layer.cross_attn_token_to_image, tokens + marks, placed, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        image = layer.norm4(image + _from_tokens(layer.cross_attn_image_to_token, placed, tokens + marks, tokens))
    found = _from_image(transformer.final_attn_token_to_image, tokens + marks, image + position, image)
    return transformer.norm_final_attn(tokens + found), image


def _from_image(attention: Any, asking: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """What tokens (prompt, token, width) find at the places (prompt, place, width)."""
    heads = attention.num_heads
    query = _by_head(attention.q_proj(asking) * _scale(attention), heads)
    scores = (query @ _of_heads(attention.k_proj.weight, heads)).flatten(1, 2) @ placed.transpose(1, 2)
    found = _split(scores.softmax(-1) @ image, 1, heads)  # (prompt, head, token, width)
    values = found @ _of_heads(attention.v_proj.weight, heads).transpose(1, 2)
    together: Tensor = attention.out_proj(values.transpose(1, 2).flatten(2) + attention.v_proj.bias)
    return together


def _from_tokens(attention: Any, placed: Tensor, marked: Tensor, tokens: Tensor) -> Tensor:
    """What the places (prompt, place, width) find at tokens (prompt, token, width)."""
    heads = attention.num_heads
    key = _by_head(attention.k_proj(marked) * _scale(attention), heads)
    offset = key @ _of_heads(attention.q_proj.bias, heads)[:, :, None]  # (prompt, head, token, 1)
    scores = (key @ _of_heads(attention.q_proj.weight, heads)).flatten(1, 2) @ placed.transpose(1, 2)
    # Tokens are before places in memory, so that the softmax over so few goes through many places at once.
    weights = (_split(scores, 1, heads) + offset).softmax(2).flatten(1, 2)
    out = _of_heads(attention.out_proj.weight.transpose(0, 1), heads)
    values = (_by_head(attention.v_proj(tokens), heads) @ out).flatten(1, 2)
    found: Tensor = weights.transpose(1, 2) @ values + attention.out_proj.bias
    return found


def _scale(attention: Any) -> float:
    """One over the root of a head's width."""
    return float((attention.internal_dim // attention.num_heads) ** -0.5)


def _by_head(projected: Tensor, heads: int) -> Tensor:
    """(prompt, token, channel) → (prompt, head, token, channel of the head)."""
    return _split(projected, 2, heads).transpose(1, 2)


def _of_heads(parameter: Tensor, heads: int) -> Tensor:
    """(channel, …) → (head, channel of the head, …)."""
    return _split(parameter, 0, heads)


def _split(tensor: Tensor, axis: int, heads: int) -> Tensor:
    """One axis as two: head, and what a head has of it."""
    return tensor.reshape(*tensor.shape[:axis], heads, -1, *tensor.shape[axis + 1 :])
