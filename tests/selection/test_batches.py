"""What each selector computes, against slow and obvious references."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.errors import NumericsError
from bgpm.keys import uniform_by_key
from bgpm.selection.cluster import Cluster
from bgpm.selection.conditional_bald import ConditionalBald
from bgpm.selection.coreset import Coreset
from bgpm.selection.logdet import Logdet
from bgpm.selection.power import Power
from bgpm.selection.top_k import TopK
from bgpm.types import Features


def rng(seed=5):
    return np.random.default_rng(seed)


def unused(candidates):
    return np.zeros(len(candidates))


def fisher(c):
    return F.fisher_weight(torch.tensor(c.mean), torch.tensor(c.variance), c.tau, error_rate=c.error_rate).numpy()


def information(c, rows):
    """1/2 log det(I + L^1/2 K L^1/2) over these rows, nats."""
    root = np.sqrt(fisher(c)[rows])
    covariance = c.kernel().covariance.numpy()[np.ix_(rows, rows)]
    return 0.5 * np.linalg.slogdet(np.eye(len(rows)) + root[:, None] * covariance * root)[1]


def refitted_variance(pool, c, rows):
    """Variances after the weights' posterior precision has taken in these labels, by inversion."""
    phi = pool.features.responses.astype(np.float64)
    apart = phi[c.pairs.response_a] - phi[c.pairs.response_b]
    precision = np.linalg.inv(pool.weight_covariance)
    for n in rows:
        precision += fisher(c)[n] * np.outer(apart[n], apart[n])
    return np.einsum("np,pq,nq->n", apart, np.linalg.inv(precision), apart)


# --- top_k -----------------------------------------------------------------------------------------------------------


def test_top_k_takes_the_highest_values_in_order(make_pool):
    c = make_pool().candidates()
    values = rng(1).normal(size=len(c))
    batch = TopK()(c, values, 9, generator=rng())
    np.testing.assert_array_equal(batch.rows, np.argsort(-values)[:9])
    np.testing.assert_array_equal(batch.gains, np.sort(values)[::-1][:9])


def test_top_k_with_a_cap_skips_what_the_cap_forbids(make_pool):
    c = make_pool().candidates()
    values = rng(1).normal(size=len(c)) + 3.0 * (c.pairs.prompt == 2)
    expected, seen = [], dict.fromkeys(range(12), 0)
    for n in np.argsort(-values):
        if seen[c.pairs.prompt[n]] < 2 and len(expected) < 15:
            seen[c.pairs.prompt[n]] += 1
            expected.append(n)
    np.testing.assert_array_equal(TopK(max_per_prompt=2)(c, values, 15, generator=rng()).rows, expected)


# --- logdet ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cap", [None, 6])
@pytest.mark.parametrize("error_rate", [0.0, 0.2])
def test_every_pick_of_logdet_adds_the_most_joint_information(make_pool, cap, error_rate):
    c = replace(make_pool(spread=2.0).candidates(), error_rate=error_rate)
    batch = Logdet(max_per_prompt=cap)(c, unused(c), 10, generator=rng())
    chosen: list[int] = []
    for row, gain in zip(batch.rows.tolist(), batch.gains, strict=True):
        worth = {n: information(c, [*chosen, n]) for n in range(len(c)) if n not in chosen}
        assert worth[row] == pytest.approx(max(worth.values()), rel=1e-10)
        assert gain == pytest.approx(worth[row] - information(c, chosen), rel=1e-8)
        chosen.append(row)


@pytest.mark.slow
def test_logdet_comes_close_to_the_best_batch_of_three(make_pool):
    c = make_pool(prompts=4, spread=2.0).candidates()
    best = max(information(c, list(rows)) for rows in itertools.combinations(range(len(c)), 3))
    found = Logdet()(c, unused(c), 3, generator=rng()).gains.sum()
    assert (1 - 1 / np.e) * best < found <= best + 1e-12
    assert found > 0.97 * best


def test_logdet_buys_one_of_two_copies_where_top_k_buys_both(make_pool):
    pool = make_pool(spread=2.0)
    c = pool.candidates()
    worth = 0.5 * np.log1p(fisher(c) * c.variance)
    order = np.r_[np.arange(len(c)), worth.argmax()]
    copied = replace(pool.permuted(order), keys=np.array([str(n) for n in range(len(order))])).candidates()
    twins = {int(worth.argmax()), len(c)}
    top = TopK()(copied, worth[order], 2, generator=rng()).rows
    assert set(top.tolist()) == twins
    assert len(twins & set(Logdet()(copied, unused(copied), 6, generator=rng()).rows.tolist())) == 1


