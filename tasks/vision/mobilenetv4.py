"""MobileNetV4-conv-medium.

Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem" (2024), table 10; the weights that can be had are
those of timm, whose padding is PyTorch's. The last layer sees the picture's average.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tasks.vision.architecture import IMAGENET_DEVIATION, IMAGENET_MEAN
from tasks.vision.convolutional import Block, Convolutional, Layer, Names

_STEM_CHANNELS, _AVERAGED, _FEATURES = 32, 960, 1280


class _Block(NamedTuple):
    """A universal inverted bottleneck. first, middle: sides of the kernels of its depthwise convolutions, 0 where there
    is none; stride: of the middle one; expansion: of the channels within; channels: of what it makes."""

    first: int
    middle: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    (_Block(3, 5, 2, 4, 80), _Block(3, 3, 1, 2, 80)),
    (
        _Block(3, 5, 2, 6, 160),
        _Block(3, 3, 1, 4, 160),
        _Block(3, 3, 1, 4, 160),
        _Block(3, 5, 1, 4, 160),
        _Block(3, 3, 1, 4, 160),
        _Block(3, 0, 1, 4, 160),
        _Block(0, 0, 1, 2, 160),
        _Block(3, 0, 1, 4, 160),
    ),
    (
        _Block(5, 5, 2, 6, 256),
        _Block(5, 5, 1, 4, 256),
        _Block(3, 5, 1, 4, 256),
        _Block(3, 5, 1, 4, 256),
        _Block(0, 0, 1, 4, 256),
        _Block(3, 0, 1, 4, 256),
        _Block(3, 5, 1, 2, 256),
        _Block(5, 5, 1, 4, 256),
        _Block(0, 0, 1, 4, 256),
        _Block(0, 0, 1, 4, 256),
        _Block(5, 0, 1, 2, 256),
    ),
)


def mobilenetv4(stages: tuple[tuple[_Block, ...], ...]) -> Convolutional:
    named = list(_blocks(stages))
    return Convolutional(
        name="mobilenetv4-conv-medium",
        title="MobileNetV4-conv-medium",
        features=_FEATURES,
        side=256,
        subtract=IMAGENET_MEAN,
        divide=IMAGENET_DEVIATION,
        citation="Qin et al., MobileNetV4: Universal Models for the Mobile Ecosystem, ECCV 2024",
        blocks=tuple(block for block, _ in named),
        names=(Names("timm", {name: each for _, names in named for name, each in names.items()}, "classifier"),),
        epsilon=1e-5,
        padding="symmetric",
        rectifier="relu",
        keeps_classifier=False,
    )


def _blocks(stages: tuple[tuple[_Block, ...], ...]) -> Iterator[tuple[Block, dict[str, tuple[str, str]]]]:
    """Each block, and of its layers the modules of timm."""
    yield (
        Block((Layer("stem", "convolution", (3, 3, 3, _STEM_CHANNELS), stride=2),)),
        {"stem": ("conv_stem", "bn1")},
    )
    expand = Layer("block01/expand", "convolution", (3, 3, _STEM_CHANNELS, 128), stride=2)
    project = Layer("block01/project", "convolution", (1, 1, 128, 48), rectified=False)
    yield (
        Block((expand, project)),
        {
            expand.name: ("blocks.0.0.conv_exp", "blocks.0.0.bn1"),
            project.name: ("blocks.0.0.conv_pwl", "blocks.0.0.bn2"),
        },
    )
    before, number = 48, 1
    for place, stage in enumerate(stages, 1):
        for repeat, block in enumerate(stage):
            number += 1
            layers = _layers(f"block{number:02}", before, block)
            top = f"blocks.{place}.{repeat}"
            names = {layer.name: (f"{top}.{theirs}.conv", f"{top}.{theirs}.bn") for theirs, layer in layers.items()}
            residual = block.stride == 1 and before == block.channels
            yield Block(tuple(layers.values()), residual), names
            before = block.channels
    last = Layer("last", "convolution", (1, 1, before, _AVERAGED))
    yield Block((last,)), {"last": (f"blocks.{len(stages) + 1}.0.conv", f"blocks.{len(stages) + 1}.0.bn1")}
    head = Layer("head", "convolution", (1, 1, _AVERAGED, _FEATURES))
    yield Block((head,), averages=True), {"head": ("conv_head", "norm_head")}


def _layers(name: str, before: int, block: _Block) -> dict[str, Layer]:
    """In order, by what timm calls them."""
    wide = before * block.expansion
    layers = {
        "dw_start": Layer(
            f"{name}/first/depthwise", "depthwise", (block.first, block.first, before, 1), rectified=False
        ),
        "pw_exp": Layer(f"{name}/expand", "convolution", (1, 1, before, wide)),
        "dw_mid": Layer(f"{name}/depthwise", "depthwise", (block.middle, block.middle, wide, 1), block.stride),
        "pw_proj": Layer(f"{name}/project", "convolution", (1, 1, wide, block.channels), rectified=False),
    }
    return {theirs: layer for theirs, layer in layers.items() if 0 not in layer.kernel}


CONV_MEDIUM = mobilenetv4(_STAGES)
