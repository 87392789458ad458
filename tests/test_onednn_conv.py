"""The convolution of onednn_conv/, against PyTorch in float64 and MindSpore's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn, ops

from src import cpu_kernels
from src.cells import count
from src.fold_bn import folded
from src.midas_net import MidasNet
from src.onednn_conv import OneDnnConv2d
from src.resnext import conv
from tests.benchmarks.bare_step import make_batch, make_step
from tests.convolutions import assert_mixed_precision, drawn, with_weights
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def built():
    """The library, as scripts/setup.sh builds it with its extra cpu."""
    done = subprocess.run(
        ["bash", str(ROOT / "onednn_conv" / "build.sh")],
        env=os.environ | {"MIDAS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        assert "the build failed" not in done.stderr, done.stderr
        pytest.skip(done.stderr.strip())


@pytest.fixture
def chosen(monkeypatch):
    """Networks of this test are built with it."""
    monkeypatch.setattr(cpu_kernels, "_chosen", cpu_kernels.OWN)


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "kernel", "stride", "group", "height", "width"),
    [
        (1, 3, 8, 7, 2, 1, 32, 45),  # the stem
        (2, 16, 32, 1, 1, 1, 9, 8),
        (1, 16, 32, 1, 2, 1, 9, 8),  # a stage's first shortcut
        (2, 32, 32, 3, 1, 8, 12, 7),  # a bottleneck's
        (1, 32, 32, 3, 2, 8, 12, 7),
        (1, 64, 64, 3, 2, 32, 13, 13),
        (2, 6, 3, 3, 1, 1, 8, 11),  # the decoder's
        (1, 32, 1, 1, 1, 1, 16, 16),  # its last
        (3, 4, 4, 5, 1, 1, 6, 6),
        (1, 2, 4, 3, 2, 1, 1, 1),
        (1, 2, 4, 3, 2, 1, 1, 2),
        (1, 2, 4, 3, 2, 1, 2, 1),
        (1, 2, 4, 3, 1, 1, 1, 4),
    ],
)
def test_results_and_gradients_are_those_of_pytorch(
    batch, inputs, outputs, kernel, stride, group, height, width
):
    x = drawn(batch, inputs, height, width)
    weight, bias = drawn(outputs, inputs // group, kernel, kernel, seed=1), drawn(outputs, seed=2)
    known = [torch.from_numpy(v).double().requires_grad_() for v in (x, weight, bias)]
    output = torch.nn.functional.conv2d(*known, stride=stride, padding=kernel // 2, groups=group)
    factors = drawn(*output.shape, seed=3)
    (output * torch.from_numpy(factors)).sum().backward()

    layer = with_weights(OneDnnConv2d, weight, bias, stride, group)
    found = layer(ms.Tensor(x))
    assert found.shape == tuple(output.shape)
    expected = output.detach().numpy()
    assert np.abs(found.asnumpy() - expected).max() <= 2e-6 * np.abs(expected).max()

    def loss(x: ms.Tensor) -> ms.Tensor:
        return (layer(x) * ms.Tensor(factors)).sum()

    parameters = ms.ParameterTuple([layer.weight, layer.bias])
    gradient = ops.value_and_grad(loss, 0, parameters)
    _, (of_input, of_parameters) = ms.jit(gradient)(ms.Tensor(x))
    for found, variable in zip([of_input, *of_parameters], known, strict=True):
        expected = variable.grad.numpy()
        assert found.shape == expected.shape
        assert np.abs(found.asnumpy() - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_mixed_precision_is_that_of_mindspores_own(level):
    assert_mixed_precision(OneDnnConv2d, level)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 3, "padding": 0},
        {"kernel_size": 3, "padding": 1, "stride": 3},
        {"kernel_size": 3, "padding": 1, "dilation": 2},
        {"kernel_size": (3, 1), "padding": 1},
        {"kernel_size": 3, "padding": (1, 1, 1, 0)},
    ],
)
def test_others_are_refused(arguments):
    with pytest.raises(ValueError, match="expected an odd kernel padded by its half"):
        OneDnnConv2d(4, 4, pad_mode="pad", **arguments)


def test_networks_have_it_where_it_was_chosen(small_network, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_chosen", cpu_kernels.FREE)
    convolutions = count(MidasNet(**small_network), nn.Conv2d)
    assert count(MidasNet(**small_network), OneDnnConv2d) == 0
    monkeypatch.setattr(cpu_kernels, "_chosen", cpu_kernels.OWN)
    network = MidasNet(**small_network)
    assert count(network, OneDnnConv2d) == count(network, nn.Conv2d) == convolutions


def test_the_network_is_pytorchs_folded_or_not(small_network, chosen):
    reference = TorchMidas(**small_network).eval()
    randomize(reference, seed=5)
    network = MidasNet(**small_network).set_train(False)
    copy_torch_weights(reference, network)
    images = drawn(2, 3, 64, 96)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images)).numpy()
    for ours in (network, folded(network)):
        found = ours(ms.Tensor(images)).asnumpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


def test_a_training_step_is_that_of_mindspores_own(small_network, monkeypatch):
    """Three steps: losses, gradient norms and weights; the batch normalisation learns along."""
    from src.config import load_config

    outcomes = []
    reference = TorchMidas(**small_network)
    randomize(reference, seed=5)
    for way in (cpu_kernels.FREE, cpu_kernels.OWN):
        monkeypatch.setattr(cpu_kernels, "_chosen", way)
        network = MidasNet(**small_network)
        copy_torch_weights(reference, network)
        step = make_step(load_config([]), network)
        batch = [ms.Tensor(values) for values in make_batch(2, 64, 96)]
        told = [step(*batch).asnumpy() for _ in range(3)]
        outcomes.append((told, {p.name: p.asnumpy() for p in network.get_parameters()}))
    (told, weights), (own_told, own_weights) = outcomes
    np.testing.assert_allclose(own_told, told, rtol=1e-4)
    assert weights.keys() == own_weights.keys()
    for name, values in weights.items():
        assert np.abs(own_weights[name] - values).max() <= 1e-3 * max(np.abs(values).max(), 1e-3), (
            name
        )


def test_an_input_that_does_not_fit_fails_with_a_reason(capfd):
    layer = conv_of_another_input()
    with pytest.raises(RuntimeError):
        layer(ms.Tensor(drawn(1, 5, 8, 8))).asnumpy()
    assert "onednn_conv: " in capfd.readouterr().err


def conv_of_another_input() -> nn.Cell:
    """Weights for 4 channels."""
    return with_weights(OneDnnConv2d, drawn(4, 4, 3, 3), drawn(4))


def test_conv_of_resnext_pads_by_half(chosen):
    layer = conv(4, 4, 7, stride=2)
    assert isinstance(layer, OneDnnConv2d)
    assert layer(ms.Tensor(drawn(1, 4, 9, 12))).shape == (1, 4, 5, 6)


def test_more_threads_than_cores_compute_the_same_every_time():
    """Threads fall asleep and wake up between convolutions; none may miss or repeat a part."""
    program = (
        "import time\n"
        "import mindspore as ms\n"
        "import numpy as np\n"
        "from src.onednn_conv import OneDnnConv2d\n"
        "ms.set_device('CPU')\n"
        "layer = OneDnnConv2d(32, 32, 3, pad_mode='pad', padding=1)\n"
        "image = ms.Tensor(np.random.default_rng(0).normal(size=(2, 32, 24, 24)), ms.float32)\n"
        "first = layer(image).asnumpy()\n"
        "for i in range(400):\n"
        "    time.sleep(0.002 * (i % 3 == 0))\n"
        "    np.testing.assert_array_equal(layer(image).asnumpy(), first)\n"
        "print('equal')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "5"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "equal\n", done.stderr
