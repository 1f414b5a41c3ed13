"""Every shape of record gives the pair that a person would read in it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bgpm.data.readers import rows_of_record
from bgpm.data.schema import Row, as_text
from bgpm.errors import DataError


def read(**columns: Any) -> list[Row]:
    return list(rows_of_record(("pool.jsonl:7", columns)))


def turns(*texts: str) -> list[dict[str, str]]:
    """Turns of user and assistant in alternation."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


ONE_PAIR = {
    "labelled answers": {"prompt": "Why?", "response_a": "because", "response_b": "no idea", "label": 1},
    "chosen and rejected": {"prompt": "Why?", "chosen": "because", "rejected": "no idea"},
    "whole conversations": {"chosen": turns("Why?", "because"), "rejected": turns("Why?", "no idea")},
    "prompt text and whole conversations": {
        "prompt": "Why?",
        "chosen": turns("Why?", "because"),
        "rejected": turns("Why?", "no idea"),
        "score_chosen": 8.0,
    },
    "prompt messages and answers as messages": {
        "prompt": turns("Why?"),
        "chosen": turns("Why?", "because")[1:],
        "rejected": turns("Why?", "no idea")[1:],
    },
    "prompt messages and answers as text": {"prompt": turns("Why?"), "chosen": "because", "rejected": "no idea"},
    "ranked answers": {"prompt": "Why?", "responses": ["because", "no idea"], "ranks": [1, 2]},
    "completions with scores": {
        "instruction": "Why?",
        "completions": [{"response": "because", "overall_score": 4}, {"response": "no idea", "overall_score": "1.5"}],
    },
}


@pytest.mark.parametrize("shape", ONE_PAIR)
def test_every_shape_of_one_pair_reads_the_same(shape: str) -> None:
    (row,) = read(**ONE_PAIR[shape])
    assert (row.prompt, row.a, row.b, row.label) == ((("user", "Why?"),), "because", "no idea", 1.0)


def test_a_transcript_pair_is_cut_after_the_last_shared_turn() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A pen?\n\nAssistant:"
    (row,) = read(chosen=start + " Blue.", rejected=start + " Black.\n\nHuman: Why?\n\nAssistant: Ink.")
    assert as_text(row.prompt) == "Human: Hi\n\nAssistant: Hello\n\nHuman: A pen?"
    assert (row.a, row.b) == ("Blue.", "Black.\n\nHuman: Why?\n\nAssistant: Ink.")


def test_a_multi_turn_prompt_is_kept_whole_and_ends_where_the_answers_part() -> None:
    system = [{"role": "system", "content": "Be brief."}]
    chosen, rejected = (
        system + turns("Hi", "Hello", "Why?", "because"),
        system + turns("Hi", "Hello", "Why?", "no idea"),
    )
    (row,) = read(chosen=chosen, rejected=rejected)
    assert row.prompt == (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))
    assert (row.a, row.b) == ("because", "no idea")
    assert as_text(row.prompt) == "System: Be brief.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?"


def test_an_answer_of_more_turns_is_kept_whole() -> None:
    (row,) = read(chosen=turns("Hi", "Hello", "Why?", "because"), rejected=turns("Hi", "Hello", "How?", "so"))
    assert row.prompt == (("user", "Hi"),)
    assert row.a == "Hello\n\nHuman: Why?\n\nAssistant: because"
    assert row.b == "Hello\n\nHuman: How?\n\nAssistant: so"


def test_texts_are_not_altered() -> None:
    odd = "  Ｗide\t\u2028 \ufb01 \r\n e\u0301 "
    (row,) = read(prompt=odd, chosen=odd + "1", rejected=odd)
    assert (row.prompt[0][1], row.a, row.b) == (odd, odd + "1", odd)


def test_ranked_answers_give_every_pair_and_equal_ranks_are_ties() -> None:
    rows = read(prompt="p", responses=["w", "x", "y"], ranks=[2, 1, 2], id=5)
    assert [(r.a, r.b, r.label, r.id) for r in rows] == [
        ("w", "x", 0.0, "5/0-1"),
        ("w", "y", 0.5, "5/0-2"),
        ("x", "y", 1.0, "5/1-2"),
    ]
    assert all(math.isnan(r.margin) for r in rows)  # a rank says who, not by how much


