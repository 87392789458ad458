"""The model behind docs/scaling.md against plain loops and sums by hand."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from src.config import load_config
from src.errors import UserError
from src.train_step import BUCKET_VALUES
from tests.benchmarks import report, scaling_page, simulate_scaling
from tests.benchmarks.simulate_scaling import (
    SOURCES,
    Parameters,
    Setup,
    all_reduce,
    ladder,
    load_times,
    measured,
    ring,
    save_interval,
    simulate,
)


def sent_around_a_ring(vectors: list[np.ndarray]) -> tuple[list[int], int]:
    """Add up vectors with n parts each by passing parts around a ring: values that each member
    sends, and rounds. Checks that all end with the sum."""
    n = len(vectors)
    total = sum(vectors)
    parts = [np.split(vector.copy(), n) for vector in vectors]
    sent, rounds = [0] * n, 0
    for first, add in ((0, True), (1, False)):
        for turn in range(n - 1):
            moved = [
                (m, (m + first - turn) % n, parts[m][(m + first - turn) % n].copy())
                for m in range(n)
            ]
            for m, place, part in moved:
                receiver = parts[(m + 1) % n]
                receiver[place] = receiver[place] + part if add else part
                sent[m] += part.size
            rounds += 1
    for own in parts:
        np.testing.assert_allclose(np.concatenate(own), total)
    return sent, rounds


@pytest.mark.parametrize("members", [2, 5, 8])
def test_ring_takes_the_bytes_and_rounds_of_a_ring_that_is_gone_through(members):
    values = members * 6
    vectors = [np.random.default_rng(m).normal(size=values) for m in range(members)]
    sent, rounds = sent_around_a_ring(vectors)
    assert len(set(sent)) == 1
    p = Parameters(hop=3.0)
    expected = sent[0] * 4 / 10.0 + rounds * 3.0 * 7  # 10 bytes/s, 3 s a round, 7 buckets
    assert ring(values, members, 10.0, p, 7) == pytest.approx(expected)


def test_all_reduce_stays_in_the_server_then_goes_through_the_slow_link_or_in_two_levels():
    p = Parameters(gradients=8000, bucket=3000, server=4, inner=1000, outer=100, hop=0.5)
    # 3 buckets. Within a server of 4: 2 * 3 / 4 * 32,000 bytes / 1000 + 6 rounds * 0.5 * 3
    assert all_reduce(4, Setup(""), p) == pytest.approx(48 + 9)
    # 8 devices: 2 * 7 / 8 * 32,000 / 100 + 14 * 0.5 * 3
    assert all_reduce(8, Setup(""), p) == pytest.approx(560 + 21)
    # two levels: the server as above, and 2 servers, a quarter of the values on each device's link
    assert all_reduce(8, Setup("", two_levels=True), p) == pytest.approx(57 + 80 + 3)
    # one bucket in the place of three
    assert all_reduce(4, Setup("", bucket_factor=3), p) == pytest.approx(48 + 3)


def test_reading_is_limited_by_cores_shared_files_or_the_servers_disks():
    p = Parameters(
        **{"batch": 4, "plain_cost": 0.3, "cached_cost": 0.1, "workers": 3, "core": 0.5},
        **{"pair_bytes": 1000, "shared": 8000, "opens": 40, "server": 8},
        **{"cached_bytes": 500, "disk": 4000},
    )
    files = load_times(16, Setup("", cost="plain_cost"), p)
    # 4 images of 0.6 s on a slow core, 3 threads; 64 images of 1000 bytes; 128 files
    assert files == pytest.approx({"cores": 0.8, "shared bytes": 8.0, "opened files": 3.2})
    cached = Setup("", cost="cached_cost", from_cache=True)
    # of a server's 8 devices alone, or of the 2 that there are
    assert load_times(16, cached, p) == pytest.approx({"cores": 4 * 0.2 / 3, "disk": 4.0})
    assert load_times(2, cached, p)["disk"] == pytest.approx(1.0)


def test_checkpoints_come_by_images_or_by_steps():
    p = Parameters(epoch=1000, batch=5)
    assert save_interval(20, Setup(""), p) == 10
    assert save_interval(20, Setup("", save_every=7), p) == 7


def walk(
    loads: list[list[float]], computes: list[list[float]], average: float, places: int
) -> float:
    """When the last step is over, one device's timeline after the other; [step][device]."""
    steps, devices = len(loads), len(loads[0])
    free_at = [[0.0] * places for _ in range(devices)]  # places of prepared batches, oldest first
    loader, clock = [0.0] * devices, 0.0
    for i in range(steps):
        ends = []
        for d in range(devices):
            begin = max(loader[d], free_at[d].pop(0))
            loader[d] = begin + loads[i][d]
            start = max(loader[d], clock)
            free_at[d].append(start)
            ends.append(start + computes[i][d])
        clock = max(ends) + average
    return clock


