"""Rows of a pool or a benchmark from records of any of the usual shapes.

Told apart by their columns, record by record::

    prompt, response_a, response_b, label     label: probability that a is better, or "a", "b", "tie"
    prompt, chosen, rejected                  texts (Anthropic's transcripts need no prompt column)
    chosen, rejected                          conversations as message lists with a shared prefix (Skywork)
    prompt, chosen, rejected                  message lists with the prompt apart (TRL), or repeated (UltraFeedback)
    prompt, responses, ranks | scores         K answers, rank 1 the best: every pair of them
    instruction, completions                  UltraFeedback: K answers with overall_score

Each may have ``id``, ``section``, ``subset``, ``margin`` and ``split`` (``pool`` or ``heldout``, where
the file and not the seed decides). Texts are passed on as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bgpm.data.corpus import as_rows, read_annotators, read_corpus, split_corpus
from bgpm.data.files import Record, hub_records, records
from bgpm.data.schema import BenchmarkSettings, Message, PoolSettings, Row, transcript
from bgpm.errors import DataError

_WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5}


def is_corpus(settings: PoolSettings | BenchmarkSettings) -> bool:
    """Whether the settings name a corpus folder, which has simulated annotators beside its texts."""
    return settings.hub is None and (Path(settings.path) / "annotators.yaml").is_file()


def read_rows(settings: PoolSettings | BenchmarkSettings) -> Iterator[Row]:
    """Every pair the settings name, in the order of the file.

    Raises:
        DataError: Naming file and line of the first record that cannot be used.
    """
    if is_corpus(settings):
        yield from _corpus_rows(Path(settings.path), benchmark=isinstance(settings, BenchmarkSettings))
        return
    for record in source_records(settings):
        yield from rows_of_record(record)


def source_records(settings: PoolSettings | BenchmarkSettings) -> Iterator[Record]:
    """Records of the file, folder or hub data set that the settings name."""
    if settings.hub:
        return hub_records(settings.hub, settings.split)
    return records(Path(settings.path), settings.split)


def rows_of_record(record: Record) -> Iterator[Row]:
    """The pair, or the pairs of K answers, that one record holds.

    Raises:
        DataError: Naming the place and what was expected there.
    """
    place, columns = record
    given = {name for name, value in columns.items() if value is not None}
    common: dict[str, Any] = {name: name_of(columns.get(name)) for name in ("section", "subset")}
    common["place"] = place
    split = name_of(columns.get("split"))
    if split not in ("", "train", "pool", "heldout"):
        raise DataError(f"{place}: split {split!r}: expected 'pool', 'heldout', nothing or 'train', or no such column")
    common["split"] = "" if split == "train" else split  # as data sets name what holds all rows: it decides nothing
    id = name_of(columns.get("id"))
    if "responses" in given or "completions" in given:
        yield from (encodable(row) for row in _many(columns, place, id, common))
        return
    if {"chosen", "rejected"} <= given:
        prompt, a, b = _pair(columns, "chosen", "rejected", place)
        label = _label(columns.get("label"), place)
        if math.isnan(label):
            label = 1.0
        elif label < 0.5:
            raise DataError(f"{place}: label {label} says that the rejected answer is the better one")
    elif {"response_a", "response_b"} <= given:
        prompt, a, b = _pair(columns, "response_a", "response_b", place)
        label = _label(columns.get("label"), place)
    else:
        raise DataError(
            f"{place}: expected columns chosen and rejected, response_a and response_b, or responses, "
            f"each with a prompt or as conversations; got {', '.join(sorted(given)) or 'none'}"
        )
    yield encodable(Row(prompt, a, b, label, _margin(columns.get("margin"), place), id=id, **common))


def _many(columns: Mapping[str, Any], place: str, id: str, common: Mapping[str, Any]) -> Iterator[Row]:
    """Every pair of K answers to one prompt; a margin is a difference of scores, ranks give none."""
    if columns.get("completions") is not None:
        completions = _list(columns["completions"], place, "completions")
        if not all(isinstance(c, Mapping) and "response" in c for c in completions):
            raise DataError(f"{place}: completions: expected a list of objects with response and overall_score")
        answers = [c["response"] for c in completions]
        scores = [c.get("overall_score") for c in completions]
    else:
        answers = _list(columns["responses"], place, "responses")
        scores = columns.get("scores")
    ranked = scores is None and columns.get("ranks") is not None
    worth = columns["ranks"] if ranked else scores
    worth = [None] * len(answers) if worth is None else _list(worth, place, "ranks or scores")
    if len(answers) < 2 or len(answers) != len(worth):
        raise DataError(
            f"{place}: {len(answers)} answers, {len(worth)} ranks or scores: expected as many of each, two or more"
        )
    prompt = prompt_of(columns.get("prompt", columns.get("instruction")), place)
    texts = [_answer(answer, place, "responses") for answer in answers]
    values = [_number(value, place, "ranks or scores") * (-1.0 if ranked else 1.0) for value in worth]
    for i, j in itertools.combinations(range(len(texts)), 2):
        gap = values[i] - values[j]
        label = math.nan if math.isnan(gap) else 0.5 + 0.5 * ((gap > 0) - (gap < 0))
        margin = math.nan if ranked else abs(gap)
        yield Row(prompt, texts[i], texts[j], label, margin, id=f"{id}/{i}-{j}" if id else "", **common)


def _pair(columns: Mapping[str, Any], left: str, right: str, place: str) -> tuple[tuple[Message, ...], str, str]:
    """Prompt and the two answers of a record, whichever way the record holds them."""
    prompt, a, b = columns.get("prompt"), columns[left], columns[right]
    if isinstance(a, str) and isinstance(b, str):
        return _shared_transcript(a, b, place) if prompt is None else (prompt_of(prompt, place), a, b)
    turns_a, turns_b = _messages(a, place, left), _messages(b, place, right)
    if prompt is not None and turns_a[0][0] == turns_b[0][0] == "assistant":
        return prompt_of(prompt, place), _rest(turns_a), _rest(turns_b)
    shared = _alike(turns_a, turns_b)
    while shared and turns_a[shared - 1][0] != "user":
        shared -= 1
    if not shared:
        raise DataError(
            f"{place}: {left} and {right} share no prompt: expected conversations with the same turns up to a user's"
        )
    if shared in (len(turns_a), len(turns_b)):
        raise DataError(f"{place}: a conversation ends with the prompt and has no answer")
    return _checked(turns_a[:shared], place), _rest(turns_a[shared:]), _rest(turns_b[shared:])


def _shared_transcript(a: str, b: str, place: str) -> tuple[tuple[Message, ...], str, str]:
    """Anthropic's form: two transcripts, alike up to the last ``Assistant:`` they share."""
    mark = "\n\nAssistant:"
    parts_a, parts_b = a.split(mark), b.split(mark)
    shared = min(_alike(parts_a, parts_b), len(parts_a) - 1, len(parts_b) - 1)
    if shared < 1:
        raise DataError(
            f"{place}: no prompt: expected a column prompt, message lists, or transcripts that share a beginning"
        )
    prompt = prompt_of(mark.join(parts_a[:shared]).removeprefix("\n\n"), place)
    return prompt, mark.join(parts_a[shared:]).removeprefix(" "), mark.join(parts_b[shared:]).removeprefix(" ")


