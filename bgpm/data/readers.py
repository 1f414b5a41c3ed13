"""Rows of a pool or a benchmark from records of any of the usual shapes.

Told apart by their columns, record by record::

    prompt, response_a, response_b, label     label: probability that a is better, or a word such as "a", "tie"
    prompt, chosen, rejected                  texts (Anthropic's transcripts need no prompt column)
    chosen, rejected                          conversations as message lists with a shared prefix (Skywork)
    prompt, chosen, rejected                  message lists with the prompt apart (TRL), or repeated (UltraFeedback)
    prompt, responses, ranks | scores         K responses, rank 1 the best: every pair of them
    instruction, completions                  UltraFeedback: K responses with ratings

and the public layouts of `bgpm.data.layouts`; ``pool.columns`` reads what none of these covers. The prompt may be
called prompt, instruction (with input), question, context, conversations or messages; ``system``, ``history`` and
``tools`` become part of it. Each row may have ``id``, ``section``, ``subset``, ``margin`` and ``split`` (``pool`` or
``heldout``, where the file and not the seed decides). Texts are passed on as they are.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bgpm.data.conversations import (
    Turn,
    joined,
    messages_in,
    parsed_list,
    response_text,
    role_of,
    show,
    turns_of,
    with_system,
    with_tools,
)
from bgpm.data.corpus import as_rows, read_annotators, read_corpus, split_corpus
from bgpm.data.dedup import Tally
from bgpm.data.files import Limits, Record, hub_records, records
from bgpm.data.layouts import Layout, layout_of
from bgpm.data.schema import BenchmarkSettings, Message, PairColumn, PoolSettings, Row, SourceSettings
from bgpm.errors import ConfigError, DataError, LabelCodingError

# What files call the winner, lower case: the first, the second, neither.
WORDS = {
    **dict.fromkeys(("a", "model_a", "response_a", "true"), 1.0),
    **dict.fromkeys(("b", "model_b", "response_b", "false"), 0.0),
    **dict.fromkeys(("tie", "tie (bothbad)", "tie (both bad)", "both_bad", "bothbad", "both bad"), 0.5),
}
PROMPTS = ("prompt", "instruction", "question", "context", "conversations", "messages")
COPIES = ("conversations", "messages")  # beside a prompt these hold the whole conversation once more
WITH_INPUT = ("instruction", "question")  # a column `input` belongs to these
SYSTEM = ("system", "system_prompt", "system_message")
HISTORY = ("history", "chat_history", "dialogue_history", "conversation_history", "past_messages", "previous_messages")
TOOLS = ("tools", "functions")
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
# Columns that look like a judgement of the pair: named in a warning where nothing reads them.
JUDGEMENTS = frozenset(
    {"label", "labels", "preference", "preferred", "winner", "choice", "verdict", "judgement", "judgment", "vote"}
    | {"votes", "rating", "ratings", "score", "scores", "rank", "ranks", "chosen_label", "better_response_id"}
    | {"safer_response_id", "overall_preference", "preference_strength", "winner_model_a", "winner_model_b"}
    | {"reward", "rewards", "winner_tie", "score_chosen", "score_rejected", "chosen_score", "rejected_score"}
)
# Words of a column's name that make it look like one too.
JUDGING = frozenset(
    {"label", "labels", "preference", "preferences", "preferred", "prefers", "better", "best", "winner", "verdict"}
    | {"judgement", "judgment", "vote", "votes", "rating", "ratings", "score", "scores", "rank", "ranks", "ranking"}
    | {"reward", "rewards", "annotation", "annotations", "margin", "strength", "agreement", "confidence"}
)
# Columns that hold a part of the prompt which is not text, or not in the prompt.
BESIDE = frozenset(
    kind + end for kind in ("image", "video", "audio") for end in ("", "s", "_path", "_paths", "_url", "_urls")
) | {"document", "documents", "passage", "passages", "contexts"}
# Columns that hold a part of the prompt too, besides those that are read.
CONTEXT = frozenset(
    {"article", "post", "background", "dialogue", "dialog", "chat", "sys", "sys_prompt", "system_instruction"}
    | {"system_instructions", "previous_turns", "earlier_turns"}
)
# What a column says of one response beside its text: chosen_reasoning, response_a_tool_calls, a completion's thinking.
PARTS = frozenset(
    {"reasoning", "reasoning_content", "thinking", "thought", "thoughts", "cot", "chain_of_thought", "scratchpad"}
    | {"tool_calls", "function_call", "image", "images", "system", "system_prompt", "prefix"}
)
_UNREAD_LABEL = "column {0!r} looks like a label and is not read (pool.columns can name it: {{label: {0}}})"
# The same in a row of K responses.
_UNREAD_LIST = (
    "column {0!r} looks like a label and is not read (pool.columns can name a list with a number of each response: "
    "{{scores: {0}}}, or {{ranks: {0}}} where 1 is the best)"
)
EXCEL = 32_767  # characters that a cell of Excel holds
_TRANSCRIPT = re.compile(r"\A\s*Human:.*\n\nAssistant:\s*\Z", re.DOTALL)  # Anthropic's, open for a response
# How a conversation begins that a chat template has made one text of.
_RENDERED = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*"
    r"(<\|im_start\|>|<\|start_header_id\|>|<\|(?:system|user|assistant)\|>|<start_of_turn>|\[INST\])"
)
_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
# Letters, symbols and marks without ink: fillers, the empty braille cell, selectors of a variation.
_HIDDEN = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))


@dataclass
class Reading:
    """How one file is read, and what was noticed on the way.

    Attributes:
        settings: Where it lies and how to read it.
        noted: Places by remark: what was left out, kept as a tie, or looks odd.
        broken: Rows passed over as bad.
        unread: Columns that nothing reads, and the rows that have any.
    """

    settings: SourceSettings
    noted: dict[str, Tally] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    unread: tuple[set[str], Tally] = field(default_factory=lambda: (set(), Tally()))

    def note(self, remark: str, place: str) -> None:
        """Count a remark once more."""
        self.noted.setdefault(remark, Tally()).note(place)

    def remarks(self) -> dict[str, Tally]:
        """All that was noted, with the columns that nothing reads as one remark."""
        names, rows = self.unread
        shown = ", ".join(name or "(without a name)" for name in sorted(names))
        return self.noted | ({f"columns not read: {shown}": rows} if names else {})

    def ignored(self, key: str, place: str) -> None:
        """Note a key of a message that the settings say may go."""
        self.note(f"key {key!r} of a message left out", place)

    def skip(self, error: DataError) -> None:
        """Pass over a bad row, if the settings allow it; else raise its error.

        Raises:
            DataError: The row's own, or with the bound that it is one too many for.
        """
        bound = self.settings.skip_bad_rows
        if isinstance(error, LabelCodingError) or not bound:
            raise error
        self.broken.append(str(error))
        self.note("bad row left out", str(error))
        if bound >= 1 and len(self.broken) > bound:
            raise DataError(f"{error}; it is one bad row more than skip_bad_rows: {bound} allows") from error

    def check_share(self, rows: int) -> None:
        """Refuse a file with a larger share of bad rows than the settings allow."""
        bound, bad = self.settings.skip_bad_rows, len(self.broken)
        if 0 < bound < 1 and bad > bound * (rows + bad):
            raise DataError(
                f"{self.broken[0]}; it is the first of {bad} bad rows of {rows + bad}, more than "
                f"skip_bad_rows: {bound} allows"
            )


@dataclass(frozen=True)
class RecordTexts:
    """The texts of one record: a prompt and its responses.

    Attributes:
        prompt: Turns; the last one is the user's or a tool's.
        responses: Turns of each response, the assistant's first.
        tools: That the prompt lists, as the file has them; None where it has none.
    """

    prompt: tuple[Turn, ...]
    responses: tuple[tuple[Turn, ...], ...]
    tools: Any = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as roles and texts."""
        return tuple(turn.message for turn in self.prompt)


