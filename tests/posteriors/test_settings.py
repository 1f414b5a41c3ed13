"""Options of the loss, the prior and the temperature; and how the ensemble and Laplace agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bgpm.errors import ConfigError, DataError
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors import Posterior
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.registry import build
from bgpm.types import Comparisons, FeatureBlock


def weight_of(settings, p, data=None):
    return settings.fit(Bt(), p.features, p.data if data is None else data, seed=0).module.weight[0]


def slope_at(weight, p, derivative):
    """Gradient of the summed loss at a reward, from a derivative of the loss in the score given by hand."""
    x = torch.from_numpy(
        p.features.responses[p.data.pairs.response_a] - p.features.responses[p.data.pairs.response_b]
    ).double()
    return x.T @ derivative(x @ weight)


def test_soft_labels_and_ties_are_fitted_as_probabilities(problem):
    p = problem(80, 4)
    label = torch.from_numpy(np.random.default_rng(0).choice([0.0, 0.3, 0.5, 1.0], 80))
    weight = weight_of(Point(prior_precision=2.0), p, Comparisons(p.data.pairs, label.numpy()))
    gradient = slope_at(weight, p, lambda s: torch.sigmoid(s) - label) + 2.0 * weight
    assert gradient.abs().max() < 1e-4


def test_a_margin_has_to_be_led_by(problem):
    p = problem(80, 4)
    margin = np.random.default_rng(0).random(80)
    data = Comparisons(p.data.pairs, p.data.label, margin)
    weight = weight_of(Point(prior_precision=2.0, margin=True, tau=0.7), p, data)
    lead, sign = torch.from_numpy(margin), torch.from_numpy(2 * p.data.label - 1)
    gradient = slope_at(weight, p, lambda s: -sign * torch.sigmoid(-(sign * s - lead) / 0.7) / 0.7) + 2.0 * weight
    assert gradient.abs().max() < 1e-4
    assert not torch.equal(weight, weight_of(Point(prior_precision=2.0, tau=0.7), p, data))


def test_regression_draws_scores_to_the_margin(problem):
    p = problem(80, 4)
    margin = np.random.default_rng(0).random(80)
    data = Comparisons(p.data.pairs, p.data.label, margin)
    weight = weight_of(Point(prior_precision=2.0, loss="regression", margin=True), p, data)
    target = torch.from_numpy((2 * p.data.label - 1) * margin)
    assert (slope_at(weight, p, lambda s: 2 * (s - target)) + 2.0 * weight).abs().max() < 1e-6


def test_ties_can_be_an_outcome_of_their_own(problem):
    p = problem(120, 4, linear=3.0)
    tied = np.where(np.arange(120) % 3, p.data.label, 0.5)
    data = Comparisons(p.data.pairs, tied)
    model = Laplace(loss="rao_kupper", tie_width=0.5).fit(Gpm(), p.features, data, seed=0)
    assert p.accuracy(model) > 0.75


def test_margins_that_are_not_there_are_asked_for(problem):
    p = problem(20, 4)
    for margin in (None, np.where(np.arange(20) == 3, np.nan, 1.0), np.where(np.arange(20) == 3, -1.0, 1.0)):
        with pytest.raises(DataError, match="margin: false"):
            Point(margin=True).fit(Bt(), p.features, replace(p.data, margin=margin), seed=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "regression"}, "margin: true"),
        ({"loss": "rao_kupper", "margin": True}, "margin: false"),
        ({"prior_precision": -1.0}, "greater than 0"),
        ({"prior_precision": "guess"}, "heldout"),
        ({"tau": 0.0}, "greater than 0"),
        ({"error_rate": 0.5}, "less than 0.5"),
        ({"error_rate": "guess"}, "heldout"),
        ({"loss": "regression", "margin": True, "error_rate": 0.1}, "error_rate: 0.0"),
        ({"margin": True, "tau": "learn"}, "tau: heldout"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"structure": "diagonal"}, "kronecker"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        build(Posterior, "laplace", settings, "posteriors")


@pytest.mark.parametrize("head", [Bt(), Gpm(), PairMlp(), Gpm(bt_block=False)])
def test_a_temperature_is_learnt_only_where_scores_have_a_scale(head, problem):
    with pytest.raises(ConfigError, match="normalize: mean"):
        Laplace(tau="learn").check(head)


def test_a_learnt_temperature_moves_from_where_it_started(problem):
    p = problem(80, 4, linear=2.0)
    head = Gpm(dim=4, bt_block=False, normalize="mean")
    model = Laplace(tau="learn", prior_precision=40.0, folds=2).fit(head, p.features, p.data, seed=0)
    assert 0.02 < model.summary()["tau"] < 2.0
    assert abs(model.summary()["tau"] - 0.1) > 0.01
    assert model.moments(p.features, p.test).tau == model.summary()["tau"]


def test_calibration_finds_the_temperature_that_labels_were_made_with(problem):
    """Scores fitted at tau = 1 under a prior twenty times too strong are too small; calibration says by how much."""
    p = problem(2000, 4, linear=3.0)
    strong = Laplace(prior_precision=2000.0).fit(Bt(), p.features, p.data, seed=0)
    right = Laplace(prior_precision=2000.0, tau="heldout").fit(Bt(), p.features, p.data, seed=0)
    scale = np.std(strong.moments(p.features, p.test).mean.numpy()) / np.std(p.truth)
    assert right.summary()["tau"] == pytest.approx(scale, rel=0.25)  # folds see four labels in five
    assert scale < 0.7


UNITS = {
    "laplace": (Laplace(), Gpm(), 0.0),
    "laplace, evidence": (Laplace(prior_precision="evidence", precision_by_block=True), Gpm(), 0.0),
    "laplace, cyclic blocks": (Laplace(), Gpm(), 3.0),
    "laplace, effects": (Laplace(response_variance="auto"), Bt(), 0.0),
    "point, network": (Point(folds=2), PairMlp(hidden=4), 0.0),
}


@pytest.mark.parametrize(("posterior", "head", "cyclic"), UNITS.values(), ids=UNITS)
def test_the_temperature_is_nothing_but_the_unit_of_scores(posterior, head, cyclic, problem):
    p = problem(120, 6, linear=2.0, cyclic=cyclic)
    features = replace(p.features, blocks=(FeatureBlock("one", 0, 2), FeatureBlock("other", 2, 6)))
    fitted = [posterior.model_copy(update={"tau": tau}).fit(head, features, p.data, seed=0) for tau in (1.0, 0.1)]
    one, tenth = (model.moments(features, p.test) for model in fitted)
    assert all((model.summary().get("blocks_active", 0) != 0) == (cyclic != 0) for model in fitted)
    torch.testing.assert_close(tenth.mean / 0.1, one.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tenth.variance / 0.1**2, one.variance, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("effects", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["logistic", "regression"])
def test_calibration_of_a_loss_with_margins_is_by_the_likelihood_of_its_predictions(loss, effects, problem):
    p = problem(200, 8, linear=2.0)
    reward = np.linalg.lstsq(_differences(p, p.test), p.truth)[0]
    data = Comparisons(p.data.pairs, p.data.label, np.abs(_differences(p, p.data.pairs) @ reward))
    settings = {"margin": True, "loss": loss, "prior_precision": 2.0, "response_variance": effects}
    fitted = Point(tau="heldout", **settings).fit(Bt(), p.features, data, seed=0)
    mean, winner = fitted.moments(p.features, p.test).mean, torch.from_numpy(1 / (1 + np.exp(-p.truth)))

    def nats(tau: float) -> float:
        return torch.nn.functional.binary_cross_entropy_with_logits(mean / tau, winner).item()

    assert nats(fitted.tau) < min(map(nats, np.geomspace(0.1, 10, 81))) + 0.005


@pytest.mark.parametrize("precision", ["heldout", "evidence"])
def test_the_prior_is_stronger_where_there_is_less_to_learn(precision, problem):
    precisions = []
    for linear in (0.0, 3.0):
        p = problem(300, 8, linear=linear)
        model = Laplace(prior_precision=precision).fit(Bt(), p.features, p.data, seed=0)
        precisions.append(model.summary()["prior_precision"])
    assert precisions[0] > 5 * precisions[1]


def test_the_laplace_variance_falls_as_labels_come_in(problem):
    p = problem(800, 8)
    variances = []
    for n in (25, 100, 400):
        data = Comparisons(p.data.pairs.take(np.arange(n)), p.data.label[:n])
        model = Laplace(prior_precision=1.0).fit(Gpm(), p.features, data, seed=0)
        variances.append(model.moments(p.features, p.test).variance.mean().item())
    assert variances[0] > 2 * variances[1] > 4 * variances[2] * 0.9


@pytest.mark.slow
def test_a_big_ensemble_has_the_laplace_variance_on_a_linear_model(problem):
    p = problem(300, 5, linear=1.0)
    laplace = Laplace(prior_precision=2.0).fit(Bt(), p.features, p.data, seed=0).moments(p.features, p.test)
    ensemble = (
        Ensemble(prior_precision=2.0, members=200).fit(Bt(), p.features, p.data, seed=0).moments(p.features, p.test)
    )
    ratio = (ensemble.variance / laplace.variance).mean().item()
    assert 0.75 < ratio < 1.35
    assert ((ensemble.mean - laplace.mean).abs() / laplace.variance.sqrt()).mean() < 0.3


@pytest.mark.parametrize("prompts", [1, 2, 18, 19])
def test_an_ensembles_variance_is_laplaces_however_few_prompts_the_labels_are_of(prompts, problem):
    p = problem(300, 8, linear=1.0)
    pairs = replace(p.data.pairs, prompt=np.arange(300) % prompts)
    ratios = []
    for seed in range(2):
        fitted = (
            posterior.fit(Bt(), p.features, Comparisons(pairs, p.data.label), seed=seed).moments(p.features, p.test)
            for posterior in (Ensemble(prior_precision=1.0, members=40), Laplace(prior_precision=1.0))
        )
        many, one = (moments.variance.mean().item() for moments in fitted)
        ratios.append(many / one)
    assert 0.75 < np.mean(ratios) < 1.35


def test_members_differ_by_their_prior_where_no_label_is(problem):
    p = problem(20, 5)
    one = Comparisons(p.data.pairs.take(np.arange(1)), p.data.label[:1])
    spread = [
        Ensemble(prior_precision=4.0, perturb_prior=perturbed, members=100)
        .fit(Bt(), p.features, one, seed=0)
        .moments(p.features, p.test)
        .variance.mean()
        .item()
        for perturbed in (True, False)
    ]
    prior = ((p.features.responses[p.test.response_a] - p.features.responses[p.test.response_b]) ** 2).sum(
        1
    ).mean() / 4.0
    assert 0.6 * prior < spread[0] < 1.2 * prior
    assert 0 <= spread[1] < spread[0] / 5


def test_an_ensembles_moments_are_those_of_its_members(problem):
    p = problem(40, 5)
    model = Ensemble(members=5).fit(Bt(), p.features, p.data, seed=0)
    scores = np.stack([module(*sides).numpy() for module in model.modules for sides in [_sides(p)]])
    moments = model.moments(p.features, p.test)
    np.testing.assert_allclose(moments.mean, scores.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.variance, scores.var(0, ddof=1), rtol=1e-10)


def _differences(p, pairs):
    return p.features.responses[pairs.response_a].astype(float) - p.features.responses[pairs.response_b]


def _sides(p):
    return [torch.from_numpy(p.features.responses[rows]).double() for rows in (p.test.response_a, p.test.response_b)]


@pytest.mark.parametrize("kind", ["point", "ensemble"])
def test_what_switched_off_blocks_leave_open_is_an_option_of_laplace_alone(kind):
    with pytest.raises(ConfigError, match=rf"{kind}\.off_variance: unknown key; known here: prior"):
        build(Posterior, kind, {"off_variance": 0.1}, "posteriors")
    assert build(Posterior, "laplace", {"off_variance": 0.2}, "posteriors") == Laplace(off_variance=0.2)


def test_folds_by_pair_are_folds_of_prompts_that_have_one_label_each(problem):
    p = problem(120, 4)
    alone = Comparisons(replace(p.data.pairs, prompt=np.arange(120)), p.data.label)
    by_pair, by_prompt = (Point(fold_by=by) for by in ("pair", "prompt"))
    assert torch.equal(weight_of(by_pair, p), weight_of(by_prompt, p, alone))
    assert not torch.equal(weight_of(by_pair, p), weight_of(by_prompt, p))


@pytest.mark.parametrize(("goal", "how"), [("model", "heldout"), ("pool", "evidence")])
def test_the_goal_says_how_the_precision_is_chosen_and_a_choice_that_was_made_stays(goal, how):
    assert Laplace().for_goal(goal, Bt(), frozen=True).prior_precision == how
    assert Laplace(prior_precision=2.0).for_goal(goal, Bt(), frozen=True).prior_precision == 2.0


@pytest.mark.parametrize(
    ("posterior", "goal", "model", "frozen", "variance"),
    [
        (Laplace(), "pool", Bt(), True, "auto"),
        (Ensemble(), "pool", Gpm(), True, "auto"),
        (Point(), "model", Bt(), True, 0.0),
        (Laplace(), "pool", Gpm(bt_block=False), True, 0.0),  # has no Bradley-Terry part
        (Laplace(), "pool", Bt(), False, 0.0),  # the features change
        (Laplace(structure="kronecker"), "pool", Bt(), True, 0.0),
        (Laplace(response_variance=0.0), "pool", Bt(), True, 0.0),
        (Laplace(response_variance=0.7), "model", Bt(), True, 0.7),
    ],
)
def test_a_pool_has_response_effects_where_they_can_be(posterior, goal, model, frozen, variance):
    assert posterior.for_goal(goal, model, frozen=frozen).response_variance == variance


def test_what_is_left_to_a_goal_that_nobody_named_is_as_for_a_model(problem):
    p = problem(60, 4)
    named = Point(prior_precision="heldout", response_variance=0.0)
    assert torch.equal(weight_of(Point(), p), weight_of(named, p))
    assert not torch.equal(weight_of(Point(), p), weight_of(Point(prior_precision="evidence"), p))
