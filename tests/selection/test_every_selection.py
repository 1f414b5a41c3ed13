"""What every selector promises, whatever it optimises."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bgpm.errors import ArgumentError, ConfigError, NumericsError, ShapeError
from bgpm.registry import build, kinds
from bgpm.selection import Selection

KINDS = kinds(Selection)
NEEDS_COVARIANCES = {"logdet", "conditional_bald"}
READS_FEATURES = {"cluster", "coreset", "dense"}
CAPPED = [kind for kind in KINDS if kind != "weighted"]  # which refuses a cap


def select(kind, candidates, values, k, seed=5, **settings):
    return build(Selection, kind, settings)(candidates, values, k, generator=np.random.default_rng(seed))


def some_values(n, seed=8):
    return np.random.default_rng(seed).random(n)


def test_the_family_has_these_nine_members():
    covariances, values = ["conditional_bald", "logdet"], ["cluster", "coreset", "dense", "hybrid", "power", "top_k"]
    assert sorted([*covariances, *values, "weighted"]) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_k_different_rows_with_finite_gains(kind, make_pool):
    candidates = make_pool().candidates()
    batch = select(kind, candidates, some_values(len(candidates)), 15)
    assert batch.rows.dtype == np.int64
    assert batch.rows.shape == batch.gains.shape == (15,)
    assert len(set(batch.rows.tolist())) == 15
    assert batch.rows.min() >= 0
    assert batch.rows.max() < len(candidates)
    assert np.isfinite(batch.gains).all()


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_the_answers_of_some_pairs_changes_no_bit(kind, make_pool):
    pool = make_pool()
    candidates = pool.candidates()
    mask = np.random.default_rng(1).random(len(candidates)) < 0.5
    turned = replace(pool.swapped(mask).candidates(), mean=np.where(mask, -candidates.mean, candidates.mean))
    batch, other = (select(kind, c, some_values(len(c)), 12) for c in (candidates, turned))
    np.testing.assert_array_equal(batch.rows, other.rows)
    assert batch.gains.tobytes() == other.gains.tobytes()


@pytest.mark.parametrize(("kind", "cap"), [*((kind, None) for kind in KINDS), *((kind, 2) for kind in CAPPED)])
def test_the_order_of_rows_does_not_matter(kind, cap, make_pool):
    pool = make_pool()
    values = some_values(len(pool.pairs)).round(1)  # ties too
    order = np.random.default_rng(2).permutation(len(values))
    batch = select(kind, pool.candidates(), values, 14, max_per_prompt=cap)
    other = select(kind, pool.permuted(order).candidates(), values[order], 14, max_per_prompt=cap)
    np.testing.assert_array_equal(order[other.rows], batch.rows)
    np.testing.assert_allclose(other.gains, batch.gains, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes(kind, make_pool):
    candidates = make_pool().candidates()
    batches = [select(kind, candidates, some_values(len(candidates)), 12, seed=3) for _ in range(2)]
    assert batches[0].rows.tobytes() == batches[1].rows.tobytes()
    assert batches[0].gains.tobytes() == batches[1].gains.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_among_equal_pairs_the_seed_and_not_the_row_decides(kind, make_pool):
    """Twelve pairs with the same features, moments and value: the first pick must be a fair draw."""
    pool = make_pool(prompts=2)
    candidates = replace(pool.permuted(np.zeros(12, np.int64)), keys=pool.keys).candidates()
    draws = 480
    first = Counter(int(select(kind, candidates, np.full(12, 0.3), 1, seed=s).rows[0]) for s in range(draws))
    expected = draws / 12
    chi_squared = sum((first[n] - expected) ** 2 / expected for n in range(12))
    assert chi_squared < 31.3  # 11 degrees of freedom, one in a thousand


@pytest.mark.parametrize("kind", KINDS)
def test_all_there_are_can_be_asked_for_and_no_more(kind, make_pool):
    candidates = make_pool(prompts=3).candidates()
    values = some_values(len(candidates))
    batch = select(kind, candidates, values, 18)
    assert sorted(batch.rows.tolist()) == list(range(18))
    with pytest.raises(ShapeError, match=f"{kind}: expected a batch of at most the 18 that are left .* got k = 19"):
        select(kind, candidates, values, 19)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_from_a_pool_that_is_all_labelled_is_refused(kind, make_pool):
    none = make_pool().permuted(np.empty(0, np.int64)).candidates()
    with pytest.raises(ShapeError, match="none: every pair of the pool is labelled, got k = 1"):
        select(kind, none, np.empty(0), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_asked_is_an_empty_batch(kind, make_pool):
    pool = make_pool()
    none = pool.permuted(np.empty(0, np.int64)).candidates()
    for batch in (select(kind, pool.candidates(), some_values(72), 0), select(kind, none, np.empty(0), 0)):
        assert batch.rows.shape == batch.gains.shape == (0,)
        assert batch.rows.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_array_no_number_and_no_generator_is_refused(kind, make_pool):
    candidates, values, rng = make_pool().candidates(), some_values(72), np.random.default_rng(0)
    selection = build(Selection, kind, {})
    for bad, found in ((values.tolist(), "list"), (values.astype(str), "<U"), (values > 0.5, "bool array")):
        with pytest.raises(ArgumentError, match=f"{kind}: values: expected a numpy array of numbers, got {found}"):
            selection(candidates, bad, 5, generator=rng)
    with pytest.raises(ArgumentError, match="expected a batch of a whole number of pairs"):
        selection(candidates, values, 2.5, generator=rng)
    with pytest.raises(ArgumentError, match="numpy Generator, got int"):
        selection(candidates, values, 5, generator=7)


@pytest.mark.parametrize("kind", sorted(NEEDS_COVARIANCES))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_variance_that_is_none_is_refused_with_the_pairs_key(kind, bad, make_pool):
    candidates = make_pool().candidates()
    candidates.variance[11] = bad
    with pytest.raises(NumericsError, match=f"posterior variance of pair '{candidates.keys[11]}'"):
        select(kind, candidates, some_values(72), 5)


@pytest.mark.parametrize("kind", CAPPED)
def test_the_cap_is_kept(kind, make_pool, caplog):
    candidates = make_pool().candidates()
    values = some_values(len(candidates)) + (candidates.pairs.prompt == 3)  # one prompt is the most wanted
    batch = select(kind, candidates, values, 20, max_per_prompt=2)
    assert max(Counter(candidates.pairs.prompt[batch.rows].tolist()).values()) == 2
    assert len(set(batch.rows.tolist())) == 20
    assert not caplog.records


@pytest.mark.parametrize("kind", CAPPED)
def test_a_cap_that_leaves_too_few_is_lifted_with_a_warning(kind, make_pool, caplog):
    candidates = make_pool(prompts=4).candidates()
    with caplog.at_level(logging.WARNING, "bgpm"):
        batch = select(kind, candidates, some_values(len(candidates)), 11, max_per_prompt=2)
    prompts = candidates.pairs.prompt[batch.rows]
    assert Counter(prompts[:8].tolist()) == {0: 2, 1: 2, 2: 2, 3: 2}  # the cap holds as long as it can
    assert len(set(batch.rows.tolist())) == 11
    assert [r.getMessage() for r in caplog.records] == [
        "max_per_prompt=2 leaves only 8 pairs for this batch: the cap is lifted for the rest"
    ]


@pytest.mark.parametrize("kind", CAPPED)
def test_a_cap_that_never_binds_changes_nothing(kind, make_pool):
    candidates = make_pool().candidates()
    values = some_values(len(candidates))
    free, capped = (select(kind, candidates, values, 15, max_per_prompt=cap) for cap in (None, 6))
    np.testing.assert_array_equal(capped.rows, free.rows)
    np.testing.assert_allclose(capped.gains, free.gains, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_the_pairs_key(kind, bad, make_pool):
    candidates = make_pool().candidates()
    values = some_values(len(candidates))
    values[6] = bad
    with pytest.raises(NumericsError, match=f"acquisition value of pair '{candidates.keys[6]}'"):
        select(kind, candidates, values, 5)


@pytest.mark.parametrize("kind", sorted(READS_FEATURES))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_with_the_pairs_key(kind, bad, make_pool):
    candidates = make_pool().candidates()
    candidates.features.responses[[candidates.pairs.response_a[9], candidates.pairs.response_b[9]], 1] = bad
    touched = [k for k in candidates.keys if k.startswith(candidates.keys[9].split(":")[0])]
    with pytest.raises(NumericsError, match="feature difference of pair") as error:
        select(kind, candidates, some_values(len(candidates)), 5)
    assert any(repr(key) in str(error.value) for key in touched)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_another_length_and_negative_sizes_are_refused(kind, make_pool):
    candidates = make_pool().candidates()
    with pytest.raises(ShapeError, match=r"values: expected shape \(72,\), got \(71,\)"):
        select(kind, candidates, some_values(71), 5)
    with pytest.raises(ShapeError, match="k >= 0"):
        select(kind, candidates, some_values(72), -1)
    with pytest.raises(ConfigError, match="max_per_prompt"):
        select(kind, candidates, some_values(72), 5, max_per_prompt=0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_those_that_need_covariances_fail_without_them(kind, make_pool):
    def no_kernel():
        raise ConfigError("this posterior has no covariance between pairs")

    candidates = replace(make_pool().candidates(), kernel=no_kernel)
    if kind in NEEDS_COVARIANCES:
        with pytest.raises(ConfigError, match="no covariance"):
            select(kind, candidates, some_values(72), 5)
    else:
        assert len(select(kind, candidates, some_values(72), 5).rows) == 5


@pytest.mark.slow
def test_selectors_without_covariances_and_a_random_seed_set_need_no_torch():
    program = """
import sys
import numpy as np
from bgpm.registry import build, kinds, member
from bgpm.selection import Selection, StartSettings, seed_set
from bgpm.types import Candidates, Features, Pairs
n = np.arange(9)
pairs = Pairs(n, n + 9, n)
features = Features(np.random.default_rng(0).random((18, 4), np.float32), np.ones((9, 4), np.float32))
candidates = Candidates(pairs, np.ones(9), np.ones(9), 1.0, features, n.astype(str), None)
for kind in kinds(Selection):
    member(Selection, kind)()
seed_set(StartSettings(labels=3), features, pairs, generator=np.random.default_rng(0))
for kind in ("top_k", "power", "coreset", "hybrid", "dense", "weighted"):
    build(Selection, kind, {})(candidates, np.ones(9), 4, generator=np.random.default_rng(0))
loaded = {"torch", "pandas", "scipy", "sklearn"} & set(sys.modules)
assert not loaded, loaded
build(Selection, "cluster", {})(candidates, np.ones(9), 4, generator=np.random.default_rng(0))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