def _alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the longest common beginning."""
    return sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(a, b, strict=False)))


def prompt_of(value: Any, place: str) -> tuple[Message, ...]:
    """A prompt given as text or as messages; DataError when nothing is asked in it."""
    return _checked((("user", value),) if isinstance(value, str) else _messages(value, place, "prompt"), place)


def _checked(turns: tuple[Message, ...], place: str) -> tuple[Message, ...]:
    """A prompt as it is, if something is asked in it."""
    if turns[-1][0] != "user":
        raise DataError(f"{place}: prompt: expected the last turn to be the user's, got {turns[-1][0]!r}")
    if not turns[-1][1].strip():
        raise DataError(f"{place}: the prompt is empty")
    return turns


def _answer(value: Any, place: str, column: str) -> str:
    return value if isinstance(value, str) else _rest(_messages(value, place, column))


def _rest(turns: Sequence[Message]) -> str:
    """An answer of one turn as it stands; of more turns whole, the later ones as a transcript."""
    first, *later = turns
    if first[0] != "assistant":
        return transcript(turns)
    return "\n\n".join([first[1], *(transcript([turn]) for turn in later)])


def _messages(value: Any, place: str, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {column}: expected text or a list of messages, got {_show(value)}")
    for turn in value:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise DataError(f"{place}: {column}: expected messages with role and content as text, got {_show(turn)}")
    return tuple((turn["role"], turn["content"]) for turn in value)


def _list(value: Any, place: str, column: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{place}: {column}: expected a list, got {_show(value)}")
    return value


def _number(value: Any, place: str, column: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{place}: {column}: expected a number, got {_show(value)}") from None
    if math.isinf(number):
        raise DataError(f"{place}: {column}: expected a finite number, got {_show(value)}")
    return number


def _label(value: Any, place: str) -> float:
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    label = _number(value, place, "label")
    if label < 0 or label > 1:
        raise DataError(
            f"{place}: label {_show(value)} is out of range: "
            'expected a probability that a is better, in [0, 1], or "a", "b", "tie"'
        )
    return label


def _margin(value: Any, place: str) -> float:
    margin = _number(value, place, "margin")
    if margin < 0:
        raise DataError(f"{place}: margin {_show(value)}: expected how much better the winner is, at least 0")
    return margin


def encodable(row: Row) -> Row:
    """The row, unless a text has half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    for text in (row.a, row.b, row.id, row.section, row.subset, *(content for _, content in row.prompt)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{row.place}: a text is not valid Unicode: {error}") from None
    return row


def name_of(value: Any) -> str:
    """A name as text, empty when it is missing."""
    return "" if value is None or value != value else str(value)  # a missing text of a table may be NaN


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _corpus_rows(folder: Path, *, benchmark: bool) -> Iterator[Row]:
    """The shipped corpus: the pool's labels are noisy majorities, the benchmark's are clear ones."""
    corpus, annotators = read_corpus(folder), read_annotators(folder)
    pairs = split_corpus(annotators, corpus)[int(benchmark)]
    for pair, row in zip(pairs, as_rows(pairs, corpus, clear=benchmark), strict=True):
        place = f"{folder}: {corpus[pair.prompt].get('id', pair.prompt)}"
        yield from rows_of_record((place, row))
