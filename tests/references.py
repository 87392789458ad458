"""Independent references in PyTorch and NumPy, which the tests compare the MindSpore code with.

Nothing here imports the project, so a mistake in the code under test cannot repeat itself in the
expected value. The network follows the released PyTorch code of MiDaS v2.1 (its state-dict keys
included), the losses the section on losses of the MiDaS paper (arXiv 1907.01341v3).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """ResNeXt bottleneck: 1x1, grouped 3x3 (which carries the stride), 1x1, plus the shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [B, inputs, H, W] to [B, outputs, ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + shortcut)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions around which the *rectified* input is added."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [B, features, H, W] to the same shape."""
        # The released code rectifies x in place, so that its "+ x" adds relu(x).
        rectified = torch.relu(x)
        return self.conv2(torch.relu(self.conv1(rectified))) + rectified


class FeatureFusionBlock(nn.Module):
    """Adds the skip features to the coarser path, refines the sum and doubles its size.

    The coarsest block gets no skip features, but holds an unused `resConfUnit1` all the same, as
    the released checkpoints do.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map float32 [B, features, H, W] (skip: same shape) to [B, features, 2H, 2W]."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _stage(
    inputs: int, inner: int, outputs: int, blocks: int, stride: int, groups: int
) -> nn.Sequential:
    """Return one ResNeXt stage of `blocks` bottlenecks; only the first has the stride."""
    first = Bottleneck(inputs, inner, outputs, stride, groups)
    others = (Bottleneck(outputs, inner, outputs, 1, groups) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


class TorchMidas(nn.Module):
    """MidasNet with the state-dict keys of the official v2.1 checkpoints.

    Stage i (0..3) has `groups * width_per_group * 2**i` inner and `4 * in_channels * 2**i` output
    channels; the head goes from `features` to `features // 2`, `features // 8` and 1. The
    defaults are the official network.
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
        widths = [4 * in_channels * 2**i for i in range(4)]
        stages = []
        for i, blocks in enumerate(layers):
            inputs = in_channels if i == 0 else widths[i - 1]
            inner = groups * width_per_group * 2**i
            stages.append(_stage(inputs, inner, widths[i], blocks, 1 if i == 0 else 2, groups))
        self.pretrained = nn.Module()
        self.pretrained.layer1 = nn.Sequential(
            nn.Conv2d(3, in_channels, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            stages[0],
        )
        self.pretrained.layer2, self.pretrained.layer3, self.pretrained.layer4 = stages[1:]

        self.scratch = nn.Module()
        for i, width in enumerate(widths, start=1):
            conv = nn.Conv2d(width, features, 3, padding=1, bias=False)
            self.scratch.add_module(f"layer{i}_rn", conv)
            self.scratch.add_module(f"refinenet{i}", FeatureFusionBlock(features))
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(features // 2, features // 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features // 8, 1, 1),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised RGB image to inverse depth.

        Args:
            image: float32 [B, 3, H, W], H and W multiples of 32.

        Returns:
            float32 [B, H, W], inverse depth up to scale and shift, >= 0, larger is closer.
        """
        layer1 = self.pretrained.layer1(image)
        layer2 = self.pretrained.layer2(layer1)
        layer3 = self.pretrained.layer3(layer2)
        layer4 = self.pretrained.layer4(layer3)
        path = self.scratch.refinenet4(self.scratch.layer4_rn(layer4))
        path = self.scratch.refinenet3(path, self.scratch.layer3_rn(layer3))
        path = self.scratch.refinenet2(path, self.scratch.layer2_rn(layer2))
        path = self.scratch.refinenet1(path, self.scratch.layer1_rn(layer1))
        return self.scratch.output_conv(path).squeeze(1)


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> None:
    """Draw weights and BatchNorm statistics of which none is a default, in place.

    A comparison on fresh weights would not notice a swapped mean and variance or an ignored bias.
    The scales keep activations of order 1 through the whole network in evaluation mode, and the
    output of a `TorchMidas` positive on nearly all pixels.

    Args:
        module: a `TorchMidas` or a part of one.
        seed: the same seed gives the same values.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = part.weight[0].numel()
            part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            # Rectified inputs have a large mean; filters that pass it on would drown the image.
            part.weight.sub_(part.weight.mean(dim=(1, 2, 3), keepdim=True))
            if part.bias is not None:
                part.bias.normal_(0, 0.1, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.weight.uniform_(0.6, 1.4, generator=generator)
            part.bias.normal_(0, 0.2, generator=generator)
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    for part in module.modules():
        if isinstance(part, Bottleneck):
            # Thirty-three full-size residuals in a row would add up.
            part.bn3.weight.mul_(0.25)
            part.bn3.bias.mul_(0.25)
        elif isinstance(part, ResidualConvUnit):
            part.conv2.weight.mul_(0.5)
    if isinstance(module, TorchMidas):
        # Mostly positive weights behind a ReLU: the last ReLU clips few pixels or none.
        module.scratch.output_conv[4].weight.uniform_(-0.1, 0.3, generator=generator)


def _torch_mean_of_equals(values: Tensor, value: Tensor) -> Tensor:
    """`value` itself, as a function of all elements that have it."""
    return values[values == value].mean()


def _torch_standardized(image: Tensor, valid: Tensor) -> Tensor | None:
    """Median 0 and mean absolute deviation 1 on the valid pixels, or None for a constant."""
    inside = image[valid]
    middle = torch.sort(inside).values[[(len(inside) - 1) // 2, len(inside) // 2]]
    shift = sum(_torch_mean_of_equals(inside, value) for value in middle.unbind()) / 2
    scale = (inside - shift).abs().mean()
    return (image - shift) / scale if scale > 0 else None


def _torch_residual(kind: str, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor | None:
    """Prediction minus target once both are aligned, float64 [H, W], or None if they cannot be."""
    inside, wanted = prediction[valid], target[valid]
    if inside.numel() == 0 or bool((inside == inside[0]).all()):
        return None
    if kind == "ssimse":
        centred = inside - inside.mean()
        scale = (centred * (wanted - wanted.mean())).sum() / (centred**2).sum()
        return scale * prediction + wanted.mean() - scale * inside.mean() - target
    ours, theirs = _torch_standardized(prediction, valid), _torch_standardized(target, valid)
    return None if ours is None or theirs is None else ours - theirs


def _torch_loss_of_one(
    kind: str, prediction: Tensor, target: Tensor, valid: Tensor, alpha: float, scales: int
) -> Tensor | None:
    """Loss of one image, float64 [H, W] each (valid: bool), or None if it is degenerate."""
    residual = _torch_residual(kind, prediction, target, valid)
    if residual is None:
        return None
    inside = residual[valid]
    count = inside.numel()
    errors = inside**2 if kind == "ssimse" else inside.abs()
    if kind == "ssitrim":
        errors = torch.sort(errors).values[: 4 * count // 5]
    loss = errors.sum() / (2 * count)
    for k in range(scales):
        coarse, seen = residual[:: 2**k, :: 2**k], valid[:: 2**k, :: 2**k]
        for axis in (0, 1):
            length = coarse.shape[axis] - 1
            difference = torch.diff(coarse, dim=axis)
            both = seen.narrow(axis, 0, length) & seen.narrow(axis, 1, length)
            loss = loss + alpha * difference[both].abs().sum() / count
    return loss


def torch_loss(
    kind: str,
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    alpha: float = 0.5,
    scales: int = 4,
) -> Tensor:
    """Scale-and-shift-invariant loss plus gradient matching, per image, then the mean.

    Differentiable through the scales and shifts too. An image without valid pixels, or whose
    prediction (but for ssimse: or target) is constant on them, adds 0 to the sum and still counts
    in the mean.

    Args:
        kind: ssimse, ssimae or ssitrim.
        prediction: [B, H, W] disparity, any float type; computed in float64.
        target: [B, H, W] disparity.
        mask: [B, H, W], bool or float, non-zero where the target is valid.
        alpha: weight of the gradient-matching term.
        scales: number of scales of the gradient-matching term; scale k keeps every 2^(k-1)-th
            row and column, and is divided by the valid pixels at full resolution.

    Returns:
        float64 scalar >= 0.
    """
    prediction, target, valid = prediction.double(), target.double(), mask != 0
    # An empty sum keeps the graph, so that a wholly degenerate batch has the gradient 0.
    total = prediction[:0].sum()
    for image in zip(prediction, target, valid, strict=True):
        loss = _torch_loss_of_one(kind, *image, alpha, scales)
        if loss is not None:
            total = total + loss
    return total / len(prediction)


torch_ssimse = functools.partial(torch_loss, "ssimse")


def _numpy_residual(kind: str, values: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """Prediction minus target of the valid pixels once both are aligned, or None."""
    if len(values) == 0 or values.min() == values.max():
        return None
    if kind == "ssimse":
        design = np.stack([values, np.ones_like(values)], axis=1)
        return design @ np.linalg.lstsq(design, wanted, rcond=None)[0] - wanted
    if wanted.min() == wanted.max():
        return None
    centred = [each - np.median(each) for each in (values, wanted)]
    ours, theirs = (each / np.mean(np.abs(each)) for each in centred)
    return ours - theirs


def numpy_loss_terms(
    kind: str, prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, scales: int = 4
) -> tuple[float, float]:
    """Both terms of the loss of one image, by plain loops, `lstsq` and `median`.

    Args:
        kind: ssimse, ssimae or ssitrim.
        prediction: [H, W] disparity.
        target: [H, W] disparity.
        mask: [H, W], non-zero where the target is valid.
        scales: number of scales of the gradient-matching term.

    Returns:
        (data term, gradient-matching term before alpha), (0.0, 0.0) for a degenerate image.
    """
    height, width = prediction.shape
    pixels = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
    values = np.array([prediction[pixel] for pixel in pixels], dtype=np.float64)
    wanted = np.array([target[pixel] for pixel in pixels], dtype=np.float64)
    errors = _numpy_residual(kind, values, wanted)
    if errors is None:
        return 0.0, 0.0
    residual = dict(zip(pixels, errors, strict=True))
    costs = sorted(error**2 if kind == "ssimse" else abs(error) for error in errors)
    counted = len(costs) * 8 // 10 if kind == "ssitrim" else len(costs)
    data_term = sum(costs[:counted]) / (2 * len(pixels))
    gradient_term = 0.0
    for step in (2**k for k in range(scales)):
        for y in range(0, height, step):
            for x in range(0, width, step):
                for neighbour in ((y, x + step), (y + step, x)):
                    # `residual` holds the valid pixels only: both must be there.
                    if (y, x) in residual and neighbour in residual:
                        gradient_term += abs(residual[neighbour] - residual[y, x])
    return float(data_term), float(gradient_term / len(pixels))