def is_corpus(settings: SourceSettings) -> bool:
    """Whether the settings name a corpus folder, which has simulated annotators beside its texts."""
    return settings.hub is None and (Path(settings.path) / "annotators.yaml").is_file()


def read_rows(settings: PoolSettings | BenchmarkSettings, reading: Reading | None = None) -> list[Row]:
    """Every pair the settings name, in the order of the file.

    Args:
        reading: Told what was noticed.

    Raises:
        DataError: Naming file and line of the first record that cannot be used.
    """
    if is_corpus(settings):
        return list(_corpus_rows(Path(settings.path), benchmark=isinstance(settings, BenchmarkSettings)))
    reading = Reading(settings) if reading is None else reading
    rows: list[Row] = []
    for record in source_records(settings, reading):
        try:
            rows += rows_of_record(record, reading)
        except DataError as error:
            reading.skip(error)
    reading.check_share(len(rows))
    return without_repeated_prompts(rows, reading)


def source_records(settings: SourceSettings, reading: Reading | None = None) -> Iterator[Record]:
    """Records of the file, folder or hub data set that the settings name."""
    if settings.hub:
        return hub_records(settings.hub, settings.split, settings.config, settings.revision)
    limits = Limits(int(settings.max_line_mib * 2**20), int(settings.max_file_gib * 2**30))
    skip = reading.skip if reading and settings.skip_bad_rows else None
    return records(Path(settings.path), settings.split, settings.config, limits, skip)


def rows_of_record(record: Record, reading: Reading | None = None) -> Iterator[Row]:
    """The pair, or the pairs of K responses, that one record holds.

    Raises:
        LabelCodingError: If the label is none of its coding.
        DataError: Naming the place and what was expected there.
    """
    reading = reading or Reading(_PLAIN)
    place, columns = record
    layout, columns = _ours(record, reading)
    texts = _texts(columns, place, reading)
    common: dict[str, Any] = {name: name_of(columns.get(name)) for name in ("section", "subset")}
    common["place"] = place
    split = name_of(columns.get("split"))
    if split not in ("", "train", "pool", "heldout"):
        raise DataError(f"{place}: split {split!r}: expected 'pool', 'heldout', nothing or 'train', or no such column")
    common["split"] = "" if split == "train" else split  # as data sets name what holds all rows: it decides nothing
    id = name_of(columns.get("id"))
    _note_unread(record, columns, layout, reading)
    worth = _worths(columns, place, reading) if _is_list(columns) else [_worth(columns, layout, place, reading)]
    responses = [response_text(turns) for turns in texts.responses]
    numbers = response_numbers(record, len(responses), reading.settings)
    of_pair = pair_numbers(record, len(responses), reading.settings)
    pairs = list(itertools.combinations(range(len(responses)), 2))
    if not pairs:
        raise DataError(f"{place}: one response only: expected two or more to compare")
    for (i, j), (label, margin) in zip(pairs, worth, strict=True):
        name = f"{id}/{i}-{j}" if id and _is_list(columns) else id
        common |= {"numbers_a": numbers[i], "numbers_b": numbers[j], "numbers": of_pair}
        row = encodable(Row(texts.messages, responses[i], responses[j], label, margin, id=name, **common))
        if _kept(row, reading):
            yield row


def texts_of_record(record: Record, reading: Reading | None = None) -> RecordTexts:
    """Prompt and responses of one record, whatever it says of which is better.

    Raises:
        DataError: Naming the place and what was expected there.
    """
    reading = reading or Reading(_PLAIN)
    place, _ = record
    texts = _texts(_ours(record, reading, judged=False)[1], place, reading)
    encodable(Row(texts.messages, "\n".join(map(response_text, texts.responses)), "", place=place))
    return texts


def without_repeated_prompts(rows: list[Row], reading: Reading) -> list[Row]:
    """Rows whose responses no longer begin with the prompt, where every response of the file does."""
    if not repeat_their_prompts((row.prompt, (row.a, row.b)) for row in rows):
        return rows
    for row in rows:
        reading.note("responses without the prompt that they repeated", row.place)
    return [replace(row, a=after_prompt(row.prompt, row.a), b=after_prompt(row.prompt, row.b)) for row in rows]


