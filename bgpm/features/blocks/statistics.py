"""Seven counts of length and markup, which are easily mistaken for quality."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from bgpm.features.blocks._standard import Counted

# White space in front of a list item, but no line end: a pattern that runs over blank lines is tried from each of them
# to the last, so that its time grows with the square of their number.
ITEM = re.compile(r"^[^\S\n]*(?:[-*]|\d+[.)])\s", re.M)
MARK = re.compile(r"^#+\s|\*\*", re.M)


class Statistics(Counted):
    """Length and markup of a text, each count standardised; see `text_statistics`."""

    kind: Literal["statistics"] = "statistics"

    def count(self, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        return text_statistics(texts)


def text_statistics(texts: Sequence[str]) -> np.ndarray:
    """Counts that people take for quality, [n, 7], each as log(1 + count).

    Words, characters, line ends, list items, backticks, headings with bold marks, digits. Takes time in proportion to
    a text's length, whatever it holds.
    """
    rows = [
        (
            np.log1p(len(t.split())),
            np.log1p(len(t)),
            np.log1p(t.count("\n")),
            np.log1p(len(ITEM.findall(t))),
            np.log1p(t.count("`")),
            np.log1p(len(MARK.findall(t))),
            np.log1p(sum(map(str.isdigit, t))),
        )
        for t in texts
    ]
    return np.array(rows, np.float64).reshape(len(texts), 7)
