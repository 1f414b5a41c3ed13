"""Pairs drawn one after the other, without replacement, with known probabilities: what they say of all N pairs.

The m-th draw, m = 1, 2, ..., is from the N - m + 1 pairs that are left; q_m is the probability with which its pair was
drawn. Whatever the probabilities are, and they may depend on every earlier label,

    a_m = (sum of the values drawn before m + value_m / q_m) / N

is, given those draws, an unbiased estimate of the mean over all N pairs. Means of a_1 .. a_M with fixed weights are
unbiased too; with c_m = (N - M) / ((N - m)(N - m + 1)) N / M, which add up to 1, each value has the weight v_m / M,

    v_m = 1 + (N - M) / (N - m) (1 / ((N - m + 1) q_m) - 1),

which is 1 for uniform draws (Farquhar, Gal and Rainforth, arXiv:2101.11665, there the estimator "LURE"). The estimate
is unbiased for values that do not depend on the draws: not for the loss of a model that was trained on them.

Shapes: M draws, in the order of drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bgpm.errors import NumericsError, ShapeError
from bgpm.functional import _checks


def importance_weights(probability: Tensor, pool_size: int) -> Tensor:
    """v_m, how often each of M draws counts so that their sum stands for the pool's, [M]; 1 / (lowest n q) at most.

    They change with every further draw. Each has expectation 1 over the draw it belongs to.

    Args:
        probability: q_m of draws 1 .. M, in (0, 1], [M].
        pool_size: N, pairs before the first draw.

    Raises:
        ShapeError: If there are more draws than pairs, or probabilities are no vector.
        NumericsError: If a probability is not in (0, 1].
    """
    left = _left("importance_weights", probability, pool_size)
    drawn = len(probability)
    if drawn == pool_size:  # everything is drawn: each value counts once, whatever its probability was
        return torch.ones_like(probability)
    return 1 + (pool_size - drawn) / (left - 1) * (1 / (left * probability) - 1)


def mean_from_draws(value: Tensor, probability: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """Unbiased estimate of the mean of a value over all N pairs, and its standard error, scalars.

    a_1 .. a_M are uncorrelated around the true mean, so that the variance of their weighted mean is the sum of
    c_m^2 Var a_m. Var a_m is estimated by (a_m - estimate)^2 / (1 - 2 c_m + sum c^2), which is unbiased where the
    variances are equal; for uniform draws from a large pool it is the usual s^2 / M. The estimate may lie outside of
    the range of the values and is not clipped: that would bias it.

    Args:
        value: Of each draw, known before its draw but for its label, [M].
        probability: q_m, in (0, 1], [M].
        pool_size: N, pairs before the first draw.

    Returns:
        Estimate, and standard error: 0 where every pair was drawn, NaN for a single draw of several pairs.

    Raises:
        ShapeError: If lengths differ, there is no draw, or there are more draws than pairs.
        NumericsError: If a number is not finite or a probability not in (0, 1].
    """
    where = "mean_from_draws"
    _checks.same_shape(where, value=value, probability=probability)
    left = _left(where, probability, pool_size)
    _checks.finite(where, value=value)
    drawn = len(value)
    if drawn == 0:
        raise ShapeError(f"{where}: expected at least one draw, got none; draw a pair first")
    if drawn == pool_size:
        return value.mean(), value.new_zeros(())
    before = value.cumsum(0) - value
    each = (before + value / probability) / pool_size
    share = (pool_size - drawn) / ((left - 1) * left) * (pool_size / drawn)
    estimate = (share * each).sum()
    squares = (each - estimate).square() / (1 - 2 * share + share.square().sum())
    return estimate, (share.square() * squares).sum().sqrt()


def _left(where: str, probability: Tensor, pool_size: int) -> Tensor:
    """N - m + 1, the pairs that each draw was from, [M]."""
    _checks.finite(where, probability=probability)
    size = _checks.whole(where, "pool_size", pool_size)
    if probability.ndim != 1 or len(probability) > size:
        raise ShapeError(
            f"{where}: expected the probabilities of at most {size} draws, the pairs of the pool, got "
            f"{list(probability.shape)}; pass one for each draw"
        )
    bad = (probability <= 0) | (probability > 1)
    if bad.any():
        raise NumericsError(
            f"{where}: expected probabilities in (0, 1], got {probability[bad][0].item()} at {_checks.first_bad(bad)}; "
            "a pair that cannot be drawn cannot be weighed"
        )
    return size - torch.arange(len(probability), dtype=probability.dtype, device=probability.device)
