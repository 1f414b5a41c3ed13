"""Labels that were drawn are weighed in every fit, labels that were chosen are not, and a mixture is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.acquisition.bald import Bald
from bgpm.acquisition.entropy import Entropy
from bgpm.acquisition.random import Random
from bgpm.config import check
from bgpm.errors import ConfigError, DataError
from bgpm.evaluation.pool_labels import pool_labels
from bgpm.loop.evaluate import label_pool
from bgpm.loop.loop import Loop
from bgpm.loop.pool import Pool
from bgpm.loop.train import train
from bgpm.loop.weighing import draw_weights
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.selection import StartSettings
from bgpm.selection.hybrid import Hybrid
from bgpm.selection.power import Power
from bgpm.selection.top_k import TopK
from bgpm.selection.weighted import Weighted
from bgpm.stage import read_params
from bgpm.types import Features, Pairs

FAST = Laplace(prior_precision=1.0, importance_exponent=1.0)


def misfit(pairs: int = 400, p: int = 5, seed: int = 0) -> tuple[Pool, np.ndarray]:
    """An eighth of the pairs differ more and follow the reverse of the rule of the others: no linear score has both.

    One pair a prompt. The best linear score orders three quarters of the pairs rightly.
    """
    rng = np.random.default_rng(seed)
    far = rng.random(pairs) < 0.12
    apart = rng.standard_normal((pairs, p)) * np.where(far, 2.0, 1.0)[:, None]
    responses = np.zeros((2 * pairs, p), np.float32)
    responses[::2], responses[1::2] = apart / 2, -apart / 2
    rows = np.arange(pairs)
    score = apart[:, 0] * np.where(far, -1.0, 1.0)
    pool = Pool.of(Features(responses, np.zeros((pairs, 1), np.float32)), Pairs(2 * rows, 2 * rows + 1, rows))
    return pool, (rng.random(pairs) < 1 / (1 + np.exp(-3 * score))).astype(float)


def loop_on(pool: Pool, truth: np.ndarray, **settings) -> Loop:
    parts = {"acquisition": Bald(), "posterior": FAST, "model": Bt(), "selection": Weighted(uniform=0.2, power=1)}
    parts |= {"start": StartSettings(labels=12), "batch_size": 12}
    return Loop(pool, lambda rows: truth[rows], **{**parts, **settings})


def accuracy(model, pool: Pool, truth: np.ndarray) -> float:
    return float(((model.moments(pool.features, pool.pairs).mean.numpy() > 0) == (truth > 0.5)).mean())


def test_draws_are_counted_over_all_rounds_and_weights_are_made_anew_each_round():
    pool, truth = misfit(80)
    done = list(loop_on(pool, truth).rounds(budget=48))
    for k, one in enumerate(done):
        labels = one.labels
        assert labels["draw"].tolist() == list(range(1, 12 * (k + 1) + 1))
        assert set(labels["pool_size"].tolist()) == {80}
        np.testing.assert_allclose(labels["q"][:12], 1 / (80 - np.arange(12)))
        weight = draw_weights(labels)
        if k == 0:
            assert weight is None  # uniform draws count once each
            continue
        np.testing.assert_allclose(weight, F.importance_weights(torch.tensor(labels["q"]), 80).numpy())
        told = {name: labels[name] for name in ("pair", "label", "margin")}
        by_hand = train(FAST, Bt(), pool, told | {"weight": weight}, seed=0)
        moments = [m.moments(pool.features, pool.pairs).mean.numpy() for m in (one.model, by_hand)]
        np.testing.assert_array_equal(*moments)
        unweighted = train(FAST, Bt(), pool, told, seed=0).moments(pool.features, pool.pairs).mean.numpy()
        assert np.abs(moments[0] - unweighted).max() > 1e-3


def test_the_order_of_labels_does_not_matter_and_their_own_weights_come_on_top():
    pool, truth = misfit(60)
    labels = list(loop_on(pool, truth).rounds(budget=36))[-1].labels
    order = np.random.default_rng(0).permutation(36)
    shuffled = {name: column[order] for name, column in labels.items()}
    np.testing.assert_array_equal(draw_weights(shuffled), draw_weights(labels)[order])
    own = np.random.default_rng(1).random(36)
    both, product = (
        train(Point(prior_precision=1.0, importance_exponent=1.0), Bt(), pool, some, seed=0).module.weight
        for some in (
            labels | {"weight": own},
            {n: labels[n] for n in ("pair", "label", "margin")} | {"weight": own * draw_weights(labels)},
        )
    )
    assert torch.equal(both, product)


def test_a_pair_nobody_could_label_is_a_draw_too():
    pool, truth = misfit(60)
    truth = np.where(np.arange(60) % 4 == 0, np.nan, truth)
    last = list(loop_on(pool, truth).rounds(budget=36))[-1]
    told = ~np.isnan(last.labels["label"])
    assert 0 < told.sum() < 36
    weight = F.importance_weights(torch.tensor(last.labels["q"]), 60).numpy()
    kept = {n: last.labels[n][told] for n in ("pair", "label", "margin")} | {"weight": weight[told]}
    by_hand = train(FAST, Bt(), pool, kept, seed=0)
    np.testing.assert_array_equal(*(m.moments(pool.features, pool.pairs).mean for m in (last.model, by_hand)))


@pytest.mark.parametrize("selection", [TopK(), Power(), Hybrid()])
def test_what_was_chosen_counts_once(selection):
    pool, truth = misfit(60)
    labels = list(loop_on(pool, truth, selection=selection).rounds(budget=36))[-1].labels
    assert np.isfinite(labels["q"]).tolist() == [True] * 12 + [False] * 24
    assert draw_weights(labels) is None


@pytest.mark.parametrize("selection", [TopK(), Weighted(), Hybrid()])
def test_a_uniform_draw_stays_uniform_and_weighs_one_to_the_bit(selection):
    pool, truth = misfit(60)
    labels = list(loop_on(pool, truth, acquisition=Random(), selection=selection).rounds(budget=36))[-1].labels
    np.testing.assert_allclose(labels["q"], 1 / (60 - np.arange(36)))
    assert draw_weights(labels) is None


def test_a_whole_pool_drawn_is_the_whole_pool_with_weight_one():
    pool, truth = misfit(40)
    last = list(loop_on(pool, truth, batch_size=14).rounds(budget=40))[-1]
    assert len(last.labels["pair"]) == 40
    assert draw_weights(last.labels) is None


def table(**changes):
    columns = {"draw": np.arange(1, 9), "q": np.full(8, 0.1), "pool_size": np.full(8, 20)}
    return columns | {"round": np.repeat([0, 1], 4)} | changes


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (table(q=np.r_[np.full(6, 0.1), np.nan, np.nan]), "label 7 was chosen and others of later rounds were drawn"),
        (table(q=np.r_[np.full(4, np.nan), np.full(4, 0.1)]), "label 1 was chosen and others of later rounds"),
        (table(pool_size=np.repeat([20, 30], 4)), r"from pools of \[20, 30\] pairs"),
        (table(draw=np.r_[1:5, 6:10]), "of which some are missing"),
    ],
)
def test_labels_that_cannot_be_weighed_are_refused(labels, words):
    with pytest.raises(DataError, match=words):
        draw_weights(labels)


def test_final_labels_take_a_label_out_as_often_as_its_fit_counted_it():
    pool, truth = misfit(120)
    posterior = Laplace(prior_precision=1.0, error_rate=0.2, importance_exponent=0.5)
    labels = dict(list(loop_on(pool, truth, posterior=posterior).rounds(budget=60))[-1].labels)
    labels["label"], labels["weight"] = labels["label"].copy(), np.linspace(0.5, 2.0, 60)
    labels["label"][7] = np.nan
    model, told = train(posterior, Bt(), pool, labels, seed=0), np.arange(60) != 7
    root = draw_weights(labels)[told] ** 0.5
    counted = np.full(60, np.nan)
    counted[told] = labels["weight"][told] * root * (draw_weights(labels)[told].sum() / root.sum())
    moments = model.moments(pool.features, pool.pairs.take(pool.open))
    expected, once = (pool_labels(pool.open, moments, labels | {"weight": w}) for w in (counted, np.ones(60)))
    found = label_pool(model, pool, labels)
    np.testing.assert_allclose(found.probability, expected.probability)
    assert np.abs(found.probability - once.probability).max() > 0.01


def test_what_does_not_go_with_weighing_is_refused_before_any_work():
    pool, truth = misfit(40)
    with pytest.raises(ConfigError, match="doptimal chooses the seed set"):
        loop_on(pool, truth, start=StartSettings(labels=12, design="doptimal"))
    with pytest.raises(ConfigError, match="amortized counts every label once"):
        loop_on(pool, truth, posterior=Amortized(), model=Gpm(bt_block=False, normalize="sphere"), acquisition=Bald())
    params = read_params()
    params["selection"] = "weighted"
    check(params)
    for change, words in (
        (("start", "design", "doptimal"), "start.design: doptimal chooses"),
        (("training", "mode", "lora"), "training.mode: lora counts every label once"),
    ):
        other = read_params() | {"selection": "weighted"}
        other[change[0]][change[1]] = change[2]
        with pytest.raises(ConfigError, match=words):
            check(other)


@pytest.mark.parametrize("kind", [Point, Laplace, Ensemble])
@pytest.mark.parametrize(
    ("model", "precision"),
    [
        *((model, precision) for model in (Bt(), Gpm()) for precision in (1.0, "heldout", "evidence")),
        *((Gpm(bt_block=False, dim=2), precision) for precision in (1.0, "heldout")),
        (PairMlp(hidden=4), 1.0),
    ],
)
def test_a_label_of_weight_zero_is_no_label_whatever_is_fitted_and_chosen(kind, model, precision):
    """Ten labels of weight 0, of pairs that have labels: neither the fit nor a choice by held-out labels sees them.

    Their prompts are those of other labels, so that folds are the same.
    """
    pool, truth = misfit(60, p=3)
    rows = np.arange(30)
    settings = {"bootstrap": False, "perturb_prior": False, "members": 2} if kind is Ensemble else {}
    posterior = kind(prior_precision=precision, **settings)
    label, margin = truth[rows], np.full(30, np.nan)
    alone = {"pair": rows, "label": label, "margin": margin, "weight": np.linspace(0.5, 2, 30)}
    more = {name: np.concatenate([column, column[:10]]) for name, column in alone.items()}
    more["label"][30:] = 1 - more["label"][30:]
    more["weight"][30:] = 0.0
    ignored, seen = dict(more), dict(more)
    seen["weight"] = np.ones(40)
    of = [train(posterior, model, pool, some, seed=0).moments(pool.features, pool.pairs).mean.numpy()
          for some in (alone, ignored, seen)]  # fmt: skip
    np.testing.assert_allclose(of[0], of[1], rtol=0.02, atol=0.02)
    assert np.abs(of[0] - of[2]).max() > 0.05


def areas(pool: Pool, truth: np.ndarray, seeds: range, **settings) -> np.ndarray:
    """Mean accuracy over rounds on all pairs of the pool, by seed."""
    found = []
    for seed in seeds:
        rounds = loop_on(pool, truth, seed=seed, **settings).rounds(budget=108)
        found.append(np.mean([accuracy(done.model, pool, truth) for done in rounds]))
    return np.array(found)


@pytest.fixture(scope="module")
def arms():
    pool, truth = misfit()
    seeds = range(12)
    return pool, truth, {
        "uniform": areas(pool, truth, seeds, acquisition=Random(), selection=TopK()),
        "top_k": areas(pool, truth, seeds, selection=TopK()),
        "weighted": areas(pool, truth, seeds),
        "chosen": areas(pool, truth, seeds, selection=Weighted(), posterior=Laplace(prior_precision=1.0)),
    }  # fmt: skip


def interval(difference: np.ndarray) -> tuple[float, float]:
    half = 2.201 * difference.std(ddof=1) / len(difference) ** 0.5  # Student, 11 degrees of freedom
    return difference.mean() - half, difference.mean() + half


@pytest.mark.slow
def test_where_the_model_is_wrong_top_k_bald_loses_to_uniform_draws_and_weighted_bald_does_not(arms):
    _, _, found = arms
    assert interval(found["top_k"] - found["uniform"])[1] < -0.05
    for name, least in (("weighted", -0.02), ("chosen", -0.03)):  # a choice by cross-validation is not always right
        low, high = interval(found[name] - found["uniform"])
        assert low > least
        assert high > 0


def test_weighted_bald_converges_to_the_fit_on_the_whole_pool_and_top_k_does_not():
    pool, truth = misfit()
    everything = {"pair": pool.open, "label": truth, "margin": np.full(len(truth), np.nan)}
    flat = Point(prior_precision=1e-2, importance_exponent=1.0)
    target = train(flat, Bt(), pool, everything, seed=0).module.weight[0].numpy()

    def distance(budget: int, selection) -> float:
        off = []
        for seed in range(4):
            loop = loop_on(pool, truth, seed=seed, selection=selection, batch_size=48)
            last = list(loop.rounds(budget=budget))[-1]
            fit = train(flat, Bt(), pool, last.labels, seed=0)
            off.append(np.linalg.norm(fit.module.weight[0].numpy() - target) / np.linalg.norm(target))
        return float(np.mean(off))

    drawn = Weighted(uniform=0.2, power=1)
    near, half, far = distance(348, drawn), distance(156, drawn), distance(156, TopK())
    assert near < 0.5 * half
    assert half < 0.6 * far


@pytest.mark.slow
def test_estimates_of_the_model_before_its_batch_are_unbiased_and_their_intervals_cover():
    pool, truth = misfit(200)
    off, covered = {"accuracy": [], "nll": []}, {"accuracy": [], "nll": []}
    for seed in range(40):
        before = None
        for done in loop_on(pool, truth, seed=seed, batch_size=24).rounds(budget=84):
            found = done.estimates()
            if before is None:
                assert found == {}
            else:
                left = np.setdiff1d(pool.open, before.labels["pair"])
                moments = before.model.moments(pool.features, pool.pairs.take(left))
                p = 1 / (1 + np.exp(-F.predictive_logit(moments.mean, moments.variance, moments.tau).numpy()))
                real = {
                    "accuracy": ((moments.mean.numpy() > 0) == (truth[left] > 0.5)).mean(),
                    "nll": -np.log(np.where(truth[left] > 0.5, p, 1 - p)).mean(),
                }
                for name, value in real.items():
                    low, high = found[name].interval()
                    off[name].append(found[name].value - value)
                    covered[name].append(low <= value <= high)
            before = done
    for name, differences in off.items():
        assert abs(np.mean(differences)) < 3 * np.std(differences) / len(differences) ** 0.5
        assert 0.88 < np.mean(covered[name]) <= 1


def test_ties_and_missing_labels_leave_estimates_of_the_others():
    pool, truth = misfit(200)
    truth = truth.copy()
    truth[::5], truth[1::5] = 0.5, np.nan
    done = list(loop_on(pool, truth, acquisition=Entropy(), batch_size=60).rounds(budget=72))
    found = done[-1].estimates()
    left = np.setdiff1d(pool.open, done[0].labels["pair"])
    mean = done[0].model.moments(pool.features, pool.pairs.take(left)).mean.numpy()
    decided = ~np.isnan(truth[left]) & (truth[left] != 0.5)
    real = ((mean > 0) == (truth[left] > 0.5))[decided].mean()
    assert abs(found["accuracy"].value - real) < 3 * found["accuracy"].error
    assert 0 < found["accuracy"].error < 0.15
    nobody = replace(done[-1], labels=done[-1].labels | {"label": np.full(72, np.nan)})
    assert nobody.estimates() == {}
