"""RefineNet-style decoder of MiDaS (Lin et al. 2017, as in the released MiDaS v2 weights).

Parameter names are the official ones below `scratch.`: layer{1..4}_rn, refinenet{1..4},
output_conv.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn
from mindspore.common.initializer import Normal

from src.resnext import conv
from src.upsample import Upsample2x


class ResidualConvUnit(nn.Cell):
    """conv(relu(conv(relu(x)))) + relu(x).

    The skip adds the *rectified* input, since the first ReLU of the released PyTorch code works
    in place: the checkpoints were trained that way.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = conv(features, features, 3, has_bias=True)
        # Starting as the identity keeps the sums of seven units, none normalised, from growing so
        # large that the last ReLU is 0 everywhere, where nothing learns.
        self.conv2 = conv(features, features, 3, has_bias=True, weight_init="zeros")
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.conv2(self.relu(self.conv1(x))) + x


class FeatureFusionBlock(nn.Cell):
    """Add a refined skip to the coarser path, refine the sum and enlarge it twofold."""

    def __init__(self, features: int, has_skip: bool) -> None:
        super().__init__()
        # The deepest block has no skip, but released checkpoints hold its unused unit as well.
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.has_skip = has_skip
        self.upsample = Upsample2x(align_corners=True)

    def construct(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.has_skip:
            x = x + self.resConfUnit1(skip)
        return self.upsample(self.resConfUnit2(x))


class Decoder(nn.Cell):
    """Four backbone levels in, inverse depth at 32 times the deepest level's size out.

    Args:
        in_channels: channels of the four levels, finest first.
        features: channels inside the decoder, a multiple of 8 (256 in MiDaS); the head narrows to
            a half and an eighth of them (128 and 32).
    """

    def __init__(self, in_channels: Sequence[int], features: int) -> None:
        super().__init__()
        self.layer1_rn = conv(in_channels[0], features, 3)
        self.layer2_rn = conv(in_channels[1], features, 3)
        self.layer3_rn = conv(in_channels[2], features, 3)
        self.layer4_rn = conv(in_channels[3], features, 3)
        self.refinenet4 = FeatureFusionBlock(features, has_skip=False)
        self.refinenet3 = FeatureFusionBlock(features, has_skip=True)
        self.refinenet2 = FeatureFusionBlock(features, has_skip=True)
        self.refinenet1 = FeatureFusionBlock(features, has_skip=True)
        self.output_conv = nn.SequentialCell(
            conv(features, features // 2, 3, has_bias=True),
            Upsample2x(align_corners=False),
            conv(features // 2, features // 8, 3, has_bias=True),
            nn.ReLU(),
            _last_conv(features // 8),
            nn.ReLU(),
        )

    def construct(self, level1: Tensor, level2: Tensor, level3: Tensor, level4: Tensor) -> Tensor:
        return self.head(self.fuse(level1, level2, level3, level4))

    def fuse(self, level1: Tensor, level2: Tensor, level3: Tensor, level4: Tensor) -> Tensor:
        """The four levels in one: [B, features, H/2, W/2]."""
        path = self.refinenet4(self.layer4_rn(level4))
        path = self.refinenet3(path, self.layer3_rn(level3))
        path = self.refinenet2(path, self.layer2_rn(level2))
        return self.refinenet1(path, self.layer1_rn(level1))

    def head(self, path: Tensor) -> Tensor:
        """What `fuse` returns -> inverse depth [B, H, W]."""
        return self.output_conv(path).squeeze(1)


def _last_conv(in_channels: int) -> nn.Conv2d:
    """To one channel. Starts near a constant 1, since a ReLU that starts at 0 never learns."""
    return conv(in_channels, 1, 1, has_bias=True, weight_init=Normal(0.02), bias_init="ones")
