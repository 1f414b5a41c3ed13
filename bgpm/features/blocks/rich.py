"""Twenty-one statistics of a response beside its prompt: length, markup, repetition, overlap, tone, alphabet.

A word is a run of letters, digits or underscores, in lower case; a sentence what ends in ``.``, ``!``, ``?`` or a line
end and holds a word. All of them take time in proportion to the length of response and prompt, and none needs a model.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from bgpm.features.blocks._standard import Counted
from bgpm.features.blocks.statistics import ITEM

WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"[.!?\n。！？]")
REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|cannot|can't|can’t|won't|won’t|unable|inappropriate|illegal|unethical|harmful)\b"
    r"|\bas an ai\b|\bnot able to\b",
    re.I,
)
OPENING = re.compile(
    r"\s{0,8}(?:sure|certainly|of course|absolutely|definitely|great|here|yes|ok|okay|thank|i would be)\b",
    re.I,
)
STOPS = (".", "!", "?", "。", "！", "？")
COLUMNS = 21


class Rich(Counted):
    """`rich_statistics`, each standardised."""

    kind: Literal["rich"] = "rich"
    reads_prompt: ClassVar[bool] = True

    def count(self, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        return rich_statistics(texts, prompts)


def rich_statistics(texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """Statistics of responses beside their prompts, float64 [n, 21].

    With n words of which d are distinct, c characters, and P and R the sets of words of prompt and response:

    ====== ==============================================================================================
    column what it is
    ====== ==============================================================================================
    0-5    log(1 + count) of characters, words, line ends, list items, code fences (three backticks), digits
    6      bytes of the UTF-8 text after zlib (level 6) / bytes before; 0 of an empty text
    7      d / n^0.8
    8      1 - distinct / all runs of three words
    9, 10  |P and R| / |P|, |P and R| / |R|
    11     1 where the text without white space at its end ends in a full stop, ``!`` or ``?``
    12, 13 log(1 + words of the longest sentence), log(1 + sentences)
    14     mean characters of a word
    15-17  log(1 + count) of words of refusal or regret, question marks, exclamation marks
    18     1 where the text opens with a phrase of assent, such as "Sure" or "Here"
    19     capitals / letters that have a case
    20     characters outside ASCII / c
    ====== ==============================================================================================

    A share of nothing is 0. Column 6 depends on the zlib that Python was built with: another one moves it in its third
    digit or so.

    Raises:
        ValueError: If there is not one prompt a text.
    """
    rows = [_row(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
    return np.array(rows, np.float64).reshape(len(rows), COLUMNS)


def _row(text: str, prompt: str) -> tuple[float, ...]:
    lower = text.lower()
    words = WORD.findall(lower)
    own, asked = set(words), set(WORD.findall(prompt.lower()))
    shared = len(own & asked)
    runs = list(zip(words, words[1:], words[2:], strict=False))
    sentences = [count for part in SENTENCE_END.split(text) if (count := len(WORD.findall(part)))]
    raw = text.encode("utf-8", "surrogatepass")
    upper, small = sum(map(str.isupper, text)), sum(map(str.islower, text))
    counts = (
        len(text),
        len(words),
        text.count("\n"),
        len(ITEM.findall(text)),
        text.count("```"),
        sum(map(str.isdigit, text)),
    )
    return (
        *map(np.log1p, counts),
        _share(len(zlib.compress(raw, 6)) if raw else 0, len(raw)),
        _share(len(own), len(words) ** 0.8),
        1 - _share(len(set(runs)), len(runs)) if runs else 0.0,
        _share(shared, len(asked)),
        _share(shared, len(own)),
        float(text.rstrip().endswith(STOPS)),
        np.log1p(max(sentences, default=0)),
        np.log1p(len(sentences)),
        _share(sum(map(len, words)), len(words)),
        np.log1p(len(REFUSAL.findall(text))),
        np.log1p(text.count("?") + text.count("？")),
        np.log1p(text.count("!") + text.count("！")),
        float(OPENING.match(text) is not None),
        _share(upper, upper + small),
        _share(len(text) - sum(map(str.isascii, text)), len(text)),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
