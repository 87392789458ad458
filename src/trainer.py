"""Training: optimizer, schedule, Model.train and the run around it."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Model, Parameter, Tensor, amp, nn
from mindspore.train import Callback, RunContext
from tqdm.contrib.logging import logging_redirect_tqdm

from src import checkpoint, run_folder, runtime
from src.callbacks import (
    Advance,
    CheckpointSaver,
    Clock,
    DivergedError,
    Guard,
    Position,
    Stopper,
)
from src.compile_cache import CompileCache
from src.config import RESUME_NEWEST, Config
from src.data.cache import Cache, Settings
from src.data.mixdata import Pair, by_dataset, find_pairs, hold_out
from src.data.pairs import OpenPair, open_pair, require_valid_pixels
from src.data.training import Augmentation, TrainingData, make_dataset
from src.errors import UserError
from src.events import Events
from src.locks import exclusive
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.min_norm import MAX_GRADIENTS
from src.mixing import make_step
from src.run_folder import Checkpoints, Snapshot
from src.runlog import log_to
from src.stop_signals import STOP
from src.train_step import mixed_precision
from src.validation import Validator
from src.watching import Progress, Validation, Watch

LOG = logging.getLogger("midas")

# What the network, the loss and with them the compiled graph are made of.
_GRAPH = (
    *("in_channels", "groups", "width_per_group", "layers", "features", "img_width", "img_height"),
    *("amp_level", "loss_scale_window", "loss", "alpha", "scales", "sign_weight"),
)
# What a resumed run must share with the run it continues.
_SHARED = (
    *_GRAPH,
    *("nm_img_mean", "nm_img_std", "keep_aspect_ratio", "crop_min_scale", "flip_probability"),
    *("batch_size", "epoch_images", "mixing", "pareto_scope", "on_bad_sample", "seed"),
)
# What it may change, which is noted.
_CHANGEABLE = (
    *("data_cache", "cache_margin"),
    *("epoch_size", "lr_decay", "power", "backbone_params_lr", "backbone_params_end_lr"),
    *("no_backbone_params_lr", "no_backbone_params_end_lr"),
)


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


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        run: its folder.
        finished: all epochs are done; else it was stopped on request, and saved.
    """

    run: Path
    finished: bool


def train(config: Config) -> Outcome:
    """Train a MidasNet, or continue a training; see `run_folder` for what it leaves.

    In a run of several processes all call this; the first alone writes.

    Raises:
        UserError: bad data, weights or run folder, a run that cannot be continued, a loss that is
            not finite, or a full disk.
    """
    pairs, held_out = _split(config)
    reader = Cache(pairs, Settings.of(config)) if config.data_cache else open_pair
    network = MidasNet(**config.network())
    run, snapshot = _find_run(config)
    if snapshot is None:
        origin = _initialize(network, config.model_weights)
    else:
        origin = f"resumed after epoch {snapshot.epoch} step {snapshot.step} of {run}"
    run = _create_run(config) if run is None else run
    busy = f"run_name: another training writes to {run}; wait, or choose another name"
    writes = runtime.rank_and_size()[0] == 0
    with (
        exclusive(run, busy) if writes else nullcontext(),
        log_to(run / "train.log") if writes else nullcontext(),
        logging_redirect_tqdm([LOG]),
    ):
        training = _Training(config, run, network, pairs, held_out, reader)
        training.require_agreement()
        if snapshot is not None:
            training.go_on_from(snapshot)
        LOG.info(origin)
        training.note_mixing()
        if writes:  # a run that goes on may have other values
            _save_config(config, run / run_folder.CONFIG)
        try:
            finished = training.run_steps()
        except DivergedError:
            runtime.barrier()  # nobody leaves before everything is written
            raise
        runtime.barrier()
    return Outcome(run, finished)


