"""A world in which the model is right: labels drawn from a fit, and what is measured against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from bgpm.loop.pool import LabelledSplit, Pool
from bgpm.study.fitted import drawn, favoured, fit
from bgpm.types import Features

PAIRS, HELDOUT = 400, 100


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.array([1.5, -1.0, 0.5, 0.0])


@pytest.fixture(scope="module")
def pool() -> Pool:
    rng = np.random.default_rng(0)
    features = Features(rng.normal(size=(2 * PAIRS, 4)).astype(np.float32), np.zeros((1, 4), np.float32))
    table = {
        "response_a": np.arange(PAIRS),
        "response_b": np.arange(PAIRS, 2 * PAIRS),
        "prompt": np.zeros(PAIRS, np.int64),
        "key": np.arange(PAIRS),
        "split": np.array(["heldout"] * HELDOUT + ["pool"] * (PAIRS - HELDOUT), object),
    }
    return Pool(table, features)


@pytest.fixture(scope="module")
def recorded(pool: Pool, weights: np.ndarray) -> dict[str, np.ndarray]:
    phi = pool.features.responses @ weights
    label = (np.random.default_rng(1).random(PAIRS) < expit(phi[:PAIRS] - phi[PAIRS:])).astype(np.float64)
    label[:HELDOUT] = np.nan  # as the oracle leaves what cannot be acquired
    return {"label": label, "margin": np.full(PAIRS, np.nan)}


def test_labels_are_draws_with_the_probability_that_the_fit_gives(pool, recorded) -> None:
    world = fit(pool, recorded)
    moments = world.moments(pool.features, pool.pairs)
    probability = expit(moments.mean.numpy() / moments.tau)[HELDOUT:]
    draws = np.array([drawn(world, pool, np.random.default_rng(seed))["label"] for seed in range(200)])
    assert np.isnan(draws[:, :HELDOUT]).all()  # held-out pairs are not for sale here either
    acquired = draws[:, HELDOUT:]
    assert set(np.unique(acquired)) == {0.0, 1.0}
    off = (acquired.mean(0) - probability) / np.sqrt(probability * (1 - probability) / 200)
    assert np.abs(off).max() < 4.5
    assert 0.8 < off.std() < 1.2
    assert np.ptp(probability) > 0.5  # the fit is no coin


def test_the_world_is_that_of_the_recorded_labels(pool, recorded, weights) -> None:
    world = fit(pool, recorded)
    phi = pool.features.responses @ weights
    truth = (phi[:PAIRS] > phi[PAIRS:])[HELDOUT:]
    assert ((world.moments(pool.features, pool.pairs).mean.numpy()[HELDOUT:] > 0) == truth).mean() > 0.85
    # the other way round: turn every label over, and the world turns over
    turned = fit(pool, recorded | {"label": 1 - recorded["label"]})
    np.testing.assert_allclose(
        turned.moments(pool.features, pool.pairs).mean.numpy(),
        -world.moments(pool.features, pool.pairs).mean.numpy(),
        atol=1e-5,
    )


def test_held_out_pairs_are_labelled_by_the_side_that_the_world_favours(pool, recorded) -> None:
    world = fit(pool, recorded)
    rows = np.arange(HELDOUT)
    names = np.full(HELDOUT, "all", object)
    measured = LabelledSplit(
        pairs=pool.pairs.take(rows),
        label=np.full(HELDOUT, 0.5),
        section=names,
        subset=names,
        rows=rows,
        features=pool.features,
    )
    labels = favoured(world, measured).label
    swapped = replace(measured, pairs=pool.pairs.take(rows).swapped())
    np.testing.assert_array_equal(favoured(world, swapped).label, 1 - labels)
    mean = world.moments(pool.features, measured.pairs).mean.numpy()
    np.testing.assert_array_equal(labels, mean > 0)
    assert 20 < labels.sum() < 80
