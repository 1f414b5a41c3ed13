"""Final labels of a pool: what is given counts, what is inferred is the model's, and shares of right labels by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bgpm.errors import ShapeError
from bgpm.evaluation.pool_labels import ACQUIRED, INFERRED, left_out, pool_labels, pool_rows, posterior_of_acquired
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from bgpm.types import Comparisons, Features, Pairs, ScoreMoments

PAIR = np.array([3, 5, 6, 8, 9])


def moments(mean: list[float], error_rate: float = 0.0) -> ScoreMoments:
    values = torch.tensor(mean, dtype=torch.float64)
    return ScoreMoments(values, torch.full_like(values, 0.25), 1.0, error_rate)


def acquired(pair: list[int], label: list[float], annotators: list[int] | None = None) -> dict[str, np.ndarray]:
    table = {"pair": np.array(pair, np.int64), "label": np.array(label)}
    return table if annotators is None else table | {"annotators": np.array(annotators)}


def found(labels: object, truth: list[float]) -> dict[str, float]:
    return {metric: value for _, _, metric, value in pool_rows(labels, np.array(truth))}  # type: ignore[arg-type]


def test_a_given_label_stands_whatever_the_model_thinks_and_every_other_is_the_sign_of_the_score() -> None:
    labels = pool_labels(PAIR, moments([2.0, -3.0, 1.0, -1.0, 0.0]), acquired([8, 3], [1.0, 0.0]))
    assert labels.label.tolist() == [0.0, 0.0, 1.0, 1.0, 0.5]
    assert labels.source.tolist() == [ACQUIRED, INFERRED, INFERRED, ACQUIRED, INFERRED]
    assert labels.probability[[0, 3, 4]].tolist() == [0.0, 1.0, 0.5]
    assert 0.7 < labels.probability[2] < 0.75  # sigmoid(1), a little nearer to one half for the variance
    np.testing.assert_allclose(labels.sd, 0.5)


def test_where_everybody_abstained_the_model_infers_and_a_soft_label_keeps_its_probability() -> None:
    labels = pool_labels(PAIR, moments([2.0, -3.0, 1.0, -1.0, 1.0]), acquired([3, 5, 9], [np.nan, 0.7, 0.5]))
    assert labels.source.tolist() == [INFERRED, ACQUIRED, INFERRED, INFERRED, ACQUIRED]
    assert labels.label.tolist() == [1.0, 1.0, 1.0, 0.0, 0.5]
    assert labels.probability[1] == 0.7


def test_shares_are_those_counted_by_hand_and_ties_and_unknown_labels_are_left_out() -> None:
    labels = pool_labels(PAIR, moments([2.0, -3.0, 1.0, -1.0, 4.0]), acquired([3], [1.0]))
    rows = found(labels, [1.0, 1.0, 1.0, 0.5, np.nan])  # given and right, wrong, right, a tie, unknown
    assert rows["right"] == pytest.approx(2 / 3)
    assert rows["pairs"] == 3
    assert rows["inferred_right"] == 0.5
    # P(first) of the three: 1 by its label, about .05, about .72
    assert rows["export_0.8_share"] == pytest.approx(2 / 3)
    assert rows["export_0.8_right"] == 0.5
    assert 0.95 < rows["export_0.8_stated"] < 1
    assert rows["export_0.95_share"] == pytest.approx(1 / 3)
    assert rows["export_0.95_right"] == 1


def test_a_tie_that_was_given_where_there_is_a_winner_is_half_right_like_a_tied_score() -> None:
    rows = found(pool_labels(PAIR[:2], moments([2.0, 2.0]), acquired([3], [0.5])), [1.0, 1.0])
    assert rows["right"] == 0.75


def test_a_pool_without_any_true_winner_measures_nothing() -> None:
    labels = pool_labels(PAIR, moments([1.0] * 5), acquired([], []))
    assert found(labels, [np.nan, 0.5, np.nan, np.nan, 0.5]) == {}


def test_a_label_of_another_pool_is_refused() -> None:
    for pair in (4, 99):
        with pytest.raises(ShapeError, match="different runs"):
            pool_labels(PAIR, moments([1.0] * 5), acquired([pair], [1.0]))


def test_the_more_annotators_agree_the_less_the_model_may_overrule_them() -> None:
    several = [
        pool_labels(PAIR, moments([3.0] * 5, 0.2), acquired([3], [0.0], [votes])).probability[0] for votes in (1, 2, 5)
    ]
    assert several[0] > 0.5 > several[2]
    assert several == sorted(several, reverse=True)


def test_the_posterior_of_a_label_that_may_be_wrong_is_that_of_a_fit_without_it_and_bayes_rule() -> None:
    """Against the slow way: leave each label out, fit again, and multiply by the odds of the label."""
    rng = np.random.default_rng(0)
    n, e = 60, 0.15
    features = Features(rng.normal(size=(2 * n, 3)).astype(np.float32), np.zeros((n, 3), np.float32))
    pairs = Pairs(np.arange(n) * 2, np.arange(n) * 2 + 1, np.arange(n))
    gap = features.responses[pairs.response_a] - features.responses[pairs.response_b]
    truth = rng.random(n) < 1 / (1 + np.exp(-gap @ np.array([1.5, -1.0, 0.5])))
    label = np.where(rng.random(n) < e, ~truth, truth).astype(float)
    settings = Laplace(prior_precision=1.0, error_rate=e)

    def fitted(rows: np.ndarray) -> ScoreMoments:
        data = Comparisons(pairs.take(rows), label[rows])
        return settings.fit(Bt(), features, data, seed=0).moments(features, pairs)

    fast = posterior_of_acquired(fitted(np.arange(n)), label, np.ones(n))
    for row in range(0, n, 6):
        left = fitted(np.delete(np.arange(n), row))
        mean, sd = float(left.mean[row]), float(left.variance[row]) ** 0.5
        p = (1 / (1 + np.exp(-(mean + sd * np.random.default_rng(1).normal(size=200_000))))).mean()
        for_first, against = (p * (1 - e), (1 - p) * e) if label[row] else (p * e, (1 - p) * (1 - e))
        assert fast[row] == pytest.approx(for_first / (for_first + against), abs=0.02)


def test_a_label_is_taken_out_as_often_as_it_counted_in_the_fit() -> None:
    """Against the slow way: fits without each label."""
    rng, n = np.random.default_rng(2), 40
    features = Features(rng.normal(size=(2 * n, 3)).astype(np.float32), np.zeros((n, 3), np.float32))
    pairs = Pairs(np.arange(n) * 2, np.arange(n) * 2 + 1, np.arange(n))
    gap = features.responses[pairs.response_a] - features.responses[pairs.response_b]
    label = (rng.random(n) < 0.15 + 0.7 / (1 + np.exp(-gap @ np.array([1.5, -1.0, 0.5])))).astype(float)
    weight = np.where(np.arange(n) % 4, 0.5, 2.5)

    def fitted(rows: np.ndarray) -> ScoreMoments:
        data = Comparisons(pairs.take(rows), label[rows], None, weight[rows])
        return Laplace(prior_precision=1.0, error_rate=0.15).fit(Bt(), features, data, seed=0).moments(features, pairs)

    whole = fitted(np.arange(n))
    slow = np.array([fitted(np.delete(np.arange(n), row)).mean[row].item() for row in range(n)])
    counted, once = (((left_out(whole, label, w)[0] - slow) ** 2).mean() for w in (weight, np.ones(n)))
    assert counted < once / 4
