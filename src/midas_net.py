"""MidasNet: an image in, relative inverse depth out (Ranftl et al., TPAMI 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn

from src.refinenet import Decoder
from src.resnext import ResNeXt


class MidasNet(nn.Cell):
    """ResNeXt backbone and RefineNet decoder.

    Input float32 [B, 3, H, W], RGB, normalised with the ImageNet statistics, H and W multiples
    of 32. Output float32 [B, H, W]: inverse depth up to scale and shift, >= 0, larger is closer.

    Args:
        in_channels: channels of the stem (64).
        groups: groups of the 3x3 convolutions of the backbone (32).
        width_per_group: channels per group in the first stage (8).
        features: channels of the decoder (256).
        layers: bottlenecks of the four stages ([3, 4, 23, 3]).
    """

    def __init__(
        self,
        in_channels: int = 64,
        groups: int = 32,
        width_per_group: int = 8,
        features: int = 256,
        layers: Sequence[int] = (3, 4, 23, 3),
    ) -> None:
        super().__init__()
        self.backbone = ResNeXt(in_channels, groups, width_per_group, layers)
        self.decoder = Decoder(self.backbone.out_channels, features)

    def construct(self, image: Tensor) -> Tensor:
        level1, level2, level3, level4 = self.backbone(image)
        return self.decoder(level1, level2, level3, level4)
