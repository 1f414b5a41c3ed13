"""How well each annotator annotates, and who needs a talk.

Four claims hold of a careful annotator, at every pair and whatever came before:

1. a gold pair is wrong with a chance of at most 1 - ``gold.level``;
2. a repeat gets another label with a chance of at most 1 - ``repeats.level``;
3. response 1 is chosen with a chance from 0.4 to 0.6, since a fair coin says which response stands first;
4. an annotation takes no time to read (`bgpm.annotations.haste`) with a chance of at most a quarter.

The evidence against each is an e-process (`bgpm.annotations.evidence`), and so is a fifth against the first two
together, for somebody who chooses at random. An annotator's evidence is the mean of the five, and the j-th annotator of
a campaign needs a talk where it is at least j (j + 1) / ALPHA. The chance that anybody of any number of careful
annotators is ever named is then at most ALPHA, however often the page is looked at: 1 / (j (j + 1)) sums to 1. A later
annotator needs more evidence, and soon enough gives it.

Legend: right, same, left and quick are counts of hits; "of" is what they are counted over.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bgpm.annotations.agreement import Agreement, cohen
from bgpm.annotations.checks import Check
from bgpm.annotations.evidence import log_evidence, log_mean, log_ratio
from bgpm.annotations.haste import SHORTEST, WORDS_PER_SECOND, is_quick
from bgpm.annotations.store import Annotation

ALPHA = 0.05  # chance that a campaign of careful annotators names anybody, ever
SIDE = 0.6  # chance of either side that is still no habit
QUICK = 0.25  # share of annotations without reading that may have a reason


@dataclass(frozen=True)
class Levels:
    """What a careful annotator reaches: shares of gold pairs that are right, and of repeats that get the same label."""

    gold: float
    repeats: float


@dataclass(frozen=True)
class Hits:
    """A count of something among others.

    Attributes:
        count: How often it was so.
        of: How often it could be.
    """

    count: int = 0
    of: int = 0

    @property
    def rest(self) -> int:
        """How often it was not so."""
        return self.of - self.count


@dataclass(frozen=True)
class Measures:
    """What an annotator's annotations and checks say.

    Attributes:
        annotations: Annotations of the pool that count.
        ties, skips: How many of them are.
        right: Gold pairs that got the better response; a tie is wrong, a skipped one does not count.
        same: Repeats whose label is that of the first time.
        kappa: Of the first time and the repeat, A, tie and B told apart.
        left: Choices of the response that stood first, of all that favour one; without repeats, whose sides are
            those of the first time swapped.
        quick: Annotations that took no time to read, of those with a time; checks count too.
        seconds: Median time of those; NaN where none is known.
    """

    annotations: int
    ties: int
    skips: int
    right: Hits
    same: Hits
    kappa: float
    left: Hits
    quick: Hits
    seconds: float

    def evidence(self, levels: Levels) -> dict[str, float]:
        """ln of the evidence against each claim, by name: gold, repeats, chance (both together), side, haste."""
        gold = self.right.rest, self.right.count, 1 - levels.gold
        repeats = self.same.rest, self.same.count, 1 - levels.repeats
        return {
            "gold": log_evidence(*gold),
            "repeats": log_evidence(*repeats),
            "chance": log_ratio(*gold, 0.5) + log_ratio(*repeats, 0.5),
            "side": log_mean(
                [
                    log_evidence(self.left.count, self.left.rest, SIDE),
                    log_evidence(self.left.rest, self.left.count, SIDE),
                ]
            ),
            "haste": log_evidence(self.quick.count, self.quick.rest, QUICK),
        }


@dataclass
class _Given:
    """What one annotator gave."""

    pool: list[Annotation] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def began(self) -> tuple[object, ...]:
        return min((annotation.time(), annotation.annotator) for annotation in [*self.pool, *self.checks])


def measures(
    annotations: Iterable[Annotation],
    checks: Iterable[Check],
    gold: Mapping[str, float],
    words: Callable[[str], int | None],
) -> dict[str, Measures]:
    """The measures of each annotator, in the order in which they began.

    Args:
        annotations: Those of the pool that count.
        checks: Those that count (`bgpm.annotations.checks.checks_of`); gold pairs that are no longer any are left out,
            and so are repeats of what was taken back.
        gold: Labels of the gold pairs by name.
        words: Of both responses of a pair of the pool or of gold; None where it is not known.
    """
    given: dict[str, _Given] = {}
    for annotation in annotations:
        given.setdefault(annotation.annotator, _Given()).pool.append(annotation)
    for check in checks:
        if check.kind != "changed":
            given.setdefault(check.annotator, _Given()).checks.append(check)
    order = sorted(given, key=lambda name: given[name].began())
    return {name: _measured(given[name], gold, words) for name in order}


def _measured(given: _Given, gold: Mapping[str, float], words: Callable[[str], int | None]) -> Measures:
    known = [check for check in given.checks if check.kind == "gold" and check.pair_id in gold]
    answered = [check for check in known if check.label is not None]
    first = {annotation.pair_id: annotation for annotation in given.pool}
    again = {check.pair_id: check for check in given.checks if check.kind == "repeat" and check.pair_id in first}
    twice = {
        pair: {"first": a, "again": b}
        for pair, check in again.items()
        if (a := side_of(first[pair].label)) is not None and (b := side_of(check.label)) is not None
    }
    agreement = cohen(twice, "first", "again") if twice else Agreement(0, math.nan, math.nan)
    sides = [s for a in [*given.pool, *answered] if (s := chose_first(a)) is not None]
    timed = [
        (a.seconds, count)
        for a in [*given.pool, *given.checks]
        if a.seconds is not None and (count := words(a.pair_id)) is not None
    ]
    return Measures(
        annotations=len(given.pool),
        ties=sum(a.label == 0.5 for a in given.pool),
        skips=sum(a.label is None for a in given.pool),
        right=Hits(sum(side_of(check.label) == gold[check.pair_id] for check in answered), len(answered)),
        same=Hits(sum(pair["first"] == pair["again"] for pair in twice.values()), len(twice)),
        kappa=agreement.kappa,
        left=Hits(sum(sides), len(sides)),
        quick=Hits(sum(is_quick(seconds, count) for seconds, count in timed), len(timed)),
        seconds=statistics.median(seconds for seconds, _ in timed) if timed else math.nan,
    )


def side_of(label: float | None) -> float | None:
    """1 where a label favours response A, 0 where B, 0.5 for a tie; None for a skipped pair."""
    return label if label is None or label == 0.5 else float(label > 0.5)


def chose_first(annotation: Annotation) -> bool | None:
    """Whether the response was chosen that stood first; None where none was."""
    side = side_of(annotation.label)
    return None if side is None or side == 0.5 else (side == 1.0) == (annotation.shown == "ab")


def talks(found: Mapping[str, Measures], levels: Levels) -> dict[str, str]:
    """Who needs a talk, with the reason in a sentence: the claim that the evidence is most against.

    Args:
        found: Of `measures`: the order says how much evidence each needs.
    """
    reasons = {}
    for number, (name, one) in enumerate(found.items(), 1):
        evidence = one.evidence(levels)
        if log_mean(list(evidence.values())) >= math.log(number * (number + 1) / ALPHA):
            reasons[name] = _sentence(max(evidence, key=lambda claim: evidence[claim]), one, levels)
    return reasons


def _sentence(claim: str, one: Measures, levels: Levels) -> str:
    if claim == "chance":
        parts = [
            f"{hits.count:,} of {hits.of:,} {what}"
            for hits, what in ((one.right, "gold pairs are right"), (one.same, "pairs shown again are labelled alike"))
            if hits.of
        ]
        return f"{' and '.join(parts)}, which looks like chance."
    if claim == "gold":
        return (
            f"{one.right.count:,} of {one.right.of:,} gold pairs are right, and a careful annotator gets at least "
            f"{100 * levels.gold:.0f}%."
        )
    if claim == "repeats":
        return (
            f"{one.same.count:,} of {one.same.of:,} pairs shown again are labelled alike, and a careful annotator's "
            f"are at least {100 * levels.repeats:.0f}%."
        )
    if claim == "side":
        number, hits = (1, one.left.count) if one.left.count >= one.left.rest else (2, one.left.rest)
        return (
            f"Response {number} was chosen {hits:,} of {one.left.of:,} times, and a coin decides which response stands "
            "there."
        )
    return (
        f"{one.quick.count:,} of {one.quick.of:,} annotations took {SHORTEST:.0f} s or less, or less than skimming "
        f"both responses takes ({WORDS_PER_SECOND:.0f} words a second)."
    )
