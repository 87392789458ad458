"""ResNeXt-101 32x8d, the backbone of MiDaS (Xie et al. 2017; WSL weights: Mahajan et al. 2018).

Parameter names are torchvision's: conv1, bn1, layer1..layer4.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal, Initializer

from src import cpu_kernels
from src.lean_conv import LeanConv2d
from src.onednn_conv import OneDnnConv2d

EXPANSION = 4  # a bottleneck's output channels over its stage's base channels


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    group: int = 1,
    has_bias: bool = False,
    weight_init: Initializer | str | None = None,
    bias_init: Initializer | str = "zeros",
) -> nn.Conv2d:
    """A convolution padded by half its kernel on all sides.

    Weights start as He et al. (2015) for ReLU, fan out, unless `weight_init` says otherwise.
    """
    kind = nn.Conv2d
    if cpu_kernels.chose_own():
        kind = OneDnnConv2d
    elif (kernel_size, stride, group) == (3, 1, 1):
        kind = LeanConv2d
    return kind(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        pad_mode="pad",
        padding=kernel_size // 2,
        group=group,
        has_bias=has_bias,
        weight_init=weight_init or HeNormal(mode="fan_out", nonlinearity="relu"),
        bias_init=bias_init,
    )


class Bottleneck(nn.Cell):
    """1x1 reduce, 3x3 grouped, 1x1 expand, plus the (projected) input."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.SequentialCell(
                conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def construct(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNeXt(nn.Cell):
    """The four feature maps of a ResNeXt, at 1/4, 1/8, 1/16 and 1/32 of the input size.

    Args:
        in_channels: channels of the stem (64 in ResNeXt-101).
        groups: groups of every 3x3 convolution (32).
        width_per_group: channels of a group in the first stage; doubles with each stage (8).
        layers: bottlenecks of the four stages (3, 4, 23, 3).

    Raises:
        ValueError: if `layers` has not four stages.
    """

    def __init__(
        self, in_channels: int, groups: int, width_per_group: int, layers: Sequence[int]
    ) -> None:
        super().__init__()
        if len(layers) != 4:
            raise ValueError(f"layers: a ResNeXt has 4 stages, got {list(layers)}")
        self.conv1 = conv(3, in_channels, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        # PyTorch pads a max-pool by 1 on both sides. Zeros serve as well as -inf after a ReLU,
        # and unlike a padded pool, this exports to ONNX.
        self.pad = ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="valid")
        self.out_channels = [EXPANSION * in_channels * 2**stage for stage in range(4)]
        inputs = [in_channels, *self.out_channels]
        stages = [
            nn.SequentialCell(
                [
                    Bottleneck(
                        inputs[stage] if block == 0 else self.out_channels[stage],
                        groups * width_per_group * 2**stage,
                        self.out_channels[stage],
                        stride=2 if block == 0 and stage > 0 else 1,
                        groups=groups,
                    )
                    for block in range(layers[stage])
                ]
            )
            for stage in range(4)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(self.pad(x))
        level1 = self.layer1(x)
        level2 = self.layer2(level1)
        level3 = self.layer3(level2)
        return level1, level2, level3, self.layer4(level3)
