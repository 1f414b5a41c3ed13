"""Cyclic preferences are learnt where Bradley-Terry cannot, and transitive ones are not paid for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.types import Comparisons, Features, Pairs

PUBLISHED = Gpm(bt_block=False, normalize="sphere")


def rock_paper_scissors(prompts=120, held_out=60, p=16, noise=0.6, seed=0):
    """Three answers a prompt, one of each kind; kind k beats kind k + 1. Prompts, so whole triples, are held out."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((p, 3)))[0].T * p**0.5
    kind = np.concatenate([rng.permutation(3) for _ in range(prompts)])
    responses = (centres[kind] + noise * rng.standard_normal((3 * prompts, p))).astype(np.float32)
    rows = np.array([[3 * q + a, 3 * q + b, q] for q in range(prompts) for a, b in itertools.combinations(range(3), 2)])
    pairs = Pairs(*rows.T.copy())
    wins = (kind[pairs.response_b] - kind[pairs.response_a]) % 3 == 1
    train = pairs.prompt >= held_out
    features = Features(responses, np.zeros((prompts, p), np.float32))
    return features, Comparisons(pairs.take(train), wins[train].astype(float)), pairs.take(~train), wins[~train]


def accuracy(posterior, head, world, seed=0):
    features, data, test, wins = world
    return float(
        ((posterior.fit(head, features, data, seed=seed).moments(features, test).mean.numpy() > 0) == wins).mean()
    )


@pytest.fixture(scope="module")
def cycles():
    return rock_paper_scissors()


def test_bradley_terry_guesses_on_cycles(cycles):
    assert 0.35 < accuracy(Laplace(), Bt(), cycles) < 0.65


@pytest.mark.parametrize(
    ("posterior", "head"),
    [
        (Point(), Gpm()),
        (Laplace(), Gpm()),
        (Ensemble(members=3), Gpm()),
        (Laplace(prior_precision=5.0, folds=2), Gpm(bt_block=False)),
        (Amortized(), PUBLISHED),
        (Point(prior_precision=2.0, folds=2), PairMlp()),
    ],
    ids=["point gpm", "laplace gpm", "ensemble gpm", "laplace gpm of cyclic blocks", "amortized", "pair_mlp"],
)
def test_models_that_can_be_cyclic_are_right_on_held_out_triples(posterior, head, cycles):
    assert accuracy(posterior, head, cycles) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "seeds"), [(64, 8), (5000, 1)])
def test_on_transitive_labels_the_default_loses_at_most_a_point_to_bradley_terry(labels, seeds, problem):
    lost = []
    for seed in range(seeds):
        p = problem(labels, 16, linear=2.5, seed=seed, tests=1000)
        bt, gpm = (p.accuracy(Laplace().fit(head, p.features, p.data, seed=seed)) for head in (Bt(), Gpm()))
        assert bt > 0.7
        lost.append(bt - gpm)
    assert np.mean(lost) <= 0.01