def repeat_their_prompts(items: Iterable[tuple[tuple[Message, ...], Sequence[str]]]) -> bool:
    """Whether all responses, to two prompts or more, begin with the whole of their prompt, one user turn."""
    prompts = set()
    for prompt, responses in items:
        if len(prompt) != 1 or not all(text.startswith(prompt[0][1]) for text in responses):
            return False
        prompts.add(prompt)
    return len(prompts) > 1


def after_prompt(prompt: tuple[Message, ...], response: str) -> str:
    """A response that begins with its prompt, without it."""
    return response[len(prompt[0][1]) :].lstrip()


def _ours(record: Record, reading: Reading, *, judged: bool = True) -> tuple[Layout | None, dict[str, Any]]:
    """A record's columns under our names: those of the settings, of a known layout, or as they are."""
    place, given = record
    columns = {name: value for name, value in given.items() if not _is_missing(value)}
    mapping = reading.settings.columns
    lost = sorted(theirs for ours, theirs in mapping.items() if theirs not in given and (judged or ours not in _UNUSED))
    if lost:
        raise DataError(
            f"{place}: no column {lost[0]!r}, which pool.columns (--columns) names; the columns are "
            f"{', '.join(sorted(given))}"
        )
    mapped = {ours: columns.get(theirs) for ours, theirs in mapping.items()}
    texts = {"prompt", "response_a", "response_b", "chosen", "rejected", "responses"} & mapped.keys()
    layout = None if texts else layout_of({name: columns.get(name) for name in given})
    _check_further(given, layout, place, reading)
    if layout is None:
        return None, _with_winner(columns | mapped, given, reading) if judged else columns | mapped
    if not judged:
        columns = {name: value for name, value in columns.items() if name not in (layout.label, *layout.spends)}
    if "label" in mapping and layout.label:
        alike = mapping["label"] in (layout.label, *layout.alike)
        columns[layout.label] = mapped.pop("label") if alike else None  # another column's codes are not the layout's
    theirs = layout.make(columns, place)
    if layout.label and judged:
        value = columns.get(layout.label)
        theirs["label"] = value if reading.settings.labels else layout.coding(value, place)
    if judged and "label" in mapped:
        _check_code(mapped["label"], mapping["label"], layout, place, reading)
    made = dict(columns) | theirs | mapped
    if judged and "label" in theirs and "label" not in mapping and not _is_empty(columns.get("label")):
        made["label"] = _label_beside(theirs["label"], columns["label"], layout, place, reading)
    own = judged and layout.label not in given
    return layout, _with_winner(made, given, reading) if own else made


