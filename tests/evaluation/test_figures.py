"""Reliability, selective accuracy and best of n against enumerations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.errors import ShapeError
from bgpm.evaluation.curve import heldout_figures, heldout_rows
from bgpm.evaluation.figures import (
    _compared,
    best_of_n,
    coverage,
    error_auroc,
    reliability,
    selective_metrics,
    selective_risk,
)
from bgpm.types import Pairs, ScoreMoments


def test_the_gaps_of_the_reliability_bins_are_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random(500), rng.integers(0, 2, 500).astype(float)
    p[:5], p[5:8] = 0.5, 1.0
    points = list(reliability(p, y))
    assert sum(count for *_, count in points) == 500
    gap = sum(count * abs(x - accuracy) for _, _, x, accuracy, count in points) / 500
    assert gap == pytest.approx(
        float(F.expected_calibration_error(torch.from_numpy(p), torch.from_numpy(y))), abs=1e-12
    )
    turned = list(reliability(1 - p, 1 - y))
    np.testing.assert_allclose([q[2:] for q in turned], [q[2:] for q in points], atol=1e-12)


def test_selective_risk_is_the_mean_over_all_orders_of_equals() -> None:
    uncertainty = np.array([0.3, 0.1, 0.1, 0.3, 0.1, 0.7])
    wrong = np.array([1.0, 0.0, 1.0, 0.0, 0.5, 1.0])
    orders = [o for o in itertools.permutations(range(6)) if all(np.diff(uncertainty[list(o)]) >= 0)]
    means = np.mean([np.cumsum(wrong[list(o)]) / np.arange(1, 7) for o in orders], axis=0)
    np.testing.assert_allclose(selective_risk(uncertainty, wrong), means, atol=1e-12)
    constant = selective_risk(np.zeros(6), wrong)
    np.testing.assert_allclose(constant, wrong.mean(), atol=1e-12)  # no knowledge: the error rate everywhere
    with pytest.raises(ShapeError):
        selective_risk(np.zeros(0), np.zeros(0))


def test_error_auroc_compares_every_wrong_with_every_right_prediction() -> None:
    rng = np.random.default_rng(1)
    uncertainty, wrong = rng.integers(0, 6, 40).astype(float), rng.integers(0, 2, 40).astype(float)
    pairs = [(b, g) for b in uncertainty[wrong == 1] for g in uncertainty[wrong == 0]]
    by_hand = np.mean([(b > g) + 0.5 * (b == g) for b, g in pairs])
    assert error_auroc(uncertainty, wrong) == pytest.approx(by_hand, abs=1e-12)
    assert error_auroc(np.zeros(40), wrong) == 0.5
    assert math.isnan(error_auroc(uncertainty, np.zeros(40)))


def test_uncertainty_that_knows_the_errors_answers_the_sure_ones_rightly() -> None:
    right = np.array([1.0] * 70 + [0.0] * 30)
    found = {(name, x): y for _, name, x, y, _ in coverage({"good": 1 - right, "none": 0 * right}, right)}
    assert found["good", 0.7] == 1.0
    assert found["good", 1.0] == found["none", 0.05] == pytest.approx(0.7)
    metrics = selective_metrics({"good": 1 - right, "bad": right}, right)
    assert metrics["aurc_good"] < 0.06 < 0.5 < metrics["aurc_bad"]
    assert (metrics["error_auroc_good"], metrics["error_auroc_bad"]) == (1.0, 0.0)


def round_robin(sizes: list[int], seed: int) -> tuple[Pairs, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, start = [], 0
    for prompt, k in enumerate(sizes):
        rows += [(start + a, start + b, prompt) for a, b in itertools.combinations(range(k), 2)]
        start += k
    table = np.array(rows)
    turn = rng.random(len(table)) < 0.5
    table[turn] = table[turn][:, [1, 0, 2]]
    order = rng.permutation(len(table))
    pairs = Pairs(*table[order].T.copy())
    return pairs, rng.integers(0, 2, len(table)).astype(float), rng.random(len(table)).round(1)


def test_best_of_n_is_the_mean_over_every_subset() -> None:
    pairs, label, probability = round_robin([5, 4, 5, 6, 2], 3)
    points = {(series, n): y for _, series, n, y, _ in best_of_n(pairs, label, probability)}
    assert max(n for _, n in points) == 5

    def rates(value: np.ndarray, prompt: int) -> dict[int, float]:
        wins: dict[int, list[float]] = {}
        for a, b, q, v in zip(pairs.response_a, pairs.response_b, pairs.prompt, value, strict=True):
            if q == prompt:
                wins.setdefault(int(a), []).append(v)
                wins.setdefault(int(b), []).append(1 - v)
        return {response: float(np.mean(values)) for response, values in wins.items()}

    for n in range(1, 6):
        for series, guess in (("model", probability), ("oracle", label)):
            means = []
            for prompt in (0, 2, 3):  # those with five answers or more
                true, believed = rates(label, prompt), rates(guess, prompt)
                picked = []
                for subset in itertools.combinations(true, n):
                    best = max(round(believed[a], 9) for a in subset)
                    picked.append(np.mean([true[a] for a in subset if round(believed[a], 9) == best]))
                means.append(np.mean(picked))
            assert points[series, n] == pytest.approx(np.mean(means), abs=1e-12)
    assert points["model", 1] == points["oracle", 1] == pytest.approx(0.5)


def test_of_a_prompt_that_lacks_comparisons_the_largest_set_compared_in_full_counts() -> None:
    rng = np.random.default_rng(2)
    for size in (3, 5, 7):
        for _ in range(20):
            edges = [pair for pair in itertools.combinations(range(size), 2) if rng.random() < 0.7]
            full = [
                list(some)
                for k in range(size, 1, -1)
                for some in itertools.combinations(range(size), k)
                if all(pair in edges for pair in itertools.combinations(some, 2))
            ]
            found = _compared([a for a, _ in edges], [b for _, b in edges])
            assert found == (full[0] if full else [])
    pairs, label, probability = round_robin([4, 3], 0)
    lacking = np.flatnonzero(pairs.prompt == 0)[0]
    keep = np.delete(np.arange(len(label)), lacking)
    points = best_of_n(pairs.take(keep), label[keep], probability[keep])
    assert {n for *_, n in points} == {2}  # three answers of each prompt
    assert {x for _, _, x, _, _ in points} == {1.0, 2.0, 3.0}
    only = np.flatnonzero(pairs.prompt == 0)[:2]
    assert best_of_n(pairs.take(only), label[only], probability[only]) == []
    assert best_of_n(pairs.take(only[:0]), label[:0], probability[:0]) == []


def test_three_thousand_pairs_are_measured_in_seconds() -> None:
    import time

    rng = np.random.default_rng(0)
    pairs, label, _ = round_robin([4] * 500, 0)
    mean = torch.from_numpy(rng.normal(0, 2, 3000))
    moments = ScoreMoments(mean, torch.from_numpy(rng.gamma(2, 1, 3000)), 1.0)
    began = time.process_time()
    rows = list(heldout_rows(moments, label, np.array(["a", "b"] * 1500)))
    figures = list(heldout_figures(moments, pairs, label))
    assert time.process_time() - began < 2.5
    assert {name for *_, name, _ in rows} >= {"aurc_sd", "error_auroc_entropy"}
    assert {point[0] for point in figures} == {"reliability", "coverage", "best_of_n"}