@pytest.mark.parametrize("load", [0.02, 0.4, 0.7])
def test_simulation_is_that_of_timelines_gone_through_one_by_one(monkeypatch, load):
    """Faster than the step, about as fast, and slower."""
    rng = np.random.default_rng(3)
    drawn: list[np.ndarray] = []

    def vary(_: object, mean: float, spread: float, count: int) -> np.ndarray:
        drawn.append(mean * rng.uniform(0.5, 1.5, count))
        return drawn[-1]

    monkeypatch.setattr(simulate_scaling, "vary", vary)
    p = Parameters(
        **{"step": 0.4, "batch": 1, "workers": 1, "core": 1, "torch_cost": load, "prefetch": 2},
        **{"gradients": 1000, "bucket": 1000, "inner": 1e6, "hop": 0.01, "server": 4},
        **{"checkpoint": 3.0, "shared": 1e12, "opens": 1e12},
    )
    shares = simulate(3, Setup("", save_every=10), p, steps=40)
    loads, computes = [list(a) for a in drawn[::2]], [list(a) for a in drawn[1::2]]
    average = 2 * 2 / 3 * 4000 / 1e6 + 4 * 0.01
    expected = walk(loads, computes, average, places=2) / 40 + 0.3
    assert shares.total == pytest.approx(expected)
    assert shares.computing == pytest.approx(np.mean(computes))
    assert (shares.gradients, shares.checkpoints) == pytest.approx((average, 0.3))
    assert min(shares.data, shares.slowest) >= 0


def test_accumulated_gradients_are_averaged_and_waited_for_once_in_several_steps(monkeypatch):
    times = iter([[0, 0], [1, 3], [0, 0], [3, 1], [0, 0], [2, 2], [0, 0], [1, 2]])
    monkeypatch.setattr(simulate_scaling, "vary", lambda *_: np.array(next(times), float))
    p = Parameters(gradients=10, bucket=10, inner=40, hop=0, checkpoint=0)
    shares = simulate(2, Setup("", accumulate=2), p, steps=4)
    # Both devices reach 4 after two steps, 3 and 4 after the other two; 40 bytes at 40 a second.
    assert shares.total == pytest.approx((4 + 1 + 4 + 1) / 4)
    assert shares.slowest == pytest.approx(0.5 / 4)