def _with_winner(columns: dict[str, Any], given: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """Columns whose label is what ``winner`` says, where nothing else says one and its word needs no coding."""
    sides = not _is_list(columns) and all(columns.get(name) is not None for name in _PAIRS[1])
    alone = "label" not in given and "label" not in reading.settings.columns and _is_empty(columns.get("label"))
    if sides and alone and columns.get("chosen") is None and _names_winner(columns.get("winner")):
        return columns | {"label": columns["winner"], "winner": None}
    return columns


def _check_further(given: Mapping[str, Any], layout: Layout | None, place: str, reading: Reading) -> None:
    """DataError if a third response stands in a column of its own: response_c, or response_3."""
    first, second = (layout.texts if layout else _PAIRS[1])[-2:]
    stem, mark = first[:-1], first[-1]
    named = {"response_a", "response_b"} <= reading.settings.columns.keys() or _is_list(given)
    if named or second[:-1] != stem or not {first, second} <= given.keys():
        return
    marks = r"\d+" if mark.isdigit() else "[A-Z]" if mark.isupper() else "[a-z]"
    for name, value in given.items():
        if name in (first, second) or not re.fullmatch(re.escape(stem) + marks, name) or _is_empty(value):
            continue
        if name in reading.settings.ignore_keys:
            reading.note(f"column {name!r} left out", place)
        elif isinstance(value, str | list | Mapping):
            raise DataError(
                f"{place}: column {name!r} is a further response beside {first} and {second} and would be lost; write "
                "all of them into a list, responses, or name the two that count in pool.columns (--columns): "
                f"{{response_a: {first}, response_b: {second}}}"
            )


def _label_beside(decided: Any, label: Any, layout: Layout, place: str, reading: Reading) -> Any:
    """The label of a row that has a column ``label`` beside a layout's own: that where it says something."""
    if not _is_empty(decided):
        reading.note(_UNREAD_LABEL.format("label"), place)
        return decided
    _check_code(label, "label", layout, place, reading)
    return label


def _check_code(value: Any, column: str, layout: Layout, place: str, reading: Reading) -> None:
    """LabelCodingError if a column that is not the layout's own says by a code which numbered response is better."""
    if reading.settings.labels or not layout.numbered or _is_empty(value) or _names_winner(value):
        return
    raise LabelCodingError(
        f"{place}: {column} {show(value)} beside {' and '.join(layout.numbered)}: which of them it means is not known; "
        f"say it with pool.columns: {{label: {column}}} and pool.labels, such as {{a: [1], b: [2]}}"
    )


def _names_winner(value: Any) -> bool:
    """Whether a label is a word that says in any layout which response is better."""
    return isinstance(value, str) and value.strip().lower() in WORDS.keys() - {"true", "false"}


def _is_list(columns: Mapping[str, Any]) -> bool:
    return columns.get("responses") is not None or columns.get("completions") is not None


def _texts(columns: Mapping[str, Any], place: str, reading: Reading) -> RecordTexts:
    """Prompt and responses of a record whose columns are ours."""

    _check_beside(columns, place, reading)
    history, tools = _one_of(HISTORY, columns, place), _one_of(TOOLS, columns, place)

    def turns(value: Any, column: str) -> tuple[Turn, ...]:
        return turns_of(value, place, column, reading.settings.ignore_keys, reading.ignored)

    def response(value: Any, column: str) -> tuple[Turn, ...]:
        value = messages_in(value, place, column)
        return (Turn("assistant", value),) if isinstance(value, str) else turns(value, column)

    if _is_list(columns):
        values = _listed(columns, place, reading)
        names = ["responses"] * len(values)
    else:
        names = _sides(columns, place, reading)
        if not names:
            given = sorted(name for name, value in columns.items() if value is not None)
            raise DataError(
                f"{place}: expected columns chosen and rejected, response_a and response_b, or responses, each with a "
                f"prompt or as conversations; got {', '.join(given) or 'none'}; name yours in pool.columns, such as "
                f"{_mapping_for(columns)}"
            )
        values = [columns[name] for name in names]
        for name, value in zip(names, values, strict=True):
            if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
                raise DataError(
                    f"{place}: {name}: a list of texts, where one response is expected: give each pair a "
                    "row, or all responses in a list, responses, with ranks; RewardBench 2 and RM-Bench are read as "
                    "benchmark.path"
                )
    values = [messages_in(value, place, name) for value, name in zip(values, names, strict=True)]
    alone = all(isinstance(value, str) or _of_assistant(value) for value in values)
    column = next((name for name in PROMPTS if columns.get(name) is not None), None)
    if column in COPIES and not alone:
        column = None  # a copy of the whole conversation
    prompt = None if column is None else _prompt_turns(columns, column, turns, place)
    if column is not None:
        _check_context(columns, column, place, reading)
    if prompt is None and alone and all(isinstance(value, str) for value in values):
        prompt, values = _shared_transcript(values, columns, place)
    elif column == "prompt" and isinstance(columns["prompt"], str):
        values = [_after_transcript(columns["prompt"], value, place, reading) for value in values]
    found = [response(value, name) for value, name in zip(values, names, strict=True)]
    if prompt is None or not alone:
        start = _shared_start(found, names, place)
        found = [turns_[len(start) :] for turns_ in found]
        if any(not rest for rest in found):
            raise DataError(f"{place}: a conversation ends with the prompt and has no response")
        prompt = start if prompt is None else joined(prompt, start, place)
    for name, (first, *_) in zip(names, found, strict=True):
        if first.role != "assistant":
            raise DataError(
                f"{place}: {name}: the response begins with a turn of {first.role!r}: {show(first.content)}; expected "
                "the assistant's (role assistant, from gpt, and the like): rename the role, or take the turn out"
            )
    if history:
        prompt = (*_history(columns[history], place, turns), *prompt)
    for name in SYSTEM:
        if columns.get(name) is not None:
            prompt = with_system(prompt, _system(columns[name], name, turns, place), place)
    _check_copies(columns, column, prompt, turns, place, reading)
    if tools:
        prompt = with_tools(prompt, columns[tools])
    if rendered := _RENDERED.match(prompt[0].content):
        reading.note(f"prompt in one text with {rendered[1]}, taken as text; messages would be read as turns", place)
    return RecordTexts(_asked(prompt, place), tuple(found), columns[tools] if tools else None)


_PAIRS = (("chosen", "rejected"), ("response_a", "response_b"))
# What `bgpm score` and its like do not use, and so may be absent there.
_UNUSED = ("label", "margin", "ranks", "scores", "score_chosen", "score_rejected", "id", "section", "subset", "split")
_SIDES = ("chosen", "rejected", "response_a", "response_b", "response_0", "response_1", "response_2")


def _sides(columns: Mapping[str, Any], place: str, reading: Reading) -> tuple[str, ...]:
    """Names of the two columns that hold the responses, () where there are none.

    Raises:
        DataError: If both pairs of columns are there: one may say which of the other is better, or be a copy.
    """
    found = [pair for pair in _PAIRS if all(columns.get(name) is not None for name in pair)]
    named = [pair for pair in found if reading.settings.columns.keys() & set(pair)]
    if len(found) > 1 and len(named) != 1:
        raise DataError(
            f"{place}: the columns {', '.join(found[0])} and {', '.join(found[1])} both hold responses; name the two "
            "that count in pool.columns, such as {response_a: response_a, response_b: response_b, label: ...}"
        )
    return next(iter(named or found), ())


def _is_missing(value: Any) -> bool:
    """Whether a cell is absent: null, or the NaN that tables write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_empty(value: Any) -> bool:
    """Whether a column says nothing."""
    return _is_missing(value) or value in ("", [], {}) or (isinstance(value, list) and all(map(_is_missing, value)))


def _one_of(names: Sequence[str], columns: Mapping[str, Any], place: str) -> str | None:
    """The one column of these that says something."""
    filled = [name for name in names if not _is_empty(columns.get(name))]
    if len(filled) > 1:
        raise DataError(f"{place}: the columns {' and '.join(filled)} stand for the same; keep one of them")
    return filled[0] if filled else None


def _check_beside(columns: Mapping[str, Any], place: str, reading: Reading) -> None:
    """Refuse columns that belong to the texts and cannot be read, and note cells that a spreadsheet has cut."""
    for name, value in columns.items():
        owner = "the prompt" if name in BESIDE else "a response" if _of_response(name, reading) else ""
        if not owner or _is_empty(value):
            continue
        if name not in reading.settings.ignore_keys:
            raise DataError(
                f"{place}: column {name!r} belongs to {owner} and would be lost: {show(value)}; write what it says "
                f"into {owner}, or list it in pool.ignore_keys if it carries no meaning"
            )
        reading.note(f"column {name!r} left out", place)
    if any(isinstance(value, str) and len(value) == EXCEL for value in columns.values()):
        reading.note(f"a cell of exactly {EXCEL:,} characters, where Excel cuts: the text may be incomplete", place)


def _of_response(name: str, reading: Reading) -> bool:
    """Whether a column's name is a response's with one of `PARTS` before or after it."""
    theirs = {theirs for ours, theirs in reading.settings.columns.items() if ours in _SIDES}
    return _snake(name) in _BESIDE_RESPONSES or (bool(theirs) and name in _with_parts(theirs))


def _with_parts(sides: Iterable[str]) -> frozenset[str]:
    return frozenset(name for side in sides for part in PARTS for name in (f"{side}_{part}", f"{part}_{side}"))


def _system(value: Any, name: str, turns: Any, place: str) -> Any:
    """A system prompt as text, where the column holds it as messages."""
    value = messages_in(value, place, name)
    found = turns(value, name) if isinstance(value, list) and value else ()
    if found and all(turn.role == "system" for turn in found):
        return "\n\n".join(turn.content for turn in found)
    return value


def _check_copies(
    columns: Mapping[str, Any], column: str | None, prompt: tuple[Turn, ...], turns: Any, place: str, reading: Reading
) -> None:
    """Refuse a row whose copy of the conversation has turns before the responses that the prompt lacks."""
    if "prompt" in reading.settings.columns:
        return
    for name in COPIES:
        if name == column or _is_empty(columns.get(name)):
            continue
        try:
            copied = turns(columns[name], name)
        except DataError:  # no conversation that could be lost, and named among what nothing reads
            continue
        mine = {turn.content.strip() for turn in prompt} | {turn.content.partition("\n\nTools: ")[0] for turn in prompt}
        for turn in copied:
            if turn.role != "assistant" and turn.content.strip() not in mine:
                raise DataError(
                    f"{place}: the column {name} has a turn that the prompt lacks: {show(turn.content)} ({turn.role}); "
                    f"put it into the prompt, or name the column that counts in pool.columns: {{prompt: {column}}}"
                )


def _of_assistant(value: Any) -> bool:
    """Whether messages are a response alone, without the prompt."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and role_of(first) == "assistant"


def _prompt_turns(columns: Mapping[str, Any], column: str, turns: Any, place: str) -> tuple[Turn, ...]:
    value = messages_in(columns[column], place, column)
    more = columns.get("input")
    if column in WITH_INPUT and not _is_empty(more):
        if not isinstance(value, str) or not isinstance(more, str | int | float):
            raise DataError(
                f"{place}: input: expected text beside an {column} that is text, got {show(more)}; join the two into "
                f"one column, or name the one that counts in pool.columns: {{prompt: {column}}}"
            )
        value = f"{value}\n\n{more}" if str(more).strip() else value
    if isinstance(value, str):
        return (Turn("user", value),)
    return turns(value, column)


def _check_context(columns: Mapping[str, Any], column: str, place: str, reading: Reading) -> None:
    """Refuse a row whose prompt stands in one column and what it speaks of in another: which comes first is not known.

    A column that ``pool.columns`` names as the prompt is the whole of it.
    """
    if "prompt" in reading.settings.columns:
        return
    for name, value in columns.items():
        known = name in ("input", "context", "instruction", "question") or _snake(name) in CONTEXT
        if not known and (name in _PROMPTING or _snake(name) not in _PROMPTING):
            continue  # of no prompt, or read elsewhere; System and systemPrompt are neither
        if name == column or (name == "input" and column in WITH_INPUT):
            continue
        if isinstance(value, str):
            value = value.strip()
        if not _is_empty(value) and str(value) not in str(columns[column]):
            raise DataError(
                f"{place}: the columns {column} and {name} both hold a part of the prompt; join them into one column, "
                f"or name the one that counts in pool.columns: {{prompt: {column}}}"
            )


def _listed(columns: Mapping[str, Any], place: str, reading: Reading) -> list[Any]:
    """The K responses of a record."""
    column = "responses" if columns.get("responses") is not None else "completions"
    values = []
    for item in _list(columns[column], place, column):
        if isinstance(item, Mapping) and isinstance(item.get("response"), str):
            for name in ("custom_system_prompt", "system_prompt"):
                if item.get(name):
                    reading.note(f"{name} of a completion is not part of what was asked: left out", place)
            for name in sorted(PARTS - {"system_prompt"} & item.keys()):
                if not _is_empty(item[name]) and name not in reading.settings.ignore_keys:
                    raise DataError(
                        f"{place}: {column}: a completion has {name!r}, which would be lost: {show(item[name])}; write "
                        "it into the response, or list it in pool.ignore_keys if it carries no meaning"
                    )
            item = item["response"]
        elif not isinstance(item, str | list) and not (
            isinstance(item, Mapping) and ("role" in item or "from" in item)
        ):
            raise DataError(
                f"{place}: {column}: expected texts, messages, or objects with response and a rating, got {show(item)}"
            )
        values.append(item)
    if not values:
        raise DataError(f"{place}: {column}: the list is empty: expected two or more responses")
    count, most = len(values) * (len(values) - 1) // 2, reading.settings.max_pairs_per_row
    if count > most:
        raise DataError(
            f"{place}: {column}: {len(values)} responses make {count} pairs, more than pool.max_pairs_per_row: {most}; "
            "raise it, or take a sample of the responses"
        )
    return values


def _history(value: Any, place: str, turns: Any) -> tuple[Turn, ...]:
    """Earlier turns: messages, or pairs of what was asked and answered."""
    rounds = _list(value, place, "history")
    if rounds and all(isinstance(item, Mapping) for item in rounds):
        return turns(rounds, "history")
    found: list[Turn] = []
    for item in rounds:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(text, str) for text in item):
            raise DataError(f"{place}: history: expected pairs of what was asked and answered, got {show(item)}")
        found += [Turn("user", item[0]), Turn("assistant", item[1])]
    return tuple(found)