def _split(config: Config) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and held-out ones."""
    pairs = find_pairs(config.train_data_dir, config.mixdata)
    if config.mixing == "weighted":
        if unused := {pair.source.name for pair in pairs if pair.source.weight == 0}:
            LOG.info("mixdata: weight 0, so left out: %s", ", ".join(sorted(unused)))
        pairs = [pair for pair in pairs if pair.source.weight]
    if config.mixing == "pareto" and (count := len(by_dataset(pairs))) > MAX_GRADIENTS:
        raise UserError(
            f"mixing: pareto takes {MAX_GRADIENTS} datasets at most, {config.mixdata} has "
            f"{count}; make one of several that are alike, or choose naive or weighted"
        )
    require_valid_pixels(pairs, skip_bad=config.on_bad_sample == "skip")
    if not config.val_mixdata:
        return hold_out(pairs, config.val_share, config.seed)
    if config.val_share:
        raise UserError("val_mixdata, val_share: held-out images come from one of them; drop one")
    held_out = find_pairs(config.train_data_dir, config.val_mixdata, "val_mixdata")
    if shared := {pair.image for pair in pairs} & {pair.image for pair in held_out}:
        some = min(shared)
        LOG.warning("val_mixdata: %d of its images are trained on, such as %s", len(shared), some)
    return pairs, held_out


def _find_run(config: Config) -> tuple[Path | None, Snapshot | None]:
    """The run to continue, None for a new one, and the checkpoint to go on from, None for its
    beginning. The first process decides, and tells the others."""
    choice = ""
    if config.resume and runtime.rank_and_size()[0] == 0:
        choice = "\n".join(str(path or "") for path in _choose_run(config))
    run, _, weights = runtime.broadcast_text(choice).partition("\n")
    if not weights:
        return (Path(run) if run else None), None
    return Path(run), Checkpoints(Path(run), config.keep_checkpoint_max).load(Path(weights))


def _choose_run(config: Config) -> tuple[Path | None, Path | None]:
    if config.resume != RESUME_NEWEST:
        return run_folder.run_of(Path(config.resume)), Path(config.resume)
    run = run_folder.find(Path(config.run_path), config.run_name)
    if run is None:
        wanted = f"run {config.run_name}" if config.run_name else "run"
        LOG.warning("resume: no %s in %s, so a new one begins", wanted, config.run_path)
        return None, None
    return run, Checkpoints(run, config.keep_checkpoint_max).newest()


def _create_run(config: Config) -> Path:
    """A new folder with the resolved configuration, of the same name in all processes."""
    name = ""
    if runtime.rank_and_size()[0] == 0:
        name = config.run_name or datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        write_config = partial(_save_config, config)
        name = str(run_folder.create(Path(config.run_path), name, write_config))
    return Path(runtime.broadcast_text(name))


def _save_config(config: Config, path: Path) -> None:
    """Write the configuration of the run folder that `path` is in, ready to be resumed with."""
    changes = {"run_name": path.parent.name, "resume": "", "run_distribute": False}
    config.model_copy(update=changes).save(path)


class _Training:
    """A run from its first or next step to its end."""

    def __init__(
        self,
        config: Config,
        run: Path,
        network: MidasNet,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair],
        reader: Callable[[Pair], OpenPair],
    ) -> None:
        self.config = config
        self.run = run
        self.network = network
        self.held_out = held_out
        self.rank, self.ranks = runtime.rank_and_size()
        self.data = TrainingData(
            pairs,
            _augmentation(config),
            config.seed,
            config.batch_size,
            self.rank,
            self.ranks,
            config.on_bad_sample == "skip",
            config.epoch_images,
            reader,
        )
        self.position = Position(config.epoch_size, self.data.steps)
        self.rates = _schedules(config, self.data.steps * config.epoch_size)
        self.optimizer = make_optimizer(self.network, *self.rates)
        self.scaler = (
            amp.DynamicLossScaler(config.loss_scale, 2, config.loss_scale_window)
            if config.amp_level != "O0"
            else None
        )
        self.loss = ScaleShiftInvariantLoss(
            config.alpha, config.scales, config.sign_weight, kind=config.loss
        )
        self.checkpoints = Checkpoints(run, config.keep_checkpoint_max)
        self.best_loss = math.inf
        self.weights = [pairs[first].source.weight for first, *_ in by_dataset(pairs).values()]
        mixed_precision(self.network, config.amp_level)
        self.step = make_step(
            self.network,
            self.loss,
            self.optimizer,
            self.weights,
            config.mixing,
            config.pareto_scope,
            self.scaler,
            self.ranks,
        ).set_train()

    def require_agreement(self) -> None:
        """Check that all processes train the same: else they would wait for each other, or worse.

        Raises:
            UserError: in a process that differs from the first; names what, and both values.
        """
        keys = ("epoch_size", "eval_interval", "save_checkpoint_epochs", "save_checkpoint_steps")
        own = {**self._shared(), **_values(self.config, keys)}
        own["held-out images"] = _list_of(self.held_out)
        first = json.loads(runtime.broadcast_text(json.dumps(own)))
        for key, value in own.items():
            if first[key] != value:
                raise UserError(
                    f"{key}: {value} in process {self.rank}, but {first[key]} in the first; give "
                    "all machines the same configuration and data"
                )

    def note_mixing(self) -> None:
        """Say what of the configuration and mixdata.json has no effect."""
        mixing = self.config.mixing
        if mixing != "weighted" and set(self.weights) != {1}:
            LOG.warning("mixdata: the datasets' weights are ignored, for mixing is %s", mixing)
        if mixing != "naive" and len(self.weights) == 1:
            LOG.warning("mixing: there is one dataset, so %s has nothing to mix", mixing)

    def run_steps(self) -> bool:
        """Train to the end, or until a signal stops it; whether it came to the end."""
        position = self.position
        if self.rank == 0:
            self.checkpoints.rewind(position.epoch, position.step)
        if position.finished:
            LOG.info("%s is finished: %d epochs are done", self.run, position.epoch)
            return True
        LOG.info(
            "%s, %s, %d epochs of %d steps, learning rates %g (backbone) and %g (decoder), run "
            "folder %s",
            self._images(),
            f"{len(self.held_out)} held-out images" if self.held_out else "no held-out images",
            position.epochs,
            position.steps,
            *(float(rate[min(position.applied, len(rate) - 1)]) for rate in self.rates),
            self.run,
        )
        stopper = Stopper(self.step, position, STOP)
        with self._watching() as (watchers, watch):
            STOP.accept()
            callbacks = [
                Advance(position, self.data),
                _CompileOnce(self._compile_cache()),
                Guard(self.data, position, self.run, writes=self.rank == 0),
                *watchers,
                self._validation(watch),
                *([self._saver(watch)] if watch else []),
                stopper,
                Clock(position),
            ]
            model = Model(self.step)
            while not (position.finished or stopper.stopped):
                self._train_epochs(model, callbacks)
        if stopper.stopped:
            advice = "it was the last" if position.finished else "continue with --resume auto"
            place = position.epoch, position.step
            LOG.info("stopped on request after epoch %d step %d; %s", *place, advice)
        return position.finished

    def _images(self) -> str:
        """What is trained on, and how much of it in a step."""
        data, batch = self.data, f"batch {self.config.batch_size}"
        images = f"{len(data)} images"
        if (count := len(data.datasets)) > 1:
            images += f" of {count} datasets, mixing {self.config.mixing}"
            batch += " of each"
        return f"{images}, {batch}" + (f" on each of {self.ranks} devices" * (self.ranks > 1))

    def _train_epochs(self, model: Model, callbacks: list[Callback]) -> None:
        """The rest of an epoch that was begun, or all that are left."""
        position = self.position
        epoch, step = divmod(position.done, position.steps)
        last = epoch + 1 if step else position.epochs
        dataset = make_dataset(self.data, self.config.num_parallel_workers, epoch, step)
        model.train(last, dataset, callbacks, dataset_sink_mode=False, initial_epoch=epoch)

    @contextmanager
    def _watching(self) -> Iterator[tuple[list[Callback], Watch | None]]:
        """What writes progress and validation, in the first process."""
        if self.rank:
            yield [], None
            return
        with ExitStack() as stack:
            events = stack.enter_context(closing(Events(self.run, self.position.done + 1)))
            watch = Watch(self.run, self.network, self.checkpoints, events, self.best_loss)
            stack.enter_context(closing(watch))
            progress = Progress(
                self.run,
                self.position,
                self.data.global_batch,
                self.data.datasets,
                self.rates,
                events,
                watch.table.rows,
            )
            stack.enter_context(closing(progress))
            yield [progress], watch

    def _validator(self, pairs: Sequence[Pair]) -> Validator:
        config = self.config
        return Validator(
            self.network,
            self.loss,
            pairs,
            config.img_height,
            config.img_width,
            config.nm_img_mean,
            config.nm_img_std,
            config.keep_aspect_ratio,
            config.batch_size,
            self.rank,
            self.ranks,
            runtime.sum_over_ranks,
            config.on_bad_sample == "skip",
        )

    def _validation(self, watch: Watch | None) -> Validation:
        held_out = self._validator(self.held_out) if self.held_out else None
        examples = held_out or self._validator(self.data.pairs)  # pictures need no other ranks
        return Validation(
            self.network, held_out, examples, self.position, self.config.eval_interval, watch
        )

    def _saver(self, watch: Watch) -> CheckpointSaver:
        return CheckpointSaver(
            self.network,
            self.checkpoints,
            watch.events,
            self.position,
            self.config.save_checkpoint_epochs,
            self.config.save_checkpoint_steps,
            lambda: {name: value.asnumpy() for name, value in self._state().items()},
            lambda: {
                "done": self.position.done,
                "best_loss": watch.best_loss if math.isfinite(watch.best_loss) else None,
                "shared": self._shared(),
                "changeable": _values(self.config, _CHANGEABLE),
            },
        )

    def _state(self) -> dict[str, Parameter]:
        """All that changes in training beside the network, by name."""
        known = {parameter.name for parameter in self.network.get_parameters()}
        state = {
            parameter.name: parameter
            for parameter in self.optimizer.get_parameters()
            if parameter.name not in known and not parameter.name.startswith("learning_rate")
        }
        if self.scaler is not None:
            scaler = (self.scaler.scale_value, self.scaler.counter)
            state |= {parameter.name: parameter for parameter in scaler}
        return state

    def _shared(self) -> dict[str, Any]:
        """What a run that continues this one must share with it."""
        return {
            **_values(self.config, _SHARED),
            "processes": self.ranks,
            "training images": _list_of(self.data.pairs),
            "weights": self.weights if self.config.mixing == "weighted" else None,
        }

    def go_on_from(self, snapshot: Snapshot) -> None:
        """Take weights, optimizer, loss scale and position from a checkpoint.

        Raises:
            UserError: it is of another network, or its run had other settings.
        """
        facts = snapshot.facts
        for key, value in self._shared().items():
            if key not in facts["shared"]:
                raise UserError(
                    f"resume: {self.run} was made before there was {key}; finish it with the "
                    "version that made it, or start a new run without --resume"
                )
            if (before := facts["shared"][key]) != value:
                raise UserError(
                    f"resume: {key} is {value}, but was {before} in {self.run}; use --config_path "
                    f"{self.run / run_folder.CONFIG}, or start a new run without --resume"
                )
        where = self.run / "ckpt" / f"Midas_0-{snapshot.epoch}_{snapshot.step}.ckpt"
        checkpoint.fill(self.network, where, snapshot.weights)
        state = self._state()
        shapes = {name: tuple(parameter.shape) for name, parameter in state.items()}
        found = {name: tuple(parameter.shape) for name, parameter in snapshot.state.items()}
        if problem := checkpoint.mismatch(shapes, found):
            raise UserError(f"resume: the state beside {where} does not fit: {problem}")
        for name, parameter in state.items():
            parameter.set_data(Tensor(snapshot.state[name].asnumpy(), parameter.dtype))
        self.position.done = facts["done"]
        self.position.applied = int(self.optimizer.global_step.asnumpy().item())
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        for key, value in _values(self.config, _CHANGEABLE).items():
            if (before := facts["changeable"].get(key)) != value:
                LOG.warning("%s changed from %s to %s", key, before, value)

    def _compile_cache(self) -> CompileCache:
        """Where graphs are kept that are made of the same things as this run's."""
        config = self.config
        facts = {
            **_values(config, (*_GRAPH, "batch_size", "mixing", "pareto_scope")),
            "weights": self.weights,
            "processes": self.ranks,
            "device": config.device_target,
            "steps": len(self.rates[0]),
        }
        root = Path(config.compile_cache) if config.compile_cache else None
        return CompileCache(root, facts, self.rank)


class _CompileOnce(Callback):
    """Has the train step's graph, which the first step compiles, cached."""

    def __init__(self, cache: CompileCache) -> None:
        self.cache = cache
        self.first = True

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """Open the cache for the first step."""
        if self.first:
            self.cache.open()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Close it after that."""
        if self.first:
            self.cache.close()
            self.first = False


def _values(config: Config, keys: Sequence[str]) -> Mapping[str, Any]:
    """Values of the configuration as JSON returns them."""
    values = config.model_dump(mode="json")
    return {key: values[key] for key in keys}


def _list_of(pairs: Sequence[Pair]) -> str:
    """Their number, their datasets, and a digest of names and meaning, wherever the folders are."""
    lines = "\n".join(
        f"{replace(p.source, weight=1.0)} {p.image.name} {p.target.name} {p.mask and p.mask.name}"
        for p in pairs
    )
    datasets = ", ".join(by_dataset(pairs))
    return f"{len(pairs)} of {datasets}, list {hashlib.sha256(lines.encode()).hexdigest()[:16]}"


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
