"""Preferences with a known law, over random features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bgpm.types import Comparisons, Features, Pairs


@dataclass(frozen=True)
class Problem:
    """Labelled and unlabelled pairs whose true scores are known."""

    features: Features
    data: Comparisons
    test: Pairs
    truth: np.ndarray  # true scores of the test pairs

    def accuracy(self, model) -> float:
        return float(((model.moments(self.features, self.test).mean.numpy() > 0) == (self.truth > 0)).mean())


def make_problem(labels=60, p=8, *, linear=2.0, cyclic=0.0, seed=0, tests=200, noisy=True) -> Problem:
    """Scores with a reward of standard deviation ``linear`` plus a planted plane of standard deviation ``cyclic``.

    Four answers a prompt; the test pairs belong to prompts that no label is about.
    """
    rng = np.random.default_rng(seed)
    prompts = labels // 2 + 2
    responses = rng.standard_normal((4 * (prompts + tests // 2), p)).astype(np.float32)
    reward = rng.standard_normal(p) / p**0.5
    plane = np.linalg.qr(rng.standard_normal((p, 2)))[0].T

    def pairs(n: int, low: int, high: int) -> Pairs:
        prompt = rng.integers(low, high, n)
        one = rng.integers(0, 4, n)
        two = (one + rng.integers(1, 4, n)) % 4
        return Pairs(4 * prompt + one, 4 * prompt + two, prompt)

    def score(some: Pairs) -> np.ndarray:
        one, two = responses[some.response_a] @ plane.T, responses[some.response_b] @ plane.T
        turn = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2**0.5
        return linear / 2**0.5 * (responses[some.response_a] - responses[some.response_b]) @ reward + cyclic * turn

    train, test = pairs(labels, 0, prompts), pairs(tests, prompts, len(responses) // 4)
    s = score(train)
    label = (rng.random(labels) < 1 / (1 + np.exp(-s))) if noisy else s > 0
    prompts_features = rng.standard_normal((len(responses) // 4, p)).astype(np.float32)
    return Problem(Features(responses, prompts_features), Comparisons(train, label.astype(float)), test, score(test))


@pytest.fixture(scope="session")
def problem():
    return make_problem