# --- conditional_bald ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "error_rate"), [(0.3, 0.0), (2.0, 0.0), (6.0, 0.0), (2.0, 0.2)])
def test_conditional_bald_is_bald_at_the_refitted_variance(make_pool, spread, error_rate):
    pool = make_pool(spread=spread)
    c = replace(pool.candidates(), error_rate=error_rate)
    batch = ConditionalBald()(c, unused(c), 12, generator=rng())
    for t in range(12):
        left = refitted_variance(pool, c, batch.rows[:t])
        value = F.bald(torch.tensor(c.mean), torch.tensor(left), c.tau, error_rate=error_rate).numpy()
        value[batch.rows[:t]] = -1
        assert value[batch.rows[t]] == pytest.approx(value.max(), rel=1e-8)
        assert batch.gains[t] == pytest.approx(value.max(), rel=1e-8)


def test_bald_grows_with_the_variance():
    """Lazy evaluation relies on it: an old value is an upper bound."""
    mean, sd = np.meshgrid(np.linspace(0, 14, 57), np.geomspace(1e-3, 40, 400), indexing="ij")
    value = F.bald(torch.tensor(mean), torch.tensor(sd**2))
    assert (value.diff(dim=1) > 0).all()


def test_lazy_evaluation_recomputes_few_values_and_misses_nothing(make_pool):
    pool = make_pool(prompts=800, dim=20, spread=2.0)
    phi = pool.features.responses.astype(np.float64)
    apart = torch.tensor(phi[pool.pairs.response_a] - phi[pool.pairs.response_b])
    covariance = torch.tensor(pool.weight_covariance)
    mean, variance = apart @ torch.tensor(pool.weight_mean), ((apart @ covariance) * apart).sum(1)
    weight, asked = F.fisher_weight(mean, variance), []

    def bald(rows, left):
        asked.append(len(rows))
        return F.bald(mean[rows], left)

    picks, _ = F.greedy_conditional(variance, lambda j: apart @ (covariance @ apart[j]), weight, 15, bald)
    precision, open_ = torch.linalg.inv(covariance), torch.ones(len(mean), dtype=torch.bool)
    for row in picks.tolist():
        left = ((apart @ torch.linalg.inv(precision)) * apart).sum(1)
        assert F.bald(mean, left).masked_fill(~open_, -1).argmax() == row
        open_[row] = False
        precision += weight[row] * torch.outer(apart[row], apart[row])
    assert sum(asked[1:]) < 0.5 * 14 * len(mean)


def test_a_kernel_that_contradicts_itself_is_refused(make_pool):
    c = make_pool().candidates()
    covariance = c.kernel().covariance * 3

    class Lying:
        def diagonal(self):
            return covariance.diagonal() / 3

        def row(self, j):
            return covariance[j]

        def block(self, rows, columns):
            return covariance[rows][:, columns]

    with pytest.raises(NumericsError, match="contradict"):
        ConditionalBald()(replace(c, kernel=Lying), unused(c), 5, generator=rng())


# --- coreset ---------------------------------------------------------------------------------------------------------


def test_each_pick_of_coreset_is_farthest_from_the_earlier_ones(make_pool):
    c = make_pool().candidates()
    values = rng(1).random(len(c))
    batch = Coreset()(c, values, 20, generator=rng())
    x = (c.features.responses[c.pairs.response_a] - c.features.responses[c.pairs.response_b]).astype(np.float64)
    distance = np.minimum(np.linalg.norm(x[:, None] - x[None], axis=2), np.linalg.norm(x[:, None] + x[None], axis=2))
    assert batch.rows[0] == values.argmax()
    assert batch.gains[0] == pytest.approx(np.linalg.norm(x[batch.rows[0]]), rel=1e-5)
    for t in range(1, 20):
        nearest = distance[:, batch.rows[:t]].min(axis=1)
        assert nearest[batch.rows[t]] == pytest.approx(nearest.max(), rel=1e-5)
        assert batch.gains[t] == pytest.approx(nearest.max(), rel=1e-5)
    assert (np.diff(batch.gains[1:]) <= 1e-6).all()


# --- cluster ---------------------------------------------------------------------------------------------------------


