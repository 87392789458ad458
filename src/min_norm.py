"""The shortest vector in the convex hull of gradients: the common descent direction of MGDA.

Désidéri 2012; Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018,
equation 3; used by the MiDaS paper (Ranftl et al., TPAMI 2022, section 6) to mix datasets.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

MAX_GRADIENTS = 12  # 4,095 sets of them are solved at once: a few hundred thousand values

# Of a gradient's squared length, added so that gradients that depend on each other have a solution.
# Smaller, float32 rounds it away; larger, it is seen in the result.
_RIDGE = 3e-7
_SMALLEST_NORM = 1e-10  # of the largest: for a gradient of 0
_TINY, _LONGEST = 1e-30, 1e30


class MinNorm(nn.Cell):
    """Weights of the shortest vector in the convex hull of `count` gradients.

    The shortest vector is the one that is shortest over the affine hull of the gradients that have
    a part in it. So each set of gradients is solved for its affine hull, a small linear system,
    all sets at once; where weights are negative they become 0; and the shortest result is taken.
    For two gradients this is the closed form of Sener & Koltun (algorithm 1).

    They solve more than two by Frank-Wolfe. Where lengths differ a hundredfold, that (with pairwise
    steps) is still 1e-5 of the longest squared length from the minimum after a thousand iterations.
    This is within 1e-6 of it always, takes a few small operations a gradient, and no iteration that
    a graph would have to unroll or a device to wait for. Where gradients nearly cancel each other
    out, the length that is left can be relatively further off.

    Args:
        count: of gradients, 1 to MAX_GRADIENTS.

    Raises:
        ValueError: `count` is out of range.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if not 1 <= count <= MAX_GRADIENTS:
            raise ValueError(f"count: got {count}; expected 1 to {MAX_GRADIENTS}")
        self.count = count
        bits = np.arange(1, 2**count)[:, None] >> np.arange(count) & 1
        members = bits.astype(np.float32)
        self.members = Tensor(members)
        self.pairs = Tensor(members[:, :, None] * members[:, None, :])
        # A gradient that is not in the set has an equation of its own: its weight is 0.
        ridge = np.eye(count) * (1 + _RIDGE - members[:, :, None])
        self.ridge = Tensor(ridge.astype(np.float32))
        self.identity = Tensor(np.eye(count, dtype=np.float32))

    def construct(self, gram: Tensor, present: Tensor) -> Tensor:
        """Solve one problem.

        Args:
            gram: scalar products of the gradients, float32 [count, count].
            present: float32 [count], 1, or 0 for a gradient that is no part of the problem. Where
                none is, the weights are of no meaning.

        Returns:
            Weights float32 [count], >= 0, of sum 1; equal ones if `gram` is not finite.
        """
        lengths = ops.sqrt(ops.relu((gram * self.identity).sum(axis=1)))
        lengths = ops.maximum(lengths, _SMALLEST_NORM * lengths.max())
        lengths = ops.maximum(lengths, Tensor(_TINY, ms.float32))
        cosines = gram / lengths.reshape(-1, 1) / lengths
        inverse = lengths.min() / lengths
        # Shares are weights times lengths: their system has a diagonal of ones.
        shares = ops.relu(self._solve(cosines, inverse))
        total = (shares * inverse).sum(axis=1)
        absent = (self.members * (1 - present)).sum(axis=1)
        solved = ops.logical_and(total > _TINY, absent == 0)  # 0 / 0 leaves no total
        ones = ops.ones_like(total)
        shares = shares / ops.select(solved, total, ones).reshape(-1, 1)
        squares = (ops.matmul(shares, cosines) * shares).sum(axis=1)
        usable = ops.logical_and(solved, ops.isfinite(squares))
        squares = ops.select(usable, squares, _LONGEST * ones)
        weights = (shares * inverse)[squares.argmin()]
        # Each single gradient is a set of its own, so a finite problem always has a solution.
        finite = ops.isfinite(gram).all()
        return ops.select(finite, weights, ops.full_like(weights, 1 / self.count))

    def _solve(self, matrix: Tensor, right: Tensor) -> Tensor:
        """Solutions of the systems of all sets by Gauss-Jordan elimination, float32 [sets, n]."""
        left = matrix * self.pairs + self.ridge
        table = ops.concat([left, (self.members * right).expand_dims(2)], axis=2)
        for k in range(self.count):
            row = table[:, k : k + 1] / table[:, k : k + 1, k : k + 1]
            # Row k itself keeps 1 at its pivot, the others 0.
            table = table - (table[:, :, k : k + 1] - self.identity[:, k : k + 1]) * row
        return table[:, :, self.count] * self.members
