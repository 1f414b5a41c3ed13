"""What every acquisition function promises, whatever it computes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bgpm.acquisition import Acquisition
from bgpm.errors import ArgumentError, ConfigError, NumericsError, ShapeError
from bgpm.registry import build, kinds
from bgpm.types import Features

KINDS = [kind for kind in kinds(Acquisition) if kind != "auto"]  # it stands for another: test_auto.py
NEEDS_COVARIANCES = {"epig", "expected_errors"}


def values(kind, candidates, seed=5, **settings):
    return build(Acquisition, kind, settings)(candidates, generator=np.random.default_rng(seed))


def test_the_family_has_these_members():
    assert kinds(Acquisition) == ["auto", *KINDS]
    assert KINDS == ["bald", "balpm", "dopt", "entropy", "epig", "expected_errors", "margin", "mv", "random", "ucb"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_a_pair_in_float64(kind, make_pool):
    candidates = make_pool().candidates()
    found = values(kind, candidates)
    assert found.shape == (len(candidates),)
    assert found.dtype == np.float64
    assert np.unique(found.round(12)).size > len(found) // 2  # not a constant


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_the_answers_of_some_pairs_changes_no_bit(kind, make_pool):
    pool = make_pool()
    mask = np.random.default_rng(1).random(len(pool.pairs)) < 0.5
    turned = pool.swapped(mask).candidates()
    # The mean of a swapped pair is the negated mean, bit for bit, as every posterior promises.
    mean = pool.candidates().mean
    turned = replace(turned, mean=np.where(mask, -mean, mean))
    np.testing.assert_array_equal(values(kind, turned), values(kind, pool.candidates()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_rows_does_not_matter(kind, make_pool):
    pool = make_pool()
    order = np.random.default_rng(2).permutation(len(pool.pairs))
    found = values(kind, pool.permuted(order).candidates())
    np.testing.assert_allclose(found, values(kind, pool.candidates())[order], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes(kind, make_pool):
    candidates = make_pool().candidates()
    assert values(kind, candidates, seed=3).tobytes() == values(kind, candidates, seed=3).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("moment", ["mean", "variance"])
def test_a_moment_that_is_not_finite_is_refused_with_the_pairs_key(kind, bad, moment, make_pool):
    candidates = make_pool().candidates()
    getattr(candidates, moment)[7] = bad
    with pytest.raises(NumericsError, match=f"posterior {moment} of pair '{candidates.keys[7]}'"):
        values(kind, candidates)


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_variance_is_refused_with_the_pairs_key(kind, make_pool):
    candidates = make_pool().candidates()
    candidates.variance[3] = -1e-9
    with pytest.raises(NumericsError, match=f"variance of pair '{candidates.keys[3]}': expected >= 0"):
        values(kind, candidates)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_pool_has_no_values(kind, make_pool):
    pool = make_pool()
    assert values(kind, pool.permuted(np.empty(0, np.int64)).candidates()).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_posterior_without_uncertainty_gives_finite_values(kind, make_pool):
    pool = make_pool(spread=0.0)
    assert np.isfinite(values(kind, pool.candidates())).all()


@pytest.mark.parametrize("kind", KINDS)
def test_only_those_that_need_covariances_fail_without_them(kind, make_pool):
    def no_kernel():
        raise ConfigError("this posterior has no covariance between pairs")

    candidates = replace(make_pool().candidates(), kernel=no_kernel)
    if kind in NEEDS_COVARIANCES:
        with pytest.raises(ConfigError, match="no covariance"):
            values(kind, candidates)
    else:
        assert np.isfinite(values(kind, candidates)).all()


def test_a_member_that_returns_nan_is_refused_with_the_pairs_key(make_pool):
    class Broken(Acquisition):
        kind: str = "broken"

        def values(self, candidates, *, generator):
            return np.where(np.arange(len(candidates)) == 4, np.nan, 1.0)

    candidates = make_pool().candidates()
    with pytest.raises(NumericsError, match=f"broken value of pair '{candidates.keys[4]}'"):
        Broken()(candidates, generator=np.random.default_rng(0))


def test_moments_of_another_length_are_refused(make_pool):
    candidates = make_pool().candidates()
    with pytest.raises(ShapeError, match=r"candidates.mean: expected shape \(72,\), got \(71,\)"):
        values("mv", replace(candidates, mean=candidates.mean[1:]))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"mean": [0.0] * 72}, ArgumentError, "candidates.mean: expected a numpy array of numbers, got list"),
        ({"variance": np.ones((72, 1))}, ShapeError, r"candidates.variance: expected shape \(72,\), got \(72, 1\)"),
        ({"keys": np.arange(71)}, ShapeError, r"candidates.keys: expected shape \(72,\), got \(71,\)"),
        ({"tau": 0.0}, NumericsError, "candidates.tau: expected finite and > 0, got 0.0"),
        ({"tau": np.nan}, NumericsError, "candidates.tau"),
        ({"error_rate": 0.5}, NumericsError, r"candidates.error_rate: expected in \[0, 0.5\), got 0.5"),
        (
            {"features": Features(np.ones((47, 6)), np.ones((12, 6)))},
            ShapeError,
            r"response_b in 0\.\.46, .* got 1 to 47",
        ),
        ({"features": Features(np.ones((48, 6)), np.ones((11, 6)))}, ShapeError, r"prompt in 0\.\.10, .* got 0 to 11"),
    ],
)
def test_candidates_that_do_not_fit_together_are_refused(change, error, says, make_pool):
    with pytest.raises(error, match=says):
        replace(make_pool().candidates(), **change)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [7, None])
def test_a_seed_in_place_of_a_generator_is_refused(kind, bad, make_pool):
    with pytest.raises(ArgumentError, match=f"{kind}: expected generator to be a numpy Generator"):
        build(Acquisition, kind, {})(make_pool().candidates(), generator=bad)


def test_reading_settings_and_drawing_at_random_need_no_torch():
    program = """
import sys
import numpy as np
from bgpm.acquisition import Acquisition
from bgpm.registry import kinds, member
from bgpm.types import Candidates, Features, Pairs
members = {kind: member(Acquisition, kind)() for kind in kinds(Acquisition)}
n = np.arange(3)
features = Features(np.ones((6, 2)), np.ones((3, 2)))
candidates = Candidates(Pairs(n, n + 3, n), np.ones(3), np.ones(3), 1.0, features, n, None)
for kind in ("random", "mv", "ucb", "margin"):
    members[kind](candidates, generator=np.random.default_rng(0))
loaded = {"torch", "pandas", "scipy", "sklearn"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)
