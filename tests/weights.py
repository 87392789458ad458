"""Official MiDaS parameter names <-> this project's, for tests that compare both networks."""

from __future__ import annotations

import mindspore as ms
import torch

from src.midas_net import MidasNet

# The stem and the first stage share one Sequential in the official network.
_STEM = {"0": "conv1", "1": "bn1", "4": "layer1"}
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def midas_name(torch_name: str, batch_norms: set[str]) -> str:
    """The project's name of an official parameter or statistic.

    Args:
        torch_name: a state-dict key, such as "pretrained.layer1.4.0.bn1.running_mean".
        batch_norms: names of the BatchNorm modules of the official network.
    """
    module, leaf = torch_name.rsplit(".", 1)
    if module in batch_norms:
        leaf = _BATCH_NORM[leaf]
    part, *path = [*module.split("."), leaf]
    if part == "scratch":
        return ".".join(["decoder", *path])
    if path[0] == "layer1":
        path = [_STEM[path[1]], *path[2:]]
    return ".".join(["backbone", *path])


def torch_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and statistics of a TorchMidas by the project's names.

    `num_batches_tracked` has no counterpart: it is not used in computing.
    """
    batch_norms = {
        name for name, part in module.named_modules() if isinstance(part, torch.nn.BatchNorm2d)
    }
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {
        midas_name(name, batch_norms): tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def copy_torch_weights(torch_module: torch.nn.Module, midas_net: MidasNet) -> None:
    """Give a MidasNet the weights and statistics of a TorchMidas.

    Raises:
        AssertionError: a name or a shape of either network has no counterpart in the other.
    """
    source = torch_tensors(torch_module)
    parameters = {parameter.name: parameter for parameter in midas_net.get_parameters()}
    assert source.keys() == parameters.keys()
    for name, parameter in parameters.items():
        value = source[name].detach().numpy()
        assert value.shape == parameter.shape, name
        parameter.set_data(ms.Tensor(value))
