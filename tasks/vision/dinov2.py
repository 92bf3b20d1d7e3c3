"""DINOv2 ViT-S/14 and ViT-B/14, with registers and without.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (2023); Darcet et al., "Vision Transformers
Need Registers" (2023). The features of a picture are the class token after the last normalization: the
simplest of what the authors probe linearly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tasks.vision.architecture import IMAGENET_DEVIATION, IMAGENET_MEAN, Architecture, Arrays, Layout, Shapes

if TYPE_CHECKING:
    from tasks.vision.device import tf
    from tasks.vision.network import Tensors

PATCH = 14  # pixels
HEAD = 64  # channels of an attention head
_GRID = 37  # positions a side: of pictures of 518 pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class DinoV2(Architecture):
    """A vision transformer. Its features are as wide as its tokens.

    depth: how many blocks.
    registers: how many tokens beside the class token and the patches.
    """

    depth: int
    registers: int

    @cached_property
    def shapes(self) -> Shapes:
        """The class token has its position added; positions are those of patches."""
        wide = self.features
        return {
            "class_token": (wide,),
            **({"registers": (self.registers, wide)} if self.registers else {}),
            "positions": (_GRID, _GRID, wide),
            "patches/kernel": (PATCH, PATCH, 3, wide),
            "patches/bias": (wide,),
            **{f"{block}/{name}": shape for block in self.blocks for name, shape in _block(wide).items()},
            "norm/scale": (wide,),
            "norm/offset": (wide,),
        }

    @cached_property
    def folded(self) -> Shapes:
        """What scales the output of a layer is folded into the layer."""
        return {name: shape for name, shape in self.shapes.items() if not name.endswith(("/scale1", "/scale2"))}

    @cached_property
    def exact(self) -> frozenset[str]:
        return frozenset(name for name in self.folded if not name.endswith(("/kernel", "/bias")))

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The names of the blocks, in order."""
        return tuple(f"block{number + 1:02}" for number in range(self.depth))

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        ours = Layout("Lookbook", self.shapes, frozenset(), dict)
        tops = ("", "dinov2_with_registers." if self.registers else "dinov2.")  # alone, or below a classifier
        return (ours, self._layout("timm", "", _TIMM), *(self._layout("Hugging Face", top, _FACE) for top in tops))

    def fold(self, tensors: Arrays) -> dict[str, np.ndarray]:
        """Scales of layers are folded into the layers, and so is that of the dot products of attention."""
        folded = {name: np.array(tensors[name], np.float32) for name in self.folded}
        for block in self.blocks:
            for layer, scale in (("project", "scale1"), ("narrow", "scale2")):
                for part in ("kernel", "bias"):
                    folded[f"{block}/{layer}/{part}"] *= tensors[f"{block}/{scale}"]
            for part in ("kernel", "bias"):
                folded[f"{block}/qkv/{part}"][..., : self.features] *= HEAD**-0.5
        return folded

    def forward(self, images: "tf.Tensor", weights: "Tensors", dtype: "tf.DType") -> "tf.Tensor":
        from tasks.vision.attending import attend

        return attend(images, weights, dtype, self)

    def widest(self, height: int, width: int) -> int:
        tokens = 1 + self.registers + (height // PATCH) * (width // PATCH)
        return tokens * max(4 * self.features, self.features // HEAD * tokens)

    def _layout(self, whose: str, top: str, names: Mapping[str, tuple[str, ...]]) -> Layout:
        """top: what all names begin with. names: our names -> those of theirs that are side by side in ours."""
        theirs = {}
        for ours in self.shapes:
            block, _, part = ours.partition("/")
            number = self.blocks.index(block) if block in self.blocks else None
            theirs[ours] = [top + each.format(number) for each in names[ours if number is None else part]]
        [class_token], [positions] = theirs["class_token"], theirs["positions"]
        places = _GRID**2 + (not (self.registers and whose == "timm"))  # timm added its position to the class token
        shapes = {each: self._in_torch(ours, len(all_of)) for ours, all_of in theirs.items() for each in all_of}

        def converted(tensors: Arrays) -> dict[str, np.ndarray]:
            found = {
                ours: np.concatenate([_from_torch(tensors[each]) for each in all_of], axis=-1)
                for ours, all_of in theirs.items()
            }
            grid = tensors[positions][0]
            found["class_token"] = tensors[class_token][0, 0] + (grid[0] if places > _GRID**2 else 0)
            found["positions"] = grid[-(_GRID**2) :].reshape(self.shapes["positions"])
            return {name: np.ascontiguousarray(each) for name, each in found.items()}

        spare = frozenset(name for each in names["spare"] for name in (top + each, each))
        return Layout(whose, {**shapes, positions: (1, places, self.features)}, spare, converted)

    def _in_torch(self, ours: str, parts: int) -> tuple[int, ...]:
        """The shape of one of the tensors that are side by side in ours."""
        shape = self.shapes[ours]
        if ours in ("class_token", "registers"):
            return (1, shape[0] if ours == "registers" else 1, shape[-1])
        if len(shape) == 4:
            return (shape[3], shape[2], *shape[:2])
        return tuple(reversed((*shape[:-1], shape[-1] // parts)))


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    """A tensor of PyTorch's layout in ours, in which outputs come last."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor[0] if tensor.ndim == 3 else tensor.T


def _block(wide: int) -> dict[str, tuple[int, ...]]:
    return {
        "norm1/scale": (wide,),
        "norm1/offset": (wide,),
        "qkv/kernel": (wide, 3 * wide),
        "qkv/bias": (3 * wide,),
        "project/kernel": (wide, wide),
        "project/bias": (wide,),
        "scale1": (wide,),
        "norm2/scale": (wide,),
        "norm2/offset": (wide,),
        "widen/kernel": (wide, 4 * wide),
        "widen/bias": (4 * wide,),
        "narrow/kernel": (4 * wide, wide),
        "narrow/bias": (wide,),
        "scale2": (wide,),
    }


def _module(ours: str, *theirs: str) -> dict[str, tuple[str, ...]]:
    """Our names -> PyTorch's, of modules that have a weight and a bias."""
    weight, bias = ("scale", "offset") if ours.startswith("norm") else ("kernel", "bias")
    return {
        f"{ours}/{weight}": tuple(f"{each}.weight" for each in theirs),
        f"{ours}/{bias}": tuple(f"{each}.bias" for each in theirs),
    }


_TIMM = {
    "class_token": ("cls_token",),
    "registers": ("reg_token",),
    "positions": ("pos_embed",),
    **_module("patches", "patch_embed.proj"),
    **_module("norm1", "blocks.{}.norm1"),
    **_module("qkv", "blocks.{}.attn.qkv"),
    **_module("project", "blocks.{}.attn.proj"),
    "scale1": ("blocks.{}.ls1.gamma",),
    **_module("norm2", "blocks.{}.norm2"),
    **_module("widen", "blocks.{}.mlp.fc1"),
    **_module("narrow", "blocks.{}.mlp.fc2"),
    "scale2": ("blocks.{}.ls2.gamma",),
    **_module("norm", "norm"),
    "spare": ("head.weight", "head.bias"),
}
_LAYER, _ATTENTION = "encoder.layer.{}", "encoder.layer.{}.attention"
_FACE = {
    "class_token": ("embeddings.cls_token",),
    "registers": ("embeddings.register_tokens",),
    "positions": ("embeddings.position_embeddings",),
    **_module("patches", "embeddings.patch_embeddings.projection"),
    **_module("norm1", f"{_LAYER}.norm1"),
    **_module("qkv", *(f"{_ATTENTION}.attention.{each}" for each in ("query", "key", "value"))),
    **_module("project", f"{_ATTENTION}.output.dense"),
    "scale1": (f"{_LAYER}.layer_scale1.lambda1",),
    **_module("norm2", f"{_LAYER}.norm2"),
    **_module("widen", f"{_LAYER}.mlp.fc1"),
    **_module("narrow", f"{_LAYER}.mlp.fc2"),
    "scale2": (f"{_LAYER}.layer_scale2.lambda1",),
    **_module("norm", "layernorm"),
    "spare": ("embeddings.mask_token", "classifier.weight", "classifier.bias"),
}


def dinov2(size: str, features: int, depth: int, registers: int) -> DinoV2:
    """size: the letter of a vision transformer's size, `s` or `b`. features: as many as a token has numbers."""
    return DinoV2(
        name=f"dinov2-vit{size}14" + ("-reg" if registers else ""),
        title=f"DINOv2 ViT-{size.upper()}/14" + (" with registers" if registers else ""),
        features=features,
        side=518,
        multiple=PATCH,
        subtract=IMAGENET_MEAN,
        divide=IMAGENET_DEVIATION,
        citation="Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023"
        + ("; Darcet et al., Vision Transformers Need Registers, 2023" if registers else ""),
        depth=depth,
        registers=registers,
    )


VITS14 = dinov2("s", 384, 12, 0)
VITS14_REG = dinov2("s", 384, 12, 4)
VITB14 = dinov2("b", 768, 12, 0)
VITB14_REG = dinov2("b", 768, 12, 4)