def test_scored_answers_have_margins_and_a_missing_score_leaves_the_pair_unlabelled() -> None:
    rows = read(prompt="p", responses=["w", "x", "y"], scores=[1.0, 3.5, None])
    assert (rows[0].label, rows[0].margin) == (0.0, 2.5)
    assert [math.isnan(r.label) and math.isnan(r.margin) for r in rows] == [False, True, True]


@pytest.mark.parametrize(
    ("given", "label"),
    [(1, 1.0), (0, 0.0), ("0.25", 0.25), (0.5, 0.5), (True, 1.0), ("A", 1.0), ("b", 0.0), ("Tie", 0.5)],
)
def test_a_label_is_a_probability_or_a_word(given: Any, label: float) -> None:
    assert read(prompt="p", response_a="x", response_b="y", label=given)[0].label == label


@pytest.mark.parametrize("given", [None, "", math.nan])
def test_a_missing_label_is_unknown_but_chosen_says_enough(given: Any) -> None:
    assert math.isnan(read(prompt="p", response_a="x", response_b="y", label=given)[0].label)
    assert read(prompt="p", chosen="x", rejected="y", label=given)[0].label == 1.0


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"prompt": "p", "response_a": "x", "response_b": "y", "label": 1.5}, r"label 1\.5: expected a probability"),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "label": -1}, "label -1: expected a probability"),
        (
            {"prompt": "p", "response_a": "x", "response_b": "y", "label": "left"},
            "label 'left': expected",
        ),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "margin": -2}, "margin -2"),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "margin": math.inf}, "margin: expected a finite number"),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "label": 10**400}, "label 1000"),
        ({"prompt": "p", "responses": ["x", "y"], "scores": [1, -math.inf]}, "scores: expected a finite number"),
        ({"prompt": "p", "chosen": "x", "rejected": "y", "split": "Heldout"}, "split 'Heldout': expected 'pool'"),
        ({"prompt": "p", "chosen": "x", "rejected": "y", "split": "dev"}, "split 'dev': expected 'pool'"),
        ({"prompt": "p", "chosen": "x", "rejected": "y", "label": 0}, "rejected response is the better"),
        ({"prompt": "p", "response_a": "x"}, "expected columns .* got prompt, response_a"),
        ({"prompt": " \n", "chosen": "x", "rejected": "y"}, "the prompt is empty"),
        ({"chosen": "x", "rejected": "y"}, "no prompt"),
        ({"prompt": 3, "chosen": "x", "rejected": "y"}, "prompt: expected text or a list of messages, got 3"),
        ({"prompt": "p", "chosen": ["x"], "rejected": ["y"]}, "a list of texts, where one response"),
        (
            {"prompt": turns("a", "b"), "chosen": "x", "rejected": "y"},
            "the user's or a tool's, got 'assistant'",
        ),
        ({"chosen": turns("a", "b"), "rejected": turns("c", "d")}, "share no prompt"),
        ({"chosen": turns("a"), "rejected": turns("a", "d")}, "has no response"),
        ({"prompt": "p", "responses": ["x"], "ranks": [1]}, "one response only"),
        ({"prompt": "p", "responses": ["x", "y"], "ranks": [1]}, "2 responses, 1 ranks"),
        ({"prompt": "p", "responses": ["x", "y"], "ranks": ["1st", "2nd"]}, "expected a number, got '1st'"),
        ({"prompt": "p", "completions": [{"text": "x"}, 3]}, "completions: expected texts, messages"),
        ({"prompt": "p", "chosen": "half \ud800", "rejected": "y"}, "not valid Unicode"),
    ],
)
def test_a_bad_record_is_named_with_its_place(columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=rf"^pool\.jsonl:7: .*{complaint}"):
        read(**columns)
