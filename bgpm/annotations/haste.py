"""Annotations that are faster than anybody reads.

Adults read about 240 words a minute silently (Brysbaert, "How many words do we read per minute?", 2019). Four times
that is no reading any more; and nobody compares two texts, however short, in two seconds again and again.
"""

from __future__ import annotations

WORDS_PER_SECOND = 16.0
SHORTEST = 2.0  # seconds


def is_quick(seconds: float, words: int) -> bool:
    """Whether an annotation took at most two seconds, or less than skimming takes.

    Args:
        words: Of both responses.
    """
    return seconds <= max(SHORTEST, words / WORDS_PER_SECOND)
