"""The bound from audits: against scipy's distribution, by counting every sample of a small pool, over campaigns."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import hypergeom

from benchmarks import audit as campaigns
from bgpm.errors import ArgumentError, ShapeError
from bgpm.evaluation import audit


@pytest.mark.parametrize(
    ("total", "bad", "audited"), [(50, 7, 12), (300, 10, 100), (20, 20, 5), (9, 0, 4), (400, 390, 30)]
)
def test_the_chance_of_few_wrong_audits_is_scipys(total: int, bad: int, audited: int) -> None:
    x = np.arange(audited + 1)
    np.testing.assert_allclose(audit.at_most(x, total, bad, audited), hypergeom.cdf(x, total, bad, audited), atol=1e-11)


def test_no_truth_is_missed_by_more_samples_than_alpha_whatever_it_is() -> None:
    """Every sample of 5 out of 11 pairs, for every number of wrong ones: the bound is above the truth in at most alpha
    of them, and for some truth in nearly alpha."""
    alpha, samples = 0.2, list(itertools.combinations(range(11), 5))
    missed = []
    for bad in range(12):
        wrong = np.array([sum(row < bad for row in some) for some in samples])
        missed.append((audit.most_wrong(wrong, 11, 5, alpha) < bad).mean())
    assert max(missed) <= alpha
    assert max(missed) > alpha / 2


def test_fewer_wrong_labels_than_the_bound_says_are_possible_and_one_more_is_not() -> None:
    for wrong, total, audited, alpha in [(3, 1000, 197, 0.05 / 9), (0, 60, 20, 0.05), (12, 5000, 150, 0.001)]:
        most = int(audit.most_wrong(wrong, total, audited, alpha))
        assert hypergeom.cdf(wrong, total, most, audited) > alpha >= hypergeom.cdf(wrong, total, most + 1, audited)


def test_where_everything_is_audited_the_bound_is_the_truth() -> None:
    assert float(audit.right_share(60, 40, 40, 7, 100, 0.001)) == pytest.approx(0.93)
    assert float(audit.right_share(60, 40, 0, 0, 100, 0.05)) == 0.6  # without audits nothing is known of the rest


def test_pairs_that_are_neither_acquired_and_right_nor_inferred_count_as_wrong() -> None:
    assert float(audit.right_share(50, 40, 40, 0, 100, 0.05)) == pytest.approx(0.9)


def test_94_percent_without_an_error_takes_49_audits_at_one_look_and_97_at_one_of_twenty() -> None:
    assert audit.smallest(100_000, 0, 0.94, 0.05) == math.ceil(math.log(0.05) / math.log(0.94)) == 49
    assert audit.smallest(100_000, 0, 0.94, 0.05 / 20) == math.ceil(math.log(0.05 / 20) / math.log(0.94)) == 97


def test_the_smallest_audit_certifies_and_one_less_does_not() -> None:
    for pool, acquired, target, alpha in [(1000, 300, 0.95, 0.006), (704, 100, 0.98, 0.01), (60, 10, 0.9, 0.05)]:
        n = audit.smallest(pool, acquired, target, alpha)
        assert audit.right_share(acquired, pool - acquired, n, 0, pool, alpha) >= target
        assert audit.right_share(acquired, pool - acquired, n - 1, 0, pool, alpha) < target
    assert audit.smallest(100, 96, 0.95, 0.05) == 0  # what was acquired is enough by itself


def test_so_many_more_audits_certify_and_not_one_fewer() -> None:
    given: tuple[int, int, int, int, int] = (300, 1000, 50, 1, 1300)
    right, inferred, audited, wrong, pool = given
    least, likely = audit.audits_missing(*given, target=0.95, alpha=0.005)
    assert least is not None
    assert likely is not None

    def bound(more: int, errors: int) -> float:
        return float(audit.right_share(right, inferred, audited + more, errors, pool, 0.005))

    assert bound(least, wrong) >= 0.95 > bound(least - 1, wrong)
    assert bound(likely, math.ceil(wrong / audited * (audited + likely))) >= 0.95
    slow = next(
        more for more in range(1, inferred) if bound(more, math.ceil(wrong / audited * (audited + more) - 1e-9)) >= 0.95
    )
    assert likely == slow >= least


def test_a_target_that_is_certified_needs_none_and_one_that_the_errors_exclude_says_so() -> None:
    assert audit.audits_missing(300, 1000, 150, 0, 1300, target=0.95, alpha=0.05) == (0, 0)
    assert audit.audits_missing(300, 1000, 300, 70, 1300, target=0.95, alpha=0.05) == (None, None)
    least, likely = audit.audits_missing(300, 1000, 50, 8, 1300, target=0.95, alpha=0.005)
    assert least is not None
    assert likely is None  # 16% of 1000 are more than the 65 that may be wrong


def test_the_levels_of_all_looks_together_stay_below_alpha() -> None:
    assert sum(audit.level(0.05, t, 9) for t in range(1, 10)) == pytest.approx(0.05)
    assert sum(audit.level(0.05, t) for t in range(1, 5000)) < 0.05
    with pytest.raises(ArgumentError, match="look 10 of 9"):
        audit.level(0.05, 10, 9)
    with pytest.raises(ArgumentError, match=r"in \(0, 1\)"):
        audit.level(0.0, 1)


def test_audits_of_pairs_that_are_not_inferred_are_refused() -> None:
    with pytest.raises(ShapeError, match="inferred pairs only"):
        audit.most_wrong(0, 10, 11, 0.05)


def test_an_audit_set_is_only_topped_up_and_loses_only_what_is_acquired() -> None:
    rng = np.random.default_rng(0)
    priority, inferred = audit.priorities(np.array([f"p{n}" for n in range(200)]), rng), np.ones(200, bool)
    before = audit.sample(priority, inferred, 30)
    for _ in range(4):
        inferred[rng.choice(np.flatnonzero(inferred), 20, replace=False)] = False
        after = audit.sample(priority, inferred, 30)
        assert set(before) & set(np.flatnonzero(inferred)) <= set(after)
        assert len(after) == 30
        assert inferred[after].all()
        before = after
    assert len(audit.sample(priority, inferred, 500)) == inferred.sum() == 120


@pytest.fixture(scope="module")
def ends() -> dict[str, list[np.ndarray]]:
    """For each rule, whether each of 2,000 campaigns stopped wrongly, by world and selection."""
    found: dict[str, list[np.ndarray]] = {rule: [] for rule in campaigns.RULES}
    for world, selection, count in [("harder", "margin", 1200), ("harder", "bald", 500), ("falling", "bald", 300)]:
        stops = campaigns.simulate(campaigns.WORLDS[world], selection, count)
        truth = stops["truth"].mean(0)
        if world == "falling":
            assert truth[0] - truth[-1] > 0.1  # the share of right labels itself falls
        for rule in campaigns.RULES:
            found[rule].append(stops[rule] < campaigns.WORLDS[world].target)
    return found


def allowed(count: int) -> float:
    return 0.05 + 2 * math.sqrt(0.05 * 0.95 / count)


def test_of_two_thousand_campaigns_at_most_the_promised_share_stops_wrongly(ends: dict[str, list[np.ndarray]]) -> None:
    for rule in ("sound", "begun"):
        assert sum(len(some) for some in ends[rule]) == 2000
        assert np.concatenate(ends[rule]).mean() <= allowed(2000)
        for some in ends[rule]:
            assert some.mean() <= allowed(len(some))


@pytest.mark.parametrize("rule", ["each look", "pooled"])
def test_the_rules_that_only_look_sound_stop_wrongly_more_often(ends: dict[str, list[np.ndarray]], rule: str) -> None:
    assert max(some.mean() - allowed(len(some)) for some in ends[rule]) > 0
