"""Builds SAM's network from an architecture's numbers; `weights` puts those of a file into it.

The parts are segment-anything's own classes, put together as its builder does, so that parameter names agree with the
official checkpoints.

Source: Kirillov et al., Segment Anything, arXiv:2304.02643; facebookresearch/segment-anything (Apache-2.0),
`segment_anything/build_sam.py`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..errors import DependencyError
from .sam_architecture import SamArchitecture

if TYPE_CHECKING:
    import torch

PIXEL_MEAN = (123.675, 116.28, 103.53)
"""Of ImageNet, per channel, on the scale 0..255, as SAM was trained."""
PIXEL_STD = (58.395, 57.12, 57.375)


def build(architecture: SamArchitecture) -> torch.nn.Module:
    """An untrained SAM network (segment-anything's `Sam`) in eval mode, on the CPU.

    Its parameters have the names of the official checkpoints.

    Raises:
        DependencyError: segment-anything is not installed.
    """
    import torch

    try:
        from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"Masks from boxes need the Python package '{error.name}'; install it with: python -m pip install "
            "segment-anything==1.0 (for Slicer, with PythonSlicer in place of python)."
        ) from error
    a = architecture
    network: torch.nn.Module = Sam(
        image_encoder=ImageEncoderViT(
            img_size=a.image_size,
            patch_size=a.patch_size,
            embed_dim=a.embed_dim,
            depth=a.depth,
            num_heads=a.num_heads,
            out_chans=a.width,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=a.window_size,
            global_attn_indexes=a.global_att_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=a.width,
            image_embedding_size=(a.feature_size, a.feature_size),
            input_image_size=(a.image_size, a.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=a.width,
            transformer=TwoWayTransformer(
                depth=a.decoder_depth,
                embedding_dim=a.width,
                num_heads=a.decoder_heads,
                mlp_dim=a.decoder_mlp_dim,
            ),
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return network.eval()
