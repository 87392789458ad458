"""The reading of oneDNN's verbose output; figures worked out by hand."""

from __future__ import annotations

import pytest

from tests.benchmarks import kernels, report
from tests.benchmarks.kernels import Kernel, passes, read_kernel, summary

HEAD = "onednn_verbose,v1,primitive,exec,cpu"
LAYOUTS = "src:f32::blocked:abcd::f0 wei:f32::blocked:abcde::f0 dst:f32::blocked:abcd::f0"
GROUPED = (
    f"{HEAD},convolution,x64:gemm:jit,forward_training,{LAYOUTS},,alg:convolution_direct,"
    "g32mb2_ic64oc64_ih10oh5kh3sh2dh0ph1_iw12ow6kw3sw2dw0pw1,1.5"
)
DENSE = (
    f"{HEAD},convolution,brg_conv_fwd:avx512_core,backward_data,{LAYOUTS},attr-scratchpad:user,"
    "alg:convolution_direct,mb1_ic3oc8_ih4oh4kh1sh1dh0ph0_iw4ow4kw1sw1dw0pw0,0.25"
)
NORM = f"{HEAD},batch_normalization,ncsp_bnorm:any,backward,data:f32,,flags:S,mb1ic8ih4iw4,2"


def test_a_grouped_convolution():
    kernel = read_kernel(GROUPED + "\n")
    assert kernel[:3] == ("convolution", "x64:gemm:jit", "forward")
    # 2 x 64 x 5 x 6 outputs, each of 64/32 x 3 x 3 products and as many sums
    assert kernel.gflop == pytest.approx(2 * 3840 * 18 / 1e9, rel=1e-12)
    assert kernel.seconds == pytest.approx(0.0015)


def test_a_dense_convolution_and_another_kernel():
    kernel = read_kernel(DENSE)
    assert (kernel.direction, kernel.implementation) == (
        "backward_data",
        "brg_conv_fwd:avx512_core",
    )
    assert kernel.gflop == pytest.approx(2 * 128 * 3 / 1e9)
    assert read_kernel(NORM) == Kernel("batch_normalization", "ncsp_bnorm:any", "backward", 0, 2e-3)


@pytest.mark.parametrize(
    "line",
    [
        "onednn_verbose,v1,info,cpu,runtime:threadpool,nthr:2",
        GROUPED.replace("exec,cpu", "create:cache_miss,cpu"),
        "compiling",
        "",
    ],
)
def test_lines_that_tell_of_no_execution(line):
    assert read_kernel(line) is None


def test_passes_are_what_lies_between_marks():
    lines = [GROUPED, f"{kernels.MARK} 10.0", DENSE, NORM, f"{kernels.MARK} 10.5", "text"]
    lines += [DENSE, DENSE, f"{kernels.MARK} 11.5", GROUPED]  # the last is of no counted pass
    found = list(passes(lines))
    assert [seconds for seconds, _ in found] == [0.5, 1.0]
    assert [len(each) for _, each in found] == [2, 2]
    told = summary(found)
    assert told["seconds"] == [0.5, 1.0]
    assert told["convolutions"]["backward_data"]["seconds"] == pytest.approx([0.25e-3, 0.5e-3])
    assert told["other kernels"] == [2e-3, 0]
    assert told["implementations"] == ["brg_conv_fwd:avx512_core"]


def test_the_share_is_convolutions_over_the_other_librarys_pass():
    ours = {
        "seconds": [3.0, 3.2, 3.1],
        "convolutions": {
            "forward": {"seconds": [1.0, 1.2, 1.1], "gflop": 100},
            "backward_data": {"seconds": [0.5, 0.4, 0.6], "gflop": 100},
        },
        "other kernels": [0.1, 0.1, 0.1],
        "implementations": ["x64:gemm:jit"],
        "onednn_conv": False,
    }
    theirs = ours | {"seconds": [0.9, 0.8, 0.7]}
    both = {"MindSpore": ours, "PyTorch": theirs}
    figures = {"forward": both, "train_step": both, "size": 384}
    assert kernels.convolutions_share(figures, "forward") == pytest.approx(1.6 / 0.8)
    rows = report.kernels(figures)
    told = {row.what: row for row in rows}
    row = told["MindSpore, forward pass: convolutions forward"]
    assert row.measured.startswith("1.1 s, 1 to 1.2; 90.9 GFLOP/s")  # 100 / 1.1
    assert any("2.00 of PyTorch's whole pass" in row.ratio for row in rows)
    mixed = [row.what for row in rows if "lean_conv.py" in row.what]
    assert [what.partition(" and ")[0] for what in mixed] == [
        "MindSpore, training step: convolutions forward"
    ]


def test_with_onednn_conv_directions_are_what_they_say():
    each = {
        "seconds": [3.0],
        "convolutions": {"forward": {"seconds": [1.0], "gflop": 100}},
        "other kernels": [0.1],
        "implementations": ["jit:avx512_core"],
        "onednn_conv": True,
    }
    both = {"MindSpore": each, "PyTorch": each}
    rows = report.kernels({"train_step": both})
    assert not any("lean_conv.py" in row.what for row in rows)
    assert rows[-1].measured == "by onednn_conv/ and oneDNN's jit:avx512_core"


def test_both_libraries_are_read(monkeypatch):
    """A small network: MindSpore's and PyTorch's oneDNN tell of the same work.

    At 832x832 the least input of a convolution, 32 channels of 26x26, is one that PyTorch gives to
    oneDNN too. By direction a training step's differ: see lean_conv.py.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # with one, PyTorch has 1x1 kernels of its own
    figures = kernels.figures(quick=True, runs=1, size=832)
    gflop = {}
    for what in kernels.MAKERS:
        for who, each in figures[what].items():
            assert len(each["seconds"]) == 1
            assert 0 < each["convolutions"]["forward"]["seconds"][0] < each["seconds"][0]
            gflop[what, who] = sum(found["gflop"] for found in each["convolutions"].values())
        assert gflop[what, "MindSpore"] == pytest.approx(gflop[what, "PyTorch"], rel=1e-9)
    # Both gradients cost what the forward pass does, but nothing asks for that of the photograph:
    # 7x7 products of 3 channels for 16 channels of 416x416.
    first = 2 * 16 * 416 * 416 * 3 * 49 / 1e9
    forward, step = (gflop[what, "MindSpore"] for what in kernels.MAKERS)
    assert step == pytest.approx(3 * forward - first, rel=1e-9)
    assert figures["forward"]["MindSpore"]["convolutions"].keys() == {"forward"}
