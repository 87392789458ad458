"""Scale-and-shift-invariant losses in disparity space (Ranftl et al., TPAMI 2022, section 5)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

KINDS = ("ssimse", "ssimae", "ssitrim")

# A prediction whose deviation (standard or mean absolute) is below this share of its magnitude is
# constant to float32 rounding: nothing can be aligned to it.
CONSTANT_SHARE = 1e-5
TINY = 1e-18  # of a deviation: its square is still an ordinary float32
KEPT_SHARE = 0.8  # of the residuals, by ssitrim; just above 4/5 in float32, so 80 % of 5 are 4
# Ends at one float32, or within 2^-36 of the range of the values. M pixels have at most M mean
# absolute deviations as their range: a median of 384x384 is good to 2e-6 of them at the worst.
BISECTIONS = 36
LOWEST = -3e38


class ScaleShiftInvariantLoss(nn.Cell):
    """One of the paper's three data terms, plus multi-scale gradient matching.

    For each image with M valid pixels, prediction d and target d*:

    - `ssimse`: `L_ssi = 1/(2M) sum R^2` with R = s d + t - d*, where s, t are the least-squares fit
      of d to d*.
    - `ssimae`: `L_ssi = 1/(2M) sum |R|` with R = (d - t) / s - (d* - t*) / s*, where t, t* are
      the medians and s = mean|d - t|, s* = mean|d* - t*|. The median of an even number of pixels
      is the mean of the middle two.
    - `ssitrim`: as ssimae, but L_ssi sums only the floor(0.8 M) smallest |R|, still over 2M.

    `L_reg = 1/M sum_k sum |dx R_k| + |dy R_k|`, scale k taking every 2^(k-1)-th pixel. A difference
    counts only where both its pixels are valid. All three are differentiated through s and t. An
    image without valid pixels, with a constant prediction or, but for ssimse, a constant target
    adds 0.

    The fit of ssimse may turn a prediction upside down: s < 0 costs nothing, so the formula alone
    cannot tell inverse depth from its negative. A network that starts from random values settles
    for either, image by image. `sign_weight` adds `L_sign = max(0, -correlation(d, d*))` per image,
    which is 0 wherever larger means closer; 0 gives the paper's formula. The other two have s > 0,
    so their formula itself punishes a prediction upside down, and they take no such term.

    Args:
        alpha: weight of L_reg (0.5 in the paper).
        scales: number of scales of L_reg (4 in the paper).
        sign_weight: weight of L_sign; used by ssimse only.
        kind: one of KINDS.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        scales: int = 4,
        sign_weight: float = 0.0,
        kind: str = "ssimse",
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}; expected one of {KINDS}")
        self.alpha = alpha
        self.sign_weight = sign_weight
        self.kind = kind
        self.steps = [2**scale for scale in range(scales)]

    def construct(
        self, prediction: Tensor, target: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The means over the images of what `per_image` returns, float32 scalars."""
        total, data, gradient = self.per_image(prediction, target, mask)
        return total.mean(), data.mean(), gradient.mean()

    def per_image(
        self, prediction: Tensor, target: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare inverse depths, all [B, H, W].

        Args:
            prediction: any scale and shift, any float type; computed in float32.
            target: disparity, usually in [0, 1].
            mask: 1 where the target is valid, else 0.

        Returns:
            float32 [B] each: the total loss, its data term L_ssi, its gradient term L_reg.
        """
        mask = mask.astype(ms.float32)
        # What lies under the mask may be anything, NaN included; it must not reach a sum.
        target = ops.select(mask > 0, target.astype(ms.float32), ops.zeros_like(mask))
        prediction = prediction.astype(ms.float32)
        valid_pixels = ops.maximum(_per_image_sum(mask), Tensor(1.0, ms.float32))
        sign = ops.zeros_like(valid_pixels)
        if self.kind == "ssimse":
            residual, usable, correlation = align(prediction, target, mask, valid_pixels)
            errors = residual * residual
            sign = self.sign_weight * ops.relu(-correlation)
        else:
            prediction, varied = standardize(prediction, mask, valid_pixels)
            target, target_varied = standardize(target, mask, valid_pixels)
            residual, usable = prediction - target, varied * target_varied
            errors = ops.abs(residual)
        if self.kind == "ssitrim":
            errors = errors * smallest(errors, mask, ops.floor(KEPT_SHARE * valid_pixels))
        data = usable * _per_image_sum(errors) / (2 * valid_pixels)
        gradient = ops.zeros_like(data)
        for step in self.steps:
            gradient = gradient + _difference_sum(
                residual[:, ::step, ::step], mask[:, ::step, ::step]
            )
        gradient = usable * gradient / valid_pixels
        return data + self.alpha * gradient + sign, data, gradient


def align(
    prediction: Tensor, target: Tensor, mask: Tensor, valid_pixels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares scale and shift of each prediction to its target over the valid pixels.

    The closed form is taken about the means, which keeps float32 accurate however large the
    prediction's shift is.

    Args:
        prediction, target, mask: float32 [B, H, W].
        valid_pixels: their number [B], at least 1.

    Returns:
        The masked residual [B, H, W], [B] 1 where an alignment exists, else 0, and the correlation
        of prediction and target [B] (0 where one of them is constant).
    """
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
    return residual, usable.astype(ms.float32), correlation


def standardize(values: Tensor, mask: Tensor, valid_pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale each image to median 0 and mean absolute deviation 1 over the valid pixels.

    Args:
        values, mask: float32 [B, H, W].
        valid_pixels: their number [B], at least 1.

    Returns:
        The masked result [B, H, W] and [B] 1 where it exists, else 0 (constant values).
    """
    shift = median(values, mask, valid_pixels)
    centred = (values - shift.reshape(-1, 1, 1)) * mask
    scale = _per_image_sum(ops.abs(centred)) / valid_pixels
    constant = scale <= ops.maximum(CONSTANT_SHARE * ops.abs(shift), Tensor(TINY, ms.float32))
    scale = ops.select(constant, ops.ones_like(scale), scale)  # NaN stays, for all to see
    return centred / scale.reshape(-1, 1, 1), 1 - constant.astype(ms.float32)


def median(values: Tensor, mask: Tensor, valid_pixels: Tensor) -> Tensor:
    """Median of each image over its valid pixels; of an even number, the mean of the middle two.

    The gradient goes to the middle pixels, in equal parts to pixels of equal value.

    Args:
        values, mask: float32 [B, H, W].
        valid_pixels: their number [B], at least 1.

    Returns:
        float32 [B], finite for finite values; of no meaning where no pixel is valid.
    """
    bound = rank_bound(values, mask, ops.floor(valid_pixels / 2))
    upper = _masked_max(values, mask * (values <= bound))
    below = mask * (values < upper.reshape(-1, 1, 1))
    halves = 2 * _per_image_sum(below) == valid_pixels
    return ops.select(halves, (_masked_max(values, below) + upper) / 2, upper)


def smallest(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """Mark the `count` smallest valid values of each image.

    Args:
        values, mask: float32 [B, H, W].
        count: whole numbers [B], at most the number of valid pixels.

    Returns:
        Weights [B, H, W] with the sum `count`: 1, or 0, or a share for each of several equal
        values of which not all belong to the smallest. No gradient flows through them.
    """
    values = ops.stop_gradient(values)
    bound = rank_bound(values, mask, count - 1)
    last = _masked_max(values, mask * (values <= bound)).reshape(-1, 1, 1)
    below, equal = mask * (values < last), mask * (values == last)
    left = count - _per_image_sum(below)
    share = left / ops.maximum(_per_image_sum(equal), Tensor(1.0, ms.float32))
    return below + equal * share.reshape(-1, 1, 1)


def rank_bound(values: Tensor, mask: Tensor, rank: Tensor) -> Tensor:
    """An upper bound of the valid value of that rank in each image, close enough to tell it.

    Bisection by counting needs no sorting: MindSpore's sort may round float32 on Ascend, and has
    been reported not to return on a GPU for as many values as an image has.

    Args:
        values, mask: float32 [B, H, W].
        rank: whole numbers [B]; 0 is the smallest valid value.

    Returns:
        float32 [B, 1, 1] without a gradient; the largest valid value not above it has the rank.
    """
    values = ops.stop_gradient(values)
    high = _masked_max(values, mask).reshape(-1, 1)
    values = ops.select(mask > 0, values, ops.full_like(values, -LOWEST))
    values = values.reshape(values.shape[0], -1)
    low = values.min(axis=1, keepdims=True)
    rank = rank.reshape(-1, 1)
    for _ in range(BISECTIONS):
        middle = (low + high) * 0.5
        enough = (values <= middle).astype(ms.float32).sum(axis=1, keepdims=True) > rank
        low, high = ops.select(enough, low, middle), ops.select(enough, middle, high)
    return high.reshape(-1, 1, 1)


def _masked_max(values: Tensor, mask: Tensor) -> Tensor:
    return ops.select(mask > 0, values, ops.full_like(values, LOWEST)).max(axis=(1, 2))


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
