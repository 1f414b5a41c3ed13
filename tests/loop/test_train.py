"""Labels become a model."""

from __future__ import annotations

import numpy as np

from bgpm.loop.pool import Pool
from bgpm.loop.train import train
from bgpm.models.bt import Bt
from bgpm.posteriors.point import Point
from bgpm.types import Features


def test_a_column_of_weights_says_how_often_each_label_counts() -> None:
    rows = np.arange(6)
    table = {"response_a": 2 * rows, "response_b": 2 * rows + 1, "prompt": rows, "split": np.full(6, "pool")}
    responses = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32)
    pool = Pool(table, Features(responses, np.zeros((6, 1), np.float32)))
    label, margin = np.array([1.0, 0, 1, 1, 0, 1]), np.full(6, np.nan)

    def weights(some: np.ndarray, **columns: np.ndarray) -> np.ndarray:
        labels = {"pair": some, "label": label[some], "margin": margin[some], **columns}
        return train(Point(prior_precision=1.0), Bt(), pool, labels, seed=0).module.weight[0].numpy()

    twice = weights(np.array([0, 1, 1, 2]))
    np.testing.assert_allclose(weights(rows, weight=np.array([1.0, 2, 1, 0, 0, 0])), twice, rtol=1e-6)
    assert not np.allclose(weights(rows), twice, rtol=1e-2)
