"""The statistics of a response beside its prompt, against slow forms of each."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpm.features import FeatureSettings
from bgpm.features.blocks.rich import rich_statistics
from bgpm.features.reduction import Reduction

TEXT = "Sure! The Sun is hot.\n- One item\n2) Two items\n```\nx = 10\n```\nI'm sorry, is THE sun hot? The sun is hot"
PROMPT = "Is the sun hot? Tell me."


def one(text: str, prompt: str = "") -> np.ndarray:
    return rich_statistics([text], [prompt])[0]


def test_each_column_is_what_its_line_in_the_table_says() -> None:
    words = re.findall(r"\w+", TEXT.lower())
    runs = [tuple(words[n : n + 3]) for n in range(len(words) - 2)]
    asked = {"is", "the", "sun", "hot", "tell", "me"}
    raw = TEXT.encode()
    cased = [c for c in TEXT if c.isupper() or c.islower()]
    # sure | the sun is hot | one item | 2 two items | x 10 | i m sorry is the sun hot | the sun is hot
    expected = [
        np.log1p(len(TEXT)), np.log1p(len(words)), np.log1p(6), np.log1p(2), np.log1p(2), np.log1p(3),
        len(zlib.compress(raw, 6)) / len(raw), len(set(words)) / len(words) ** 0.8, 1 - len(set(runs)) / len(runs),
        4 / 6, 4 / len(set(words)), 0.0, np.log1p(7), np.log1p(7), sum(map(len, words)) / len(words),
        np.log1p(1), np.log1p(1), np.log1p(1), 1.0, sum(c.isupper() for c in cased) / len(cased), 0.0,
    ]  # fmt: skip
    assert len(set(words) & asked) == 4
    np.testing.assert_allclose(one(TEXT, PROMPT), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        (6, "a man, a plan, a canal", "abc " * 50),
        (8, "one two three four five", "one two three one two three"),
        (11, "It is so", "It is so. \n"),
        (15, "I can do that", "I cannot do that"),
        (18, "Surely not", "Of course, it is"),
        (19, "quiet", "LOUD"),
        (20, "cafe", "café"),
    ],
)
def test_a_column_tells_apart_what_it_is_for(column: int, low: str, high: str) -> None:
    values = one(low)[column], one(high)[column]
    assert values[0] < values[1] if column != 6 else values[0] > values[1]


def test_a_response_without_a_word_or_a_prompt_has_numbers_all_the_same() -> None:
    for text in ("", " \n", "\ud800", "...", "\x00"):
        assert np.isfinite(one(text)).all()
    assert rich_statistics([], []).shape == (0, 21)
    assert one("word", "")[9:11].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="zip"):
        rich_statistics(["a"], [])


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=30)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_response_has_the_same_statistics_alone_and_in_any_company(rows: list[tuple[str, str]]) -> None:
    together = rich_statistics([text for text, _ in rows], [prompt for _, prompt in rows])
    for (text, prompt), values in zip(rows, together, strict=True):
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(one(text, prompt), values)


def test_the_prompt_moves_only_the_two_columns_that_read_it() -> None:
    settings = FeatureSettings(blocks=["rich"])
    texts = [f"Answer {n} speaks of the sun and {'x' * n}." for n in range(20)]
    states = np.zeros((20, 1, 1), np.float32)
    asked = ["the sun" if n % 2 else "the moon" for n in range(20)]
    reduction = Reduction.fit(settings, states, texts, prompts=asked)
    a, b = (reduction(states, texts, [prompt] * 20) for prompt in ("Nothing", "Speaks the sun of answers?"))
    assert np.flatnonzero((a != b).any(0)).tolist() == [9, 10]
