"""No text holds features up: their time grows with a text's length, not with what it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bgpm.features.blocks.rich import rich_statistics
from bgpm.features.blocks.statistics import text_statistics

LENGTH = 20_000
WORDS = "Plain text of a few words that somebody could have written, with a full stop. "
UNITS = [
    "\n",
    " ",
    "\t",
    "\u2028",
    "a",
    "1",
    "1.",
    "- ",
    "*",
    "**",
    "#",
    "# ",
    "`",
    "```",
    ".",
    "?",
    "!",
    "é",
    "e\u0301",
    "\U0001f600",
]
FUNCTIONS: list[Callable[[Sequence[str]], np.ndarray]] = [
    text_statistics,
    lambda texts: rich_statistics(texts, ["What is said of it?"]),
    lambda prompts: rich_statistics(["An answer."], prompts),
]


def of_length(unit: str) -> str:
    return (unit * (LENGTH // len(unit) + 1))[:LENGTH]


def cpu(function: Callable[[Sequence[str]], np.ndarray], text: str) -> float:
    """CPU seconds, the least of up to three runs; slow ones are not run again."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        function([text])
        best = min(best, time.process_time() - start)
        if best > 1:
            break
    return best


@pytest.mark.parametrize("function", FUNCTIONS, ids=["statistics", "rich, responses", "rich, prompts"])
def test_no_text_takes_over_20_times_the_time_of_plain_text_of_its_length(
    function: Callable[[Sequence[str]], np.ndarray],
) -> None:
    plain = max(cpu(function, of_length(WORDS)), 1e-4)

    @given(st.lists(st.sampled_from(UNITS), min_size=1, max_size=4), st.sampled_from(["", "x", "\n", "- x"]))
    @example(["\n"], "x")
    @example(["1"], "x")
    @settings(max_examples=60, deadline=None, derandomize=True)
    def hostile(units: list[str], end: str) -> None:
        text = of_length("".join(units)) + end
        assert cpu(function, text) < 20 * plain, f"{text[:20]!r}..., {end!r}"

    hostile()
