"""Estimates from drawn batches whose draws say nothing of how far off they are."""

from __future__ import annotations

import numpy as np
import pytest

from bgpm.evaluation.estimates import estimates


def batch(right: list[float], pool_size: int) -> dict[str, np.ndarray]:
    """Uniform draws, of which the model, sure to different degrees, got so many right; NaN: nobody could say."""
    count = len(right)
    return {
        "label": np.array(right),
        "mean": np.linspace(0.5, 2.0, count),
        "variance": np.full(count, 0.5),
        "tau": np.ones(count),
        "draw": np.arange(11, 11 + count),
        "q": 1 / (pool_size - np.arange(count)),
        "pool_size": np.full(count, pool_size + 10),
    }


@pytest.mark.parametrize("right", [[1.0] * 7, [0.0] * 7, [1.0, 1.0, np.nan, 1.0, 0.5, 1.0, 1.0]])
def test_the_error_of_an_accuracy_is_not_known_where_all_draws_agree(right):
    found = estimates(batch(right, 1000))
    assert found["accuracy"].value == pytest.approx(right[0])
    assert np.isnan([found["accuracy"].error, *found["accuracy"].interval()]).all()
    assert found["nll"].error > 0


def test_the_error_is_none_where_no_pair_is_left():
    found = estimates(batch([1.0] * 7, 7))["accuracy"]
    assert (found.value, found.error, *found.interval()) == (1.0, 0.0, 1.0, 1.0)


def test_the_error_is_the_usual_one_where_draws_differ():
    right = [1.0, 0.0, 1.0, 1.0, 1.0]
    found = estimates(batch(right, 100_000))["accuracy"]
    assert found.error == pytest.approx(np.std(right, ddof=1) / 5**0.5, rel=1e-3)
