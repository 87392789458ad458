"""Training: optimizer, schedule, train step, Model.train and the run folder."""

from __future__ import annotations

import contextlib
import datetime
import logging
from pathlib import Path

import numpy as np
from mindspore import Model, Tensor, nn, ops
from tqdm.contrib.logging import logging_redirect_tqdm

from src import checkpoint
from src.callbacks import CheckpointSaver, Guard, Progress
from src.config import Config
from src.data.training import Augmentation, TrainingData, find_pairs, make_dataset
from src.errors import UserError
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.runlog import log_to

LOG = logging.getLogger("midas")


class TrainStep(nn.Cell):
    """One optimizer step on a batch; returns the loss and its data and gradient terms."""

    def __init__(self, network: nn.Cell, loss: nn.Cell, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.value_and_grad = ops.value_and_grad(
            self.forward, None, optimizer.parameters, has_aux=True
        )

    def forward(self, image: Tensor, disparity: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return self.loss(self.network(image), disparity, mask)

    def construct(self, image: Tensor, disparity: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        losses, gradients = self.value_and_grad(image, disparity, mask)
        return ops.depend(losses, self.optimizer(gradients))


def learning_rates(start: float, end: float, power: float, steps: int, decay: bool) -> np.ndarray:
    """The rate of every step, float32 [steps]: constant, or polynomial decay from start to end."""
    if not decay:
        return np.full(steps, start, np.float32)
    remaining = 1 - np.arange(steps) / steps
    return ((start - end) * remaining**power + end).astype(np.float32)


def make_optimizer(network: MidasNet, backbone_lr: np.ndarray, decoder_lr: np.ndarray) -> nn.Adam:
    """Adam, beta (0.9, 0.999), with a learning rate of its own for the pretrained backbone."""
    groups = [
        {"params": network.backbone.trainable_params(), "lr": backbone_lr.tolist()},
        {"params": network.decoder.trainable_params(), "lr": decoder_lr.tolist()},
        {"order_params": network.trainable_params()},
    ]
    return nn.Adam(groups, learning_rate=decoder_lr.tolist(), beta1=0.9, beta2=0.999)


def train(config: Config) -> Path:
    """Train a MidasNet; returns the folder of the run.

    The folder holds the resolved config.yaml, train.log, metrics.csv, curves.png and
    ckpt/Midas_<rank>-<epoch>_<step>.ckpt.

    Raises:
        UserError: bad data, weights or run folder, or a loss that is not finite.
    """
    if config.run_distribute or config.resume:
        raise UserError("run_distribute, resume: training has neither yet; leave both False")
    pairs = find_pairs(config.train_data_dir, config.mixdata)
    data = TrainingData(pairs, _augmentation(config), config.seed)
    dataset = make_dataset(data, config.batch_size, config.num_parallel_workers)
    network = MidasNet(**config.network())
    origin = _initialize(network, config.model_weights)
    run = _create_run(config)
    with log_to(run / "train.log"), logging_redirect_tqdm([LOG]):
        LOG.info(origin)
        steps = dataset.get_dataset_size()
        LOG.info(
            "%d images, %d epochs of %d steps, batch %d, run folder %s",
            len(data),
            config.epoch_size,
            steps,
            config.batch_size,
            run,
        )
        backbone_lr, decoder_lr = _schedules(config, steps * config.epoch_size)
        step = TrainStep(
            network,
            ScaleShiftInvariantLoss(
                config.alpha, config.scales, config.sign_weight, kind=config.loss
            ),
            make_optimizer(network, backbone_lr, decoder_lr),
        ).set_train()
        saver = CheckpointSaver(
            network, run / "ckpt", config.save_checkpoint_epochs, config.keep_checkpoint_max
        )
        progress = Progress(
            run, steps, config.epoch_size, config.batch_size, backbone_lr, decoder_lr
        )
        with contextlib.closing(progress):
            callbacks = [Guard(data, config.batch_size), progress, saver]
            Model(step).train(config.epoch_size, dataset, callbacks, dataset_sink_mode=False)
    return run


def _augmentation(config: Config) -> Augmentation:
    return Augmentation(
        height=config.img_height,
        width=config.img_width,
        mean=config.nm_img_mean,
        std=config.nm_img_std,
        keep_aspect_ratio=config.keep_aspect_ratio,
        crop_min_scale=config.crop_min_scale,
        flip_probability=config.flip_probability,
    )


def _schedules(config: Config, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates of backbone and decoder for every step."""
    ends = (
        (config.backbone_params_lr, config.backbone_params_end_lr),
        (config.no_backbone_params_lr, config.no_backbone_params_end_lr),
    )
    backbone, decoder = (
        learning_rates(start, end, config.power, steps, config.lr_decay) for start, end in ends
    )
    return backbone, decoder


def _initialize(network: MidasNet, weights: str) -> str:
    """Fill the network from a checkpoint, if there is one; says where its weights come from."""
    if weights:
        return checkpoint.load_initial(network, weights)
    return (
        "WARNING: no model_weights, so the backbone starts from random values: it learns far more "
        "slowly and generalises worse than one pretrained on images. The published accuracy starts "
        "from the weights ResNeXt-101 32x8d WSL"
    )


def _create_run(config: Config) -> Path:
    """A new folder with the resolved configuration."""
    name = config.run_name or datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    run = Path(config.run_path) / name
    try:
        run.mkdir(parents=True)
        (run / "ckpt").mkdir()
    except FileExistsError:
        raise UserError(
            f"run_name: {run} exists and is not overwritten; choose another name, or move it away"
        ) from None
    except OSError as error:
        raise UserError(f"run_path: cannot create {run}: {error.strerror}") from None
    config.model_copy(update={"run_name": name}).save(run / "config.yaml")
    return run
