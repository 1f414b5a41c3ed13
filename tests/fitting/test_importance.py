"""Importance weights of drawn labels are raised to a power, and importance-weighted cross-validation chooses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bgpm.acquisition.bald import Bald
from bgpm.fitting.importance import EXPONENTS, weighed
from bgpm.fitting.lbfgs import OnData
from bgpm.fitting.map import first_loss, fit_map, held_out, splits_of
from bgpm.fitting.newton import LinearProblem
from bgpm.fitting.tensors import LabelledTensors, labelled
from bgpm.loop.loop import Loop
from bgpm.loop.pool import Pool
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.selection import StartSettings
from bgpm.selection.weighted import Weighted
from bgpm.types import Comparisons, Features, Pairs


def pool_of(apart: np.ndarray) -> Pool:
    """Pairs with these differences of features, one pair a prompt."""
    responses = np.zeros((2 * len(apart), apart.shape[1]), np.float32)
    responses[::2], responses[1::2] = apart / 2, -apart / 2
    rows = np.arange(len(apart))
    return Pool.of(Features(responses, np.zeros((len(apart), 1), np.float32)), Pairs(2 * rows, 2 * rows + 1, rows))


def drawn(seed: int = 0, n: int = 60, p: int = 4) -> tuple[Comparisons, LabelledTensors, Pool]:
    """Labels of which the far ones were drawn more often."""
    rng = np.random.default_rng(seed)
    apart = rng.standard_normal((n, p))
    pool = pool_of(apart)
    label = (rng.random(n) < 1 / (1 + np.exp(-apart[:, 0]))).astype(float)
    data = Comparisons(pool.pairs, label, importance=rng.gamma(0.5, 2.0, n), weight=rng.random(n) + 0.5)
    return data, labelled(pool.features, data, prompts=False, margins=False), pool


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_a_given_exponent_raises_the_weights_and_keeps_their_sum(exponent):
    data, seen, _ = drawn()
    v = data.importance
    found = weighed(Point(importance_exponent=exponent), seen, v, seed=0)
    expected = v**exponent
    np.testing.assert_allclose(found.weight, data.weight * expected * v.sum() / expected.sum(), rtol=1e-12)
    assert found.exponent == exponent
    np.testing.assert_allclose(weighed(Point(importance_exponent=1.0), seen, v, seed=0).weight, v * data.weight)


def test_a_weight_of_zero_stays_one_only_at_exponent_zero():
    data, seen, _ = drawn()
    v = data.importance.copy()
    v[:5] = 0
    assert not weighed(Point(importance_exponent=0.5), seen, v, seed=0).weight[:5].any()
    assert (weighed(Point(importance_exponent=0.0), seen, v, seed=0).weight > 0).all()


def by_refitting(settings: Point, seen: LabelledTensors, v: np.ndarray, exponent: float, seed: int) -> float:
    """Loss of left-out labels by their full weights, every fold's model found anew from its own labels."""
    part = weighed(settings.model_copy(update={"importance_exponent": exponent}), seen, v, seed=seed)
    loss, total = first_loss(settings), 0.0
    for kept, held in splits_of(settings, seen, seed=seed):
        some = part.take(kept)
        fit = LinearProblem(some.response_a - some.response_b, OnData(loss, some)).solve(settings.prior_precision)
        score = (seen.response_a - seen.response_b)[held] @ fit.weight
        y, own = seen.label[held], (seen.weight * torch.from_numpy(v))[held]
        total += (own * (torch.nn.functional.softplus(score) - y * score)).sum().item()
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_that_of_the_slow_way_which_fits_every_fold_anew(seed):
    data, seen, _ = drawn(seed, n=150)
    settings = Point(prior_precision=3.0)
    slow = {g: by_refitting(settings, seen, data.importance, g, seed) for g in EXPONENTS}
    ordered = sorted(slow.values())
    assert ordered[1] - ordered[0] > 0.05  # nats, so that the case tells: one Newton step is no refit to the last digit
    assert weighed(settings, seen, data.importance, seed=seed).exponent == min(slow, key=slow.__getitem__)


