"""Texts are compared by what they say, in time that grows with their length."""

from __future__ import annotations

import time
import unicodedata

import pytest

from bgpm.data.dedup import has_long_marks, normalise

MARKS = "\u0301\u0316"  # above and below: sorting a run of them swaps every two


def seconds(text: str) -> float:
    start = time.process_time()
    normalise(text)
    return time.process_time() - start


def test_runs_of_combining_marks_take_no_more_than_20_times_as_long_as_plain_text() -> None:
    normalise("é")  # the pattern is made once
    plain = max(min(seconds("é" * 40_000) for _ in range(3)), 1e-3)
    assert seconds("e" + MARKS * 20_000) < 20 * plain


@pytest.mark.parametrize(("count", "long"), [(1, False), (15, False), (16, True), (500, True)])
def test_a_run_of_more_than_30_marks_stays_as_it_is_and_the_text_around_it_is_folded(count: int, long: bool) -> None:
    text = "E\u0301 " + "x" + MARKS * count + " \uff21"
    assert has_long_marks(text) is long
    folded = normalise(text)
    assert folded.startswith("\u00e9 ")
    assert folded.endswith(" a")
    assert (MARKS * count in folded) is long
    if not long:
        assert folded == unicodedata.normalize("NFKC", text).casefold()