def _shared_start(conversations: Sequence[tuple[Turn, ...]], names: Sequence[str], place: str) -> tuple[Turn, ...]:
    """What conversations share, up to the last turn that is answered."""
    shared = min(_alike(conversations[0], other) for other in conversations)
    while shared and conversations[0][shared - 1].role not in ("user", "tool"):
        shared -= 1
    if not shared:
        roles = dict.fromkeys(turn.role for turns in conversations for turn in turns)
        raise DataError(
            f"{place}: {' and '.join(dict.fromkeys(names))} share no prompt: expected conversations with the same "
            f"turns up to a user's, or a column prompt and the assistant's turns; the roles are {', '.join(roles)}"
        )
    return conversations[0][:shared]


def _shared_transcript(
    texts: Sequence[str], columns: Mapping[str, Any], place: str
) -> tuple[tuple[Turn, ...], list[str]]:
    """Anthropic's form: transcripts, alike up to the last ``Assistant:`` they share."""
    mark = "\n\nAssistant:"
    parts = [text.split(mark) for text in texts]
    shared = min(*(_alike(parts[0], other) for other in parts), *(len(part) - 1 for part in parts))
    if shared < 1:
        raise DataError(
            f"{place}: no prompt: expected a column prompt, message lists, or transcripts that share a beginning; got "
            f"{', '.join(sorted(name for name, value in columns.items() if value is not None))}; name yours in "
            f"pool.columns: {{prompt: {_prompt_in(columns)}}}"
        )
    prompt = Turn("user", mark.join(parts[0][:shared]).removeprefix("\n\n"))
    return (prompt,), [mark.join(part[shared:]).removeprefix(" ") for part in parts]