def blobs(make_pool, sizes):
    """Pairs whose feature differences lie in tight groups of these sizes, up to sign."""
    pool = make_pool(prompts=sum(sizes), responses=2)
    group = np.repeat(np.arange(len(sizes)), sizes)
    noise = rng(4)
    responses = np.zeros((2 * len(group), 6), np.float32)
    directions = 10 * np.eye(6, dtype=np.float32)[:, :]
    signs = noise.choice([-1, 1], len(group))[:, None]
    responses[pool.pairs.response_a] = signs * (directions[group] + 0.1 * noise.random((len(group), 6), np.float32))
    return replace(pool, features=Features(responses, pool.features.prompts)).candidates(), group


def test_cluster_takes_the_best_of_each_group(make_pool):
    c, group = blobs(make_pool, (40, 30, 20, 10))
    values = rng(1).random(len(c)) + 2.0 * (group == 0)  # by value alone, only the first group would be acquired
    batch = Cluster(clusters=4)(c, values, 12, generator=rng())
    for g in range(4):
        best = np.flatnonzero(group == g)[np.argsort(-values[group == g])[:3]]
        assert set(best) <= set(batch.rows.tolist())
    np.testing.assert_array_equal(batch.gains, values[batch.rows])
    assert set(TopK()(c, values, 12, generator=rng()).rows) <= set(np.flatnonzero(group == 0))


def test_what_a_small_group_cannot_give_is_taken_from_the_others(make_pool):
    c, group = blobs(make_pool, (40, 30, 2))
    batch = Cluster(clusters=3)(c, rng(1).random(len(c)), 12, generator=rng())
    assert np.bincount(group[batch.rows]).tolist() == [5, 5, 2]


def test_by_default_there_are_as_many_clusters_as_picks(make_pool):
    c, group = blobs(make_pool, (40, 30, 20, 10))
    batch = Cluster()(c, rng(1).random(len(c)), 4, generator=rng())
    assert sorted(group[batch.rows]) == [0, 1, 2, 3]
    assert len(Cluster(clusters=500)(c, rng(1).random(len(c)), 4, generator=rng()).rows) == 4


# --- power -----------------------------------------------------------------------------------------------------------


def first_picks(c, values, beta, draws):
    picks = [Power(beta=beta)(c, values, 1, generator=rng(s)).rows[0] for s in range(draws)]
    return np.bincount(picks, minlength=len(c)) / draws


def test_the_first_pick_of_power_has_odds_of_the_value_to_the_beta(make_pool):
    c = make_pool(prompts=1).candidates()
    values = np.array([0.1, 0.2, 0.0, 0.4, 0.3, 0.5])
    for beta in (1.0, 2.0):
        expected = values**beta / (values**beta).sum()
        share = first_picks(c, values, beta, 3000)
        assert (np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 3000)).all()
        assert share[2] == 0


def test_by_default_power_is_gumbel_noise_on_eight_times_the_logarithm(make_pool):
    c = make_pool().candidates()
    values = rng(1).uniform(0.5, 0.69, len(c))  # entropies of a round
    twin = rng(3)
    order = np.argsort(uniform_by_key(c.keys, twin), kind="stable")  # the selector draws its order first
    noisy = 8 * np.log(values[order]) + twin.gumbel(size=len(c))
    np.testing.assert_array_equal(Power()(c, values, 10, generator=rng(3)).rows, order[np.argsort(-noisy)[:10]])


def test_where_a_value_is_negative_the_odds_are_exponential(make_pool):
    c = make_pool(prompts=1).candidates()
    values = -np.array([0.1, 0.9, 2.0, 0.0, 0.3, 5.0])
    expected = np.exp(1.5 * values) / np.exp(1.5 * values).sum()
    share = first_picks(c, values, 1.5, 3000)
    assert (np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 3000) + 1e-9).all()


def test_power_with_a_large_beta_is_top_k_and_worthless_pairs_come_last(make_pool):
    c = make_pool().candidates()
    values = np.where(np.arange(len(c)) < 60, np.linspace(1, 2, len(c)), 0.0)
    rows = Power(beta=1e5)(c, values, len(c), generator=rng()).rows
    np.testing.assert_array_equal(rows[:60], np.arange(59, -1, -1))
    assert sorted(rows[60:]) == list(range(60, 72))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_the_number_of_a_key_depends_on_the_key_and_the_seed_only():
    keys = np.array([f"pair {n}" for n in range(2000)], object)
    drawn = uniform_by_key(keys, rng(1))
    order = rng(2).permutation(len(keys))
    np.testing.assert_array_equal(uniform_by_key(keys[order].astype(str), rng(1)), drawn[order])
    other = uniform_by_key(keys, rng(2))
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / np.sqrt(len(keys))
    assert 0 < drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(keys))
    assert len(np.unique(drawn)) == len(keys)
