"""What a preference pool is made of: its settings and one row, whatever file it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bgpm.registry import Settings

Message = tuple[str, str]  # role (system, user, assistant), content

# What ``pool.columns`` may name: the columns of ours.
Column = Literal[
    "prompt", "system", "tools", "history", "response_a", "response_b", "chosen", "rejected", "responses", "label",
    "margin", "ranks", "scores", "score_chosen", "score_rejected", "id", "section", "subset", "split",
]  # fmt: skip

ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]  # of a table and in messages

# Columns of a file with a number of each response, by a name of the user's own: two of a pair, or one that lists K.
NumberColumns = dict[ColumnName, str | Annotated[list[str], Field(min_length=2, max_length=2)]]

# What the words of a label mean: of the first response, of the second, of a tie.
LabelWords = dict[Literal["a", "b", "tie"], list[str | bool | int | float]]

_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


class PairColumn(Settings):
    """A column of a file with a number of each pair, such as a judge's verdict.

    Attributes:
        column: Its name.
        coding: ``signed``, in [-1, 1] and positive where it favours the first response; ``probability``, in [0, 1],
            that the first response is better; ``words``, those of ``words``. Given and never guessed: a column of 0
            and 1 may be either of the first two.
        words: What they mean, as in ``labels``.
    """

    column: str
    coding: Literal["signed", "probability", "words"]
    words: LabelWords = Field(default_factory=dict)

    @model_validator(mode="after")
    def _words_are_listed(self) -> PairColumn:
        if (self.coding == "words") != bool(self.words):
            raise ValueError("coding: words needs words: {a: [...], b: [...], tie: [...]}, and no other coding has any")
        return self


class SourceSettings(Settings):
    """Where rows come from and how they are read: what ``pool`` and ``benchmark`` share.

    Attributes:
        path: A corpus folder, a file (.jsonl, .json, .csv, .parquet, each also .gz), a folder of such
            files or a folder saved by `datasets`.
        hub: A Hugging Face data set id, which then takes the place of ``path``.
        config: Which configuration, where a data set has several.
        revision: Branch, tag or commit of a hub data set; None for its newest state.
        split: Which split of a hub data set, of a saved one, or of a folder whose file names say it (train.jsonl).
        columns: Which of the file's columns are ours, ``{ours: theirs}``; none where the layout is known.
        response_columns: Numbers that the file has of each response, such as a reward model's scores, by a name of
            your own: ``{reward: [score_of_a, score_of_b]}``, or ``{reward: scores}`` where a cell lists those of K
            responses.
        pair_columns: Numbers that the file has of each pair, such as a judge's verdict, by a name of your own:
            ``{gpt4: {column: gpt4_says, coding: probability}}``.
        labels: What the label's words mean: ``{a: [...], b: [...], tie: [...]}``, a being the first response.
        ignore_keys: Keys of messages that may be left out, though they say something.
        rating: Which value of each of UltraFeedback's ``completions`` decides; dots lead inwards.
        blank: What happens to responses without any visible character: ``keep``, ``drop`` their pairs, or ``refuse``.
        skip_bad_rows: So many rows that cannot be read are counted and passed over, or such a share of all where it
            is below 1. A label outside its coding refuses the file all the same.
        max_line_mib: Longest line of a file, in MiB.
        max_file_gib: Largest file, unpacked, in GiB.
        max_pairs_per_row: Pairs that a row of K responses may make, K (K - 1) / 2.
    """

    path: str
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    columns: dict[Column, str] = Field(default_factory=dict)
    response_columns: NumberColumns = Field(default_factory=dict)
    pair_columns: dict[ColumnName, PairColumn] = Field(default_factory=dict)
    labels: LabelWords = Field(default_factory=dict)
    ignore_keys: list[str] = Field(default_factory=list)
    rating: str = "overall_score"
    blank: Literal["keep", "drop", "refuse"] = "keep"
    skip_bad_rows: Annotated[int | float, Field(ge=0)] = 0
    max_line_mib: float = Field(default=16.0, gt=0)
    max_file_gib: float = Field(default=16.0, gt=0)
    max_pairs_per_row: int = Field(default=10_000, ge=1)


class PoolSettings(SourceSettings):
    """Section ``pool`` of params.yaml, beside what `SourceSettings` says.

    Attributes:
        heldout: Share of prompts kept for the learning curve, in [0, 1); 0 keeps none, and every pair may be acquired.
        limit: At most this many pairs, a seeded sample; None for all.
        seed: Decides A/B order, the split and the sample.
    """

    heldout: float = Field(ge=0, lt=1)
    limit: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0)


class BenchmarkSettings(SourceSettings):
    """Section ``benchmark`` of params.yaml, beside what `SourceSettings` says; rows need a ``subset``.

    Attributes:
        kind: ``pairs``, ``rewardbench2`` or ``rm_bench`` (see `bgpm.data.benchmarks`); ``auto`` tells them by columns;
            ``none`` reads no benchmark, and nothing is measured on one.
        xstest_weights: Which of the two published weights of RewardBench's xstest subsets counts.
    """

    split: str = "filtered"
    kind: Literal["auto", "pairs", "rewardbench2", "rm_bench", "none"] = "auto"
    xstest_weights: Literal["code", "dataset"] = "code"


@dataclass(frozen=True, slots=True)
class Item:
    """What several pairs of a benchmark are scored as together.

    Attributes:
        rule: ``rewardbench2`` or ``rm_bench``.
        name: Shared by the pairs of one item, and by no other pairs of the subset.
        cell: Which pair of the item this is, where that counts.
    """

    rule: str
    name: str
    cell: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of responses as its file has it.

    Attributes:
        prompt: The conversation so far; the last turn is the user's.
        a, b: The responses.
        label: Probability that ``a`` is better; NaN when unknown.
        margin: How much better the winner is, >= 0, in the file's own units; NaN when unknown.
        section, subset: Empty when the file does not say.
        split: ``pool`` or ``heldout`` where the file decides, else empty.
        id: The user's own name of the pair, or empty.
        place: File and line, for messages.
        item: What a benchmark scores this pair as part of, or None.
        numbers_a, numbers_b: Of each response the numbers that ``response_columns`` names, in that order, NaN where the
            file has none; () where nothing was read.
        numbers: Of the pair those that ``pair_columns`` names, in [-1, 1], positive where they favour ``a``; likewise.
    """

    prompt: tuple[Message, ...]
    a: str
    b: str
    label: float = math.nan
    margin: float = math.nan
    section: str = ""
    subset: str = ""
    split: str = ""
    id: str = ""
    place: str = ""
    item: Item | None = None
    numbers_a: tuple[float, ...] = ()
    numbers_b: tuple[float, ...] = ()
    numbers: tuple[float, ...] = ()

    def numbers_as(self, given: bool) -> tuple[float, ...]:
        """The pair's numbers as the row stands, or with its responses in the other order."""
        return self.numbers if given else tuple(-value for value in self.numbers)


def transcript(messages: Sequence[Message]) -> str:
    """Turns as plain text, each with its speaker's name."""
    return "\n\n".join(f"{_SPEAKERS.get(role, role)}: {content}" for role, content in messages)


def as_text(messages: Sequence[Message]) -> str:
    """A conversation as text: a single user turn as it stands, more turns as a transcript."""
    return messages[0][1] if len(messages) == 1 and messages[0][0] == "user" else transcript(messages)


def as_json(messages: Sequence[Message]) -> str:
    """A conversation as the JSON list of {role, content} that the tables hold."""
    return json.dumps([{"role": role, "content": content} for role, content in messages], ensure_ascii=False)
