"""Choosing a batch by the information its labels carry together.

For a Gaussian posterior over scores with covariance K and Fisher weights L (see `fisher_weight`), a batch B is worth

    F(B) = 1/2 log det(I + L_B^1/2 K_BB L_B^1/2)   nats,

monotone and submodular, so greedy picks are within 1 - 1/e of the best batch (Nemhauser et al., 1978). A label taken
as a Gaussian observation of its score with precision L_j leaves every pair the variance v_n - |c_n|^2, where row c_n of
a partial Cholesky factor solves T c_n = K[n, picks] (Chen et al., arXiv:1709.05135); T is the factor of K_BB + L_B^-1.

Variances only fall and values grow with them, so yesterday's value bounds today's (lazy greedy: Minoux, 1978). Rows of
the factor are computed only for pairs whose bound may win, and for all picks since their last turn at once: matrix
products of some thousand rows, where a row of K a pick would read the whole pool each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bgpm.errors import NumericsError, ShapeError
from bgpm.functional import _checks

KernelRow = Callable[[int], Tensor]  # j to K[j], [N]
KernelBlock = Callable[[Tensor, Tensor], Tensor]  # rows [n] and columns [m], int64, to K[rows][:, columns], [n, m]
_FIRST = 512  # stale pairs brought up to date at once; twice as many each time that was not enough


class PickLimit(Protocol):
    """Which pairs may be picked; told of every pick."""

    @property
    def taken(self) -> Sequence[int]:
        """Rows picked so far."""
        ...

    def open(self) -> np.ndarray:
        """bool [N], where a pair may be picked now."""
        ...

    def take(self, row: int) -> None:
        """Note a pick."""
        ...


def greedy_logdet(
    variance: Tensor,
    kernel_row: KernelRow,
    weight: Tensor,
    k: int,
    generator: torch.Generator | None = None,
    *,
    block: KernelBlock | None = None,
    quota: PickLimit | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy maximisation of the joint information of k labels.

    Memory is O(N k), touched only where it is needed. Gains do not increase. The variance left to every pair equals
    that of the posterior refitted with the picks at these weights.

    Args:
        variance: Diagonal of the covariance between pairs, [N], >= 0.
        kernel_row: Maps j to row j of that covariance, [N]; called once a pick at most, and the row is kept. The
            ``row`` of a `pair_kernel`, for one.
        weight: Fisher information of each label about its score, [N], >= 0; 0 for a pair that is never worth it.
        k: How many to pick, 0 <= k <= N.
        generator: Ties (values equal up to rounding) go to the higher of seeded keys, one for each row, drawn from
            it; None for the lower row. For ties that do not depend on the order of rows, sort the pairs by a seeded
            hash of their names and pass None.
        block: The same covariance by rows [n] and columns [m] at once, [n, m], like ``block`` of a `pair_kernel`;
            ``kernel_row`` is not called then. Faster for a large pool: most entries are never computed.
        quota: Which pairs may be picked; all of them by default. Labels at pairs it has taken count as known.

    Returns:
        Row numbers in the order of picking, int64 [k], and the gain of each pick in nats, [k].

    Raises:
        ArgumentError: If an argument is not of its type.
        ShapeError: If shapes differ, k is not in 0..N, or the quota leaves fewer than k pairs.
        NumericsError: If a number is not finite, a variance or weight is negative, or the covariance contradicts
            ``variance`` or has another dtype.
    """
    # The gain 1/2 log(1 + L v) grows with L v, in which rounding is easier to bound.
    picks, values = _greedy(
        "greedy_logdet",
        variance,
        kernel_row,
        weight,
        k,
        lambda rows, left: weight[rows] * left,
        generator,
        block,
        quota,
    )
    return picks, 0.5 * torch.log1p(values)


