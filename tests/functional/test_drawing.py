"""Draws with known probabilities stand for the whole pool: by enumerating every order in which pairs can be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import t

from bgpm import functional as F
from bgpm.errors import NumericsError, ShapeError

VALUE = np.array([0.3, -1.0, 2.0, 0.7, 1.1])


def adaptive(drawn: list[int], values: np.ndarray) -> np.ndarray:
    """Probabilities that depend on what was drawn before and on its values, as an acquisition function's do."""
    odds = np.array([1.0, 4.0, 0.5, 2.0, 0.1]) * (1 + np.abs(values[drawn]).sum() * np.arange(len(values))) + 0.05
    odds[drawn] = 0
    return odds / odds.sum()


def orders(values: np.ndarray, count: int) -> Iterator[tuple[list[int], list[float]]]:
    """Every order in which ``count`` pairs can be drawn, with the probability of each draw."""

    def further(rows: list[int], q: list[float]) -> Iterator[tuple[list[int], list[float]]]:
        if len(rows) == count:
            yield rows, q
            return
        now = adaptive(rows, values)
        for row in np.flatnonzero(now).tolist():
            yield from further([*rows, row], [*q, float(now[row])])

    yield from further([], [])


def by_definition(q: list[float], n: int) -> list[float]:
    """v_m as the paper writes it: a sum over later draws of what each a_m gives to the values before it."""
    m_all = len(q)
    share = [n * (n - m_all) / (m_all * (n - m) * (n - m + 1)) for m in range(1, m_all + 1)]
    return [
        m_all * (share[m] / (n * q[m]) + sum(share[later] / n for later in range(m + 1, m_all))) for m in range(m_all)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_weights_are_the_papers_and_the_weighted_mean_is_the_estimate(count: int) -> None:
    for rows, q in orders(VALUE, count):
        weight = F.importance_weights(torch.tensor(q, dtype=torch.float64), len(VALUE))
        np.testing.assert_allclose(weight, by_definition(q, len(VALUE)), rtol=1e-12)
        estimate, _ = F.mean_from_draws(torch.tensor(VALUE[rows]), torch.tensor(q, dtype=torch.float64), len(VALUE))
        assert estimate.item() == pytest.approx((weight.numpy() * VALUE[rows]).mean(), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_over_all_orders_each_draw_and_each_pair_has_weight_one_and_the_mean_is_the_pools(count: int) -> None:
    n = len(VALUE)
    by_draw, by_pair, mean, unweighted = np.zeros(count), np.zeros(n), 0.0, 0.0
    for rows, q in orders(VALUE, count):
        weight = F.importance_weights(torch.tensor(q, dtype=torch.float64), n).numpy()
        chance = math.prod(q)
        by_draw += chance * weight
        by_pair[rows] += chance * weight
        mean += chance * (weight * VALUE[rows]).mean()
        unweighted += chance * VALUE[rows].mean()
    np.testing.assert_allclose(by_draw, 1, rtol=1e-12)
    np.testing.assert_allclose(by_pair, count / n, rtol=1e-12)  # as if each were drawn uniformly
    assert mean == pytest.approx(VALUE.mean(), rel=1e-12)
    assert count == n or abs(unweighted - VALUE.mean()) > 0.01


def test_uniform_draws_weigh_one_and_have_the_usual_standard_error() -> None:
    value = torch.tensor(np.random.default_rng(0).normal(size=40))
    n = 10**7
    q = 1 / (n - torch.arange(40, dtype=torch.float64))
    np.testing.assert_allclose(F.importance_weights(q, n), 1, rtol=1e-9)
    estimate, error = F.mean_from_draws(value, q, n)
    assert estimate.item() == pytest.approx(value.mean().item(), rel=1e-6)
    assert error.item() == pytest.approx(value.std().item() / 40**0.5, rel=1e-4)


def test_a_pool_that_is_drawn_whole_is_known_exactly_and_a_single_draw_has_no_error() -> None:
    q = torch.tensor(adaptive([], VALUE))[[1]]
    estimate, error = F.mean_from_draws(torch.tensor(VALUE[[1]]), q, len(VALUE))
    assert estimate.item() == pytest.approx(VALUE[1] / (len(VALUE) * q.item()))
    assert error.isnan()
    rows, whole = next(orders(VALUE, 5))
    estimate, error = F.mean_from_draws(torch.tensor(VALUE[rows]), torch.tensor(whole, dtype=torch.float64), 5)
    assert (estimate.item(), error.item()) == (pytest.approx(VALUE.mean()), 0)


@pytest.mark.parametrize(("uniform", "least"), [(0.2, 0.90), (0.5, 0.92)])
def test_intervals_cover_and_errors_are_those_of_repeated_draws(uniform: float, least: float) -> None:
    """Right where the values drawn most often are lowest, 32 draws of 300."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(300)
    a, right = np.exp(z), (rng.random(300) < 1 / (1 + np.exp(z - 1))).astype(float)
    found = []
    for _ in range(400):
        odds, rows, q = a.copy(), [], []
        for m in range(32):
            now = np.where(odds > 0, uniform / (300 - m), 0) + (1 - uniform) * odds / odds.sum()
            rows.append(int(np.searchsorted(np.cumsum(now), rng.random())))
            q.append(now[rows[-1]])
            odds[rows[-1]] = 0
        found.append([x.item() for x in F.mean_from_draws(torch.tensor(right[rows]), torch.tensor(q), 300)])
    estimate, error = np.array(found).T
    spread = estimate.std()
    assert abs(estimate.mean() - right.mean()) < 3 * spread / 400**0.5
    assert np.sqrt((error**2).mean()) == pytest.approx(spread, rel=0.12)  # a standard deviation of 400: 3.5% off
    covered = (np.abs(estimate - right.mean()) <= t.ppf(0.975, 31) * error).mean()
    assert least < covered < 0.98


def test_what_cannot_be_weighed_is_refused() -> None:
    q = torch.full((4,), 0.25, dtype=torch.float64)
    with pytest.raises(ShapeError, match="at most 3 draws, the pairs of the pool"):
        F.importance_weights(q, 3)
    with pytest.raises(NumericsError, match=r"probabilities in \(0, 1\], got 0.0 at \[1\]"):
        F.importance_weights(q * torch.tensor([1, 0, 1, 1]), 9)
    with pytest.raises(ShapeError, match="at least one draw"):
        F.mean_from_draws(q[:0], q[:0], 9)
