"""Public layouts of preference data: which columns each has, and how they become ours.

One entry a layout; to add one is to add an entry, and a row of it to the tests. A layout is known by its columns of
text; the column that decides may be absent or null, where nobody has labelled the pair. What a layout makes is read
on like any file with columns ``prompt``, ``response_a``, ``response_b``, ``label`` (or ``chosen``, ``rejected``, or
``responses`` with ``ranks`` or ``scores``), see `bgpm.data.readers`. A label here is the probability that
``response_a`` is the better one.

What the public data sets mean by their labels, as their cards say: HelpSteer2-preference and HelpSteer3 (nvidia on the
hub) run from -3, response 1 is much better, to 3, response 2 is; in the Stanford Human Preferences (stanfordnlp/SHP)
``labels`` is 1 where A is preferred to B and 0 where B is; of the WebGPT comparisons (openai/webgpt_comparisons)
``score_0`` is the strength of the preference for ``answer_0``, from -1 to 1, 0 is a tie, and both scores sum to 0; in
Nectar (berkeley-nest/Nectar) rank 1 is the best of seven; ``turn`` of MT-bench (lmsys/mt_bench_human_judgments) is the
one that was judged, of conversations that have two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bgpm.data.conversations import messages_in, parsed_list, role_of, show
from bgpm.errors import DataError, LabelCodingError

Columns = Mapping[str, Any]
Made = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """One way in which files hold preferences.

    Attributes:
        name: The data set or tool that writes it.
        texts: Columns by which it is known; none of them is null.
        fits: Whether a row that has these texts is one of it.
        label: Column that decides.
        make: The columns of ours, from a row's columns and its place.
        coding: The label from the value of that column, given the place.
        spends: Further columns that it reads, for the label alone.
        reads: Further columns that its texts depend on.
        tells: Columns that it does not read, and that give the label away.
        alike: Of these the ones with the label's coding, which ``pool.columns.label`` may put in its place.
    """

    name: str
    texts: tuple[str, ...]
    label: str | None
    make: Callable[[Columns, str], Made]
    coding: Callable[[Any, str], Any] = lambda value, _: value
    spends: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    fits: Callable[[Columns], bool] = lambda _: True
    tells: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def numbered(self) -> tuple[str, ...]:
        """Columns of responses that have numbers: a label 1 may mean the first, or the one that is called 1."""
        return tuple(name for name in self.texts if name[-1].isdigit())


def layout_of(columns: Columns) -> Layout | None:
    """The first layout whose columns of text are all there; None for columns that are ours already."""
    filled = {name for name, value in columns.items() if value is not None}
    return next((layout for layout in LAYOUTS if filled.issuperset(layout.texts) and layout.fits(columns)), None)


def number_in(value: Any, low: float, high: float, place: str, meaning: str) -> float:
    """A number of a coding, NaN where there is none.

    Raises:
        LabelCodingError: If it is no number of the coding.
    """
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isnan(number) or low <= number <= high:
        return number
    raise LabelCodingError(f"{place}: got {show(value)}, expected {meaning}; say what it means in pool.labels")


def _id_of_better(value: Any, place: str) -> float:
    number = number_in(value, 0, 1, place, "the better response's number, 0 or 1")
    if number not in (0.0, 1.0) and not math.isnan(number):
        raise LabelCodingError(f"{place}: got {show(value)}, expected the better response's number, 0 or 1")
    return 1.0 - number


def _strength(value: Any, place: str) -> float:
    number = number_in(value, -3, 3, place, "a strength from -3 (the first is much better) to 3")
    return number if math.isnan(number) else 0.5 - 0.5 * ((number > 0) - (number < 0))


def _alpaca_eval(value: Any, place: str) -> float:
    meaning = "1 (output_1 is better), 2 (output_2), a number between, or 0 for a draw"
    number = number_in(value, 0, 2, place, meaning)
    if number == 0:
        return 0.5
    if number < 1:
        raise LabelCodingError(f"{place}: preference {show(value)}, expected {meaning}")
    return 2.0 - number


def _size(value: Any) -> float | None:
    """How strong a strength is; None where there is none, or ``pool.labels`` says what its words mean."""
    try:
        size = abs(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if size <= 3 else None


_WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
_TEXTS = re.compile(r"\s*\[\s*[\"'].*[\"']\s*\]\s*", re.DOTALL)  # a cell that looks like a list of texts


def _lmsys_55k(columns: Columns, place: str) -> Made:
    """JSON lists of turns: the user's, and each model's."""
    asked, response_a, response_b = (
        _text_list(columns[name], place, name) for name in ("prompt", "response_a", "response_b")
    )
    if not asked or not len(asked) == len(response_a) == len(response_b):
        raise DataError(
            f"{place}: {len(asked)} prompts, {len(response_a)} and {len(response_b)} responses: expected equal numbers"
        )
    wins = [number_in(columns.get(name), 0, 1, place, "0 or 1") for name in _WINNERS]
    made = {"prompt": None, "response_a": _chat(asked, response_a), "response_b": _chat(asked, response_b)}
    if all(math.isnan(win) for win in wins):
        return made
    if sorted(wins) != [0.0, 0.0, 1.0]:
        raise LabelCodingError(f"{place}: {', '.join(_WINNERS)} are {wins}: expected one 1 and two 0")
    return made | {"label": (1.0, 0.0, 0.5)[wins.index(1.0)]}


def _is_lmsys_55k(columns: Columns) -> bool:
    """Whether the columns of who won are there, or the three texts are lists of as many texts."""
    cells = [columns[name] for name in ("prompt", "response_a", "response_b")]
    if columns.keys() >= set(_WINNERS):
        return True
    if not all(isinstance(cell, list) or (isinstance(cell, str) and _TEXTS.fullmatch(cell)) for cell in cells):
        return False
    lists = [parsed_list(cell) if isinstance(cell, str) else cell for cell in cells]
    if any(found is None for found in lists):
        return True  # and is refused, as it cannot be read
    texts = all(isinstance(item, str) for found in lists for item in found)
    return texts and len({len(found) for found in lists}) == 1 and bool(lists[0])


def _chat(asked: list[str], said: list[str]) -> list[dict[str, str]]:
    turns = []
    for question, response in zip(asked, said, strict=True):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return turns


def _text_list(value: Any, place: str, column: str) -> list[str]:
    found = parsed_list(value) if isinstance(value, str) else value
    if not isinstance(found, list) or not all(item is None or isinstance(item, str) for item in found):
        raise DataError(f"{place}: {column}: expected a list of texts, got {show(value)}; write it as JSON")
    return ["" if item is None else item for item in found]


def _web_gpt(columns: Columns, place: str) -> Made:
    question = columns["question"]
    if isinstance(question, Mapping):
        question = question.get("full_text")
    scores = [number_in(columns.get(f"score_{n}"), -math.inf, math.inf, place, "a score") for n in (0, 1)]
    gap = scores[0] - scores[1]
    label = math.nan if math.isnan(gap) else 0.5 + 0.5 * ((gap > 0) - (gap < 0))
    return {
        "prompt": question,
        "question": None,
        "response_a": columns["answer_0"],
        "response_b": columns["answer_1"],
        "label": label,
        "margin": None if math.isnan(gap) else abs(gap),
    }


def _nectar(columns: Columns, place: str) -> Made:
    responses = columns["answers"]
    if not isinstance(responses, list) or not all(isinstance(item, Mapping) and "answer" in item for item in responses):
        raise DataError(f"{place}: answers: expected a list of objects with answer and rank, got {show(responses)}")
    ranks = [item.get("rank") for item in responses]
    return {
        "prompt": columns["prompt"],
        "responses": [item["answer"] for item in responses],
        "ranks": None if all(rank is None for rank in ranks) else ranks,
    }


def _openai(columns: Columns, place: str) -> Made:
    """The prompt is a conversation with its tools; each output is a list of one message."""
    given = columns["input"]
    if not isinstance(given, Mapping) or not isinstance(given.get("messages"), list):
        raise DataError(f"{place}: input: expected an object with messages, got {show(given)}")
    return {
        "prompt": given["messages"],
        "input": None,
        "tools": given.get("tools") or None,
        "chosen": columns["preferred_output"],
        "rejected": columns["non_preferred_output"],
    }


def _arena(columns: Columns, place: str) -> Made:
    """Two conversations, each up to the turn that was judged, where ``turn`` counts it: MT-bench's first, for one."""
    turn = number_in(columns.get("turn"), 1, 1e6, place, "the number of the turn that was judged")
    names = {"response_a": "conversation_a", "response_b": "conversation_b"}
    return {ours: _up_to(messages_in(columns[theirs], place, theirs), turn) for ours, theirs in names.items()}