def test_left_out_labels_are_measured_by_the_loss_that_is_given():
    data, seen, _ = drawn(n=80)
    settings = Point(prior_precision=2.0)
    splits, loss = splits_of(settings, seen, seed=0), first_loss(settings)
    flat = weighed(settings.model_copy(update={"importance_exponent": 0.0}), seen, data.importance, seed=0)
    full = weighed(settings.model_copy(update={"importance_exponent": 1.0}), seen, data.importance, seed=0)
    problem = LinearProblem(seen.response_a - seen.response_b, OnData(loss, flat))
    problem.solve(settings.prior_precision)
    plain = 0.0
    for _, held in splits:
        score = (seen.response_a - seen.response_b) @ problem.without(held)
        plain += loss(score, full)[held].sum().item()
    assert problem.held_out_loss(splits, OnData(loss, full)) == pytest.approx(plain, rel=1e-9)
    assert problem.held_out_loss(splits) != pytest.approx(plain, rel=1e-3)
    assert held_out(settings, flat, loss, splits, measured=OnData(loss, full)) == pytest.approx(plain, rel=1e-9)


def test_one_label_leaves_nothing_to_choose_by_and_keeps_its_weight():
    data, seen, _ = drawn(n=1)
    found = weighed(Point(), seen, data.importance, seed=0)
    assert found.exponent == 1.0
    np.testing.assert_array_equal(found.weight, data.importance * data.weight)


@pytest.mark.parametrize("kind", [Point, Laplace, Ensemble])
@pytest.mark.parametrize("model", [Bt(), Gpm(), Gpm(bt_block=False, dim=2)])
def test_every_posterior_is_fitted_to_the_weights_it_chose_and_says_so(kind, model):
    data, seen, pool = drawn(n=50)
    few = {"members": 2, "bootstrap": False, "perturb_prior": False} if kind is Ensemble else {}
    chosen = kind(prior_precision=1.0, **few).fit(model, pool.features, data, seed=0)
    exponent = chosen.summary()["importance_exponent"]
    by_hand = weighed(Point(prior_precision=1.0, importance_exponent=exponent), seen, data.importance, seed=0)
    same = Comparisons(data.pairs, data.label, weight=by_hand.weight.numpy())
    given = kind(prior_precision=1.0, **few).fit(model, pool.features, same, seed=0)
    assert "importance_exponent" not in given.summary()
    for one, other in zip(vars(chosen.moments(pool.features, pool.pairs)).values(),
                          vars(given.moments(pool.features, pool.pairs)).values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)
    assert fit_map(Point(prior_precision=1.0), Bt(), by_hand, seed=0).summary["importance_exponent"] == exponent


def exponents(pool: Pool, truth: np.ndarray, seeds: int = 6) -> list[float]:
    """What is chosen in the last round of small loops of drawn BALD."""
    found = []
    for seed in range(seeds):
        loop = Loop(
            pool, lambda rows: truth[rows], Bald(), Weighted(uniform=0.3, power=2), Laplace(prior_precision=1.0), Bt(),
            StartSettings(labels=20), batch_size=40, seed=seed,
        )  # fmt: skip
        *_, last = loop.rounds(budget=180)
        found.append(last.model.summary()["importance_exponent"])
    return found


def test_weights_are_kept_where_the_model_is_wrong_and_dropped_where_it_is_right():
    rng = np.random.default_rng(0)
    n = 600
    far = rng.random(n) < 0.12
    apart = rng.standard_normal((n, 5)) * np.where(far, 2.0, 1.0)[:, None]
    chance = rng.random(n)
    right = (chance < 1 / (1 + np.exp(-2 * apart[:, 0]))).astype(float)
    wrong = (chance < 1 / (1 + np.exp(-3 * np.where(far, -apart[:, 0], apart[:, 0])))).astype(float)
    pool = pool_of(apart)
    assert min(exponents(pool, wrong)) >= 0.5
    assert np.mean(exponents(pool, right)) < 0.5


@pytest.mark.parametrize("value", [-0.1, 1.5, "heldout"])
def test_other_exponents_are_refused(value):
    with pytest.raises(ValidationError, match="importance_exponent"):
        Laplace(importance_exponent=value)