@pytest.mark.parametrize(
    ("loads", "computes", "expected"),
    [
        # Computing is all: of each step's 3 s the average device computes 2 and waits for one.
        ([[0, 0], [0, 0]], [[1, 3], [3, 1]], {"computing": 2, "slowest": 1, "data": 0}),
        # Both compute for 1 s, but one has its batch at 2 and one at 6: the step ends at 7, and 6
        # of its seconds are data's. Then both have theirs at 8, and end at 9: another one.
        ([[2, 6], [6, 2]], [[1, 1], [1, 1]], {"computing": 1, "slowest": 0, "data": 3.5}),
        # Batches at 4 and 8, in place of the starts at 0 and 7: of 7 s computing lasts 2 and 3, of
        # the next 4 (8 to 11, less the wait since 7) as well.
        ([[4, 4], [4, 4]], [[1, 3], [3, 1]], {"computing": 2, "slowest": 1, "data": 2.5}),
    ],
)
def test_waiting_is_for_data_as_far_as_computing_does_not_explain_it(
    monkeypatch, loads, computes, expected
):
    times = iter([loads[0], computes[0], loads[1], computes[1]])
    monkeypatch.setattr(simulate_scaling, "vary", lambda *_: np.array(next(times), float))
    shares = simulate(2, Setup(""), Parameters(gradients=0, hop=0, checkpoint=0), steps=2)
    found = {name: getattr(shares, name) for name in expected}
    assert found == pytest.approx(expected)


def test_a_training_that_is_bound_by_its_files_waits_for_data():
    """1,024 devices that open 16,384 files a step, at 20,000 a second: 0.819 s for 0.423 s."""
    p = Parameters(gradients=0, hop=0, checkpoint=0, compute_spread=0)
    shares = simulate(1024, Setup("", cost="plain_cost"), p)
    assert (shares.computing, shares.slowest) == pytest.approx((0.423, 0))
    # at least what is missing on average; more, as the last of so many devices is waited for
    assert 0.39 < shares.data < 0.5


def test_varied_times_have_the_mean_and_the_spread():
    times = simulate_scaling.vary(np.random.default_rng(0), 2.0, 0.25, 200_000)
    assert times.mean() == pytest.approx(2.0, rel=0.01)
    assert times.std() == pytest.approx(0.5, rel=0.01)
    assert times.min() > 0


def test_costs_come_from_the_results_of_the_benchmarks():
    run = lambda cpu: {"cpu": cpu, "wall": 1.0}  # noqa: E731
    results = {
        "sections": {
            "input_pipeline": {
                "figures": {
                    "runs": {
                        "torch": {"0": [run(7)], "2": [run(60), run(80), run(62)]},
                        "files": {"2": [run(16), run(14), run(12)]},
                        "cache": {"2": [run(8), run(6), run(7)]},
                    }
                }
            },
            "checkpoints": {
                "figures": {
                    "trained": 100,
                    "seconds": {"weights": [1.0, 9.0, 2.0], "state": [3.0, 4.0, 5.0]},
                }
            },
            "forward": {"error": "exit code 1"},
        }
    }
    assert measured(results) == pytest.approx(
        {
            **{"torch_cost": 0.062, "plain_cost": 0.014, "cached_cost": 0.007},
            **{"gradients": 100, "checkpoint": 6.0},
        }
    )
    assert measured({"sections": {}}) == {}


def test_limits_are_found_among_powers_of_two():
    p = Parameters(
        **{"step": 1.0, "batch": 1, "opens": 64, "checkpoint": 2.0, "epoch": 320},
        **{"gradients": 0, "hop": 0, "compute_spread": 0},
    )
    files = Setup("")
    assert scaling_page.limit("opened files", files, p) == "64"  # 32 devices open 64 in a second
    assert scaling_page.limit("checkpoints", files, p) == "64"  # 2 s every 5 steps; 32: every 10
    assert scaling_page.limit("gradients", files, p) == "more than 16,384"
    assert scaling_page.limit("disk", files, p) == "not used"
    assert scaling_page.limit("cores", files, Parameters(step=0.01)) == "8 or fewer"


def test_reading_holds_up_a_training_that_waits_for_gradients_later():
    """Files of n devices are open after n / 64 s."""
    rest = {"batch": 1, "opens": 128, "compute_spread": 0, "checkpoint": 0, "bucket": 1e9}
    alone = Parameters(step=1.1, gradients=0, hop=0, **rest)
    assert scaling_page.limit("opened files", Setup(""), alone) == "128"
    # 2 (n - 1) steps of the ring at 1/256 s: 2.1 s for 128 devices, 3.1 s for 256, which read 4 s
    waiting = Parameters(step=1.1, gradients=0.001, hop=1 / 256, **rest)
    assert scaling_page.limit("opened files", Setup(""), waiting) == "256"
    # a tenth of the time, but saving is no time to read in: the queue is full
    saving = Parameters(step=1.1, gradients=0, hop=0, **rest | {"checkpoint": 90.0, "epoch": 128})
    assert scaling_page.limit("opened files", Setup(""), saving) == "128"


