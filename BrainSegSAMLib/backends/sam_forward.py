"""What SAM's network computes, for batches of slices and for all that is marked on them.

The layers and their weights are segment-anything's; their results are the same up to rounding. What is arranged anew:

* The decoder takes one embedding for each prompt, so prompts on several slices go through it together; segment-anything
  pairs one image with its prompts.
* Of the decoder's four masks only the one for prompts without doubt is made, and no guess of its quality; it is brought
  to its resolution with channels last, by matrix products.
* Where no gradients are wanted, attention in the image encoder goes by blocks that fit a processor's cache;
  segment-anything holds all scores at once, 0.8 GB for a block of ViT-B at 1024 pixels.
* Mixed precision is for the blocks of the image encoder, which take nearly all the time. What comes before and after
  them, the prompt encoder and the decoder always compute in float32: a picture and its features keep their digits, and
  the decoder decides on which side of a mask's edge a pixel lies.

Source: Kirillov et al., Segment Anything, arXiv:2304.02643; facebookresearch/segment-anything (Apache-2.0),
`segment_anything/modeling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from .attention import attend
from .devices import mixed_precision
from .sam_architecture import SamArchitecture
from .sam_grid import prepare
from .two_way import two_way

if TYPE_CHECKING:
    import torch


class SamForward:
    """A network's computations; gradients flow where the caller lets them.

    Args:
        network: segment-anything's `Sam`, on the device that is to compute.
        architecture: of the network.
        precision: "fp32", or "bf16" for the image encoder's blocks in bfloat16; all results are float32.
    """

    def __init__(self, network: torch.nn.Module, architecture: SamArchitecture, *, precision: str = "fp32") -> None:
        import torch

        self.network = cast(Any, network)
        self.architecture = architecture
        self._precision = precision
        with torch.no_grad():
            self._position: torch.Tensor = self.network.prompt_encoder.get_dense_pe()

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._position.device

    @property
    def level_shapes(self) -> list[tuple[int, ...]]:
        """Shape of the image features of one slice: the only level."""
        side = self.architecture.feature_size
        return [(self.architecture.width, side, side)]

    def encode_slices(self, frames: NDArray[np.uint8]) -> tuple[torch.Tensor]:
        """Image features of uint8 (slice, 3, rows, columns), float32 (slice, *level_shapes[0])."""
        return (self.encode_images(prepare(frames, self.architecture).to(self.device)),)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Image features from network input, float32 (slice, 3, image_size, image_size)."""
        import torch

        encoder = self.network.image_encoder
        tokens = encoder.patch_embed(images) + encoder.pos_embed
        with mixed_precision(self.device, self._precision):
            for block in encoder.blocks:
                tokens = block(tokens) if torch.is_grad_enabled() else _through_block(block, tokens)
        features: torch.Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
        return features

    def decode(
        self,
        features: torch.Tensor,
        boxes: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Masks of prompts; each is a box, or points, or both.

        Args:
            features: of the slice of each prompt, float32 (prompt, width, side, side).
            boxes: (prompt, 4), and
            points: (prompt, point, 2), as `sam_grid.to_square` gives them.
            labels: (prompt, point): 1 in the object, 0 outside.

        Returns:
            Logits, float32 (prompt, logits_size, logits_size).
        """
        import torch

        decoder = self.network.mask_decoder
        masks = None if boxes is None or not self.architecture.box_as_mask else self._as_masks(boxes)
        sparse, dense = self.network.prompt_encoder(None if points is None else (points, labels), boxes, masks)
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(len(features), -1, -1), sparse], dim=1)
        image = (features + dense).flatten(2).transpose(1, 2)
        found, places = two_way(decoder.transformer, image, self._position[0].flatten(1).T, tokens)
        weights = decoder.output_hypernetworks_mlps[0](found[:, 1])
        return _upscaled(decoder.output_upscaling, places, weights)

    def _as_masks(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (prompt, 4) as dense prompts (prompt, 1, logits_size, logits_size).

        1 in the middle of the box, 0 on the ellipse that touches its sides, -1 from its corners outwards. So each place
        knows where in the box it lies, and a network that adds nothing to it draws the ellipse.
        """
        import torch

        side = self.architecture.logits_size
        pixel = self.architecture.image_size / side
        centres = (torch.arange(side, device=boxes.device) + 0.5) * pixel
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        half = ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=pixel / 2)  # no box falls between all centres
        across, down = (((centres - middle[:, [axis]]) / half[:, [axis]]) ** 2 for axis in (0, 1))
        return (1 - down[:, :, None] - across[:, None, :]).clamp(min=-1)[:, None]


