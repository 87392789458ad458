"""Scale-and-shift-invariant loss in disparity space (Ranftl et al., TPAMI 2022, section 5)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

# A prediction whose standard deviation is below this share of its magnitude is constant to
# float32 rounding: nothing can be aligned to it.
CONSTANT_SHARE = 1e-5


class ScaleShiftInvariantLoss(nn.Cell):
    """`ssimse`: mean squared error after the least-squares alignment of every image, plus
    multi-scale gradient matching.

    For each image with M valid pixels: `L_ssi = 1/(2M) sum (s d + t - d*)^2` with s, t the
    least-squares fit of the prediction d to the target d*, and
    `L_reg = 1/M sum_k sum |dx R_k| + |dy R_k|` with R = s d + t - d*, scale k taking every
    2^(k-1)-th pixel. A difference counts only where both its pixels are valid. An image without
    valid pixels, or with a constant prediction, adds 0. The result is the mean over the images.

    The fit may turn a prediction upside down: s < 0 costs nothing, so the formula alone cannot
    tell inverse depth from its negative. A network that starts from random values settles for
    either, image by image. `sign_weight` adds `L_sign = max(0, -correlation(d, d*))` per image,
    which is 0 wherever larger means closer; 0 gives the paper's formula.

    Args:
        alpha: weight of L_reg (0.5 in the paper).
        scales: number of scales of L_reg (4 in the paper).
        sign_weight: weight of L_sign.
    """

    def __init__(self, alpha: float = 0.5, scales: int = 4, sign_weight: float = 0.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.sign_weight = sign_weight
        self.steps = [2**scale for scale in range(scales)]

    def construct(
        self, prediction: Tensor, target: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare inverse depths, all [B, H, W].

        Args:
            prediction: any scale and shift, any float type; computed in float32.
            target: disparity, usually in [0, 1].
            mask: 1 where the target is valid, else 0.

        Returns:
            float32 scalars: the total loss, its mean data term L_ssi, its mean gradient term L_reg.
        """
        mask = mask.astype(ms.float32)
        # What lies under the mask may be anything, NaN included; it must not reach a sum.
        target = ops.select(mask > 0, target.astype(ms.float32), ops.zeros_like(mask))
        residual, valid_pixels, usable, correlation = align(
            prediction.astype(ms.float32), target, mask
        )
        data = usable * _per_image_sum(residual * residual) / (2 * valid_pixels)
        gradient = ops.zeros_like(data)
        for step in self.steps:
            gradient = gradient + _difference_sum(
                residual[:, ::step, ::step], mask[:, ::step, ::step]
            )
        gradient = usable * gradient / valid_pixels
        data, gradient = data.mean(), gradient.mean()
        sign = ops.relu(-correlation).mean()
        return data + self.alpha * gradient + self.sign_weight * sign, data, gradient


def align(
    prediction: Tensor, target: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Least-squares scale and shift of each prediction to its target over the valid pixels.

    The closed form is taken about the means, which keeps float32 accurate however large the
    prediction's shift is.

    Args:
        prediction, target, mask: float32 [B, H, W].

    Returns:
        The masked residual [B, H, W], the number of valid pixels [B] (at least 1), [B] 1 where an
        alignment exists, else 0, and the correlation of prediction and target [B] (0 where one
        of them is constant).
    """
    valid_pixels = ops.maximum(_per_image_sum(mask), Tensor(1.0, ms.float32))
    mean = _per_image_sum(prediction * mask) / valid_pixels
    target_mean = _per_image_sum(target * mask) / valid_pixels
    centred = (prediction - mean.reshape(-1, 1, 1)) * mask
    target_centred = (target - target_mean.reshape(-1, 1, 1)) * mask
    variance = _per_image_sum(centred * centred) / valid_pixels
    covariance = _per_image_sum(centred * target_centred) / valid_pixels
    usable = variance > CONSTANT_SHARE**2 * (mean * mean + variance)
    scale = covariance / ops.select(usable, variance, ops.ones_like(variance))
    residual = scale.reshape(-1, 1, 1) * centred - target_centred
    target_variance = _per_image_sum(target_centred * target_centred) / valid_pixels
    varying = ops.logical_and(usable, target_variance > 0)
    ones, zeros = ops.ones_like(variance), ops.zeros_like(variance)
    deviations = ops.sqrt(ops.select(varying, variance, ones)) * ops.sqrt(
        ops.select(varying, target_variance, ones)
    )
    correlation = ops.select(varying, covariance / deviations, zeros)
    return residual, valid_pixels, usable.astype(ms.float32), correlation


def _per_image_sum(values: Tensor) -> Tensor:
    return values.sum(axis=(1, 2))


def _difference_sum(residual: Tensor, mask: Tensor) -> Tensor:
    """Sum of absolute neighbour differences of [B, h, w] where both neighbours are valid: [B]."""
    total = ops.zeros_like(residual[:, 0, 0])
    # MindSpore's sum over no pixels is not 0, so a coarse scale's single row or column is left out.
    if residual.shape[2] > 1:
        across = ops.abs(residual[:, :, 1:] - residual[:, :, :-1])
        total = total + _per_image_sum(across * mask[:, :, 1:] * mask[:, :, :-1])
    if residual.shape[1] > 1:
        down = ops.abs(residual[:, 1:] - residual[:, :-1])
        total = total + _per_image_sum(down * mask[:, 1:] * mask[:, :-1])
    return total
