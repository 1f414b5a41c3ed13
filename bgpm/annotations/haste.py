"""Annotators who are faster than anybody reads.

Adults read about 240 words a minute silently (Brysbaert, "How many words do we read per minute?", 2019). Four times
that is no reading any more; and nobody compares two texts, however short, in two seconds again and again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bgpm.annotations.store import Annotation

WORDS_PER_SECOND = 16.0
SHORTEST = 2.0  # seconds
ENOUGH = 10  # annotations with a time, below which nothing is said


@dataclass(frozen=True)
class Haste:
    """How fast an annotator is.

    Attributes:
        count: Annotations with a time.
        seconds: Their median.
        words: Median of the words of both responses.
    """

    count: int
    seconds: float
    words: float


def hasty(annotations: Iterable[Annotation], words: Callable[[str], int | None]) -> dict[str, Haste]:
    """Annotators who spend on half of their pairs at most two seconds, or less than skimming the responses takes.

    Args:
        words: Of both responses of a pair; None where the pair is not known.
    """
    timed: dict[str, list[tuple[float, int]]] = {}
    for annotation in annotations:
        count = words(annotation.pair_id)
        if annotation.seconds is not None and count is not None:
            timed.setdefault(annotation.annotator, []).append((annotation.seconds, count))
    found = {}
    for name, some in sorted(timed.items()):
        quick = [seconds <= max(SHORTEST, count / WORDS_PER_SECOND) for seconds, count in some]
        if len(some) >= ENOUGH and 2 * sum(quick) >= len(quick):
            seconds, counts = zip(*some, strict=True)
            found[name] = Haste(len(some), statistics.median(seconds), statistics.median(counts))
    return found