def _prompt_in(columns: Mapping[str, Any]) -> str:
    """The column that is likely the prompt, for a message: input, or the one with messages; NAME where none is."""
    talks = [
        name
        for name, value in columns.items()
        if name not in _READ and isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
    ]
    return "input" if columns.get("input") is not None else talks[0] if len(talks) == 1 else "NAME"


def _mapping_for(columns: Mapping[str, Any]) -> str:
    """What ``pool.columns`` may say of a row without columns of responses that we know, for a message."""
    for first, second in ("ab", "AB", "01", "12"):
        for name in columns:
            other = name[:-1] + second
            if name.endswith(first) and isinstance(columns.get(other), str | list):
                return f"{{response_a: {name}, response_b: {other}}}"
    for name, value in columns.items():
        if name not in _READ and isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value):
            return f"{{responses: {name}}}"
    return "{prompt: question, response_a: left, response_b: right}"


def _after_transcript(prompt: str, response: Any, place: str, reading: Reading) -> Any:
    """A response without the transcript of its prompt, where it begins with that."""
    if not isinstance(response, str) or not _TRANSCRIPT.match(prompt):
        return response
    whole, start = response.lstrip("\n"), prompt.strip()
    if not whole.startswith(start):
        return response
    reading.note("response without the transcript that it repeated", place)
    return whole[len(start) :].removeprefix(" ")