def _up_to(conversation: Any, turn: float) -> Any:
    """A list of messages up to the assistant's turn of this number; all of it where there is none, or no list."""
    said = 0
    for at, message in enumerate(conversation if isinstance(conversation, list) else []):
        said += isinstance(message, Mapping) and role_of(message) == "assistant"
        if said == turn:
            return conversation[: at + 1]
    return conversation


def _renamed(**names: str) -> Callable[[Columns, str], Made]:
    return lambda columns, _: {ours: columns.get(theirs) for ours, theirs in names.items()}


def _help_steer(prompt: str, response_a: str, response_b: str, strength: str) -> Callable[[Columns, str], Made]:
    """Two responses and how much better one is; the strength's size is the margin."""

    def make(columns: Columns, _: str) -> Made:
        return {
            "prompt": columns[prompt],
            "response_a": columns[response_a],
            "response_b": columns[response_b],
            "margin": _size(columns.get(strength)),
        }

    return make


def _shp(columns: Columns, _: str) -> Made:
    """Their history is the post that is answered: the whole prompt, no earlier turns."""
    return {
        "prompt": columns["history"],
        "history": None,
        "response_a": columns["human_ref_A"],
        "response_b": columns["human_ref_B"],
    }


LAYOUTS = (
    Layout(
        "LMSYS 55k",
        ("prompt", "response_a", "response_b"),
        None,
        _lmsys_55k,
        spends=_WINNERS,
        fits=_is_lmsys_55k,
    ),
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1"),
        "better_response_id",
        _renamed(response_a="response_0", response_b="response_1"),
        _id_of_better,
        tells=("safer_response_id", "is_response_0_safe", "is_response_1_safe"),
        alike=("safer_response_id",),
    ),
    Layout(
        "HelpSteer3",
        ("context", "response1", "response2"),
        "overall_preference",
        _help_steer("context", "response1", "response2", "overall_preference"),
        _strength,
        tells=("individual_preference",),
    ),
    Layout(
        "HelpSteer2-preference",
        ("prompt", "response_1", "response_2"),
        "preference_strength",
        _help_steer("prompt", "response_1", "response_2", "preference_strength"),
        _strength,
        tells=(
            "preference_statement",
            "preference_elaboration",
            "three_most_similar_preferences",
            "all_preferences_unprocessed",
        ),
    ),
    Layout(
        "Chatbot Arena",
        ("conversation_a", "conversation_b"),
        "winner",
        _arena,
        reads=("turn",),
    ),
    Layout(
        "AlpacaEval",
        ("instruction", "output_1", "output_2"),
        "preference",
        _renamed(response_a="output_1", response_b="output_2"),
        _alpaca_eval,
    ),
    Layout(
        "cleaned UltraFeedback (Argilla)",
        ("chosen_response", "rejected_response"),
        None,
        _renamed(
            chosen="chosen_response",
            rejected="rejected_response",
            score_chosen="chosen_avg_rating",
            score_rejected="rejected_avg_rating",
        ),
        spends=("chosen_avg_rating", "rejected_avg_rating"),
    ),
    Layout(
        "Stanford Human Preferences",
        ("history", "human_ref_A", "human_ref_B"),
        "labels",
        _shp,
        tells=("score_A", "score_B", "score_ratio"),
    ),
    Layout("WebGPT comparisons", ("question", "answer_0", "answer_1"), None, _web_gpt, spends=("score_0", "score_1")),
    Layout("OpenAI preference fine-tuning", ("input", "preferred_output", "non_preferred_output"), None, _openai),
    Layout("Nectar", ("prompt", "answers"), None, _nectar),
)