def _upscaled(layers: Any, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Logits of masks at four times the resolution of the image features.

    Args:
        layers: the decoder's `output_upscaling`.
        places: float32 (prompt, side · side, width), as the transformer leaves them.
        weights: float32 (prompt, width / 8): of each prompt's mask.

    Returns:
        (prompt, 4 · side, 4 · side).
    """
    import torch
    from torch.nn.functional import layer_norm

    first, norm, activation, second, last_activation = layers
    finer = _spread(first, places)
    finer = activation(layer_norm(finer, finer.shape[-1:], norm.weight, norm.bias, norm.eps))
    finest = last_activation(_spread(second, finer))
    logits = torch.matmul(finest.flatten(1, -2), weights[:, :, None])
    side = round(places.shape[1] ** 0.5)
    # Row, column, and where within it after the first and after the second layer, each as row and column.
    whole = logits.reshape(-1, side, side, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return whole.reshape(-1, 4 * side, 4 * side)


def _spread(layer: Any, places: torch.Tensor) -> torch.Tensor:
    """A transposed convolution of 2 x 2 with stride 2, channels last: (..., C) becomes (..., 2, 2, C').

    Its squares do not overlap, so it is one matrix product; with channels last so is what follows, and nothing is
    turned about before the masks.
    """
    weight = layer.weight.permute(0, 2, 3, 1)
    spread: torch.Tensor = (places @ weight.flatten(1)).unflatten(-1, weight.shape[1:]) + layer.bias
    return spread


def _through_block(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """A block of the image encoder: (slice, rows, columns, C), tokens not yet mixed → mixed."""
    from segment_anything.modeling.image_encoder import window_partition, window_unpartition

    shape, size = tokens.shape[1:3], block.window_size
    normed = block.norm1(tokens)
    if size:
        windows, padded = window_partition(normed, size)
        tokens = tokens + window_unpartition(_attention(block.attn, windows), size, padded, shape)
    else:
        tokens = tokens + _attention(block.attn, normed)
    mixed: torch.Tensor = tokens + block.mlp(block.norm2(tokens))
    return mixed


def _attention(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Attention with relative positions inside windows: (window, rows, columns, C)."""
    import torch
    from segment_anything.modeling.image_encoder import get_rel_pos

    count, rows, columns, width = tokens.shape
    heads = attention.num_heads
    mixed = attention.qkv(tokens).reshape(count, rows * columns, 3, heads, width // heads)
    query, key, value = mixed.permute(2, 0, 3, 1, 4).flatten(1, 2)  # each (window·head, token, channel)
    places = query.reshape(-1, rows, columns, width // heads)
    of_rows = torch.einsum("bhwc,hkc->bhwk", places, get_rel_pos(rows, rows, attention.rel_pos_h))
    of_columns = torch.einsum("bhwc,wkc->bhwk", places, get_rel_pos(columns, columns, attention.rel_pos_w))
    found = attend(query, key, value, bias=(of_rows.flatten(1, 2), of_columns.flatten(1, 2)))
    found = found.reshape(count, heads, rows * columns, -1).transpose(1, 2).reshape(tokens.shape)
    projected: torch.Tensor = attention.proj(found)
    return projected
