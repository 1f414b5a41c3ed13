"""A prior precision for each block of features: chosen together, against a grid; and what it is for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.errors import ConfigError
from bgpm.fitting.incidence import Incidence
from bgpm.fitting.mixed import MixedProblem, Search, climb
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.types import Comparisons, FeatureBlock, Features, Pairs

TOLD, NOISE = 3, 30  # features that labels depend on, and features that they do not


def pool(labels: int, seed: int = 0) -> tuple[Features, Comparisons, Pairs, np.ndarray]:
    """Labels of a reward on the last few features, and unlabelled pairs with their true scores."""
    rng = np.random.default_rng(seed)
    pairs = labels + 400
    responses = rng.standard_normal((2 * pairs, NOISE + TOLD)).astype(np.float32)
    score = 1.5 * (responses[::2, NOISE:] - responses[1::2, NOISE:]).sum(1)
    rows = np.arange(pairs)
    all_pairs = Pairs(2 * rows, 2 * rows + 1, rows)
    label = (rng.random(pairs) < 1 / (1 + np.exp(-score))).astype(float)
    features = Features(
        responses,
        np.zeros((pairs, 1), np.float32),
        (FeatureBlock("noise", 0, NOISE), FeatureBlock("told", NOISE, NOISE + TOLD)),
    )
    train = rows[:labels]
    return features, Comparisons(all_pairs.take(train), label[train]), all_pairs.take(rows[labels:]), score[labels:]


@pytest.mark.parametrize("how", ["heldout", "evidence"])
def test_the_precisions_chosen_together_are_as_good_as_the_best_of_a_grid(how: str) -> None:
    features, data, _, _ = pool(100)
    x = torch.from_numpy(features.responses[data.pairs.response_a] - features.responses[data.pairs.response_b]).double()
    label, group = torch.from_numpy(data.label), torch.tensor([0] * NOISE + [1] * TOLD)
    incidence = Incidence.of(data.pairs.response_a, data.pairs.response_b)
    problem = MixedProblem(x, lambda s: F.pairwise_loss(s, label, tau=1.0), group, incidence)
    rows = np.arange(100)
    splits = [
        tuple(torch.from_numpy(np.flatnonzero(part)) for part in (rows % 4 != k, rows % 4 == k)) for k in range(4)
    ]

    def worth(precision: torch.Tensor) -> float:
        fit = problem.solve(precision, 0.0)
        away = (problem.scale / precision / 2.0).log() / 2.0  # the hyperprior: 4 logits squared, shared by two blocks
        value = fit.log_evidence if how == "evidence" else -problem.held_out_loss(splits)
        return value - away.square().sum().item() / 2

    chosen = Search(how, 0.0, splits)(problem).precision
    grid = np.logspace(-1, 4, 9).tolist()
    best = max(worth(torch.tensor(pair, dtype=torch.float64)) for pair in itertools.product(grid, grid))
    assert worth(chosen) > best - 0.1
    assert chosen[0] > 5 * chosen[1]


def test_a_precision_a_block_is_better_where_blocks_differ() -> None:
    right = {False: [], True: []}
    for seed in range(3):
        features, data, test, score = pool(60, seed)
        for by_block, found in right.items():
            model = Point(precision_by_block=by_block).fit(Bt(), features, data, seed=0)
            found.append(((model.moments(features, test).mean.numpy() > 0) == (score > 0)).mean())
    assert np.mean(right[True]) > np.mean(right[False]) + 0.03


@pytest.mark.parametrize(
    ("posterior", "head"),
    [
        (Laplace(precision_by_block=True, structure="full"), Bt()),
        (Laplace(precision_by_block=True, structure="low_rank"), Gpm(dim=4)),
        (Ensemble(precision_by_block=True, members=60), Bt()),
    ],
)
def test_every_weight_has_its_blocks_prior_variance(posterior, head) -> None:
    features, data, test, _ = pool(40)
    model = posterior.fit(head, features, data, seed=0)
    summary = model.summary()
    noise, told = summary["prior_precision_noise"], summary["prior_precision_told"]
    precision = torch.tensor([noise] * NOISE + [told] * TOLD, dtype=torch.float64)
    assert summary["prior_precision"] == pytest.approx(precision.log().mean().exp().item())
    sides = [torch.from_numpy(features.responses[s]).double() for s in (data.pairs.response_a, data.pairs.response_b)]
    x = sides[0] - sides[1]
    prob = torch.sigmoid(model.moments(features, data.pairs).mean)
    covariance = torch.linalg.inv(x.T @ ((prob * (1 - prob))[:, None] * x) + torch.diag(precision))
    g = torch.from_numpy(features.responses[test.response_a] - features.responses[test.response_b]).double()
    expected = ((g @ covariance) * g).sum(1)
    if isinstance(posterior, Ensemble):
        assert 0.7 < (model.moments(features, test).variance / expected).mean() < 1.4
        return
    model.off = None  # what is open of cycles comes on top
    seen = model.moments(features, test).variance if head == Bt() else model.kernel(features, test).diagonal()
    torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-9)


def test_one_block_is_one_precision() -> None:
    features, data, test, _ = pool(40)
    whole = Features(features.responses, features.prompts, (FeatureBlock("all", 0, NOISE + TOLD),))
    one, plain = (
        Laplace(precision_by_block=by_block).fit(Bt(), whole, data, seed=0).moments(whole, test)
        for by_block in (True, False)
    )
    torch.testing.assert_close(one.mean, plain.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.variance, plain.variance, rtol=1e-4, atol=1e-5)


def test_blocks_that_are_asked_for_have_to_be_there() -> None:
    features, data, _, _ = pool(20)
    bare = Features(features.responses, features.prompts)
    with pytest.raises(ConfigError, match="do not say what blocks they are made of; set precision_by_block: false"):
        Laplace(precision_by_block=True).fit(Bt(), bare, data, seed=0)


def test_the_climb_finds_a_peak_that_lies_across_the_coordinates() -> None:
    calls = []

    def worth(steps: tuple[float, ...]) -> float:
        calls.append(steps)
        a, b = steps
        return -8 * (a + b - 3) ** 2 - 2 * (a - b) ** 2

    a, b = climb(worth, (0.0, 0.0))
    assert math.hypot(a - 1.5, b - 1.5) < 0.6
    assert len(calls) == len(set(calls)) < 40