def greedy_conditional(
    variance: Tensor,
    kernel_row: KernelRow,
    weight: Tensor,
    k: int,
    value: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator | None = None,
    *,
    block: KernelBlock | None = None,
    quota: PickLimit | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy picks by any value of a pair's variance, each given that the picks before it are labelled.

    With ``value=lambda rows, left: bald(mean[rows], left, tau)`` this is BALD at the conditional variance, which
    saturates at log 2 a label where the Gaussian gain of `greedy_logdet` does not.

    Args:
        value: Maps rows [n] and the variances left to them [n] to values [n], >= 0, that do not decrease with the
            variance; each pair's by itself.

    Other arguments, the result and errors are those of `greedy_logdet`; gains are in the units of ``value``.
    """
    return _greedy("greedy_conditional", variance, kernel_row, weight, k, value, generator, block, quota)


def _greedy(
    where: str,
    variance: Tensor,
    kernel_row: KernelRow,
    weight: Tensor,
    k: int,
    value: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator | None,
    block: KernelBlock | None,
    quota: PickLimit | None,
) -> tuple[Tensor, Tensor]:
    _checks.same_shape(where, variance=variance, weight=weight)
    if variance.ndim != 1:
        raise ShapeError(f"{where}: expected variance [N], got {list(variance.shape)}; flatten the pairs")
    n = len(variance)
    _checks.instance(where, "kernel_row", kernel_row, Callable, "pass a function of a row's number")
    k = _checks.whole(where, "k", k)
    _checks.instance(where, "value", value, Callable, "pass a function of rows and variances")
    if generator is not None:
        _checks.instance(where, "generator", generator, torch.Generator, "torch.Generator().manual_seed(0) is one")
    if not 0 <= k <= n:
        raise ShapeError(f"{where}: k must be between 0 and the number of pairs {n}, got {k}; ask for fewer labels")
    _checks.finite(where, variance=variance, weight=weight)
    _checks.at_least_single(where, variance=variance)
    _checks.non_negative(where, variance=variance, weight=weight)
    if generator is None:
        key = -torch.arange(n, device=variance.device)
    else:
        key = torch.randperm(n, generator=generator, device=generator.device).to(variance.device)
    quota = _AllOpen(n) if quota is None else quota
    block = _by_rows(where, kernel_row, n) if block is None else block

    def worth(rows: Tensor, left: Tensor) -> Tensor:
        found = value(rows, left)
        _checks.expect(where, "the value", found, (len(rows),), "one for each pair asked about")
        _checks.finite(where, value=found)
        return found

    known = _Known(where, variance, block, weight, k + len(quota.taken))
    for j in quota.taken:
        known.observe(j)
    bound = worth(torch.arange(n, device=variance.device), variance).clone()  # it may be the variance itself
    # Rounding moves values by this much, so values closer than this are ties.
    slack = 1e3 * torch.finfo(variance.dtype).eps * bound
    picks = torch.empty(k, dtype=torch.int64, device=variance.device)
    values = variance.new_empty(k)
    for t in range(k):
        open_ = torch.as_tensor(quota.open(), device=variance.device)
        if not open_.any():
            raise ShapeError(f"{where}: expected {k} picks, got a quota used up after {t}; ask for fewer labels")
        size = _FIRST
        while True:
            current = bound.masked_fill(~(open_ & known.fresh), -torch.inf)
            best = current.max()
            rivals = (open_ & ~known.fresh & (bound + slack >= best)).nonzero()[:, 0]
            if not len(rivals):
                break
            rows = rivals[bound[rivals].topk(min(size, len(rivals))).indices]
            bound[rows] = worth(rows, known.refresh(rows))
            size *= 2
        tied = (current + slack >= best) & (current > -torch.inf)
        j = int(torch.where(tied, key, key.min() - 1).argmax())
        picks[t], values[t] = j, bound[j]
        quota.take(j)
        known.observe(j)
    return picks, values


def _by_rows(where: str, kernel_row: KernelRow, n: int) -> KernelBlock:
    """Blocks of a covariance that is given row by row; rows are kept."""
    rows_of: dict[int, Tensor] = {}

    def column(j: int) -> Tensor:
        if j not in rows_of:
            rows_of[j] = kernel_row(j)
            _checks.expect(where, f"kernel_row({j})", rows_of[j], (n,), "a covariance with every pair")
        return rows_of[j]

    return lambda rows, columns: torch.stack([column(j)[rows] for j in columns.tolist()], dim=1)


class _AllOpen:
    """The quota of whoever has none."""

    def __init__(self, n: int) -> None:
        self.taken: list[int] = []
        self._open = np.ones(n, bool)

    def open(self) -> np.ndarray:
        return self._open

    def take(self, row: int) -> None:
        self._open[row] = False


class _Known:
    """Variances given labels at the pairs observed so far, each pair's as old as its last refresh."""

    def __init__(self, where: str, variance: Tensor, block: KernelBlock, weight: Tensor, capacity: int) -> None:
        self._where, self._start, self._block, self._weight = where, variance, block, weight
        self._left = variance.clone()
        self._rows = variance.new_empty((len(variance), capacity))  # c_n, of which the first _age[n] entries are there
        self._age = torch.zeros(len(variance), dtype=torch.int64, device=variance.device)
        self._factor = variance.new_zeros((capacity, capacity))  # T
        self._observed: list[int] = []

    @property
    def fresh(self) -> Tensor:
        """bool [N], whose variance counts every observation."""
        return self._age == len(self._observed)

    def refresh(self, rows: Tensor) -> Tensor:
        """Variances left to these pairs, [n]."""
        now = len(self._observed)
        behind = now - self._age[rows]
        # Pairs that are about as far behind go together: a few entries are computed twice, in few and large products.
        depth = torch.where(behind > 0, behind.double().log2().floor(), -1.0)
        for level in range(int(depth.max().item()) + 1 if len(rows) else 0):
            part = rows[depth == level]
            if not len(part):
                continue
            age = int(self._age[part].min())
            picks = torch.tensor(self._observed[age:], device=rows.device)
            block = self._covariance(part, picks)
            block = block - self._rows[part, :age] @ self._factor[age:now, :age].T
            new = torch.linalg.solve_triangular(self._factor[age:now, age:now].T, block, upper=True, left=False)
            self._rows[part, age:now] = new
            left = self._start[part] - self._rows[part, :now].square().sum(1)
            self._left[part] = _checks.settled(self._where, left, self._start[part])
            self._age[part] = now
        return self._left[rows]

    def observe(self, j: int) -> None:
        """Condition on a label at pair j, a Gaussian observation of its score with precision ``weight[j]``."""
        if self._weight[j] == 0:
            return  # says nothing
        row, now = torch.tensor([j], device=self._age.device), len(self._observed)
        left, own = self.refresh(row), self._covariance(row, row)[0, 0]
        if (own - self._start[j]).abs() > 1e-4 * self._start[j]:
            raise NumericsError(
                f"{self._where}: expected the covariance of pair {j} with itself to be variance[{j}] = "
                f"{self._start[j].item()}, got {own.item()}: they contradict each other; "
                "pass the diagonal of the same kernel"
            )
        self._factor[now, :now] = self._rows[j, :now]
        self._factor[now, now] = (1 / self._weight[j] + left[0]).sqrt()
        self._observed.append(j)

    def _covariance(self, rows: Tensor, columns: Tensor) -> Tensor:
        """A block of it, checked."""
        block = self._block(rows, columns)
        _checks.expect(self._where, "a block of the covariance", block, (len(rows), len(columns)), "rows by columns")
        _checks.finite(self._where, **{"a block of the covariance": block})
        _checks.same_dtype(self._where, variance=self._start, **{"the covariance": block})
        return block