def test_evaluation_shares_out_whole_images():
    p = Parameters(step=8.0, batch=8, forward=0.5)  # half a second an image
    lines = scaling_page.evaluation(p).splitlines()
    # 161 images: on 8 devices 21 for the first one, on 64 3, on 1,024 1
    assert "| Kitti | 161 | 80.5 | 10.5 | 1.5 | 0.5 |" in lines


def test_each_step_of_the_ladder_turns_one_more_thing_on():
    setups = ladder()
    for earlier, later in itertools.pairwise(setups):
        changed = {k for k, v in vars(later).items() if v != getattr(earlier, k)} - {"name"}
        assert changed in ({"cost"}, {"cost", "from_cache"}) or len(changed) == 1
    rates = [1 / simulate(1024, setup, Parameters()).total for setup in setups]
    assert rates[-1] > 2 * rates[0]
    cached = next(i for i, setup in enumerate(setups) if setup.from_cache)
    assert rates[cached] > 1.3 * rates[cached - 1]  # nothing that comes later hides it


def test_parameters_are_those_of_the_project_and_all_have_a_source():
    p, config = Parameters(), load_config([])
    assert (p.bucket, p.workers, p.batch) == (
        BUCKET_VALUES,
        config.num_parallel_workers,
        config.batch_size,
    )
    assert SOURCES.keys() == vars(p).keys()


def test_a_parameter_says_where_it_was_measured_and_whether_that_was_disturbed():
    saved = {"trained": 100, "seconds": {"weights": [1.0], "state": [2.0]}}
    for others, warning in ((20.0, ""), (69.7, ". **Disturbed: other programs took 70 % of")):
        results = {"sections": {"checkpoints": {"figures": saved, "others": others}}}
        table = scaling_page.parameters(Parameters(), scaling_page.origins(results))
        rows = {row.split("`")[1]: row for row in table.splitlines()[2:]}
        expected = f"| measured | section `checkpoints` of docs/performance.json{warning}"
        assert expected in rows["checkpoint"]
        assert ("Disturbed" in table) == bool(warning)
        assert "| assumed | not measured yet |" in rows["plain_cost"]


def test_page_holds_what_the_script_makes_of_the_stored_figures():
    results = report.read(scaling_page.FIGURES)
    parts = scaling_page.tables(Parameters(**measured(results)), scaling_page.origins(results))
    page = scaling_page.PAGE.read_text()
    for name, part in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        assert page.split(begin)[1].split(end)[0].strip() == part, (
            "run: python -m tests.benchmarks.scaling_page"
        )


def test_picture_is_a_small_jpeg(tmp_path):
    for data in (scaling_page.PICTURE.read_bytes(), scaling_page.draw(Parameters())):
        assert len(data) < 100_000
        (tmp_path / "picture").write_bytes(data)
        with Image.open(tmp_path / "picture") as picture:
            assert picture.format == "JPEG"
            assert len(set(picture.convert("RGB").resize((100, 50)).getdata())) > 50


def test_a_parameter_of_the_command_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling_page", "--outer", "25e9"])
    scaling_page.main()
    table = capsys.readouterr().out
    assert "| `outer` | 25 GB/s | given | the command line |" in table
    assert "| `inner` | 30 GB/s | given" not in table


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_parameter_that_is_not_above_0_is_an_error(monkeypatch, value):
    monkeypatch.setattr(sys, "argv", ["scaling_page", "--workers", value])
    with pytest.raises(UserError, match=rf"--workers: got {value}; expected more than 0"):
        scaling_page.main()
