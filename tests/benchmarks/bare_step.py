"""A training step with nothing around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from src.config import Config

if TYPE_CHECKING:
    from src.midas_net import MidasNet
    from src.train_step import TrainStep

BACKBONE_LR, DECODER_LR = 1e-5, 1e-4  # the recipe's, constant


def make_step(config: Config, network: MidasNet, ranks: int = 1) -> TrainStep:
    """The step of a training without mixed precision."""
    # here, so that a process of PyTorch's alone can draw the same batch
    from src.loss import ScaleShiftInvariantLoss
    from src.train_step import TrainStep
    from src.trainer import make_optimizer

    rates = [np.full(1000, rate, np.float32) for rate in (BACKBONE_LR, DECODER_LR)]
    loss = ScaleShiftInvariantLoss(config.alpha, config.scales, config.sign_weight)
    return TrainStep(network, loss, make_optimizer(network, *rates), ranks=ranks).set_train()


def make_batch(
    count: int, height: int, width: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image float32 [B, 3, H, W], disparity and mask (with holes) float32 [B, H, W]."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, 3, height, width)).astype(np.float32)
    disparity = rng.random((count, height // 8, width // 8)).astype(np.float32)
    disparity = disparity.repeat(8, axis=1).repeat(8, axis=2)
    mask = (rng.random((count, height, width)) < 0.9).astype(np.float32)
    return image, disparity, mask