def _alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the longest common beginning."""
    return sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(a, b, strict=False)))


def prompt_of(value: Any, place: str) -> tuple[Message, ...]:
    """A prompt given as text or as messages; DataError when nothing is asked in it."""
    value = messages_in(value, place, "prompt")
    turns = (Turn("user", value),) if isinstance(value, str) else turns_of(value, place, "prompt")
    return tuple(turn.message for turn in _asked(turns, place))


def _asked(turns: tuple[Turn, ...], place: str) -> tuple[Turn, ...]:
    """A prompt as it is, if something is asked in it."""
    if turns[-1].role not in ("user", "tool"):
        raise DataError(f"{place}: prompt: expected the last turn to be the user's or a tool's, got {turns[-1].role!r}")
    if not turns[-1].content.strip():
        raise DataError(f"{place}: the prompt is empty")
    return turns


def _worth(columns: Mapping[str, Any], layout: Layout | None, place: str, reading: Reading) -> tuple[float, float]:
    """Label and margin of a pair."""
    margin = _margin(columns.get("margin"), place)
    words = reading.settings.labels
    label = _worded(columns.get("label"), words, place) if words else _label(columns.get("label"), place)
    if _sides(columns, place, reading) != _PAIRS[0]:
        return label, margin
    names = next((pair for pair in SCORES if all(columns.get(name) is not None for name in pair)), None)
    if names and math.isnan(label):
        gap = _number(columns[names[0]], place, names[0]) - _number(columns[names[1]], place, names[1])
        if gap < 0:
            raise DataError(
                f"{place}: {names[0]} {columns[names[0]]} is below {names[1]} {columns[names[1]]}, though chosen is "
                "the better response; swap them, or take the scores out"
            )
        if gap == 0:
            reading.note("equal scores: a tie", place)
            return 0.5, margin
        return 1.0, gap if math.isnan(margin) and not math.isnan(gap) else margin
    if math.isnan(label):
        return 1.0, margin
    if label < 0.5:
        raise DataError(f"{place}: label {label} says that the rejected response is the better one")
    return label, margin


def _worths(columns: Mapping[str, Any], place: str, reading: Reading) -> list[tuple[float, float]]:
    """Labels and margins of every pair of K responses; a margin is a difference of scores, ranks give none."""
    if columns.get("responses") is None:
        items = _list(columns["completions"], place, "completions")
    else:
        items = _list(columns["responses"], place, "responses")
    count = len(items)
    if "label" in reading.settings.columns and columns.get("label") is not None:
        named = reading.settings.columns["label"]
        raise DataError(
            f"{place}: {named} {show(columns['label'])} as the label of {count} responses: of these pool.columns reads "
            f"lists with a number of each response: {{scores: {named}}}, or {{ranks: {named}}} where 1 is the best"
        )
    rated: Any = [_rating(item, reading.settings.rating) for item in items]
    scores = columns.get("scores") if rated == [None] * count else rated
    if scores is None and columns.get("ranks") is None:
        _note_unrated(items, place, reading)
    ranked = (scores is None or scores == [None] * count) and columns.get("ranks") is not None
    worth = columns["ranks"] if ranked else scores
    worth = [None] * count if worth is None else _list(worth, place, "ranks or scores")
    if count != len(worth):
        raise DataError(f"{place}: {count} responses, {len(worth)} ranks or scores: expected as many of each")
    values = [_number(value, place, "ranks or scores") * (-1.0 if ranked else 1.0) for value in worth]
    if not ranked and columns.get("ranks") is not None:
        _check_ranks(values, _list(columns["ranks"], place, "ranks"), place)
    result = []
    for i, j in itertools.combinations(range(count), 2):
        gap = values[i] - values[j]
        label = math.nan if math.isnan(gap) else 0.5 + 0.5 * ((gap > 0) - (gap < 0))
        result.append((label, math.nan if ranked else abs(gap)))
    return result


def _check_ranks(scores: list[float], ranks: list[Any], place: str) -> None:
    """DataError if ranks beside the scores put any two responses in the other order."""
    places = [_number(rank, place, "ranks") for rank in ranks]
    for i, j in itertools.combinations(range(min(len(scores), len(places))), 2):
        if (scores[i] - scores[j]) * (places[i] - places[j]) > 0:
            raise DataError(
                f"{place}: ranks {places[i]:g} and {places[j]:g} of responses {i} and {j} contradict their scores "
                f"{scores[i]:g} and {scores[j]:g} (rank 1 is the best); take out the column that is wrong"
            )


def _note_unrated(items: Sequence[Any], place: str, reading: Reading) -> None:
    """Note values of responses that look like their worth, where ``pool.rating`` names none of them."""
    keys = {key for item in items if isinstance(item, Mapping) for key in item if not _is_empty(item[key])}
    for key in sorted(keys - {"role", "content", "from", "value", "response"}):
        if key.lower() in JUDGEMENTS or _words(key) & JUDGING:
            reading.note(f"{key!r} of a response looks like a rating and is not read (pool.rating can name it)", place)


def _rating(item: Any, path: str) -> Any:
    for step in path.split("."):
        item = item.get(step) if isinstance(item, Mapping) else None
    return None if isinstance(item, str) and item.strip().upper() == "N/A" else item


def _note_unread(record: Record, columns: Mapping[str, Any], layout: Layout | None, reading: Reading) -> None:
    """Note columns that nothing reads, each by itself where it looks like a judgement of the pair."""
    scores = next((pair for pair in SCORES if all(columns.get(name) is not None for name in pair)), ())
    spent = {"label", *reading.settings.columns.values(), *_numbered(reading.settings)}
    if layout:
        spent |= {*layout.texts, *layout.spends, *layout.reads}
        spent |= set() if "label" in reading.settings.columns else {layout.label}
    if _is_list(columns):
        spent |= {"scores", "ranks"}
        spent -= {"label"}
    elif columns.get("chosen") is not None and columns.get("label") is None:
        spent |= set(scores)
    texts = () if _is_list(columns) else _sides(columns, record[0], reading)
    unread = set()
    for name, value in record[1].items():
        read = name in spent or columns.get(name) is None  # `_ours` has put it elsewhere
        if read or _is_empty(value) or name in reading.settings.ignore_keys:
            continue
        looks = _words(name) & JUDGING and name not in (layout.tells if layout else ()) and name not in _READ
        if name.lower() in JUDGEMENTS or looks or (name in _SIDES[:2] and name not in texts):
            reading.note((_UNREAD_LIST if _is_list(columns) else _UNREAD_LABEL).format(name), record[0])
        elif name not in _READ or (name in COPIES and columns.get("prompt") is not None):
            unread.add(name)
    if unread:
        reading.unread[0].update(unread)
        reading.unread[1].note(record[0])


@functools.cache
def _words(name: str) -> frozenset[str]:
    """Lower-case words of a column's name, however they are joined."""
    return frozenset(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))


