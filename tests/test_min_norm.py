"""The shortest vector in a convex hull, against scipy and by hand."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from scipy.optimize import minimize

from src.min_norm import MAX_GRADIENTS, MinNorm

PROBLEMS = 1000
COUNTS = range(2, 7)


@pytest.fixture(scope="module")
def solvers() -> dict[int, MinNorm]:
    return {count: MinNorm(count) for count in COUNTS}


def weights_of(solver: MinNorm, gradients: np.ndarray) -> np.ndarray:
    gram = (gradients @ gradients.T).astype(np.float32)
    weights = solver(ms.Tensor(gram), everyone(len(gram))).asnumpy()
    assert weights.dtype == np.float32
    return weights.astype(np.float64)


def everyone(count: int) -> ms.Tensor:
    return ms.Tensor(np.ones(count, np.float32))


def draw_problem(number: int) -> np.ndarray:
    """2 to 6 gradients float64 [L, N], the longest of length 1; many of them degenerate."""
    rng = np.random.default_rng(number)
    count = rng.choice(COUNTS)
    gradients = rng.normal(size=(count, rng.integers(1, 13)))
    if number % 2:
        gradients *= 10 ** rng.uniform(-2, 2, (count, 1))
    if number % 4 == 1:
        gradients[1] = gradients[0]
    if number % 4 == 3:  # nearly alike
        gradients = gradients[0] * (1 + 1e-3 * rng.normal(size=gradients.shape))
    if number % 5 == 2:
        gradients[-1] = -gradients[0]
    if number % 7 == 3:
        gradients[rng.integers(count)] = 0
    if number % 11 == 5:  # opposed, of other lengths
        gradients[1] = -2 * gradients[0]
    return gradients / np.linalg.norm(gradients, axis=1).max()


def scipy_minimum(gradients: np.ndarray) -> float:
    """The least squared length: SLSQP from the middle and from each corner."""
    gram = gradients @ gradients.T
    count = len(gram)
    found = [
        minimize(
            lambda w: w @ gram @ w,
            start,
            jac=lambda w: 2 * gram @ w,
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-14, "maxiter": 500},
        ).x
        for start in (np.full(count, 1 / count), *np.eye(count))
    ]
    feasible = [np.clip(w, 0, None) / np.clip(w, 0, None).sum() for w in found]
    return min(w @ gram @ w for w in feasible)


def test_a_thousand_problems_against_scipy(solvers):
    shapes = set()
    for number in range(PROBLEMS):
        gradients = draw_problem(number)
        shapes.add(len(gradients))
        weights = weights_of(solvers[len(gradients)], gradients)
        assert (weights >= 0).all(), number
        assert weights.sum() == pytest.approx(1, abs=1e-6), number
        shortest = np.linalg.norm(weights @ gradients) ** 2
        assert shortest == pytest.approx(scipy_minimum(gradients), abs=1e-6), number
    assert shapes == set(COUNTS)


@pytest.mark.parametrize(
    ("gradients", "weights"),
    [
        ([[1, 0], [0, 1]], [0.5, 0.5]),
        ([[1, 0], [0, 2]], [0.8, 0.2]),  # 4/5 (1, 0) + 1/5 (0, 2) is at right angles to the line
        ([[1, 0], [-3, 0]], [0.75, 0.25]),
        ([[1, 0], [2, 0]], [1, 0]),  # the shorter of two of one direction
        ([[1, 1], [5, 6]], [1, 0]),
        ([[0, 0], [5, 6]], [1, 0]),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1 / 3, 1 / 3, 1 / 3]),
        ([[1, 0, 0], [0, 1, 0], [4, 4, 4]], [0.5, 0.5, 0]),
        ([[1, 0], [-1, 1], [-1, -1]], [0.5, 0.25, 0.25]),  # 0 is inside the triangle
    ],
)
def test_problems_worked_by_hand(gradients, weights):
    solver = MinNorm(len(gradients))
    found = weights_of(solver, np.array(gradients, float))
    np.testing.assert_allclose(found, weights, atol=2e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e15])
def test_the_unit_of_the_gradients_does_not_matter(solvers, scale):
    gradients = np.random.default_rng(0).normal(size=(4, 9))
    expected = weights_of(solvers[4], gradients)
    np.testing.assert_allclose(weights_of(solvers[4], scale * gradients), expected, atol=1e-5)


def test_gradients_of_zero_have_some_solution(solvers):
    weights = weights_of(solvers[3], np.zeros((3, 2)))
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gets_equal_weights(solvers, bad):
    gram = np.eye(4, dtype=np.float32)
    gram[1, 2] = gram[2, 1] = bad
    assert solvers[4](ms.Tensor(gram), everyone(4)).asnumpy().tolist() == [0.25] * 4


def test_absent_gradients_are_as_if_they_were_not_there(solvers):
    """A gradient of 0 that is present would be the shortest vector itself."""
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(4, 9))
    gradients[[1, 3]] = 0
    present = ms.Tensor(np.float32([1, 0, 1, 0]))
    gram = ms.Tensor((gradients @ gradients.T).astype(np.float32))
    expected = weights_of(solvers[2], gradients[[0, 2]])
    assert 0.1 < expected[0] < 0.9
    found = solvers[4](gram, present).asnumpy()
    np.testing.assert_allclose(found, [expected[0], 0, expected[1], 0], atol=1e-6)


def test_as_many_gradients_as_it_takes():
    """The shortest vector has the same product, its squared length, with all that are in it."""
    gradients = np.random.default_rng(1).normal(size=(MAX_GRADIENTS, 30)) + 0.3
    weights = weights_of(MinNorm(MAX_GRADIENTS), gradients)
    direction = weights @ gradients
    products = gradients @ direction
    assert (weights > 1e-3).sum() > 3
    np.testing.assert_allclose(products[weights > 1e-3], direction @ direction, rtol=1e-4)
    assert products.min() >= direction @ direction * (1 - 1e-4)


@pytest.mark.parametrize("count", [0, MAX_GRADIENTS + 1])
def test_other_numbers_of_gradients_are_refused(count):
    with pytest.raises(ValueError, match=f"count: got {count}; expected 1 to {MAX_GRADIENTS}"):
        MinNorm(count)
