"""What a SAM network is made of and how it is shown slices: the official sizes, and smaller ones of our own.

Building the network from these numbers (`sam_network.build`) gives the parameter names of the official checkpoints, so
that their files load unchanged.

Source: Kirillov et al., Segment Anything, arXiv:2304.02643, 2023, and `segment_anything/build_sam.py` of
facebookresearch/segment-anything; MedSAM (Ma et al., Nature Communications 15:654, 2024) is ViT-B with pictures of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from .architecture import Architecture

PICTURES: Final = ("sam", "medsam", "window")


@dataclass(frozen=True)
class SamArchitecture(Architecture):
    """The numbers that tell one SAM network from another.

    Attributes:
        image_size: side in pixels of the square that every slice is brought to; a multiple of `patch_size`.
        patch_size: side in pixels of the patch that becomes one token; 16 in all published networks.
        embed_dim: channels of the image encoder.
        depth: its blocks.
        num_heads: its attention heads.
        global_att_blocks: numbers of the blocks that attend to the whole image.
        window_size: side of the attention windows of the others, in tokens.
        width: channels of the image features, of the prompts and of the mask decoder.
        decoder_depth: two-way attention blocks of the mask decoder.
        decoder_heads: their heads.
        decoder_mlp_dim: their hidden channels.
        pictures: how a slice becomes network input, see `sam_forward.prepare`: "sam", "medsam" or "window".
        box_as_mask: whether a box is also given as a dense mask prompt: 1 in its middle, 0 on its ellipse, -1 outside.
            A small network trained from scratch learns to ignore the tokens of a box's corners; no published network
            was trained like that.
    """

    FAMILY: ClassVar[str] = "SAM"

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    global_att_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 14
    width: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    pictures: str = "sam"
    box_as_mask: bool = False

    @property
    def feature_size(self) -> int:
        """Side of the image features, in tokens."""
        return self.image_size // self.patch_size

    @property
    def logits_size(self) -> int:
        """Side of the mask decoder's logits, in pixels: four to a token."""
        return 4 * self.feature_size

    def fault(self) -> str | None:
        """Why a network of these numbers cannot be built, or None."""
        sizes = (self.image_size, self.patch_size, self.embed_dim, self.depth, self.num_heads, self.window_size)
        if min(*sizes, self.width, self.decoder_depth, self.decoder_heads, self.decoder_mlp_dim) < 1:
            return "its sizes must be positive"
        if self.image_size % self.patch_size:
            return f"the image size {self.image_size} is not a multiple of the patch size {self.patch_size}"
        if any(not 0 <= block < self.depth for block in self.global_att_blocks):
            return "blocks of global attention must exist"
        if self.embed_dim % self.num_heads:
            return "its heads do not divide its channels"
        if self.width % 8 or self.width // 2 % self.decoder_heads:
            return "width must be a multiple of 8, and half of it one of the mask decoder's heads"
        if self.pictures not in PICTURES:
            return f"its pictures are '{self.pictures}', but there are: {', '.join(PICTURES)}"
        return None

    @classmethod
    def official(cls) -> Mapping[str, SamArchitecture]:
        """`OFFICIAL`."""
        return OFFICIAL

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """Which of `OFFICIAL` a checkpoint is of, from the names and shapes of its parameters; None: of none of them.

        MedSAM differs from ViT-B in its pictures alone, of which a checkpoint says nothing; it is taken for "vit_b".

        Args:
            shapes: parameter name → shape.
        """
        found = _signature(shapes)
        return next((name for name, architecture in OFFICIAL.items() if _expected(architecture) == found), None)


def _signature(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, ...]:
    """What tells the official networks apart: size, width and depth."""
    prefix = "image_encoder.blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)}
    return (
        shapes.get("image_encoder.pos_embed"),
        len(blocks),
        shapes.get("image_encoder.patch_embed.proj.weight", ())[2:],
        shapes.get("mask_decoder.iou_token.weight"),
    )


def _expected(a: SamArchitecture) -> tuple[Any, ...]:
    return (1, a.feature_size, a.feature_size, a.embed_dim), a.depth, (a.patch_size,) * 2, (1, a.width)


_VIT_B = SamArchitecture()
OFFICIAL: Final[dict[str, SamArchitecture]] = {
    "vit_b": _VIT_B,
    "vit_l": replace(_VIT_B, embed_dim=1024, depth=24, num_heads=16, global_att_blocks=(5, 11, 17, 23)),
    "vit_h": replace(_VIT_B, embed_dim=1280, depth=32, num_heads=16, global_att_blocks=(7, 15, 23, 31)),
    "medsam": replace(_VIT_B, pictures="medsam"),
}
"""Published networks by name."""
