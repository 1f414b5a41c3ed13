"""The seed set is chosen without a label and without a model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bgpm.errors import ConfigError, NumericsError
from bgpm.registry import kinds, parse
from bgpm.selection import Selection, StartSettings, seed_set
from bgpm.types import Features


def choose(pool, labels, design, seed=0):
    settings = parse(StartSettings, {"labels": labels, "design": design}, "start")
    return seed_set(settings, pool.features, pool.pairs, generator=np.random.default_rng(seed))


def differences(pool):
    phi = pool.features.responses.astype(np.float64)
    return phi[pool.pairs.response_a] - phi[pool.pairs.response_b]


def test_the_seed_set_is_no_selector():
    assert "seed_set" not in " ".join(kinds(Selection))


def test_a_random_design_draws_each_pair_equally_often(make_pool):
    pool = make_pool(prompts=3)
    draws, k, n = 2000, 5, len(pool.pairs)
    counts = Counter()
    for seed in range(draws):
        rows = choose(pool, k, "random", seed)
        assert len(set(rows.tolist())) == k
        counts.update(rows.tolist())
    share = np.array([counts[row] for row in range(n)]) / draws
    assert np.abs(share - k / n).max() < 4 * np.sqrt(k / n * (1 - k / n) / draws)


def test_every_pick_of_the_d_optimal_design_adds_the_most_determinant(make_pool):
    pool = make_pool(prompts=6)
    rows = choose(pool, 10, "doptimal")
    x = differences(pool) / np.sqrt((differences(pool) ** 2).sum(1).mean())
    precision = np.eye(x.shape[1])
    open_ = np.ones(len(x), bool)
    for row in rows:
        after = np.array([np.linalg.slogdet(precision + 0.25 * np.outer(a, a))[1] for a in x])
        assert after[row] == pytest.approx(after[open_].max(), rel=1e-12)
        open_[row] = False
        precision += 0.25 * np.outer(x[row], x[row])


def test_the_d_optimal_design_determines_weights_better_than_a_random_one(make_pool):
    pool = make_pool(prompts=30, dim=12)

    def determinant(rows):
        x = differences(pool)[rows]
        return np.linalg.slogdet(x.T @ x)[1]

    by_chance = [determinant(choose(pool, 24, "random", seed)) for seed in range(50)]
    assert determinant(choose(pool, 24, "doptimal")) > max(by_chance) + 1


def test_swapping_answers_does_not_change_the_d_optimal_design(make_pool):
    pool = make_pool()
    mask = np.random.default_rng(1).random(len(pool.pairs)) < 0.5
    np.testing.assert_array_equal(choose(pool.swapped(mask), 12, "doptimal"), choose(pool, 12, "doptimal"))


def test_answers_that_are_all_alike_leave_a_seeded_draw(make_pool):
    pool = make_pool()
    pool.features.responses[:] = 1.0
    draws = {tuple(choose(pool, 4, "doptimal", seed).tolist()) for seed in range(5)}
    assert len(draws) == 5


def test_bad_settings_and_features_are_refused(make_pool):
    pool = make_pool(prompts=2)
    with pytest.raises(ConfigError, match=r"start.labels: expected at most 12, the pairs in the pool, got 13"):
        choose(pool, 13, "random")
    with pytest.raises(ConfigError, match=r"start.design: .* got 'best'"):
        choose(pool, 3, "best")
    with pytest.raises(ConfigError, match=r"start.labels"):
        choose(pool, 0, "random")
    pool.features.responses[5, 2] = np.nan
    with pytest.raises(NumericsError, match="response row 5"):
        choose(pool, 3, "doptimal")
    assert isinstance(pool.features, Features)


def test_a_share_of_the_pool_is_as_many_pairs_and_at_least_one(make_pool):
    pool = make_pool(prompts=4)  # 24 pairs
    for share, pairs in ((0.25, 6), (0.1, 2), (0.001, 1)):
        np.testing.assert_array_equal(choose(pool, share, "random"), choose(pool, pairs, "random"))
    for wrong in (1.0, 1.5, 0.0, -3, True):
        with pytest.raises(ConfigError, match=r"start.labels: .* or a share of the pool above 0 and below 1, got"):
            choose(pool, wrong, "random")
