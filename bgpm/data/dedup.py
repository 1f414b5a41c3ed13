"""Deduplication and decontamination: duplicates, identical responses, benchmark prompts.

Texts are normalised here for comparing and nowhere else; what is kept is kept as it was.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from bgpm.data.schema import Message, Row, as_json, as_text

EXAMPLES = 3


@dataclass
class Tally:
    """How often something happened, and where first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, place: str) -> None:
        """Count one more; the first few places are remembered."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(place)


def normalise(text: str) -> str:
    """Text for comparing: NFKC, case folded, runs of white space as one space, none at the ends.

    Runs of more than 30 combining marks stay as they are (Unicode Standard Annex 15 calls texts without them
    stream-safe): sorting a run takes time that grows with the square of its length.
    """
    if not text.isascii():
        parts = _long_marks().split(text)  # every other one is such a run
        parts[::2] = map(_folded, parts[::2])
        text = "".join(parts)
    return " ".join(text.casefold().split())


def has_long_marks(text: str) -> bool:
    """Whether a text has a run of combining marks that `normalise` leaves as it is."""
    return not text.isascii() and _long_marks().search(text) is not None


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@cache
def _long_marks() -> re.Pattern[str]:
    """Runs of more than 30 combining marks, as one group."""
    marks = [chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code))]
    return re.compile(f"([{''.join(map(re.escape, marks))}]{{31,}})")


@lru_cache(maxsize=2**14)
def text_fingerprint(text: str) -> str:
    """Hash of the normalised text: equal for texts that differ in case, width or white space only."""
    return digest(normalise(text))


def digest(*parts: str) -> str:
    """A name of 128 bits made from texts; the lengths keep ``("ab", "c")`` apart from ``("a", "bc")``."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.hexdigest()


def prompt_fingerprint(messages: Sequence[Message]) -> str:
    """Hash of a whole normalised prompt; prompts that share it are never in different splits."""
    return text_fingerprint(as_text(messages))


def last_turn_fingerprint(messages: Sequence[Message]) -> str:
    """Hash of the last thing the user says, also where one text holds ``Human:`` and ``Assistant:`` turns."""
    return text_fingerprint(re.split(r"(?:^|\n\n)Human:", messages[-1][1])[-1])


def pair_key(row: Row) -> str:
    """A name of the unordered pair, made from its exact texts."""
    return digest(as_json(row.prompt), *sorted((row.a, row.b)))


def drop_identical(rows: Iterable[Row], dropped: Tally) -> list[Row]:
    """Rows whose two responses differ. Exactly equal only: in code, case and white space may decide."""
    kept = []
    for row in rows:
        if row.a == row.b:
            dropped.note(row.place)
        else:
            kept.append(row)
    return kept


def merge_duplicates(
    rows: Iterable[Row], dropped: Tally, contradicting: Tally, scope: Callable[[Row], str] = lambda row: ""
) -> list[Row]:
    """One row a pair: duplicates in either order go, and what they say is averaged.

    Known labels that disagree become one soft label, their mean; the margin is then unknown. Which
    of several spellings stays does not depend on the order of the rows.

    Args:
        rows: Rows with different responses each.
        dropped: Counts the rows that go.
        contradicting: Counts the pairs whose labels disagreed.
        scope: Only rows with the same scope can be duplicates of each other.
    """
    groups: dict[str, list[tuple[bool, Row]]] = {}
    for row in rows:
        names = text_fingerprint(row.a), text_fingerprint(row.b)
        if names[0] == names[1]:  # the responses differ in case or white space alone: compare them as they are
            names = digest(row.a), digest(row.b)
        key = digest(scope(row), prompt_fingerprint(row.prompt), *sorted(names))
        groups.setdefault(key, []).append((names[0] > names[1], row))
    return [group[0][1] if len(group) == 1 else _merged(group, dropped, contradicting) for group in groups.values()]


def _merged(group: Sequence[tuple[bool, Row]], dropped: Tally, contradicting: Tally) -> Row:
    for _, row in group[1:]:
        dropped.note(row.place)
    turned, kept = min(group, key=lambda item: _order(item[1]))
    labels = [row.label if t == turned else 1.0 - row.label for t, row in group if not math.isnan(row.label)]
    margins = [row.margin for _, row in group]
    numbers = [row.numbers_as(t == turned) for t, row in group]
    if len(set(labels)) > 1:
        contradicting.note(kept.place)
        margins = []
    return replace(
        kept,
        label=_mean_of_known(labels),
        margin=_mean_of_known(margins),
        numbers=tuple(map(_mean_of_known, zip(*numbers, strict=True))),
    )


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _order(row: Row) -> tuple[object, ...]:
    return row.prompt, row.a, row.b, row.section, row.subset, row.id, row.place


def benchmark_prompts(rows: Iterable[Row]) -> frozenset[str]:
    """Hashes of the benchmark's prompts: whole, and the last user turn alone."""
    prompts = {row.prompt for row in rows}
    return frozenset(f(prompt) for prompt in prompts for f in (prompt_fingerprint, last_turn_fingerprint))


def in_benchmark(row: Row, known: frozenset[str]) -> bool:
    """Whether a row's prompt, or its last user turn, is one of the benchmark's."""
    return prompt_fingerprint(row.prompt) in known or last_turn_fingerprint(row.prompt) in known
