"""What SAM 2's network computes for batches of slices and tracks, arranged for volumes.

The layers and their weights are sam2's; their results are the same up to rounding. What is arranged anew:

* What depends on the slice alone is computed once for all tracks: the image features, and the first self-attention of
  memory attention. The neck's two fine levels go through two linear layers one after the other; they are one here.
* Attention averages values and projects them afterwards, which is the same as averaging projected values: a memory has
  64 channels, its projection 256, so the average costs a quarter.
* Position encodings, and the answer of the prompt encoder to "no prompt", are computed once.
* Of three candidate masks only the chosen one is resized.
* Mixed precision is for what takes long: the blocks of the image encoder, and memory attention. What comes before and
  after those blocks, the decoder and the memory encoder are cheap and always compute in float32: a picture and its
  features keep their digits, and the decoder decides on which side of a mask's edge a pixel lies.

Source: Ravi et al., SAM 2, arXiv:2408.00714, section 4; facebookresearch/sam2 (Apache-2.0), `sam2/modeling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from .attention import attend
from .devices import mixed_precision
from .resizing import resized

if TYPE_CHECKING:
    import torch

PIXEL_MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet, per channel, as SAM 2 was trained."""
PIXEL_STD = (0.229, 0.224, 0.225)

Levels = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"]
"""Of slices: float (slice, C/8, S/4, S/4), (slice, C/4, S/8, S/8), (slice, C, S/16, S/16) and (slice, S/16·S/16, C),
where S is the network's image size and C its width: two levels as the mask decoder wants them, the level that tracking
works on, and the latter's tokens after the first self-attention."""


def prepare(frames: NDArray[np.uint8], image_size: int) -> torch.Tensor:
    """Network input from slices: resized (bicubic, antialiased, as sam2 resizes video frames), normalised.

    Args:
        frames: uint8 (slice, 3, rows, columns).
        image_size: side of the square input; the aspect ratio is not kept, as in sam2.

    Returns:
        float32 (slice, 3, image_size, image_size) on the CPU.
    """
    import torch

    pixels = resized(frames, (image_size, image_size), mode="bicubic")
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


