"""Selectors around a selector: a uniform share of the batch, and values weighed by density."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.config import check
from bgpm.errors import ConfigError, NumericsError
from bgpm.registry import build
from bgpm.selection import Selection
from bgpm.selection.dense import Dense, _density
from bgpm.selection.hybrid import Hybrid
from bgpm.selection.top_k import TopK
from bgpm.stage import read_params
from bgpm.types import Features


def rng(seed=5):
    return np.random.default_rng(seed)


# --- hybrid ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_drawn_share_is_a_uniform_draw_from_the_whole_pool(make_pool):
    c = make_pool(prompts=3).candidates()
    values = np.linspace(0, 1, len(c))
    draws, drawn = 2000, Counter()
    for seed in range(draws):
        batch = Hybrid(random_share=0.4)(c, values, 5, generator=rng(seed))
        drawn.update(batch.rows[:2].tolist())
        rest = [n for n in np.argsort(-values) if n not in batch.rows[:2]]
        np.testing.assert_array_equal(batch.rows[2:], rest[:3])
        np.testing.assert_array_equal(batch.gains, values[batch.rows])
    share = np.array([drawn[n] for n in range(len(c))]) / draws
    expected = 2 / len(c)
    assert np.abs(share - expected).max() < 4 * np.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize(("k", "share", "count"), [(1, 0.25, 0), (2, 0.25, 1), (32, 0.25, 8), (5, 0.3, 2), (1, 0.5, 1)])
def test_the_share_is_rounded_to_whole_pairs(make_pool, k, share, count):
    c = make_pool().candidates()
    values = np.arange(len(c), dtype=float)
    rows = Hybrid(random_share=share)(c, values, k, generator=rng()).rows
    best = [n for n in np.argsort(-values) if n not in rows[:count]][: k - count]
    assert len(rows) == k
    np.testing.assert_array_equal(rows[count:], best)
    assert count == 0 or set(rows[:count]) != set(np.argsort(-values)[:count])  # not by value


@pytest.mark.parametrize("inner", ["logdet", "conditional_bald"])
def test_the_inner_selector_counts_drawn_labels_as_known(make_pool, inner):
    pool = make_pool(spread=2.0)
    c = pool.candidates()
    batch = Hybrid(random_share=0.5, inner=inner)(c, np.zeros(len(c)), 8, generator=rng())
    weight = F.fisher_weight(torch.tensor(c.mean), torch.tensor(c.variance), c.tau)
    phi = pool.features.responses.astype(np.float64)
    apart = phi[c.pairs.response_a] - phi[c.pairs.response_b]
    precision = np.linalg.inv(pool.weight_covariance)
    for t, row in enumerate(batch.rows.tolist()):
        left = torch.tensor(np.einsum("np,pq,nq->n", apart, np.linalg.inv(precision), apart))
        value = F.bald(torch.tensor(c.mean), left, c.tau) if inner != "logdet" else 0.5 * torch.log1p(weight * left)
        value[batch.rows[:t].tolist()] = -1
        if t >= 4:
            assert value[row].item() == pytest.approx(value.max().item(), rel=1e-8)
            assert batch.gains[t] == pytest.approx(value.max().item(), rel=1e-8)
        precision += weight[row].item() * np.outer(apart[row], apart[row])


def test_coreset_goes_away_from_what_was_drawn(make_pool):
    c = make_pool().candidates()
    batch = Hybrid(random_share=0.5, inner="coreset")(c, rng(1).random(len(c)), 10, generator=rng())
    x = (c.features.responses[c.pairs.response_a] - c.features.responses[c.pairs.response_b]).astype(np.float64)
    distance = np.minimum(np.linalg.norm(x[:, None] - x[None], axis=2), np.linalg.norm(x[:, None] + x[None], axis=2))
    for t in range(5, 10):
        assert batch.gains[t] == pytest.approx(distance[:, batch.rows[:t]].min(axis=1).max(), rel=1e-5)


@pytest.mark.parametrize("inner", ["top_k", "power", "logdet", "conditional_bald", "coreset", "cluster", "dense"])
def test_any_selector_can_be_inside_and_the_cap_holds_for_both_parts_together(make_pool, inner):
    c = make_pool().candidates()
    values = rng(1).random(len(c)) + (c.pairs.prompt == 3)
    batch = Hybrid(inner=inner, random_share=0.5, max_per_prompt=2)(c, values, 20, generator=rng())
    assert len(set(batch.rows.tolist())) == 20
    assert max(Counter(c.pairs.prompt[batch.rows].tolist()).values()) == 2


def test_settings_reach_the_inner_selector(make_pool):
    c = make_pool().candidates()
    values = rng(1).random(len(c))
    sharp = Hybrid(inner="power", settings={"beta": 1e6}, random_share=0.1)(c, values, 10, generator=rng())
    np.testing.assert_array_equal(sharp.gains[1:], np.sort(np.delete(values, sharp.rows[0]))[::-1][:9])


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("hybrid", {"random_share": 0.0}, "greater than 0"),
        ("hybrid", {"random_share": 1.0}, "less than 1"),
        ("hybrid", {"inner": "best"}, "unknown kind 'best'; choose one of: cluster"),
        ("hybrid", {"settings": {"beta": 2.0}}, "beta: unknown key"),
        ("hybrid", {"settings": {"max_per_prompt": 2}}, "the cap is that of hybrid itself"),
        ("dense", {"inner": "logdet"}, "logdet does not read the values"),
        ("dense", {"inner": "hybrid", "settings": {"inner": "logdet"}}, "hybrid does not read the values"),
        ("dense", {"exponent": -1.0}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused(kind, settings, words):
    with pytest.raises(ConfigError, match=words):
        build(Selection, kind, settings, "selections")


def test_what_the_inner_selector_needs_is_asked_of_the_posterior_before_any_work():
    params = read_params()
    params["selection"] = "hybrid"
    params["selections"]["hybrid"]["inner"] = "logdet"
    check(params)
    params["posterior"] = "point"
    with pytest.raises(ConfigError, match="selection: hybrid needs a kernel of scores, and posterior point"):
        check(params)
    params["selections"]["hybrid"]["inner"] = "top_k"
    check(params)


# --- dense -----------------------------------------------------------------------------------------------------------


def density_by_sorting(c, k):
    x = (c.features.responses[c.pairs.response_a] - c.features.responses[c.pairs.response_b]).astype(np.float64)
    distance = np.minimum(np.linalg.norm(x[:, None] - x[None], axis=2), np.linalg.norm(x[:, None] + x[None], axis=2))
    np.fill_diagonal(distance, np.inf)
    kth = np.sort(distance, axis=1)[:, k - 1]
    return 1 / (1 + kth / np.median(kth))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("neighbours", [1, 10])
def test_values_are_weighed_by_the_density_of_feature_differences(make_pool, exponent, neighbours):
    c = make_pool().candidates()
    values = rng(1).random(len(c))
    batch = Dense(exponent=exponent, neighbours=neighbours)(c, values, len(c), generator=rng())
    expected = values * density_by_sorting(c, neighbours) ** exponent
    np.testing.assert_allclose(batch.gains, np.sort(expected)[::-1], rtol=1e-5)
    np.testing.assert_array_equal(batch.rows, np.argsort(-expected))


def test_a_denser_pair_is_never_worth_less_also_where_values_are_negative(make_pool):
    c = make_pool().candidates()
    batch = Dense(exponent=2.0)(c, np.full(len(c), -1.0), len(c), generator=rng())
    assert (np.diff(density_by_sorting(c, 10)[batch.rows]) <= 1e-6).all()


def test_an_outlier_of_high_value_is_left_alone(make_pool):
    pool = make_pool()
    responses = pool.features.responses.copy()
    responses[pool.pairs.response_a[7]] *= 30
    c = replace(pool, features=Features(responses, pool.features.prompts)).candidates()
    far = np.flatnonzero(
        (c.pairs.response_a == pool.pairs.response_a[7]) | (c.pairs.response_b == pool.pairs.response_a[7])
    )
    values = np.ones(len(c))
    values[far] = 1.5
    assert set(TopK()(c, values, 3, generator=rng()).rows) <= set(far)
    assert not set(Dense()(c, values, 3, generator=rng()).rows) & set(far)


def test_copies_and_single_pairs_have_a_density_too(make_pool):
    points = np.vstack([np.zeros((40, 3)), rng().normal(size=(20, 3))]).astype(np.float32)
    density = _density(points, 5, 2048)
    np.testing.assert_array_equal(density[:40], 1)
    assert ((density[40:] > 0) & (density[40:] < 1)).all()
    np.testing.assert_array_equal(_density(points[:40], 5, 2048), 1)
    np.testing.assert_array_equal(_density(points[50:51], 5, 2048), 1)
    c = make_pool(prompts=1, responses=2).candidates()
    assert Dense()(c, np.array([0.4]), 1, generator=rng()).gains == [0.4]


def test_a_sample_of_neighbours_ranks_densities_as_all_of_them_do():
    points = (rng().normal(size=(3000, 5)) * rng(1).gamma(2.0, size=(3000, 1))).astype(np.float32)
    whole, part = _density(points, 20, 3000), _density(points, 4, 600)
    ranks = [np.argsort(np.argsort(d)) for d in (whole, part)]
    assert np.corrcoef(*ranks)[0, 1] > 0.95


def test_chunks_change_nothing(monkeypatch):
    from bgpm.selection import dense

    points = rng().normal(size=(500, 5)).astype(np.float32)
    whole = _density(points, 10, 200)
    monkeypatch.setattr(dense, "_CHUNK", 77)
    np.testing.assert_allclose(_density(points, 10, 200), whole, rtol=1e-5)


def test_features_that_are_not_finite_are_refused_by_name(make_pool):
    c = make_pool().candidates()
    c.features.responses[c.pairs.response_a[9], 1] = np.inf
    with pytest.raises(NumericsError, match="feature difference of pair"):
        Dense()(c, np.ones(len(c)), 3, generator=rng())


def test_wrappers_can_be_stacked(make_pool):
    c = make_pool().candidates()
    values = rng(1).random(len(c))
    stacked = Hybrid(inner="dense", settings={"exponent": 2.0}, random_share=0.25)(c, values, 8, generator=rng())
    weighed = values * density_by_sorting(c, 10) ** 2
    best = [n for n in np.argsort(-weighed) if n not in stacked.rows[:2]][:6]
    np.testing.assert_array_equal(stacked.rows[2:], best)
