"""Who needs a talk: evidence that stays honest however often one looks, and what it is made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from bgpm.annotations.checks import Check
from bgpm.annotations.evidence import log_evidence, log_mean, log_ratio, wilson
from bgpm.annotations.quality import ALPHA, Hits, Levels, Measures, measures, talks
from bgpm.annotations.store import Annotation

LEVELS = Levels(gold=0.8, repeats=0.7)


@pytest.mark.parametrize(
    ("hits", "misses", "most"), [(0, 0, 0.2), (3, 0, 0.2), (7, 5, 0.6), (2, 40, 0.25), (0, 9, 0.3)]
)
def test_evidence_is_the_mixture_of_likelihood_ratios(hits: int, misses: int, most: float) -> None:
    ratio = lambda q: (q / most) ** hits * ((1 - q) / (1 - most)) ** misses  # noqa: E731
    expected = quad(ratio, most, 1)[0] / (1 - most)
    assert math.exp(log_evidence(hits, misses, most)) == pytest.approx(expected, rel=1e-7)


def test_the_mean_evidence_against_a_claim_that_holds_is_at_most_one() -> None:
    for most in (0.2, 0.6):
        for kind in (log_evidence, lambda *counts: log_ratio(*counts, 0.7)):
            evidence = np.exp([kind(hits, 40 - hits, most) for hits in range(41)])
            assert binom.pmf(range(41), 40, most) @ evidence == pytest.approx(1.0, rel=1e-9)
            for chance in (0.05, most - 0.1):
                assert binom.pmf(range(41), 40, chance) @ evidence < 1
    assert log_ratio(5, 5, 0.6, 0.5) == 0  # no alternative


def test_evidence_of_very_many_counts_is_a_number() -> None:
    assert log_evidence(0, 200_000, 0.25) == -math.inf
    assert log_evidence(200_000, 0, 0.25) == pytest.approx(200_000 * math.log(4), rel=1e-3)
    assert log_mean([-math.inf, 0.0]) == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (5, 5), (3, 7), (80, 300)])
def test_the_interval_is_wilsons(hits: int, total: int) -> None:
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)


def person(rng: np.random.Generator, annotations: int, gold: float, same: float, first: float, quick: float) -> Any:
    """A person's measures after each annotation, a tenth of them of gold pairs and a tenth repeats.

    Args:
        gold, same, first, quick: Chance of each.
    """
    draws = rng.random((5, annotations))
    kind, right, alike, left, fast = (
        (draws[0] * 10).astype(int),
        *(draws[row] < chance for row, chance in enumerate((gold, same, first, quick), 1)),
    )
    counts = [(kind == 0, right), (kind == 1, alike), (kind != 1, left), (kind >= 0, fast)]
    of = [np.cumsum(which) for which, _ in counts]
    hits = [np.cumsum(which & hit) for which, hit in counts]
    for n in range(annotations):
        gold_, same_, left_, quick_ = (Hits(int(h[n]), int(o[n])) for h, o in zip(hits, of, strict=True))
        yield Measures(n + 1, 0, 0, gold_, same_, math.nan, left_, quick_, 20.0)


def first_named(rng: np.random.Generator, annotations: int, people: list[tuple[float, float, float, float]]) -> Any:
    """Who is named first, and after how many annotations each, where somebody looks after every third."""
    for n, found in enumerate(zip(*(person(rng, annotations, *chances) for chances in people), strict=True), 1):
        if n % 3:
            continue
        if named := talks({str(j): one for j, one in enumerate(found)}, LEVELS):
            return next(iter(named)), n, named
    return None


CAREFUL = (0.92, 0.85, 0.5, 0.03)
JUST_CAREFUL = (0.8, 0.7, 0.6, 0.25)  # at the edge of every claim at once


def test_careful_annotators_are_rarely_named_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    assert all(first_named(rng, 300, [CAREFUL] * 4) is None for _ in range(5))
    named = sum(first_named(rng, 120, [JUST_CAREFUL] * 3) is not None for _ in range(60))
    assert named <= binom.ppf(0.99, 60, ALPHA)


def test_careless_annotators_are_found_among_careful_ones() -> None:
    rng = np.random.default_rng(1)
    # One who clicks at random with the face of somebody who reads; one who always takes the left; one who never reads.
    for chances, most, reason in (
        ((0.5, 0.5, 0.5, 0.1), 900, "which looks like chance"),
        ((0.5, 0.0, 1.0, 0.1), 30, "Response 1 was chosen"),
        ((0.9, 0.8, 0.5, 1.0), 12, "annotations took 2 s or less"),
        ((0.9, 0.3, 0.5, 0.1), 600, "pairs shown again are labelled alike"),
    ):
        found = [first_named(rng, most, [CAREFUL, CAREFUL, chances]) for _ in range(5)]
        assert [one is not None and one[0] for one in found] == ["2"] * 5, reason
        assert sum(reason in one[2]["2"] for one in found) >= 3


def test_a_later_annotator_needs_more_evidence() -> None:
    one = Measures(8, 0, 0, Hits(), Hits(), math.nan, Hits(), Hits(6, 6), 1.0)
    assert list(talks({"ada": one, "bo": one, "cy": one}, LEVELS)) == ["ada", "bo"]
    assert list(talks({"cy": one, "bo": one, "ada": one}, LEVELS)) == ["cy", "bo"]


def said(pair: str, label: float | None, who: str = "ada", **more: Any) -> Annotation:
    return Annotation(pair, label, who, **({"at": "2026-01-01T00:00:00+00:00", "seconds": 30.0} | more))


def check(kind: Any, pair: str, label: float | None, who: str = "ada", **more: Any) -> Check:
    return Check(pair, label, who, **({"at": "2026-01-01T00:00:01+00:00", "seconds": 30.0} | more), kind=kind)


def test_measures_count_what_they_say() -> None:
    annotations = [
        said("p", 1.0),
        said("q", 0.0, shown="ba", seconds=1.0),
        said("r", 0.5, seconds=None),
        said("s", None),
        said("p", 0.0, "bo", at="2025-01-01T00:00:00+00:00"),
    ]
    checks = [
        check("gold", "g", 1.0, shown="ba"),
        check("gold", "h", 0.5),
        check("gold", "i", None),
        check("gold", "gone", 0.0),
        check("repeat", "p", 1.0, shown="ba"),
        check("repeat", "q", 1.0),
        check("repeat", "r", 0.5),
        check("repeat", "s", 1.0),
        check("repeat", "taken back", 1.0),
        check("changed", "p", 0.0, "cy"),
    ]
    found = measures(annotations, checks, {"g": 1.0, "h": 1.0, "i": 0.0}, {"p": 10, "q": 10, "g": 2000}.get)
    assert list(found) == ["bo", "ada"]  # in the order in which they began; a text that changed measures nobody
    ada = found["ada"]
    assert (ada.annotations, ada.ties, ada.skips) == (4, 1, 1)
    assert ada.right == Hits(1, 2)  # a tie is wrong, a skipped one and one that is gold no longer do not count
    assert ada.same == Hits(2, 3)
    assert ada.kappa == pytest.approx((2 / 3 - (2 / 9 + 0 + 1 / 9)) / (1 - 3 / 9))
    assert ada.left == Hits(2, 3)  # p and q; g was shown the other way round; repeats are not counted
    assert ada.quick == Hits(2, 5)  # q, and g for its length; p, its repeat and q's took long enough
    assert ada.seconds == 30.0
    assert (found["bo"].right, found["bo"].kappa != found["bo"].kappa) == (Hits(), True)