class Sam2Forward:
    """A network's computations in eval mode; reads the weights when it is made, so make it after loading them."""

    def __init__(self, network: torch.nn.Module, *, precision: str = "fp32") -> None:
        """Compute what is constant.

        Args:
            network: sam2's `SAM2Base`.
            precision: "fp32", or "bf16" for the encoder's blocks and memory attention in bfloat16; all results are
                float32.
        """
        import torch

        self.network = cast(Any, network)
        self._precision = precision
        self.side: int = self.network.image_size // 16
        with torch.inference_mode():
            self._fine_convolutions = [self._merged_convolution(level) for level in (0, 1)]
            self._position = self._tokens_of(self.network.image_encoder.neck, self.network.hidden_dim)
            self._memory_position = self._tokens_of(self.network.memory_encoder, self.network.mem_dim)
            layers = self.network.memory_attention.layers
            self._rotation = layers[0].self_attn.compute_cis(end_x=self.side, end_y=self.side).to(self.network.device)
            self._projections = [
                [_merged_projection(attention) for attention in (layer.self_attn, layer.cross_attn_image)]
                for layer in layers
            ]
            nothing = torch.zeros(1, 1, 2, device=self.network.device)
            label = -torch.ones(1, 1, dtype=torch.int32, device=self.network.device)
            encoder = self.network.sam_prompt_encoder
            self._no_prompt = encoder(points=(nothing, label), boxes=None, masks=None)
            self._decoder_position = encoder.get_dense_pe()

    @property
    def level_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the four `Levels` of one slice."""
        side, width = self.side, int(self.network.hidden_dim)
        return [(width // 8, 4 * side, 4 * side), (width // 4, 2 * side, 2 * side), (width, side, side),
                (side * side, width)]

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        device: torch.device = self.network.device
        return device

    def encode_slices(self, frames: NDArray[np.uint8]) -> Levels:
        """Everything that depends on slices alone, from uint8 (slice, 3, rows, columns)."""
        return self.encode_images(prepare(frames, self.network.image_size).to(self.device))

    def encode_images(self, images: torch.Tensor) -> Levels:
        """Everything that depends on slices alone, from network input, float32 (slice, 3, S, S)."""
        import torch

        conv2d, interpolate = torch.nn.functional.conv2d, torch.nn.functional.interpolate
        convolutions = self.network.image_encoder.neck.convs  # deepest level first
        fine, middle, coarse, deepest = self._trunk(images)
        low = convolutions[1](coarse) + interpolate(convolutions[0](deepest), scale_factor=2.0, mode="nearest")
        high, middle = (
            conv2d(features, *merged) for features, merged in zip((fine, middle), self._fine_convolutions, strict=True)
        )
        tokens = low.flatten(2).transpose(1, 2) + 0.1 * self._position
        with mixed_precision(self.device, self._precision):
            return high, middle, low, self._self_attention(0, tokens)

    def attend(
        self,
        tokens: torch.Tensor,
        spatial: Mapping[int, torch.Tensor],
        pointers: Mapping[int, torch.Tensor],
        *,
        offset: int,
        count: int,
    ) -> torch.Tensor:
        """Memory attention for a batch of tracks.

        Args:
            tokens: float (track, S/16·S/16, C), the fourth of `Levels`.
            spatial: memories by their distance from the prompted slice, float (track, mem_dim, S/16, S/16).
            pointers: object pointers by this distance, float (track, C).
            offset: distance of the slices at hand from the prompted ones.
            count: slices of the volume (sam2 scales the pointers' time by it where there are fewer than 16).

        Returns:
            float (track, C, S/16, S/16).
        """
        import torch

        memory, position = self._memory_tokens(spatial, pointers, offset, count)
        keys = memory + position
        rotated = len(spatial) * self.side**2
        with mixed_precision(self.device, self._precision):
            for number, layer in enumerate(self.network.memory_attention.layers):
                if number:
                    tokens = self._self_attention(number, tokens)
                query = self._rotate(layer.cross_attn_image.q_proj(layer.norm2(tokens)))
                key = layer.cross_attn_image.k_proj(keys)
                key = torch.cat([self._rotate(key[:, :rotated]), key[:, rotated:]], dim=1)
                found = attend(query, key, memory)
                tokens = tokens + torch.nn.functional.linear(found, *self._projections[number][1])
                tokens = tokens + layer.linear2(torch.relu(layer.linear1(layer.norm3(tokens))))
        normed: torch.Tensor = self.network.memory_attention.norm(tokens)
        return normed.transpose(1, 2).reshape(len(tokens), -1, self.side, self.side)

    def decode(
        self, conditioned: torch.Tensor, high: torch.Tensor, middle: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks without a prompt for a batch of tracks.

        Returns:
            Logits float32 (track, 1, S/4, S/4), -1024 where the object is absent; pointers (track, C); object scores
            (track, 1).
        """
        import torch

        network, size = self.network, len(conditioned)
        sparse, dense = (embedding.expand(size, *embedding.shape[1:]) for embedding in self._no_prompt)
        masks, quality, tokens, scores = network.sam_mask_decoder(
            image_embeddings=conditioned,
            image_pe=self._decoder_position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[high, middle],
        )
        rows = torch.arange(size, device=masks.device)
        best = quality.argmax(dim=-1)
        present = scores > 0
        logits = torch.where(present[..., None], masks[rows, best].float(), -1024.0)[:, None]
        pointers = torch.where(present, network.obj_ptr_proj(tokens[rows, best]), network.no_obj_ptr)
        return logits, pointers, scores

    def encode_memory(
        self, low: torch.Tensor, logits: torch.Tensor, scores: torch.Tensor, *, prompted: bool
    ) -> torch.Tensor:
        """What is remembered of slices and of the masks found on them.

        Args:
            low: float (track, C, S/16, S/16), the third of `Levels`.
            logits: float32 (track, 1, S/4, S/4).
            scores: object scores (track, 1).
            prompted: whether the masks are a user's prompt; they are remembered as certain then.

        Returns:
            float (track, mem_dim, S/16, S/16).
        """
        import torch

        network = self.network
        size = (network.image_size, network.image_size)
        logits = torch.nn.functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        mask = (logits > 0).float() if prompted else torch.sigmoid(logits)
        mask = mask * network.sigmoid_scale_for_mem_enc + network.sigmoid_bias_for_mem_enc
        memory: torch.Tensor = network.memory_encoder(low, mask, skip_mask_sigmoid=True)["vision_features"]
        if network.no_obj_embed_spatial is not None:
            memory = memory + (scores <= 0).float()[..., None, None] * network.no_obj_embed_spatial[..., None, None]
        return memory

    def _trunk(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Image features at the end of each of Hiera's stages, float32 (slice, C, rows, columns), finest first."""
        trunk = self.network.image_encoder.trunk
        tokens = trunk.patch_embed(images)
        tokens = tokens + trunk._get_pos_embed(tokens.shape[1:3])
        levels = []
        with mixed_precision(self.device, self._precision):
            for number, block in enumerate(trunk.blocks):
                tokens = block(tokens).float()  # blocks add to it, so rounding would add up
                if number in trunk.stage_ends:
                    levels.append(tokens.permute(0, 3, 1, 2))
        return levels

    def _self_attention(self, number: int, tokens: torch.Tensor) -> torch.Tensor:
        import torch

        layer = self.network.memory_attention.layers[number]
        normed = layer.norm1(tokens)
        query, key = (self._rotate(project(normed)) for project in (layer.self_attn.q_proj, layer.self_attn.k_proj))
        return tokens + torch.nn.functional.linear(attend(query, key, normed), *self._projections[number][0])

    def _memory_tokens(
        self, spatial: Mapping[int, torch.Tensor], pointers: Mapping[int, torch.Tensor], offset: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Memories, then pointers cut to a memory's width: (track, token, mem_dim), and their positions (1, …)."""
        import torch

        network = self.network
        tokens = [memory.flatten(2).transpose(1, 2) for memory in spatial.values()]
        # The prompted slice has the last of the time encodings, whatever its distance.
        times = [network.num_maskmem - 1 if past == 0 else offset - past - 1 for past in spatial]
        positions = [self._memory_position + network.maskmem_tpos_enc[time].reshape(1, 1, -1) for time in times]
        longest = min(count, network.max_obj_ptrs_in_encoder)
        used = {past: pointer for past, pointer in pointers.items() if past == 0 or offset - past < longest}
        pieces = network.hidden_dim // network.mem_dim
        tokens += [pointer.reshape(len(pointer), pieces, network.mem_dim) for pointer in used.values()]
        distances = torch.tensor([offset - past for past in used], device=network.device)
        encoded = self._pointer_positions(distances / max(longest - 1, 1))
        positions.append(encoded.repeat_interleave(pieces, dim=0)[None])
        return torch.cat(tokens, dim=1), torch.cat(positions, dim=1)

    def _pointer_positions(self, times: torch.Tensor) -> torch.Tensor:
        """Time encodings of pointers (pointer, mem_dim); SAM 2, unlike 2.1, has none."""
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        network = self.network
        if not network.add_tpos_enc_to_obj_ptrs:
            return times.new_zeros(len(times), network.mem_dim)
        encoded: torch.Tensor = network.obj_ptr_tpos_proj(get_1d_sine_pe(times, dim=network.hidden_dim))
        return encoded

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary position encoding of (track, n·S/16·S/16, C): n slices one after the other."""
        import torch

        pairs = x.float().reshape(len(x), -1, *self._rotation.shape, 2)
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * self._rotation)
        return rotated.reshape(x.shape).to(x.dtype)

    def _merged_convolution(self, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The neck's 1×1 convolution of a fine level and the decoder's after it, as one: weight and bias."""
        first = self.network.image_encoder.neck.convs[3 - level].conv
        second = (self.network.sam_mask_decoder.conv_s0, self.network.sam_mask_decoder.conv_s1)[level]
        matrix = second.weight.flatten(1)
        return (matrix @ first.weight.flatten(1))[..., None, None], matrix @ first.bias + second.bias

    def _tokens_of(self, owner: Any, width: int) -> torch.Tensor:
        """Position encoding of the coarse grid, float32 (1, S/16·S/16, width)."""
        import torch

        grid = torch.empty(1, width, self.side, self.side, device=self.network.device)
        encoded: torch.Tensor = owner.position_encoding(grid).flatten(2).transpose(1, 2)
        return encoded


def _merged_projection(attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An attention's projection of values and its output projection as one: weight and bias."""
    output, value = attention.out_proj, attention.v_proj
    return output.weight @ value.weight, output.weight @ value.bias + output.bias
