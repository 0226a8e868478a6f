"""Builds SAM 2's network from an architecture's numbers; `weights` puts those of a file into it.

The parts are sam2's own classes, put together as the official configurations do, so that parameter names agree with the
official checkpoints; no configuration file is read.

Source: Ravi et al., SAM 2, arXiv:2408.00714; facebookresearch/sam2 (Apache-2.0), `sam2/modeling` and `sam2/configs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DependencyError
from .sam2_architecture import Sam2Architecture
from .sam2_package import install_command

if TYPE_CHECKING:
    import torch


def build(architecture: Sam2Architecture) -> torch.nn.Module:
    """An untrained SAM 2 network (sam2's `SAM2Base`) in eval mode, on the CPU.

    Its parameters have the names of the official checkpoints.

    Raises:
        DependencyError: sam2 is not installed.
    """
    try:
        from sam2.modeling.sam2_base import SAM2Base
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"Tracking needs the Python package '{error.name}'. After PyTorch, install sam2 with: {install_command()} "
            "(for Slicer, with PythonSlicer in place of python)."
        ) from error
    network: torch.nn.Module = SAM2Base(**network_arguments(architecture))
    return network.eval()


def network_arguments(architecture: Sam2Architecture) -> dict[str, Any]:
    """The parts and settings that sam2's `SAM2Base` (and its heirs) are made of.

    Settings are those of the official configurations with what sam2's video predictor adds by default for prompts:
    an unstable single mask is replaced by the best of three, and what is remembered of a prompted slice is its mask,
    not its probabilities.
    """
    newer = architecture.version == "2.1"
    return {
        "image_encoder": _image_encoder(architecture),
        "memory_attention": _memory_attention(architecture),
        "memory_encoder": _memory_encoder(architecture),
        "num_maskmem": architecture.num_maskmem,
        "image_size": architecture.image_size,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "binarize_mask_from_pts_for_mem_enc": True,
        "use_mask_input_as_output_without_sam": True,
        "directly_add_no_mem_embed": True,
        "no_obj_embed_spatial": newer,
        "use_high_res_features_in_sam": True,
        "multimask_output_in_sam": True,
        "iou_prediction_use_sigmoid": True,
        "use_obj_ptrs_in_encoder": True,
        "add_tpos_enc_to_obj_ptrs": newer,
        "proj_tpos_enc_in_obj_ptrs": newer,
        "use_signed_tpos_enc_to_obj_ptrs": newer,
        "only_obj_ptrs_in_the_past_for_eval": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "multimask_output_for_tracking": True,
        "use_multimask_token_for_obj_ptr": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "use_mlp_for_obj_ptr_proj": True,
        "sam_mask_decoder_extra_args": {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    }


def _image_encoder(a: Sam2Architecture) -> torch.nn.Module:
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    trunk = Hiera(
        embed_dim=a.embed_dim,
        num_heads=a.num_heads,
        stages=a.stages,
        global_att_blocks=a.global_att_blocks,
        window_pos_embed_bkg_spatial_size=a.window_pos_embed_bkg_spatial_size,
        window_spec=a.window_spec,
    )
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=a.d_model),
        d_model=a.d_model,
        backbone_channel_list=list(a.backbone_channel_list),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    encoder: torch.nn.Module = ImageEncoder(trunk=trunk, neck=neck, scalp=1)
    return encoder


def _memory_attention(a: Sam2Architecture) -> torch.nn.Module:
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.sam.transformer import RoPEAttention

    size = [a.feature_size, a.feature_size]
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=a.dim_feedforward,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(
            feat_sizes=size, embedding_dim=a.d_model, num_heads=1, downsample_rate=1, dropout=0.1
        ),
        d_model=a.d_model,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(
            feat_sizes=size, rope_k_repeat=True, embedding_dim=a.d_model, num_heads=1, downsample_rate=1, dropout=0.1,
            kv_in_dim=a.mem_dim,
        ),
    )
    attention: torch.nn.Module = MemoryAttention(
        d_model=a.d_model, pos_enc_at_input=True, layer=layer, num_layers=a.memory_attention_layers
    )
    return attention


def _memory_encoder(a: Sam2Architecture) -> torch.nn.Module:
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    encoder: torch.nn.Module = MemoryEncoder(
        in_dim=a.d_model,
        out_dim=a.mem_dim,
        mask_downsampler=MaskDownSampler(embed_dim=a.d_model, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(dim=a.d_model, kernel_size=7, padding=3), num_layers=2),
        position_encoding=PositionEmbeddingSine(num_pos_feats=a.mem_dim),
    )
    return encoder
