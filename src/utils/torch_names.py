"""This project's parameter names <-> those of PyTorch checkpoints.

Official MiDaS v2 checkpoints keep the backbone below `pretrained.`, where the stem and the first
stage share one Sequential (conv1, bn1, relu, maxpool, layer1), and the decoder below `scratch.`.
Backbones alone have torchvision's names.
"""

from __future__ import annotations

from src.checkpoint import BACKBONE, DECODER

_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_STEM_SEQUENTIAL = {"conv1": "layer1.0", "bn1": "layer1.1", "layer1": "layer1.4"}

COUNTER = "num_batches_tracked"
"""PyTorch's third BatchNorm statistic, an int64 that is not used in computing."""


def torchvision_name(name: str) -> str:
    """`backbone.layer1.0.bn1.gamma` -> `layer1.0.bn1.weight`."""
    module, leaf = name.removeprefix(BACKBONE).rsplit(".", 1)
    return f"{module}.{_BATCH_NORM.get(leaf, leaf)}"


def official_name(name: str) -> str:
    """`backbone.layer1.0.bn1.gamma` -> `pretrained.layer1.4.0.bn1.weight`, `decoder.` likewise."""
    if name.startswith(DECODER):
        return "scratch." + name.removeprefix(DECODER)
    first, rest = torchvision_name(name).split(".", 1)
    return f"pretrained.{_STEM_SEQUENTIAL.get(first, first)}.{rest}"


def counter_name(torch_name: str) -> str | None:
    """The counter beside a BatchNorm's `running_var`, None for other names."""
    module, leaf = torch_name.rsplit(".", 1)
    return f"{module}.{COUNTER}" if leaf == "running_var" else None
