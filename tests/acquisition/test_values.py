"""What each acquisition function computes, against slow and obvious references."""

from __future__ import annotations

import decimal
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.acquisition import Acquisition, balpm
from bgpm.acquisition.bald import Bald
from bgpm.acquisition.balpm import Balpm
from bgpm.acquisition.dopt import Dopt
from bgpm.acquisition.entropy import Entropy
from bgpm.acquisition.epig import Epig, _label_information
from bgpm.acquisition.expected_errors import ExpectedErrors
from bgpm.acquisition.margin import Margin
from bgpm.acquisition.mv import Mv
from bgpm.acquisition.random import Random
from bgpm.acquisition.ucb import Ucb
from bgpm.errors import ConfigError, NumericsError
from bgpm.registry import build
from bgpm.types import Candidates, Features, Pairs


def rng():
    return np.random.default_rng(5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def entropy(p, other):
    """Of a coin with these two probabilities."""
    return -p * np.log(p) - other * np.log(other)


def expectation(function, mean, sd):
    """E function(x) for x ~ N(mean, sd^2) by a fine Riemann sum, [N]."""
    z = np.linspace(-10, 10, 4001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    return np.array([(function(m + s * z) * density).sum() for m, s in zip(mean, sd, strict=True)])


def test_the_closed_forms_are_what_they_say(make_pool):
    c = make_pool().candidates()
    np.testing.assert_array_equal(Mv()(c, generator=rng()), c.variance)
    np.testing.assert_array_equal(Margin()(c, generator=rng()), -np.abs(c.mean))
    np.testing.assert_allclose(Ucb(kappa=0.3)(c, generator=rng()), np.abs(c.mean) + 0.3 * np.sqrt(c.variance))
    np.testing.assert_allclose(Ucb()(c, generator=rng()), np.abs(c.mean) + np.sqrt(c.variance))


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
def test_bald_entropy_and_dopt_agree_with_a_fine_sum(make_pool, spread):
    c = make_pool(spread=spread).candidates()
    mean, sd = c.mean / c.tau, np.sqrt(c.variance) / c.tau
    p = expectation(sigmoid, mean, sd)
    label = entropy(p, expectation(lambda x: sigmoid(-x), mean, sd))
    noise = expectation(lambda x: entropy(sigmoid(x), sigmoid(-x)), mean, sd)
    weight = expectation(lambda x: sigmoid(x) * sigmoid(-x), mean, sd) / c.tau**2
    np.testing.assert_allclose(Entropy()(c, generator=rng()), label, rtol=1e-8)
    np.testing.assert_allclose(Bald()(c, generator=rng()), label - noise, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(Dopt()(c, generator=rng()), weight * c.variance, rtol=1e-8)


def test_bald_prefers_an_open_question_to_a_decided_one_of_the_same_variance(make_pool):
    c = make_pool().candidates()
    c = replace(c, mean=np.linspace(0, 5, len(c)), variance=np.ones(len(c)))
    assert (np.diff(Bald()(c, generator=rng())) < 0).all()
    assert (np.diff(Mv()(c, generator=rng())) == 0).all()
    assert (np.diff(Ucb()(c, generator=rng())) > 0).all()


def test_random_draws_each_pair_equally_often(make_pool):
    c = make_pool(prompts=3).candidates()
    draws, k = 2000, 4
    counts = Counter()
    for seed in range(draws):
        counts.update(np.argsort(-Random()(c, generator=np.random.default_rng(seed)))[:k].tolist())
    share = np.array([counts[n] for n in range(len(c))]) / draws
    expected = k / len(c)
    error = np.sqrt(expected * (1 - expected) / draws)
    assert np.abs(share - expected).max() < 4 * error
    assert 0.5 * error < share.std() < 1.6 * error  # neither a fixed choice nor a stratified one


def test_kappa_must_be_a_finite_number_of_zero_or_more():
    for bad in (-0.1, float("nan"), float("inf"), "1"):
        with pytest.raises(ConfigError, match=r"acquisitions.ucb.kappa"):
            build(Acquisition, "ucb", {"kappa": bad}, "acquisitions")


# --- epig ------------------------------------------------------------------------------------------------------------


def joint_labels(c, n, t, error_rate=0.0):
    """P(label of n, which response of t is better) as a table [2, 2], by quadrature in the plane."""
    z, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / w.sum()
    covariance = c.kernel().covariance.numpy()[np.ix_([n, t], [n, t])] / c.tau**2
    mean = c.mean / c.tau
    slope = covariance[0, 1] / covariance[0, 0]
    rest = np.sqrt(max(0.0, covariance[1, 1] - slope * covariance[0, 1]))
    x = mean[n] + np.sqrt(covariance[0, 0]) * z[:, None]
    y = mean[t] + slope * (x - mean[n]) + rest * z[None, :]
    weights = w[:, None] * w[None, :]
    table = np.array([[(weights * sigmoid(a * x) * sigmoid(b * y)).sum() for b in (1, -1)] for a in (1, -1)])
    return (1 - error_rate) * table + error_rate * table[::-1]


def epig_by_double_sum(c, error_rate=0.0):
    """Mean over all other pairs of the labels' mutual information."""
    out = np.zeros(len(c))
    for n in range(len(c)):
        for t in set(range(len(c))) - {n}:
            table = joint_labels(c, n, t, error_rate)
            independent = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
            out[n] += (table * np.log(table / independent)).sum() / (len(c) - 1)
    return out


@pytest.mark.parametrize(("spread", "rtol"), [(0.05, 1e-5), (0.7, 1e-5), (2.0, 2e-3)])
def test_epig_agrees_with_a_double_sum_over_both_scores(make_pool, spread, rtol):
    c = make_pool(prompts=3, responses=3, spread=spread).candidates()
    found = Epig(targets=100)(c, generator=rng())
    np.testing.assert_allclose(found, epig_by_double_sum(c), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("sd", "limit"), [(1.0, 1e-7), (5.0, 5e-3), (20.0, 5e-3)])
@pytest.mark.parametrize("r", [0.3, 0.99, -0.99, 0.9999])
def test_epig_of_near_copies_is_right_for_wide_scores_too(make_pool, sd, limit, r):
    """Two pairs; the truth by a sum over one score of the other's conditional probability."""
    pair = make_pool(prompts=1).permuted(np.arange(2)).candidates()
    mean, sds = np.array([-0.4, 0.9]) * sd, np.array([sd, 0.8 * sd])
    covariance = np.outer(sds, sds) * np.array([[1, r], [r, 1]])
    kernel = type(pair.kernel())(torch.tensor(covariance))
    c = replace(pair, mean=mean, variance=sds**2, tau=1.0, kernel=lambda: kernel)
    z = np.linspace(-9, 9, 3601)
    density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    conditional = torch.tensor(mean[1] + r * sds[1] * z), torch.full((3601,), sds[1] ** 2 * (1 - r**2)).double()
    first, second = sigmoid(mean[0] + sds[0] * z), F.expected_probability(*conditional).numpy()
    table = np.array([[(density * a * b).sum() for b in (second, 1 - second)] for a in (first, 1 - first)])
    truth = (table * np.log(table / table.sum(1, keepdims=True) / table.sum(0, keepdims=True))).sum()
    np.testing.assert_allclose(Epig()(c, generator=rng()), truth, rtol=limit)


def test_epig_is_never_negative_and_at_most_the_information_about_the_score(make_pool):
    c = make_pool(spread=6.0).candidates()
    found = Epig()(c, generator=rng())
    assert (found >= 0).all()
    assert (found <= Bald()(c, generator=rng()) + 1e-12).all()


def test_weak_dependence_of_two_labels_does_not_drown_in_rounding():
    def in_fifty_digits(p, q, covariance):
        with decimal.localcontext(prec=50):
            p, q, c = Decimal(p), Decimal(q), Decimal(covariance)
            outcomes = ((p * q, c), ((1 - p) * (1 - q), c), (p * (1 - q), -c), ((1 - p) * q, -c))
            return float(sum((e + d) * ((e + d) / e).ln() for e, d in outcomes))

    p, q = 0.3, 0.07
    for covariance in (-0.02, -3e-5, 1e-6, 2e-5, 1e-4, 4e-4, 0.04):
        found = _label_information(*(torch.tensor([x], dtype=torch.float64) for x in (p, q, covariance)))
        assert found.item() == pytest.approx(in_fifty_digits(p, q, covariance), rel=1e-8)


def test_epig_ignores_a_pair_that_tells_nothing_about_the_others(make_pool):
    c = make_pool(prompts=4, spread=1.0).candidates()
    covariance = c.kernel().covariance.clone()
    covariance[0, 1:] = covariance[1:, 0] = 0
    covariance[0, 0] = 50.0
    kernel = type(c.kernel())(covariance)
    lonely = replace(c, variance=covariance.diagonal().numpy().copy(), kernel=lambda: kernel)
    assert Bald()(lonely, generator=rng()).argmax() == 0
    assert Epig()(lonely, generator=rng())[0] == 0


def test_epig_samples_its_targets_by_seed_and_approaches_the_mean_over_all(make_pool):
    c = make_pool(prompts=20).candidates()
    whole = Epig(targets=1000)(c, generator=rng())
    few = [Epig(targets=12)(c, generator=np.random.default_rng(seed)) for seed in range(40)]
    assert np.ptp(few, axis=0).min() > 0
    error = np.std(few, axis=0) / np.sqrt(len(few))
    assert np.abs(np.mean(few, axis=0) - whole).max() < 4.5 * error.max()


def test_epig_stays_finite_where_a_probability_underflows(make_pool):
    c = make_pool().candidates()
    c = replace(c, mean=c.mean * 1e4)
    found = Epig()(c, generator=rng())
    assert np.isfinite(found).all()
    assert (found >= 0).all()


def test_epig_refuses_a_kernel_that_contradicts_itself(make_pool):
    c = make_pool().candidates()
    covariance = c.kernel().covariance.clone()
    covariance[2] *= 40
    kernel = type(c.kernel())(covariance - torch.diag(covariance.diagonal()) + torch.diag(c.kernel().diagonal()))
    with pytest.raises(NumericsError, match=r"expected a correlation in \[-1, 1\]"):
        Epig()(replace(c, kernel=lambda: kernel), generator=rng())


# --- expected_errors -------------------------------------------------------------------------------------------------


def errors_removed_by_definition(c, error_rate=0.0):
    """p (1 - p) of every pair of the prompt before a label, minus its mean over both labels that may come."""
    out = np.zeros(len(c))
    mean, sd = c.mean / c.tau, np.sqrt(c.variance) / c.tau
    better = expectation(sigmoid, mean, sd)
    for n in range(len(c)):
        for t in np.flatnonzero(c.pairs.prompt == c.pairs.prompt[n]):
            if t == n:  # the better response is what the label says, but for errors
                p = better[n]
                table = np.array(
                    [[(1 - error_rate) * p, error_rate * (1 - p)], [error_rate * p, (1 - error_rate) * (1 - p)]]
                )
            else:
                table = joint_labels(c, n, t, error_rate)
            before, after = table.sum(0)[0], table[:, 0] / table.sum(1)
            out[n] += before * (1 - before) - (table.sum(1) * after * (1 - after)).sum()
    return out


@pytest.mark.parametrize(("spread", "error_rate", "rtol"), [(0.05, 0.0, 1e-6), (0.7, 0.2, 1e-6), (2.0, 0.0, 1e-3)])
def test_expected_errors_are_those_that_bayes_rule_removes_from_the_prompt(make_pool, spread, error_rate, rtol):
    c = replace(make_pool(prompts=3, responses=3, spread=spread).candidates(), error_rate=error_rate)
    found = ExpectedErrors()(c, generator=rng())
    np.testing.assert_allclose(found, errors_removed_by_definition(c, error_rate), rtol=rtol)


def test_expected_errors_of_prompts_of_all_sizes_are_the_same_however_they_are_worked_on(make_pool, monkeypatch):
    pool = make_pool(prompts=9, responses=5)
    left = np.random.default_rng(1).permutation(90)[:50]  # prompts of 3 to 8 pairs or so
    left = np.union1d(left[pool.pairs.prompt[left] != 4], np.flatnonzero(pool.pairs.prompt == 4)[:1])
    c = pool.permuted(left).candidates()
    assert len(set(Counter(c.pairs.prompt.tolist()).values())) > 3
    found = ExpectedErrors()(c, generator=rng())
    alone = c.pairs.prompt == 4
    p = expectation(sigmoid, c.mean[alone] / c.tau, np.sqrt(c.variance[alone]) / c.tau)
    np.testing.assert_allclose(found[alone], p * (1 - p), rtol=1e-8)
    monkeypatch.setattr("bgpm.acquisition.expected_errors._TOGETHER", 1)
    monkeypatch.setattr("bgpm.acquisition.expected_errors._ROWS", 2)
    np.testing.assert_allclose(ExpectedErrors()(c, generator=rng()), found, rtol=1e-12)


def test_expected_errors_of_a_large_prompt_are_estimated_from_some_of_its_pairs(make_pool):
    c = make_pool(prompts=2, responses=7).candidates()
    whole = ExpectedErrors(targets=21)(c, generator=rng())
    few = [ExpectedErrors(targets=5)(c, generator=np.random.default_rng(seed)) for seed in range(60)]
    assert np.ptp(few, axis=0).min() > 0
    error = np.std(few, axis=0) / np.sqrt(len(few))
    assert np.abs((np.mean(few, axis=0) - whole) / error).max() < 4


def test_the_label_of_a_pair_removes_the_errors_of_its_copies_too(make_pool):
    c = make_pool(prompts=1).permuted(np.arange(4)).candidates()
    kernel = type(c.kernel())(torch.full((4, 4), 1e6, dtype=torch.float64))  # scores that are one, and wide: labels too
    copies = replace(c, mean=np.zeros(4), variance=np.full(4, 1e6), kernel=lambda: kernel)
    np.testing.assert_allclose(ExpectedErrors()(copies, generator=rng()), 4 * 0.25, rtol=5e-3)


# --- balpm -----------------------------------------------------------------------------------------------------------


def rarity_by_sorting(points, k):
    points = points.astype(np.float64)
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    kth = np.sort(distance, axis=1)[:, k]  # column 0 is the point itself
    return np.log(kth / kth.min())


@pytest.mark.parametrize("k", [1, 4, 30])
def test_balpm_counts_the_bought_pairs_within_the_distance(make_pool, k):
    pool = make_pool(prompts=14)
    offered, acquired = pool.pairs.prompt < 9, np.flatnonzero(pool.pairs.prompt >= 7)[::4]  # some prompts are both
    c = replace(pool.permuted(np.flatnonzero(offered)).candidates(), acquired=pool.pairs.take(acquired))
    bonus = Balpm(entropy_weight=0.3, neighbours=k)(c, generator=rng()) - Bald()(c, generator=rng())
    points, counts = c.features.prompts.astype(np.float64), np.bincount(pool.pairs.prompt[acquired], minlength=14)
    expected = []
    for x in points[:9]:
        distance = np.linalg.norm(points - x, axis=1)
        radius = np.sort(distance)[min(k, 13)]
        n = int(counts[distance <= radius * (1 + 1e-12)].sum())
        expected.append(np.log(radius) - sum(1 / i for i in range(1, n + 1)) / 6)
    expected = 0.3 * (np.array(expected) - min(expected))
    np.testing.assert_allclose(bonus, expected[c.pairs.prompt], atol=1e-12)
    assert len(set(counts)) > 2


def test_balpm_turns_away_from_a_region_that_has_been_bought_from(make_pool):
    c = make_pool().candidates()
    before = Balpm()(c, generator=rng())
    theirs = c.pairs.prompt == 3
    after = Balpm()(replace(c, acquired=c.pairs.take(np.flatnonzero(theirs))), generator=rng())
    change = (after - before)[np.searchsorted(c.pairs.prompt, np.arange(12))]  # one pair of each prompt
    assert change[3] == change.min()
    assert change[3] < change.max()
    swapped = replace(c, acquired=c.pairs.take(np.flatnonzero(theirs)).swapped())
    np.testing.assert_array_equal(Balpm()(swapped, generator=rng()), after)


def test_balpm_refuses_features_of_bought_prompts_that_are_not_finite(make_pool):
    pool = make_pool()
    c = pool.permuted(np.flatnonzero(pool.pairs.prompt != 4)).candidates()
    c.features.prompts[4, 1] = np.nan
    with pytest.raises(NumericsError, match="prompt features of pair 'acquired of prompt 4'"):
        Balpm()(replace(c, acquired=pool.pairs.take(np.flatnonzero(pool.pairs.prompt == 4))), generator=rng())


@pytest.mark.parametrize("k", [1, 3, 11])
def test_balpm_adds_the_log_distance_to_the_kth_prompt(make_pool, k):
    c = make_pool().candidates()
    bonus = Balpm(entropy_weight=0.3, neighbours=k)(c, generator=rng()) - Bald()(c, generator=rng())
    expected = 0.3 * rarity_by_sorting(c.features.prompts, k)[c.pairs.prompt]
    np.testing.assert_allclose(bonus, expected, atol=1e-12)


def large(prompts: int, seed: int = 0) -> Candidates:
    """A pool with one pair a prompt in 64 dimensions, and some acquired."""
    draw = np.random.default_rng(seed)
    spectrum = np.sqrt(np.arange(1, 65))
    asked = (draw.standard_normal((prompts, 64)) / spectrum).astype(np.float32)
    asked[7] = asked[3]  # a copy
    rows = np.arange(prompts)
    pairs = Pairs(rows, rows + prompts, rows)
    features = Features(np.zeros((2 * prompts, 1), np.float32), asked)
    mean, variance = draw.normal(size=prompts), draw.gamma(2.0, 0.2, prompts)
    keys = np.array([f"{row}" for row in rows], object)
    return Candidates(pairs, mean, variance, 1.0, features, keys, dict, acquired=pairs.take(rows[::40]))


def test_balpm_of_many_prompts_values_pairs_as_the_search_of_all_prompts_does(monkeypatch):
    """Also where the bonus outweighs the information twenty times."""
    from scipy.stats import spearmanr

    c = large(9_000)
    for weight in (0.1, 2.0):
        quick = Balpm(entropy_weight=weight)(c, generator=rng())
        with monkeypatch.context() as patch:
            patch.setattr("bgpm.acquisition.balpm.EXACT", 10_000)
            exact = Balpm(entropy_weight=weight)(c, generator=rng())
        assert not np.array_equal(quick, exact)  # the trees were asked
        assert spearmanr(quick, exact)[0] > 0.99
        assert len(np.intersect1d(np.argsort(-quick)[:256], np.argsort(-exact)[:256])) >= 0.9 * 256


def test_balpms_trees_compare_each_prompt_with_a_bounded_number_of_others():
    points = np.random.default_rng(0).standard_normal((5_000, 3)).astype(np.float32)
    points[:3_000] = 0  # copies cannot be told apart by a line
    leaves = list(balpm._leaves(points, 100, np.random.default_rng(1)))
    assert sorted(np.concatenate(leaves).tolist()) == list(range(5_000))
    assert 95 <= min(map(len, leaves)) <= max(map(len, leaves)) <= 100
    radius = balpm._radius_in_trees(points.astype(np.float64), 10, np.random.default_rng(1))
    exact = balpm._radius(points.astype(np.float64), points.astype(np.float64), 10)
    assert (radius >= exact * (1 - 1e-12)).all()
    assert not radius[:3_000].any()


def test_balpm_without_weight_is_bald(make_pool):
    c = make_pool().candidates()
    np.testing.assert_array_equal(Balpm(entropy_weight=0.0)(c, generator=rng()), Bald()(c, generator=rng()))


def test_balpm_reads_only_prompts_that_are_on_offer(make_pool):
    pool = make_pool()
    c = pool.permuted(np.flatnonzero(pool.pairs.prompt != 4)).candidates()
    strange = c.features.prompts.copy()
    strange[4] = np.nan  # a held-out prompt, say
    seen = Balpm()(replace(c, features=Features(c.features.responses, strange)), generator=rng())
    np.testing.assert_array_equal(seen, Balpm()(c, generator=rng()))


def test_balpm_copes_with_copies_of_prompts_and_with_a_single_prompt(make_pool):
    c = make_pool().candidates()
    copies = c.features.prompts.copy()
    copies[1:5] = copies[0]
    found = Balpm(neighbours=2)(replace(c, features=Features(c.features.responses, copies)), generator=rng())
    bonus = found - Bald()(c, generator=rng())
    np.testing.assert_allclose(bonus[c.pairs.prompt < 5], 0, atol=1e-12)
    assert bonus[c.pairs.prompt >= 5].max() > 0
    alone = make_pool(prompts=1).candidates()
    np.testing.assert_array_equal(Balpm()(alone, generator=rng()), Bald()(alone, generator=rng()))


def test_balpm_refuses_prompt_features_that_are_not_finite(make_pool):
    c = make_pool().candidates()
    c.features.prompts[2, 0] = np.inf
    key = c.keys[np.flatnonzero(c.pairs.prompt == 2)[0]]
    with pytest.raises(NumericsError, match=f"prompt features of pair '{key}'"):
        Balpm()(c, generator=rng())


# --- error rate ------------------------------------------------------------------------------------------------------


def test_where_annotators_err_the_label_they_give_is_valued(make_pool):
    c = replace(make_pool(spread=2.0).candidates(), error_rate=0.2)
    mean, sd = c.mean / c.tau, np.sqrt(c.variance) / c.tau
    said = expectation(lambda x: 0.2 + 0.6 * sigmoid(x), mean, sd)
    noise = expectation(lambda x: entropy(0.2 + 0.6 * sigmoid(x), 0.2 + 0.6 * sigmoid(-x)), mean, sd)
    slope = expectation(
        lambda x: (0.6 * sigmoid(x) * sigmoid(-x)) ** 2 / ((0.2 + 0.6 * sigmoid(x)) * (0.2 + 0.6 * sigmoid(-x))),
        mean,
        sd,
    )
    information = entropy(said, 1 - said) - noise
    np.testing.assert_allclose(Bald()(c, generator=rng()), information, rtol=1e-6)
    np.testing.assert_allclose(Dopt()(c, generator=rng()), slope / c.tau**2 * c.variance, rtol=1e-7)
    np.testing.assert_allclose(Balpm(entropy_weight=0.0)(c, generator=rng()), information, rtol=1e-6)


def test_where_annotators_err_epig_is_what_their_label_tells_about_the_right_answers(make_pool):
    clean = make_pool(prompts=3, responses=3, spread=1.0).candidates()
    c = replace(clean, error_rate=0.2)
    found = Epig(targets=100)(c, generator=rng())
    np.testing.assert_allclose(found, epig_by_double_sum(c, error_rate=0.2), rtol=1e-5)
    assert (found <= Bald()(c, generator=rng())).all()
    assert (found < 0.9 * Epig(targets=100)(clean, generator=rng())).all()


@pytest.mark.parametrize("kind", ["entropy", "margin", "mv", "ucb"])
def test_an_error_rate_acts_on_the_others_through_the_posterior_alone(kind, make_pool):
    c = make_pool().candidates()
    plain, erring = (build(Acquisition, kind, {})(x, generator=rng()) for x in (c, replace(c, error_rate=0.3)))
    np.testing.assert_array_equal(plain, erring)
