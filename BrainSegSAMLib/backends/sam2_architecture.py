"""What a SAM 2 network is made of: the official sizes, and smaller ones of our own, as plain numbers.

Building the network from these numbers (`sam2_network.build`) gives the parameter names of the official checkpoints, so
that their files load unchanged, and needs none of sam2's configuration files.

Source: Ravi et al., SAM 2: Segment Anything in Images and Videos, arXiv:2408.00714, 2024, and the configurations
`sam2/configs/sam2*/*.yaml` of facebookresearch/sam2; MedSAM2 (arXiv:2504.03600) is the tiny size at 512 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .architecture import Architecture

_BLOCK = "image_encoder.trunk.blocks"


@dataclass(frozen=True)
class Sam2Architecture(Architecture):
    """The numbers that tell one SAM 2 network from another.

    Attributes:
        image_size: side in pixels of the square that every slice is resized to; a multiple of 32.
        embed_dim: channels of the image encoder's first stage; doubled at each of the three following.
        num_heads: attention heads of its first stage; doubled likewise.
        stages: blocks per stage.
        global_att_blocks: numbers of the blocks that attend to the whole image.
        window_pos_embed_bkg_spatial_size: rows and columns of its coarse position embedding.
        window_spec: side of the attention windows per stage, in tokens.
        d_model: channels of the image features, of memory attention and of the mask decoder.
        mem_dim: channels of a memory.
        memory_attention_layers: layers of memory attention.
        dim_feedforward: hidden channels of these layers.
        num_maskmem: slices in memory, the prompted one included.
        version: "2.1", or "2", which lacks the temporal encoding of object pointers and the no-object memory.
    """

    FAMILY: ClassVar[str] = "SAM 2"

    image_size: int = 1024
    embed_dim: int = 96
    num_heads: int = 1
    stages: tuple[int, ...] = (1, 2, 7, 2)
    global_att_blocks: tuple[int, ...] = (5, 7, 9)
    window_pos_embed_bkg_spatial_size: tuple[int, ...] = (7, 7)
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    d_model: int = 256
    mem_dim: int = 64
    memory_attention_layers: int = 4
    dim_feedforward: int = 2048
    num_maskmem: int = 7
    version: str = "2.1"

    @property
    def backbone_channel_list(self) -> tuple[int, ...]:
        """Channels of the four stages, deepest first."""
        return tuple(self.embed_dim * 2**stage for stage in (3, 2, 1, 0))

    @property
    def feature_size(self) -> int:
        """Side of the coarsest image features that tracking uses, in tokens: a sixteenth of `image_size`."""
        return self.image_size // 16

    @property
    def title(self) -> str:
        """With the version."""
        return f"SAM {self.version}"

    def fault(self) -> str | None:
        """Why a network of these numbers cannot be built, or None."""
        return _fault(self)

    @classmethod
    def official(cls) -> Mapping[str, Sam2Architecture]:
        """`OFFICIAL`."""
        return OFFICIAL

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """Which of `OFFICIAL` a checkpoint is of, from the names and shapes of its parameters; None: of none of them.

        MedSAM2 differs from SAM 2.1 tiny in its image size alone, of which a checkpoint says nothing; it is taken for
        "sam2.1_tiny".

        Args:
            shapes: parameter name → shape.
        """
        found = _signature(shapes)
        return next((name for name, architecture in OFFICIAL.items() if _expected(architecture) == found), None)


def _signature(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, ...]:
    """What tells the official networks apart: width, depth, position embeddings, version."""
    trunk = "image_encoder.trunk"
    blocks = {name.removeprefix(f"{_BLOCK}.").split(".")[0] for name in shapes if name.startswith(f"{_BLOCK}.")}
    return (
        tuple(shapes.get(f"{trunk}.pos_embed", ()))[1:],
        len(blocks),
        tuple(shapes.get(f"{trunk}.pos_embed_window", ()))[2:],
        "no_obj_embed_spatial" in shapes,
    )


def _expected(architecture: Sam2Architecture) -> tuple[Any, ...]:
    return (
        (architecture.embed_dim, *architecture.window_pos_embed_bkg_spatial_size),
        sum(architecture.stages),
        (architecture.window_spec[0],) * 2,
        architecture.version == "2.1",
    )


def _fault(a: Sam2Architecture) -> str | None:
    """Why a network of these numbers cannot be built, or None."""
    numbers = [a.embed_dim, a.num_heads, *a.stages, *a.window_spec, *a.window_pos_embed_bkg_spatial_size, a.d_model]
    if min([*numbers, a.mem_dim, a.memory_attention_layers, a.dim_feedforward, a.num_maskmem]) < 1:
        return "its sizes must be positive"
    if len(a.stages) != 4 or len(a.window_spec) != 4 or len(a.window_pos_embed_bkg_spatial_size) != 2:
        return "it needs four stages, four window sides, and rows and columns of the position embedding"
    if a.image_size < 32 or a.image_size % 32:
        return f"the image size {a.image_size} is not a multiple of 32"
    if a.image_size // 4 % a.window_spec[0]:
        return f"a quarter of the image size {a.image_size} is not a multiple of the first window side"
    firsts = {sum(a.stages[:stage]) for stage in range(4)}
    if any(block in firsts or not 0 <= block < sum(a.stages) for block in a.global_att_blocks):
        return "blocks of global attention must exist, and not be the first of a stage"
    if a.embed_dim % a.num_heads:
        return "its heads do not divide its channels"
    if a.d_model % 16 or a.mem_dim % 4 or a.d_model % a.mem_dim:
        return "d_model must be a multiple of 16 and of mem_dim, and mem_dim a multiple of 4"
    return None if a.version in ("2", "2.1") else f"its version is '{a.version}', but there are '2' and '2.1'"


_TINY = Sam2Architecture()
_SIZES = {
    "tiny": _TINY,
    "small": replace(_TINY, stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
    "base_plus": replace(
        _TINY, embed_dim=112, num_heads=2, stages=(2, 3, 16, 3), global_att_blocks=(12, 16, 20),
        window_pos_embed_bkg_spatial_size=(14, 14),
    ),
    "large": replace(
        _TINY, embed_dim=144, num_heads=2, stages=(2, 6, 36, 4), global_att_blocks=(23, 33, 43),
        window_spec=(8, 4, 16, 8),
    ),
}
OFFICIAL: dict[str, Sam2Architecture] = {
    **{f"sam2.1_{size}": architecture for size, architecture in _SIZES.items()},
    **{f"sam2_{size}": replace(architecture, version="2") for size, architecture in _SIZES.items()},
    "medsam2": replace(_TINY, image_size=512),
}
"""Published networks by name."""
