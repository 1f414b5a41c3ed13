"""Choosing a batch by the information its labels carry together.

For a Gaussian posterior over scores with covariance K and Fisher weights L (see `fisher_weight`), a batch B is worth

    F(B) = 1/2 log det(I + L_B^1/2 K_BB L_B^1/2)   nats,

monotone and submodular, so greedy picks are within 1 - 1/e of the best batch (Nemhauser et al., 1978). One
partial Cholesky column a pick (Chen et al., arXiv:1709.05135) makes a pick cost one kernel row and O(N k).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bgpm.errors import NumericsError, ShapeError
from bgpm.functional import _checks


def greedy_logdet(
    variance: Tensor,
    kernel_row: Callable[[int], Tensor],
    weight: Tensor,
    k: int,
    generator: torch.Generator | None = None,
    *,
    priority: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy maximisation of the joint information of k labels.

    Memory is O(N k) and k rows are asked for. Gains do not increase. The variance left to every pair equals that of
    the posterior refitted with the picks at these weights.

    Args:
        variance: Diagonal of the covariance between pairs, [N], >= 0.
        kernel_row: Maps a row number j to row j of that covariance, [N].
        weight: Fisher information of each label about its score, [N], >= 0; 0 for a pair that is never worth it.
        k: How many to pick, 0 <= k <= N.
        generator: Draws the key by which ties are broken (values equal up to rounding). Without it, and without
            ``priority``, the lower row wins.
        priority: The key itself, [N], higher wins: pass a seeded hash of each pair's name and ties do not depend on
            the order of rows.

    Returns:
        Row numbers in the order of picking, int64 [k], and the gain of each pick in nats, [k].

    Raises:
        ShapeError: If shapes differ or k is not in 0..N.
        NumericsError: If a number is not finite, a variance or weight is negative, or ``kernel_row`` contradicts
            ``variance``.
    """
    # The gain 1/2 log(1 + L v) grows with L v, in which rounding is easier to bound.
    picks, values = _greedy(
        "greedy_logdet", variance, kernel_row, weight, k, lambda left: weight * left, generator, priority
    )
    return picks, 0.5 * torch.log1p(values)


def greedy_conditional(
    variance: Tensor,
    kernel_row: Callable[[int], Tensor],
    weight: Tensor,
    k: int,
    value: Callable[[Tensor], Tensor],
    generator: torch.Generator | None = None,
    *,
    priority: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy picks by any value of a pair's variance, each given that the picks before it are labelled.

    With ``value=lambda left: bald(mean, left, tau)`` this is BALD at the conditional variance, which saturates at
    log 2 a label where the Gaussian gain of `greedy_logdet` does not.

    Args:
        value: Maps the variances left, [N], to values [N], >= 0, that do not decrease with the variance.

    Other arguments, the result and errors are those of `greedy_logdet`; gains are in the units of ``value``.
    """
    return _greedy("greedy_conditional", variance, kernel_row, weight, k, value, generator, priority)


def _greedy(
    where: str,
    variance: Tensor,
    kernel_row: Callable[[int], Tensor],
    weight: Tensor,
    k: int,
    value: Callable[[Tensor], Tensor],
    generator: torch.Generator | None,
    priority: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _checks.same_shape(where, variance=variance, weight=weight, **({} if priority is None else {"priority": priority}))
    if variance.ndim != 1:
        raise ShapeError(f"{where}: expected variance [N], got {list(variance.shape)}; flatten the pairs")
    n = len(variance)
    if not 0 <= k <= n:
        raise ShapeError(f"{where}: k must be between 0 and the number of pairs {n}, got {k}; ask for fewer labels")
    _checks.finite(where, variance=variance, weight=weight)
    _checks.non_negative(where, variance=variance, weight=weight)
    key = _default_priority(variance, generator) if priority is None else priority

    left = variance.clone()
    # Rounding moves values by this much, so values closer than this are ties.
    slack = 1e3 * torch.finfo(variance.dtype).eps * value(variance)
    taken = torch.zeros(n, dtype=torch.bool, device=variance.device)
    columns = variance.new_empty((k, n))
    picks = torch.empty(k, dtype=torch.int64, device=variance.device)
    values = variance.new_empty(k)
    for t in range(k):
        current = value(left).masked_fill(taken, -torch.inf)
        tied = (current + slack >= current.max()) & ~taken
        j = int(key.masked_fill(~tied, -torch.inf).argmax())
        picks[t], values[t], taken[j] = j, current[j], True
        row = _checked_row(where, kernel_row(j), j, variance)
        # c = (K[:, j] - C C_j^T) sqrt(L_j) / sqrt(1 + L_j v_j); no division by L_j, which may be 0.
        column = (row - columns[:t, j] @ columns[:t]) * (weight[j] / (1 + weight[j] * left[j])).sqrt()
        columns[t] = column
        left = _checks.settled(where, left - column.square(), variance)
    return picks, values


def _default_priority(variance: Tensor, generator: torch.Generator | None) -> Tensor:
    n = len(variance)
    if generator is None:
        return torch.arange(n, 0, -1, dtype=variance.dtype, device=variance.device)
    order = torch.randperm(n, generator=generator, device=generator.device)
    return order.to(variance)


def _checked_row(where: str, row: Tensor, j: int, variance: Tensor) -> Tensor:
    _checks.expect(where, f"kernel_row({j})", row, tuple(variance.shape), "one covariance for each pair")
    _checks.finite(where, **{f"kernel_row({j})": row})
    if (row[j] - variance[j]).abs() > 1e-4 * variance[j]:
        raise NumericsError(
            f"{where}: expected kernel_row({j})[{j}] to be variance[{j}] = {variance[j].item()}, "
            f"got {row[j].item()}; pass the diagonal of the same kernel"
        )
    return row