@functools.cache
def _snake(name: str) -> str:
    """A column's name in lower case with underscores: ``systemPrompt`` and ``System Prompt`` are ``system_prompt``."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()).strip("_")


_PROMPTING = frozenset({*SYSTEM, *HISTORY, *TOOLS, "input", "context", "instruction", "question"})
_BESIDE_RESPONSES = _with_parts(_SIDES)
_READ = frozenset(
    {*PROMPTS, *SYSTEM, *HISTORY, *TOOLS, "input", "chosen", "rejected", "response_a", "response_b", "responses"}
    | {"completions", "label", "margin", "id", "section", "subset", "split"}
)


def judging_columns(columns: Iterable[str], settings: SourceSettings) -> frozenset[str]:
    """Of a file's columns those that say which response is better, or by how much: none may serve as a feature.

    Args:
        columns: Names of the columns that any row has.
        settings: How the file is read.
    """
    named = set(columns)
    worth = {"label", "margin", "ranks", "scores", "score_chosen", "score_rejected"}
    telling = {theirs for ours, theirs in settings.columns.items() if ours in worth}
    layout = layout_of(dict.fromkeys(named, ""))
    if layout:
        telling |= {*layout.spends, *layout.tells, *([layout.label] if layout.label else [])}
    known = JUDGEMENTS | worth | {name for pair in SCORES for name in pair} | {"completions", "answers"}
    return frozenset(name for name in named if name in telling or name.lower() in known)


def response_numbers(record: Record, count: int, settings: SourceSettings) -> list[tuple[float, ...]]:
    """Of each response the numbers that ``response_columns`` names, NaN where a cell is empty or not there.

    Args:
        record: A row as its file has it.
        count: Responses of the row.

    Raises:
        ConfigError: If a column says which response is better: it may have made the label.
        DataError: Naming the place, for a cell that is no number or a list of another length.
    """
    place, columns = record
    _refuse_judging(tuple(columns), settings)
    found: list[list[float]] = [[] for _ in range(count)]
    for name, theirs in settings.response_columns.items():
        if isinstance(theirs, str):
            given = columns.get(theirs)
            values = [None] * count if given is None or given != given else _list(given, place, theirs)
            names = [theirs] * count
        else:
            values, names = [columns.get(column) for column in theirs], theirs
        if len(values) != count:
            raise DataError(
                f"{place}: {count} responses and {len(values)} numbers of response_columns.{name}; name two columns "
                "for a pair, or one that lists a number for each response"
            )
        for numbers, value, column in zip(found, values, names, strict=True):
            numbers.append(_number(value, place, column))
    return [tuple(numbers) for numbers in found]


def pair_numbers(record: Record, count: int, settings: SourceSettings) -> tuple[float, ...]:
    """The numbers of a pair that ``pair_columns`` names, in [-1, 1], NaN where a cell is empty or not there.

    Args:
        record: A row as its file has it.
        count: Responses of the row.

    Raises:
        ConfigError: If a column says which response is better: it may have made the label.
        DataError: Naming the place, for a row of more than two responses, or a cell outside its column's coding.
    """
    place, columns = record
    if settings.pair_columns:
        _refuse_judging(tuple(columns), settings)
    if settings.pair_columns and count != 2:
        raise DataError(
            f"{place}: {count} responses, and pair_columns.{next(iter(settings.pair_columns))} has one number of a "
            "pair: write each pair in a row of its own, or take pair_columns out"
        )
    return tuple(_signed(columns.get(each.column), each, place) for each in settings.pair_columns.values())


def _signed(value: Any, of: PairColumn, place: str) -> float:
    """A cell of a pair column as a number in [-1, 1], positive where it favours the first response."""
    if of.coding == "words":
        return 2 * _worded(value, of.words, place, of.column, "its words") - 1
    number, low = _number(value, place, of.column), -1 if of.coding == "signed" else 0
    if number < low or number > 1:
        raise DataError(f"{place}: {of.column}: expected coding {of.coding}, in [{low}, 1], got {show(value)}")
    return number if of.coding == "signed" else 2 * number - 1


def _refuse_judging(columns: tuple[str, ...], settings: SourceSettings) -> None:
    """ConfigError if a column of numbers that are to be features may have made the label or the margin."""
    named = _numbered(settings)
    if telling := sorted(named & judging_columns(columns, settings)) if named else []:
        where = "pair" if any(each.column == telling[0] for each in settings.pair_columns.values()) else "response"
        raise ConfigError(
            f"{where}_columns: {settings.path}: column {telling[0]!r} says, by its name or by how the file is read, "
            "which response is better, so a label may be made of it; leave it out, or rename it if no label is"
        )


def _numbered(settings: SourceSettings) -> set[str]:
    """Columns that ``response_columns`` and ``pair_columns`` name."""
    given = settings.response_columns.values()
    of_responses = {column for theirs in given for column in ([theirs] if isinstance(theirs, str) else theirs)}
    return of_responses | {each.column for each in settings.pair_columns.values()}


def _kept(row: Row, reading: Reading) -> bool:
    """Whether a row stays, by the rule for blank responses."""
    return not (is_blank(row.a) or is_blank(row.b)) or keeps_blank(reading, row.place, "pair", "pool.blank")


def keeps_blank(reading: Reading, place: str, what: str, setting: str) -> bool:
    """Whether a row or pair with a blank response stays; it is counted either way.

    Args:
        what: What is left out or kept: a pair or a row.
        setting: What the reader of an error would set.

    Raises:
        DataError: If the settings refuse it.
    """
    rule = reading.settings.blank
    if rule == "refuse":
        raise DataError(
            f"{place}: a response has no visible character; set {setting} to keep or drop such {what}s, or mend it"
        )
    reading.note(f"{what} with a blank response" + (" left out" if rule == "drop" else ", kept"), place)
    return rule == "keep"


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: white space, controls and zero-width characters only."""
    return all(c in _HIDDEN or c.isspace() or unicodedata.category(c) in _INVISIBLE for c in text)


def _list(value: Any, place: str, column: str) -> list[Any]:
    found = parsed_list(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise DataError(f"{place}: {column}: expected a list, got {show(value)}; in a table's cell write it as JSON")
    return found


def _number(value: Any, place: str, column: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{place}: {column}: expected a number, got {show(value)}") from None
    if math.isinf(number):
        raise DataError(f"{place}: {column}: expected a finite number, got {show(value)}")
    return number


def _label(value: Any, place: str) -> float:
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    try:
        label = _number(value, place, "label")
    except DataError:
        label = math.inf
    if label < 0 or label > 1:
        raise LabelCodingError(
            f"{place}: label {show(value)}: expected a probability that a is better, in [0, 1], or a word "
            f"({', '.join(WORDS)}); say in pool.labels what this file's labels mean, such as {{a: [1], b: [2]}}"
        )
    return label


def _worded(
    value: Any, words: Mapping[Any, Sequence[Any]], place: str, column: str = "label", listed_in: str = "pool.labels"
) -> float:
    """A label by the words of the settings; NaN where there is none."""
    if value is None or value != value or value == "":
        return math.nan
    of = {"a": 1.0, "b": 0.0, "tie": 0.5}
    known = {_word(word): of[side] for side, listed in words.items() for word in listed}
    if _word(value) not in known:
        raise LabelCodingError(
            f"{place}: {column} {show(value)} is none of {listed_in}: {', '.join(map(repr, known))}; list it there"
        )
    return known[_word(value)]


def _word(value: Any) -> str:
    """A label's word as compared: numbers by value, texts without blanks around them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{float(value):g}"
    text = str(value).strip()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.lower() if text.lower() in ("true", "false") else text


def _margin(value: Any, place: str) -> float:
    margin = _number(value, place, "margin")
    if margin < 0:
        raise DataError(f"{place}: margin {show(value)}: expected how much better the winner is, at least 0")
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


def _corpus_rows(folder: Path, *, benchmark: bool) -> Iterable[Row]:
    """The shipped corpus: the pool's labels are noisy majorities, the benchmark's are clear ones."""
    corpus, annotators = read_corpus(folder), read_annotators(folder)
    pairs = split_corpus(annotators, corpus)[int(benchmark)]
    for pair, row in zip(pairs, as_rows(pairs, corpus, clear=benchmark), strict=True):
        place = f"{folder}: {corpus[pair.prompt].get('id', pair.prompt)}"
        yield from rows_of_record((place, row))


_PLAIN = SourceSettings(path="")  # how a record is read where nobody says
