"""Draws of `weighted`: their probabilities are what is said of them, and what is said is what happens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bgpm.errors import ConfigError
from bgpm.registry import build
from bgpm.selection import Selection
from bgpm.selection.dense import Dense
from bgpm.selection.top_k import TopK
from bgpm.selection.weighted import Weighted


def rng(seed=5):
    return np.random.default_rng(seed)


def slowly(values, rows, uniform, power):
    """q of each draw by the formula, one pair at a time."""
    worth = [v**power for v in values] if min(values) >= 0 else [np.exp(power * (v - max(values))) for v in values]
    left, out = list(range(len(values))), []
    for row in rows:
        total = sum(worth[n] for n in left)
        out.append(uniform / len(left) + (1 - uniform) * (worth[row] / total if total > 0 else 1 / len(left)))
        left.remove(row)
    return out


@pytest.mark.parametrize("uniform", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("sign", ["positive", "negative", "some zero"])
def test_probabilities_are_those_of_the_formula_to_the_last_pair(make_pool, uniform, power, sign):
    c = make_pool(prompts=4).candidates()
    values = rng(1).random(len(c)) * (-1 if sign == "negative" else 1)
    if sign == "some zero":
        values[::2] = 0.0
    batch = Weighted(uniform=uniform, power=power)(c, values, len(c), generator=rng())
    assert sorted(batch.rows.tolist()) == list(range(len(c)))
    np.testing.assert_allclose(batch.probability, slowly(values, batch.rows.tolist(), uniform, power), rtol=1e-9)
    np.testing.assert_array_equal(batch.gains, values[batch.rows])


def test_pairs_are_drawn_as_often_as_is_said(make_pool):
    c = make_pool(prompts=2).candidates()
    values = np.linspace(0, 1, len(c)) ** 2
    response_a, response_b, times = Counter(), Counter(), 3000
    for seed in range(times):
        rows = Weighted(uniform=0.3, power=1)(c, values, 2, generator=rng(seed)).rows.tolist()
        response_a[rows[0]] += 1
        response_b[rows[1]] += 1
    q = 0.3 / len(c) + 0.7 * values / values.sum()
    then = sum(
        q[n] * np.where(np.arange(len(c)) == n, 0, 0.3 / (len(c) - 1) + 0.7 * values / (values.sum() - values[n]))
        for n in range(len(c))
    )
    for found, expected in ((response_a, q), (response_b, then)):
        share = np.array([found[n] for n in range(len(c))]) / times
        assert np.abs(share - expected).max() < 4 * np.sqrt(expected * (1 - expected) / times).max()


def test_density_can_change_the_values_of_draws_and_their_probabilities_stay_known(make_pool):
    c = make_pool().candidates()
    values = rng(1).random(len(c))
    outer = Dense(inner="weighted", settings={"uniform": 0.4})
    assert outer.draws
    batch = outer(c, values, 10, generator=rng())
    assert batch.probability.shape == (10,)
    assert not np.allclose(batch.probability, Weighted(uniform=0.4)(c, values, 10, generator=rng()).probability)


def test_picks_that_are_no_draws_have_no_probability(make_pool):
    c = make_pool().candidates()
    assert TopK()(c, rng(1).random(len(c)), 5, generator=rng()).probability is None
    assert not TopK().draws


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("weighted", {"max_per_prompt": 2}, "a pair that the cap excludes cannot be weighed; set it to null"),
        ("weighted", {"uniform": 0.0}, "greater than 0"),
        ("weighted", {"power": -1.0}, "greater than or equal to 0"),
        ("hybrid", {"inner": "weighted"}, "draws with a uniform share of its own"),
        ("dense", {"inner": "weighted", "max_per_prompt": 2}, "a pair that the cap excludes cannot be weighed"),
    ],
)
def test_what_would_make_probabilities_wrong_is_refused(kind, settings, words):
    with pytest.raises(ConfigError, match=words):
        build(Selection, kind, settings, "selections")
