"""Preferences in the layouts that public data sets have say the same as in ours."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bgpm.data.layouts import LAYOUTS
from bgpm.data.readers import Reading, is_blank, judging_columns, read_rows, rows_of_record, texts_of_record
from bgpm.data.schema import PoolSettings, Row, SourceSettings
from bgpm.errors import DataError, LabelCodingError

ASKED, FIRST, SECOND = "Which tea?", "Green, from the hills.", "Black."
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"tea": 1}'}}


def settings(path: Path | str = "", **more: Any) -> PoolSettings:
    return PoolSettings.model_validate({"path": str(path), "heldout": 0.5} | more)


def read(record: dict[str, Any], **more: Any) -> list[Row]:
    return list(rows_of_record(("pool.jsonl:7", record), Reading(settings(**more))))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# Layout to a record in it and to label and margin of the first response.
RECORDS: dict[str, tuple[dict[str, Any], float, float]] = {
    "LMSYS 55k": (
        {
            "prompt": json.dumps([ASKED]),
            "response_a": json.dumps([FIRST]),
            "response_b": json.dumps([SECOND]),
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        },
        0.0,
        math.nan,
    ),
    "PKU-SafeRLHF": (
        {"prompt": ASKED, "response_0": FIRST, "response_1": SECOND, "better_response_id": 1, "safer_response_id": 0},
        0.0,
        math.nan,
    ),
    "HelpSteer3": (
        {"context": [user(ASKED)], "response1": FIRST, "response2": SECOND, "overall_preference": -2},
        1.0,
        2.0,
    ),
    "HelpSteer2-preference": (
        {"prompt": ASKED, "response_1": FIRST, "response_2": SECOND, "preference_strength": 1},
        0.0,
        1.0,
    ),
    "Chatbot Arena": (
        {
            "conversation_a": [user(ASKED), said(FIRST)],
            "conversation_b": [user(ASKED), said(SECOND)],
            "winner": "tie (bothbad)",
        },
        0.5,
        math.nan,
    ),
    "AlpacaEval": (
        {"instruction": ASKED, "input": "", "output_1": FIRST, "output_2": SECOND, "preference": 1.25},
        0.75,
        math.nan,
    ),
    "cleaned UltraFeedback (Argilla)": (
        {
            "instruction": ASKED,
            "chosen_response": FIRST,
            "rejected_response": SECOND,
            "chosen_avg_rating": 4.5,
            "rejected_avg_rating": 3.0,
        },
        1.0,
        1.5,
    ),
    "Stanford Human Preferences": (
        {"history": ASKED, "human_ref_A": FIRST, "human_ref_B": SECOND, "labels": 0},
        0.0,
        math.nan,
    ),
    "WebGPT comparisons": (
        {"question": {"full_text": ASKED}, "answer_0": FIRST, "answer_1": SECOND, "score_0": -1, "score_1": 0.5},
        0.0,
        1.5,
    ),
    "OpenAI preference fine-tuning": (
        {
            "input": {"messages": [{"role": "user", "content": ASKED}]},
            "preferred_output": [{"role": "assistant", "content": FIRST}],
            "non_preferred_output": [{"role": "assistant", "content": SECOND}],
        },
        1.0,
        math.nan,
    ),
    "Nectar": (
        {"prompt": ASKED, "answers": [{"answer": FIRST, "rank": 1}, {"answer": SECOND, "rank": 3}]},
        1.0,
        math.nan,
    ),
}


def test_every_layout_has_a_record_here() -> None:
    assert [layout.name for layout in LAYOUTS] == list(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_a_public_layout_reads_as_its_authors_mean_it(name: str) -> None:
    columns, label, margin = RECORDS[name]
    (row,) = read(columns)
    assert (row.prompt, row.a, row.b, row.label) == ((("user", ASKED),), FIRST, SECOND, label)
    assert row.margin == margin or (math.isnan(row.margin) and math.isnan(margin))


@pytest.mark.parametrize("name", [layout.name for layout in LAYOUTS if layout.label])
def test_a_layout_without_its_label_is_an_unlabelled_pair(name: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    columns = {key: value for key, value in RECORDS[name][0].items() if key != layout.label}
    (row,) = read(columns)
    assert math.isnan(row.label)
    assert row.a == FIRST


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PKU-SafeRLHF", 2),
        ("HelpSteer3", -4),
        ("AlpacaEval", 0.5),
        ("Chatbot Arena", "left"),
        ("Stanford Human Preferences", 2),
    ],
)
def test_a_value_outside_a_layouts_coding_is_refused(name: str, value: object) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    with pytest.raises(LabelCodingError, match=r"pool\.jsonl:7"):
        read(RECORDS[name][0] | {layout.label or "": value})


def test_two_winners_are_no_winner() -> None:
    with pytest.raises(LabelCodingError, match="expected one 1"):
        read(RECORDS["LMSYS 55k"][0] | {"winner_tie": 1})


# -- what becomes part of the prompt ---------------------------------------------------------------------------------

PROMPTS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "a system column": ({"prompt": ASKED, "system": "Be short."}, [("system", "Be short."), ("user", ASKED)]),
    "an empty system column": ({"prompt": ASKED, "system": ""}, [("user", ASKED)]),
    "instruction and input": ({"instruction": "Sum up.", "input": "A text."}, [("user", "Sum up.\n\nA text.")]),
    "question": ({"question": ASKED}, [("user", ASKED)]),
    "history of pairs": (
        {"instruction": ASKED, "input": "", "history": [["Hi", "Hello."]]},
        [("user", "Hi"), ("assistant", "Hello."), ("user", ASKED)],
    ),
    "ShareGPT": ({"conversations": [{"from": "human", "value": ASKED}]}, [("user", ASKED)]),
    "messages": ({"messages": [user(ASKED)]}, [("user", ASKED)]),
    "a dict of lists": ({"prompt": {"role": ["user"], "content": [ASKED]}}, [("user", ASKED)]),
    "text parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}]},
        [("user", "A\nB")],
    ),
    "tools": (
        {"prompt": [user(ASKED)], "tools": [{"name": "find", "unit": None}]},
        [("system", 'Tools: [{"name":"find"}]'), ("user", ASKED)],
    ),
    "a system message and functions": (
        {"prompt": ASKED, "system_message": "Be short.", "functions": [{"name": "find"}]},
        [("system", 'Be short.\n\nTools: [{"name":"find"}]'), ("user", ASKED)],
    ),
    "a system column of one message": (
        {"prompt": ASKED, "system": [{"role": "system", "content": "Be short."}]},
        [("system", "Be short."), ("user", ASKED)],
    ),
    "a chat history": (
        {
            "prompt": ASKED,
            "chat_history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        },
        [("user", "Hi"), ("assistant", "Hello."), ("user", ASKED)],
    ),
    "text parts of the Responses API": (
        {"prompt": [{"role": "user", "content": [{"type": "input_text", "text": ASKED}]}]},
        [("user", ASKED)],
    ),
    "a tool's turn at the end": (
        {"prompt": [user(ASKED), {"role": "tool", "content": "ok", "tool_call_id": "c1", "name": None}]},
        [("user", ASKED), ("tool", 'ok\n{"tool_call_id":"c1"}')],
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("sides", [("chosen", "rejected"), ("response_a", "response_b")])
def test_nothing_of_the_prompt_is_dropped(name: str, sides: tuple[str, str]) -> None:
    columns, prompt = PROMPTS[name]
    (row,) = read(columns | dict(zip(sides, (FIRST, SECOND), strict=True)))
    assert list(row.prompt) == prompt
    assert (row.a, row.b) == (FIRST, SECOND)


SYSTEM = {"role": "system", "content": "Be short."}


@pytest.mark.parametrize(
    ("prompt", "start", "whole"),
    [
        ([SYSTEM, user(ASKED)], [user(ASKED)], [SYSTEM, user(ASKED)]),
        ([user("Hi"), said("Hello.")], [user(ASKED)], [user("Hi"), said("Hello."), user(ASKED)]),
        ([user(ASKED)], [SYSTEM, user(ASKED)], [SYSTEM, user(ASKED)]),
        (ASKED, [user(ASKED + "\n")], [user(ASKED + "\n")]),
        (ASKED, [user(ASKED), said("Where?"), user("Here.")], [user(ASKED), said("Where?"), user("Here.")]),
    ],
)
def test_prompt_and_conversations_are_joined_with_nothing_twice(prompt: Any, start: Any, whole: Any) -> None:
    (row,) = read({"prompt": prompt, "chosen": [*start, said(FIRST)], "rejected": [*start, said(SECOND)]})
    assert list(row.prompt) == [(turn["role"], turn["content"]) for turn in whole]
    assert (row.a, row.b) == (FIRST, SECOND)


def test_a_prompt_that_no_conversation_goes_on_from_is_refused() -> None:
    with pytest.raises(DataError, match="do not fit together"):
        read({"prompt": "Another.", "chosen": [user(ASKED), said(FIRST)], "rejected": [user(ASKED), said(SECOND)]})


def test_two_system_prompts_for_one_row_are_refused() -> None:
    with pytest.raises(DataError, match="differ"):
        read({"system": "Be long.", "prompt": [SYSTEM, user(ASKED)], "chosen": FIRST, "rejected": SECOND})


# -- what a message says beside its text -----------------------------------------------------------------------------


def test_responses_that_differ_in_a_tool_call_alone_differ() -> None:
    other = CALL | {"function": {"name": "find", "arguments": '{"tea": 2}'}}
    a, b = ({"role": "assistant", "content": None, "tool_calls": [call]} for call in (CALL, other))
    (row,) = read({"prompt": ASKED, "chosen": [a], "rejected": [b]})
    assert row.a != row.b
    assert json.loads(row.a) == {"tool_calls": [CALL]}


def test_tool_calls_read_the_same_as_structure_and_as_text() -> None:
    rows = [
        read({"prompt": ASKED, "chosen": [said("") | {"tool_calls": calls}], "rejected": [said(SECOND)]})[0]
        for calls in ([CALL], json.dumps([CALL]), [CALL | {"index": None}])
    ]
    assert len({row.a for row in rows}) == 1


def test_a_key_that_would_be_lost_is_refused_unless_it_may_go() -> None:
    columns = {"prompt": ASKED, "chosen": [said(FIRST) | {"reasoning_content": "Hills."}], "rejected": [said(SECOND)]}
    with pytest.raises(DataError, match=r"'reasoning_content'.*pool\.ignore_keys"):
        read(columns)
    reading = Reading(settings(ignore_keys=["reasoning_content"]))
    (row,) = rows_of_record(("pool.jsonl:7", columns), reading)
    assert row.a == FIRST
    assert [tally.count for tally in reading.noted.values()] == [1]


def test_a_picture_is_refused_and_named() -> None:
    parts = [{"type": "text", "text": ASKED}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(DataError, match="part of type 'image_url'"):
        read({"prompt": [{"role": "user", "content": parts}], "chosen": FIRST, "rejected": SECOND})


def test_messages_as_they_came_stay_beside_their_text() -> None:
    message = said("I look.") | {"tool_calls": [CALL]}
    texts = texts_of_record(("x:1", {"prompt": [user(ASKED)], "tools": [{"name": "find"}], "responses": [[message]]}))
    assert texts.responses[0][0].as_given() == message
    assert [turn.as_given() for turn in texts.prompt if not turn.added] == [user(ASKED)]


# -- structure that arrives as text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("write_list", [json.dumps, repr], ids=["JSON", "Python"])
def test_messages_as_text_are_messages(write_list: Any) -> None:
    sides = {
        "chosen": write_list([user(ASKED), said("It's\n" + FIRST)]),
        "rejected": write_list([user(ASKED), said("No")]),
    }
    (row,) = read({"prompt": ASKED} | sides)
    assert (row.prompt, row.a, row.b) == ((("user", ASKED),), "It's\n" + FIRST, "No")


@pytest.mark.parametrize("lead", [{"tool_calls": None}, {"name": ""}, {"id": "1"}])
@pytest.mark.parametrize("write_list", [json.dumps, repr, lambda turns: json.dumps(json.dumps(turns))])
def test_messages_as_text_are_messages_whatever_key_comes_first_and_if_written_twice(
    lead: Any, write_list: Any
) -> None:
    def cell(text: str) -> str:
        return write_list([lead | user(ASKED), lead | said(text)])

    (row,) = read({"prompt": ASKED, "chosen": cell(FIRST), "rejected": cell(SECOND)}, ignore_keys=["id"])
    assert (row.prompt, row.a, row.b) == ((("user", ASKED),), FIRST, SECOND)
    (row,) = read({"prompt": write_list([lead | user(ASKED)]), "chosen": FIRST, "rejected": "No"}, ignore_keys=["id"])
    assert row.prompt == (("user", ASKED),)


def test_a_list_of_messages_that_is_cut_off_is_refused() -> None:
    with pytest.raises(DataError, match="begins like a list of messages"):
        read({"prompt": ASKED, "chosen": '[{"role": "assistant", "content": "Gre', "rejected": SECOND})


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]", "[{]", '{"name": "Ada",\n "age": 3}', '[{"role": "admin"}]', "[user]: hi", '{"value": 3}', "[]",
        '[{"id": 1, "from": "Bonn", "value": 3}]', '[{"id": 1, "role": "user"}]', '[{"id', '"[{\\"a\\": 1}]"',
    ],
)  # fmt: skip
def test_prose_and_honest_json_stay_as_they_are(text: str) -> None:
    (row,) = read({"prompt": ASKED, "chosen": text, "rejected": SECOND})
    assert row.a == text


# -- who speaks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("role", "content"), ("from", "value")])
@pytest.mark.parametrize(
    ("asker", "speaker"),
    [("Human", "Assistant"), ("USER", "ai"), ("User", "chatgpt"), ("human", "bard"), ("user", "MODEL")],
)
def test_speakers_are_known_in_any_case_and_never_written_into_a_response(
    names: tuple[str, str], asker: str, speaker: str
) -> None:
    def turn(*said: str) -> dict[str, str]:
        return dict(zip(names, said, strict=True))

    sides = {"chosen": turn(speaker, FIRST), "rejected": turn(speaker, SECOND)}
    for columns in (
        {"prompt": [turn("System", "Be short."), turn(asker, ASKED)]} | sides,
        {name: [turn("System", "Be short."), turn(asker, ASKED), last] for name, last in sides.items()},
    ):
        (row,) = read(columns | {"system": "Be short."})
        assert (row.prompt, row.a, row.b) == ((("system", "Be short."), ("user", ASKED)), FIRST, SECOND)
        texts = texts_of_record(("p:1", columns))
        assert [turns[0].as_given()["role"] for turns in texts.responses] == ["assistant"] * 2


def test_a_response_that_nobody_known_speaks_is_refused() -> None:
    sides = {
        name: [user(ASKED), {"role": "narrator", "content": text}]
        for name, text in (("chosen", "a"), ("rejected", "b"))
    }
    with pytest.raises(DataError, match="chosen: the response begins with a turn of 'narrator': 'a'"):
        read(sides)
    with pytest.raises(DataError, match=r"share no prompt.*the roles are narrator"):
        read({"prompt": ASKED} | {name: turns[1:] for name, turns in sides.items()})
    other = {name: [user(ASKED), user(name), said(FIRST)] for name in sides}
    with pytest.raises(DataError, match="the response begins with a turn of 'user': 'chosen'"):
        read(other)


# -- responses that repeat their prompt ------------------------------------------------------------------------------


def test_a_transcript_is_taken_off_the_responses_that_repeat_it() -> None:
    prompt = f"\n\nHuman: {ASKED}\n\nAssistant:"
    (row,) = read({"prompt": prompt, "chosen": f"{prompt} {FIRST}", "rejected": f"{prompt} {SECOND}"})
    assert (row.a, row.b) == (FIRST, SECOND)


def test_a_response_that_happens_to_begin_like_its_prompt_stays(tmp_path: Path) -> None:
    rows = [
        {"prompt": ASKED, "chosen": f"{ASKED} {FIRST}", "rejected": f"{ASKED} {SECOND}"},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "Why? No."},
    ]
    assert [row.a for row in read_rows(settings(write(tmp_path / "p.jsonl", *rows)))] == [
        f"{ASKED} {FIRST}",
        "Because.",
    ]


def test_a_prompt_that_every_response_of_the_file_repeats_is_taken_off(tmp_path: Path) -> None:
    rows = [{"prompt": p, "chosen": f"{p} {FIRST}", "rejected": f"{p}\n{SECOND}"} for p in (ASKED, "Why?")]
    found = Reading(settings(write(tmp_path / "p.jsonl", *rows)))
    assert [(row.a, row.b) for row in read_rows(found.settings, found)] == [(FIRST, SECOND)] * 2
    assert [tally.count for tally in found.noted.values()] == [2]


# -- labels ----------------------------------------------------------------------------------------------------------


def labelled(label: object, **more: Any) -> dict[str, Any]:
    return {"prompt": ASKED, "response_a": FIRST, "response_b": SECOND, "label": label} | more


@pytest.mark.parametrize(
    ("word", "label"),
    [("model_a", 1.0), ("Model_B", 0.0), (" tie ", 0.5), (True, 1.0), (False, 0.0), ("true", 1.0), ("both_bad", 0.5)],
)
def test_words_for_the_winner(word: object, label: float) -> None:
    assert read(labelled(word))[0].label == label


@pytest.mark.parametrize("codes", [(1, 2), (1, -1)])
def test_codes_that_nobody_explained_refuse_the_file_whatever_may_be_skipped(
    tmp_path: Path, codes: tuple[int, int]
) -> None:
    path = write(tmp_path / "p.jsonl", *(labelled(code) for code in codes))
    with pytest.raises(LabelCodingError, match=r"p\.jsonl:2: label .*pool\.labels"):
        read_rows(settings(path, skip_bad_rows=5))
    rows = read_rows(settings(path, labels={"a": [1], "b": [codes[1]]}))
    assert [row.label for row in rows] == [1.0, 0.0]


def test_a_mapping_reads_what_no_layout_covers(tmp_path: Path) -> None:
    rows = [
        {"question": ASKED, "left": FIRST, "right": SECOND, "verdict": word} for word in ("L", "left wins", "R", "=")
    ]
    columns = {"prompt": "question", "response_a": "left", "response_b": "right", "label": "verdict"}
    labels = {"a": ["L", "left wins"], "b": ["R"], "tie": ["="]}
    path = write(tmp_path / "p.jsonl", *rows)
    assert [row.label for row in read_rows(settings(path, columns=columns, labels=labels))] == [1.0, 1.0, 0.0, 0.5]
    with pytest.raises(LabelCodingError, match=r"p\.jsonl:4: label '=' is none of pool\.labels"):
        read_rows(settings(path, columns=columns, labels={"a": ["L", "left wins"], "b": ["R"]}))
    with pytest.raises(DataError, match=r"no column 'links'.* left, question, right, verdict"):
        read_rows(settings(path, columns=columns | {"response_a": "links"}))


def test_another_column_of_a_known_layout_may_decide() -> None:
    (row,) = read(RECORDS["PKU-SafeRLHF"][0], columns={"label": "safer_response_id"})
    assert row.label == 1.0


NUMBERED = {
    columns[0]: dict.fromkeys(columns, SECOND) | {columns[0]: FIRST, prompt: ASKED}
    for prompt, *columns in (
        ("prompt", "response_0", "response_1"),
        ("prompt", "response_1", "response_2"),
        ("context", "response1", "response2"),
        ("instruction", "output_1", "output_2"),
        ("question", "answer_0", "answer_1"),
    )
}


@pytest.mark.parametrize("name", NUMBERED)
@pytest.mark.parametrize("code", [0, 1, 2, "1", True])
def test_a_code_beside_numbered_responses_is_refused_until_it_is_explained(name: str, code: object) -> None:
    named = {"columns": {"label": "better"}}
    for columns, more in (({"label": code}, {}), ({"better": code}, named)):
        with pytest.raises(LabelCodingError, match=r"pool\.jsonl:7: \w+ .* and pool\.labels, such as"):
            read(NUMBERED[name] | columns, **more)
    for columns, more in (({"label": code}, {}), ({"better": code}, named)):
        (row,) = read(NUMBERED[name] | columns, labels={"a": [code], "b": [7]}, **more)
        assert (row.label, math.isnan(row.margin)) == (1.0, True)


@pytest.mark.parametrize("name", NUMBERED)
@pytest.mark.parametrize(("word", "label"), [("model_a", 1.0), ("Model_B", 0.0), ("tie", 0.5)])
def test_a_word_for_the_winner_needs_no_coding(name: str, word: str, label: float) -> None:
    for column in ("winner", "label"):
        assert read(NUMBERED[name] | {column: word})[0].label == label
        assert read(NUMBERED[name] | {column: word}, columns={"label": column})[0].label == label


def test_a_winner_in_words_is_read_where_nothing_else_says_the_label() -> None:
    def found(columns: dict[str, Any], **more: Any) -> tuple[float, list[str]]:
        reading = Reading(settings(**more))
        (row,) = rows_of_record(("p:1", columns), reading)
        return row.label, [remark.split(" (")[0] for remark in reading.remarks()]

    unread = ["column 'winner' looks like a label and is not read"]
    assert found(SIDES | {"winner": "model_a"}) == (1.0, [])
    assert found(SIDES | {"winner": "model_b", "label": 1}) == (1.0, unread)
    assert found(PAIR | {"winner": "model_b"}) == (1.0, unread)
    for columns in ({"winner": "1"}, {"winner": "gpt-4"}, {"winner": "model_b", "label": None}):
        label, remarks = found(SIDES | columns)
        assert (math.isnan(label), remarks) == (True, unread)
    assert found(SIDES | {"winner": "a"}, labels={"a": ["b"], "b": ["a"]}) == (0.0, [])


def test_a_label_beside_a_layouts_own_is_named_and_beside_lettered_responses_read() -> None:
    reading = Reading(settings())
    (row,) = rows_of_record(("p:1", RECORDS["HelpSteer2-preference"][0] | {"label": 1}), reading)
    assert (row.label, ["'label'" in remark for remark in reading.noted]) == (0.0, [True])
    columns = RECORDS["Stanford Human Preferences"][0] | {"labels": None, "label": 1}
    assert read(columns)[0].label == 1.0


def test_a_strength_is_no_margin_where_another_column_or_other_words_decide() -> None:
    columns = RECORDS["HelpSteer2-preference"][0]
    (row,) = read(columns | {"said": "model_a"}, columns={"label": "said"})
    assert (row.label, math.isnan(row.margin)) == (1.0, True)
    (row,) = read(columns | {"preference_strength": "first"}, labels={"a": ["first"], "b": ["second"]})
    assert (row.label, math.isnan(row.margin)) == (1.0, True)
    with pytest.raises(LabelCodingError, match="is_response_0_safe True"):
        read(RECORDS["PKU-SafeRLHF"][0] | {"is_response_0_safe": True}, columns={"label": "is_response_0_safe"})


def test_a_column_that_looks_like_a_label_and_is_not_read_is_named() -> None:
    reading = Reading(settings())
    list(rows_of_record(("p:1", labelled(1, preference="b")), reading))
    assert ["'preference'" in remark for remark in reading.noted] == [True]


def test_equal_scores_are_a_tie_and_contradicting_ones_refused() -> None:
    pair = {"prompt": ASKED, "chosen": FIRST, "rejected": SECOND}
    assert [row.label for row in read(pair | {"score_chosen": 3, "score_rejected": 3.0})] == [0.5]
    assert [(row.label, row.margin) for row in read(pair | {"score_chosen": 5, "score_rejected": 3.0})] == [(1.0, 2.0)]
    with pytest.raises(DataError, match="score_chosen 2 is below score_rejected 3"):
        read(pair | {"score_chosen": 2, "score_rejected": 3})


def test_which_rating_of_ultrafeedback_decides_is_a_setting() -> None:
    completions = [
        {"response": text, "overall_score": score, "annotations": {"honesty": {"Rating": rating}}}
        for text, score, rating in ((FIRST, 8, "1"), (SECOND, 4, "5"))
    ]
    columns = {"instruction": ASKED, "completions": completions}
    assert read(columns)[0].label == 1.0
    assert read(columns, rating="annotations.honesty.Rating")[0].label == 0.0
    completions[0]["annotations"]["honesty"]["Rating"] = "N/A"
    assert math.isnan(read(columns, rating="annotations.honesty.Rating")[0].label)


# -- classes, files, folders -----------------------------------------------------------------------------------------


def test_class_numbers_are_their_names_in_a_folder_and_in_parquet(tmp_path: Path) -> None:
    names = ["b", "a", "tie"]
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("prompt", "response_a", "response_b")}
        | {"label": datasets.ClassLabel(names=names)}
    )
    rows = [labelled(code) for code in (0, 1, 2, -1)]
    data = datasets.Dataset.from_list(rows, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    data.to_parquet(str(tmp_path / "table.parquet"))
    for path in ("saved", "table.parquet"):
        labels = [row.label for row in read_rows(settings(tmp_path / path))]
        assert labels[:3] == [0.0, 1.0, 0.5]
        assert math.isnan(labels[3])


def test_a_folder_is_read_by_the_split_that_its_file_names_say(tmp_path: Path) -> None:
    for name, label in (("train-00000-of-00001", 1), ("test-00000-of-00001", 0)):
        write(tmp_path / f"{name}.jsonl", labelled(label))
    assert [row.label for row in read_rows(settings(tmp_path))] == [1.0]
    assert [row.label for row in read_rows(settings(tmp_path, split="test"))] == [0.0]
    with pytest.raises(DataError, match=r"no file of split 'validation': the names say test, train; set pool\.split"):
        read_rows(settings(tmp_path, split="validation"))


def test_a_folder_of_several_configurations_asks_which(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: pairs\n  data_files: pairs/*.jsonl\n- config_name: notes\n  data_files:\n"
    card += "  - split: test\n    path: notes/all.jsonl\n---\nA card.\n"
    (tmp_path / "README.md").write_text(card)
    for folder, name, label in (("pairs", "train", 1), ("notes", "all", 0)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / f"{name}.jsonl", labelled(label))
    with pytest.raises(DataError, match=r"several configurations: set pool\.config .* notes, pairs"):
        read_rows(settings(tmp_path))
    assert [row.label for row in read_rows(settings(tmp_path, config="pairs"))] == [1.0]
    assert [row.label for row in read_rows(settings(tmp_path, config="notes", split="test"))] == [0.0]
    with pytest.raises(DataError, match="configuration 'notes' has no split 'train'; it has test"):
        read_rows(settings(tmp_path, config="notes"))


@pytest.mark.parametrize("delimiter", ",;\t|")
def test_the_delimiter_of_a_table_is_found(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "p.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["prompt", "chosen", "rejected"], [ASKED, "a, b; c\nd | e\tf", SECOND]])
    assert read_rows(settings(path))[0].a == "a, b; c\nd | e\tf"


def test_limits_refuse_a_line_a_file_and_a_row_with_the_setting_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", labelled(1, response_a="x" * 3000), labelled(1))
    with pytest.raises(DataError, match=r"p\.jsonl:1: .*pool\.max_line_mib"):
        read_rows(settings(path, max_line_mib=2000 / 2**20))
    with pytest.raises(DataError, match=r"pool\.max_file_gib"):
        read_rows(settings(path, max_file_gib=3100 / 2**30))
    table = pa.Table.from_pylist([labelled(1), labelled(0)])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"pool\.max_file_gib"):
        read_rows(settings(tmp_path / "p.parquet", max_file_gib=10 / 2**30))
    with pytest.raises(DataError, match=r"4 responses make 6 pairs.*pool\.max_pairs_per_row: 5"):
        read({"prompt": ASKED, "responses": list("abcd")}, max_pairs_per_row=5)
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="not a regular file"):
        read_rows(settings(tmp_path / "zero.jsonl"))


# -- blank responses, bad rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\ufeff", "\x00", "\u2800", "\u3164"])
def test_what_has_no_visible_character_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["🙂", "👩‍💻", ".", "é", "ー"])
def test_what_can_be_seen_is_not_blank(text: str) -> None:
    assert not is_blank(text)


def test_blank_responses_are_counted_and_kept_dropped_or_refused() -> None:
    columns = labelled(1, response_b="\u200b")
    for rule, count in (("keep", 1), ("drop", 0)):
        reading = Reading(settings(blank=rule))
        assert len(list(rows_of_record(("p:1", columns), reading))) == count
        assert [tally.count for tally in reading.noted.values()] == [1]
    with pytest.raises(DataError, match=r"p:1: .*pool\.blank"):
        list(rows_of_record(("p:1", columns), Reading(settings(blank="refuse"))))


def test_bad_rows_are_skipped_up_to_the_bound_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", labelled(1), {"prompt": ASKED}, labelled(0))
    with path.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"p\.jsonl:2"):
        read_rows(settings(path))
    with pytest.raises(DataError, match=r"p\.jsonl:4: .*one bad row more than skip_bad_rows: 1"):
        read_rows(settings(path, skip_bad_rows=1))
    reading = Reading(settings(path, skip_bad_rows=2))
    assert [row.label for row in read_rows(reading.settings, reading)] == [1.0, 0.0]
    assert [tally.count for tally in reading.noted.values()] == [2]
    assert len(read_rows(settings(path, skip_bad_rows=0.5))) == 2
    with pytest.raises(DataError, match="2 bad rows of 4"):
        read_rows(settings(path, skip_bad_rows=0.4))


# -- what must not be lost or used by the way ------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_texts_alone_are_read_whatever_the_label_says(name: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    spoilt = {column: 99 for column in (layout.label, *layout.spends) if column}
    texts = texts_of_record(("p:1", RECORDS[name][0] | spoilt))
    assert texts.messages == (("user", ASKED),)
    assert [turn.content for turns in texts.responses for turn in turns] == [FIRST, SECOND]


def test_json_lists_without_a_winner_are_an_unlabelled_pair_and_not_prose() -> None:
    columns = RECORDS["LMSYS 55k"][0] | dict.fromkeys(("winner_model_a", "winner_model_b", "winner_tie"))
    (row,) = read(columns)
    assert (row.a, math.isnan(row.label)) == (FIRST, True)


@pytest.mark.parametrize("write_list", [json.dumps, list])
def test_lists_of_texts_without_the_columns_of_who_won_are_conversations_too(write_list: Any) -> None:
    columns = {"prompt": [ASKED, "More?"], "response_a": [FIRST, "No."], "response_b": [SECOND, "Yes."]}
    columns = {name: write_list(texts) for name, texts in columns.items()}
    texts = texts_of_record(("p:1", columns))
    assert texts.messages == (("user", ASKED),)
    for more, label in (({}, math.nan), ({"winner": "model_b"}, 0.0), ({"label": 1}, 1.0)):
        (row,) = read(columns | more)
        assert row.a.startswith(FIRST)
        assert row.label == label or math.isnan(label) == math.isnan(row.label)


@pytest.mark.parametrize("cell", ["['x' 'y']", "['x'\n 'y']", "['x', 'y' 'z']", "['x' \"it's\"]"])
def test_a_list_as_numpy_writes_it_is_refused_and_not_joined(cell: str) -> None:
    for reads in (rows_of_record, texts_of_record):
        with pytest.raises(DataError, match=r"responses: expected a list, got .*; in a table's cell write it as JSON"):
            list(reads(("p:1", {"prompt": ASKED, "responses": cell}), Reading(settings())))  # type: ignore[call-overload]
        for more in ({}, {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}):
            with pytest.raises(DataError, match=r"prompt: expected a list of texts, got .*; write it as JSON"):
                list(reads(("p:1", dict.fromkeys(SIDES, cell) | more), Reading(settings())))  # type: ignore[call-overload]
    assert read({"prompt": ASKED, "chosen": cell, "rejected": SECOND})[0].a == cell
    turns = "[{'role': 'assistant', 'content': 'Green, '\n 'from the hills.'}]"  # as pprint breaks a text
    assert read({"prompt": ASKED, "chosen": turns, "rejected": SECOND})[0].a == FIRST
    assert [row.a for row in read({"prompt": ASKED, "responses": "['x \\'y\\'',\n 'z']"})] == ["x 'y'"]


@pytest.mark.parametrize(
    "cells", [(ASKED, '["a"]', '["b"]'), ('["q"]', '["a", "b"]', '["c"]'), ('["q"]', "[1]", "[2]"), ("[]", "[]", "[]")]
)
def test_a_list_that_is_no_conversation_stays_prose(cells: tuple[str, str, str]) -> None:
    (row,) = read(dict(zip(SIDES, cells, strict=True)))
    assert (row.prompt[0][1], row.a, row.b) == cells


@pytest.mark.parametrize("columns", [{"question": "Why?", "context": ASKED}, {"prompt": "Why?", "input": ASKED}])
def test_a_prompt_in_two_columns_is_refused_until_one_is_named(columns: dict[str, str]) -> None:
    sides = {"chosen": FIRST, "rejected": SECOND}
    with pytest.raises(DataError, match=r"both hold a part of the prompt.*pool\.columns"):
        read(columns | sides)
    (row,) = read(columns | sides, columns={"prompt": next(iter(columns))})
    assert row.prompt == (("user", "Why?"),)


@pytest.mark.parametrize("value", [["A passage."], [user("Hi"), said("Hello.")]])
def test_a_context_that_is_no_text_is_not_lost_beside_the_prompt(value: object) -> None:
    with pytest.raises(DataError, match=r"prompt and context both hold a part of the prompt"):
        read({"prompt": ASKED, "context": value, "chosen": FIRST, "rejected": SECOND})


def test_two_columns_for_the_same_part_of_the_prompt_are_refused() -> None:
    columns = {"prompt": ASKED, "chosen": FIRST, "rejected": SECOND, "history": [["Hi", "Hello."]]}
    with pytest.raises(DataError, match="history and chat_history stand for the same"):
        read(columns | {"chat_history": [["Bye", "See you."]]})
    assert len(read(columns | {"chat_history": []})[0].prompt) == 3


@pytest.mark.parametrize("responses", [(FIRST, SECOND), ([user(ASKED), said(FIRST)], [user(ASKED), said(SECOND)])])
@pytest.mark.parametrize("more", [[SYSTEM], [user("Hi"), said("Hello.")]])
def test_a_copy_of_the_conversation_may_not_hold_more_than_the_prompt(responses: Any, more: Any) -> None:
    columns = {"prompt": ASKED} | dict(zip(("chosen", "rejected"), responses, strict=True))
    copy = [user(ASKED), said(FIRST)]
    assert read(columns | {"messages": copy})[0].prompt == (("user", ASKED),)
    with pytest.raises(DataError, match=r"the column messages has a turn that the prompt lacks.*pool\.columns"):
        read(columns | {"messages": more + copy})
    assert len(read(columns | {"messages": more + copy}, columns={"prompt": "prompt"})) == 1


def test_what_a_completion_or_a_text_part_says_beside_its_text_is_refused() -> None:
    thought = {"response": FIRST, "overall_score": 2, "reasoning": "Hills."}
    columns = {"instruction": ASKED, "completions": [thought, {"response": SECOND, "overall_score": 1}]}
    with pytest.raises(DataError, match="a completion has 'reasoning'"):
        read(columns)
    assert read(columns, ignore_keys=["reasoning"])[0].label == 1.0
    part = {"type": "text", "text": FIRST, "citations": ["p. 3"]}
    with pytest.raises(DataError, match="key 'citations', which would be lost"):
        read({"prompt": ASKED, "chosen": [said("") | {"content": [part]}], "rejected": SECOND})


def test_a_refusal_in_a_field_of_its_own_is_part_of_the_response() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    (row,) = read({"prompt": ASKED, "chosen": [refused], "rejected": [said(SECOND)]})
    assert json.loads(row.a) == {"refusal": "No."}


def test_columns_that_nothing_reads_are_named_in_one_remark() -> None:
    reading = Reading(settings())
    columns = {"prompt": ASKED, "chosen": FIRST, "rejected": SECOND}
    list(rows_of_record(("p:1", columns | {"source": "x", "reasoning": "It is long.", "empty": None}), reading))
    list(rows_of_record(("p:2", columns | {"persona": "A pirate."}), reading))
    list(rows_of_record(("p:3", columns | {"id": "3", "history": []}), reading))
    found = {remark: tally.count for remark, tally in reading.remarks().items()}
    assert found == {"columns not read: persona, reasoning, source": 2}
    reading = Reading(settings(response_columns={"reward": ["left_points", "right_points"]}))
    list(rows_of_record(("p:1", columns | {"left_points": 1, "right_points": 2}), reading))
    assert not reading.remarks()


def test_a_column_without_a_name_is_named_all_the_same() -> None:
    reading = Reading(settings())
    list(rows_of_record(("f:2", {"": "0", "prompt": "q", "chosen": "x", "rejected": "y"}), reading))
    assert [*reading.remarks()] == ["columns not read: (without a name)"]


@pytest.mark.parametrize("mark", ["<|im_start|>", "<|start_header_id|>", "[INST]", "<start_of_turn>", "<|user|>"])
def test_a_conversation_that_a_template_made_one_text_of_is_said(mark: str) -> None:
    def remarks(prompt: str) -> list[str]:
        reading = Reading(settings())
        list(rows_of_record(("f:2", {"prompt": prompt, "chosen": "x", "rejected": "y"}), reading))
        return [*reading.remarks()]

    assert remarks(f"<s> {mark}user\nq") == [
        f"prompt in one text with {mark}, taken as text; messages would be read as turns"
    ]
    assert remarks(f"what is {mark}?") == []


@pytest.mark.parametrize(
    "column",
    [
        "score_a",
        "chosen_reward",
        "is_a_better",
        "gpt4Preference",
        "num_votes",
        "annotations",
        "strength",
        "preferences",
    ],
)
def test_a_column_whose_name_has_a_word_of_judging_is_named(column: str) -> None:
    reading = Reading(settings())
    list(rows_of_record(("p:1", labelled(1, **{column: 1})), reading))
    assert [f"'{column}' looks like a label" in remark for remark in reading.remarks()] == [True]


def test_history_that_arrived_as_text_is_read_or_refused() -> None:
    columns = {"instruction": ASKED, "chosen": FIRST, "rejected": SECOND}
    assert read(columns | {"history": '[["Hi", "Hello."]]'})[0].prompt[0] == ("user", "Hi")
    assert read(columns | {"history": ""})[0].prompt == (("user", ASKED),)
    with pytest.raises(DataError, match="history: expected a list"):
        read(columns | {"history": "We spoke of tea."})


def test_a_label_put_in_the_place_of_another_leaves_that_one_named() -> None:
    reading = Reading(settings(columns={"label": "safer_response_id"}))
    list(rows_of_record(("p:1", RECORDS["PKU-SafeRLHF"][0]), reading))
    assert ["'better_response_id'" in remark for remark in reading.noted] == [True]


def test_shards_of_other_splits_are_not_read_along(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, label in (("train_sft", 0), ("train_prefs", 1), ("test_prefs", 0)):
        write(tmp_path / "data" / f"{name}-00000-of-00001.jsonl", labelled(label))
    assert [row.label for row in read_rows(settings(tmp_path, split="train_prefs"))] == [1.0]
    with pytest.raises(DataError, match="the names say test_prefs, train_prefs, train_sft"):
        read_rows(settings(tmp_path))


def test_export_knows_a_message_by_the_name_its_template_knows() -> None:
    roles = {"human": "user", "developer": "developer", "user": "user"}
    for given, role in roles.items():
        texts = texts_of_record(("p:1", {"prompt": [{"role": given, "content": "x"}, user("y")], "responses": ["z"]}))
        assert texts.prompt[0].as_given() == {"role": role, "content": "x"}


def test_a_system_column_comes_back_without_the_tools_that_stand_beside_it() -> None:
    columns = {"system": "Be short.", "prompt": [user(ASKED)], "tools": [{"name": "find"}], "responses": ["z"]}
    texts = texts_of_record(("p:1", columns))
    assert "find" in texts.messages[0][1]
    assert [turn.as_given() for turn in texts.prompt if not turn.added] == [SYSTEM, user(ASKED)]


@pytest.mark.parametrize(
    ("columns", "mapping", "telling"),
    [
        (("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "n"), {}, "score_chosen score_rejected"),
        (("prompt", "response_a", "response_b", "Label", "margin", "source"), {}, "Label margin"),
        (("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "score_ratio", "domain"), {},
         "labels score_A score_B score_ratio"),
        (("prompt", "response_1", "response_2", "preference_strength", "preference_statement", "split"), {},
         "preference_statement preference_strength"),
        (("q", "left", "right", "said", "gap", "n"),
         {"prompt": "q", "response_a": "left", "response_b": "right", "label": "said", "margin": "gap"}, "gap said"),
        (("prompt", "responses", "ranks", "n"), {}, "ranks"),
    ],
)  # fmt: skip
def test_columns_that_tell_the_label_are_known_so_that_none_is_a_feature(
    columns: tuple[str, ...], mapping: dict[Any, str], telling: str
) -> None:
    assert judging_columns(columns, SourceSettings(path="x", columns=mapping)) == set(telling.split())


def test_openais_preference_format_keeps_the_tools_and_both_messages() -> None:
    tool = {"type": "function", "function": {"name": "find"}}
    record = {
        "input": {"messages": [{"role": "system", "content": "Be brief."}, user(ASKED)], "tools": [tool]},
        "preferred_output": [{"role": "assistant", "content": FIRST}],
        "non_preferred_output": [{"role": "assistant", "content": SECOND}],
    }
    (row,) = read(record)
    assert (row.a, row.b, row.label) == (FIRST, SECOND, 1.0)
    assert row.prompt[-1] == ("user", ASKED)
    assert "Be brief." in row.prompt[0][1]
    assert any("find" in content for _, content in row.prompt)
    with pytest.raises(DataError, match="input: expected an object with messages"):
        read(record | {"input": "What?"})


@pytest.mark.parametrize(
    ("column", "owner"),
    [
        ("images", "the prompt"), ("documents", "the prompt"), ("audio", "the prompt"), ("image_path", "the prompt"),
        ("passage", "the prompt"), ("contexts", "the prompt"), ("chosen_reasoning", "a response"),
        ("reasoning_rejected", "a response"), ("response_a_thinking", "a response"), ("rejected_system", "a response"),
        ("chosen_tool_calls", "a response"),
    ],
)  # fmt: skip
def test_a_column_that_belongs_to_a_text_and_cannot_be_read_is_refused(column: str, owner: str) -> None:
    record = {"prompt": ASKED, "chosen": FIRST, "rejected": SECOND}
    with pytest.raises(DataError, match=f"column '{column}' belongs to {owner} and would be lost"):
        read(record | {column: ["a"]})
    for empty in (None, [], "", [None]):
        assert len(read(record | {column: empty})) == 1
    reading = Reading(settings(ignore_keys=[column]))
    assert len(list(rows_of_record(("f:1", record | {column: ["a"]}), reading))) == 1
    assert reading.noted[f"column '{column}' left out"].count == 1


def test_a_cell_that_excel_has_cut_and_rewards_that_nobody_reads_are_noted() -> None:
    reading = Reading(settings())
    cut = {"prompt": ASKED, "chosen": "x" * 32_767, "rejected": SECOND}
    list(rows_of_record(("f:1", cut), reading))
    list(rows_of_record(("f:2", cut | {"chosen": "x" * 32_766}), reading))
    list(rows_of_record(("f:3", {"prompt": ASKED, "responses": ["a", "b"], "rewards": [0.1, 0.9]}), reading))
    found = {remark: tally.count for remark, tally in reading.noted.items()}
    assert [count for remark, count in found.items() if "Excel cuts" in remark] == [1]
    assert [count for remark, count in found.items() if "'rewards' looks like a label" in remark] == [1]


PAIR = {"prompt": ASKED, "chosen": FIRST, "rejected": SECOND}
SIDES = {"prompt": ASKED, "response_a": FIRST, "response_b": SECOND}


@pytest.mark.parametrize(
    "column", ["System", "systemPrompt", "system_instruction", "background", "article", "previous_turns", "Context"]
)
def test_a_part_of_the_prompt_under_another_name_is_not_dropped(column: str) -> None:
    with pytest.raises(DataError, match=f"prompt and {column} both hold a part of the prompt"):
        read(PAIR | {column: "Be short."})
    assert read(PAIR | {column: "Be short."}, columns={"prompt": "prompt"})[0].prompt == (("user", ASKED),)


@pytest.mark.parametrize("value", [["One.", "Two."], [user("Hi")]])
def test_an_input_that_is_no_text_is_not_dropped(value: object) -> None:
    columns = {"instruction": ASKED, "chosen": FIRST, "rejected": SECOND}
    with pytest.raises(DataError, match="input: expected text beside an instruction"):
        read(columns | {"input": value})
    with pytest.raises(DataError, match="input: expected text beside an instruction"):
        read(columns | {"instruction": [user(ASKED)], "input": "Of these."})
    assert read(columns | {"input": 17})[0].prompt == (("user", f"{ASKED}\n\n17"),)


def test_a_reason_in_camel_case_belongs_to_its_response_too() -> None:
    with pytest.raises(DataError, match="chosenReasoning' belongs to a response"):
        read(PAIR | {"chosenReasoning": "It is fresher."})


@pytest.mark.parametrize(
    ("columns", "setting", "unread"),
    [
        ({"system": "S", "input": ASKED, "chosen": FIRST, "rejected": SECOND}, "{prompt: input}", "chosen, input"),
        ({"trajectory": [user(ASKED)], "chosen": FIRST, "rejected": SECOND}, "{prompt: trajectory}", "rejected, traj"),
        ({"question": ASKED, "response_A": FIRST, "response_B": SECOND, "label": "A>B"},
         "{response_a: response_A, response_b: response_B}", "label, question, response_A, response_B"),
        ({"instruction": ASKED, "response1": FIRST, "response2": SECOND},
         "{response_a: response1, response_b: response2}", "response1, response2"),
        ({"instruction": ASKED, "output": [FIRST, SECOND]}, "{responses: output}", "instruction, output"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_columns_and_the_setting_that_mends_it(
    columns: dict[str, Any], setting: str, unread: str
) -> None:
    with pytest.raises(DataError) as error:
        read(columns)
    assert unread in str(error.value)
    assert setting in str(error.value)
    named = dict(part.split(": ") for part in setting.strip("{}").split(", "))
    texts = texts_of_record(("p:1", columns), Reading(settings(columns=named)))
    assert texts.messages[-1] == ("user", ASKED)
    assert [turns[0].content for turns in texts.responses] == [FIRST, SECOND]


def test_a_list_of_texts_for_a_response_is_refused_with_what_to_write() -> None:
    with pytest.raises(DataError, match=r"rejected: a list of texts, where one response .* benchmark\.path"):
        read({"prompt": ASKED, "chosen": FIRST, "rejected": ["a", "b", "c"]})


def test_nan_in_a_cell_is_an_absent_cell() -> None:
    absent = dict.fromkeys(("system", "history", "tools", "image", "context", "margin", "id"), math.nan)
    (row,) = read(PAIR | absent)
    (plain,) = read(PAIR)
    assert (row.prompt, row.a, row.b, row.label, row.id) == (plain.prompt, plain.a, plain.b, plain.label, plain.id)
    with pytest.raises(DataError, match="expected columns chosen and rejected"):
        read(SIDES | {"response_b": math.nan})


def test_two_columns_of_responses_beside_two_others_are_refused_until_two_are_named() -> None:
    both = SIDES | {"chosen": "b", "rejected": "a", "label": 0}
    with pytest.raises(DataError, match="chosen, rejected and response_a, response_b both hold responses"):
        read(both)
    (row,) = read(both, columns={"response_a": "response_a", "response_b": "response_b"})
    assert (row.a, row.b, row.label) == (FIRST, SECOND, 0.0)
    (row,) = read(SIDES | {"chosen": FIRST, "rejected": SECOND}, columns={"chosen": "chosen", "rejected": "rejected"})
    assert (row.a, row.b, row.label) == (FIRST, SECOND, 1.0)


@pytest.mark.parametrize(
    "names",
    [
        ("response_a", "response_b", "response_c"), ("response_1", "response_2", "response_10"),
        ("response_0", "response_1", "response_2"), ("conversation_a", "conversation_b", "conversation_c"),
    ],
)  # fmt: skip
def test_a_third_response_in_a_column_of_its_own_is_not_dropped(names: tuple[str, ...]) -> None:
    first, second, third = names
    columns = {"prompt": ASKED, first: FIRST, second: SECOND}
    if first == "conversation_a":
        columns = {name: [user(ASKED), said(text)] for name, text in ((first, FIRST), (second, SECOND))}
    message = f"column '{third}' is a further response beside {first} and {second}"
    for reads in (rows_of_record, texts_of_record):
        with pytest.raises(DataError, match=message):
            list(reads(("p:1", columns | {third: "Mint."}), Reading(settings())))  # type: ignore[call-overload]
    named = {"response_a": first, "response_b": second}
    for more, setting in (({third: "Mint."}, {"columns": named}), ({third: ""}, {}), ({f"{first}c": "Mint."}, {})):
        assert read(columns | more, **setting)[0].a == FIRST
    assert read(columns | {third: "Mint."}, ignore_keys=[third])[0].a == FIRST


def test_a_column_chosen_that_nothing_reads_is_named() -> None:
    for columns in (SIDES | {"chosen": "b"}, {"prompt": ASKED, "responses": [FIRST, SECOND], "chosen": 1}):
        reading = Reading(settings())
        (row,) = rows_of_record(("pool.jsonl:1", columns), reading)
        assert math.isnan(row.label)
        assert "column 'chosen' looks like a label" in " ".join(reading.noted)


def test_a_label_of_more_responses_is_refused_and_the_setting_that_reads_their_worth_is_named() -> None:
    listed = {"prompt": ASKED, "responses": [FIRST, SECOND], "worth": [5, 2]}
    reading = Reading(settings())
    list(rows_of_record(("pool.jsonl:1", listed | {"best_of": 0}), reading))
    assert ["{scores: best_of}" in remark for remark in reading.noted] == [True]
    with pytest.raises(DataError, match=r"worth \[5, 2\] as the label of 2 responses: .*\{scores: worth\}"):
        read(listed, columns={"label": "worth"})
    assert read(listed, columns={"scores": "worth"})[0].label == 1.0
    assert math.isnan(read(listed | {"worth": None}, columns={"label": "worth"})[0].label)


@pytest.mark.parametrize("column", ["responses", "completions"])
def test_scores_count_beside_responses_and_completions_alike(column: str) -> None:
    (row,) = read({"prompt": ASKED, column: [FIRST, SECOND], "scores": [2, 5]})
    assert (row.label, row.margin) == (0.0, 3.0)
    rated = [{"response": FIRST, "overall_score": 2}, {"response": SECOND, "overall_score": 5}]
    (row,) = read({"prompt": ASKED, column: rated})
    assert (row.label, row.margin) == (0.0, 3.0)


def test_ratings_that_no_setting_names_are_named_and_ranks_may_not_contradict_scores() -> None:
    reading = Reading(settings())
    rated = [{"response": FIRST, "score": 2, "model": "m"}, {"response": SECOND, "score": 5}]
    (row,) = rows_of_record(("pool.jsonl:1", {"prompt": ASKED, "completions": rated}), reading)
    assert math.isnan(row.label)
    assert list(reading.noted) == [
        "'score' of a response looks like a rating and is not read (pool.rating can name it)"
    ]
    listed = {"prompt": ASKED, "responses": [FIRST, SECOND], "scores": [2, 5]}
    assert read(listed | {"ranks": [2, 1]})[0].label == 0.0
    with pytest.raises(DataError, match="ranks 1 and 2 of responses 0 and 1 contradict their scores 2 and 5"):
        read(listed | {"ranks": [1, 2]})


def test_of_two_turns_the_one_that_was_judged_is_the_response() -> None:
    sides = {
        side: [user(ASKED), said(text), user("And with milk?"), said(f"{text} Yes.")]
        for side, text in (("conversation_a", FIRST), ("conversation_b", SECOND))
    }
    (first,) = read({**sides, "winner": "model_a", "turn": 1})
    assert (first.prompt, first.a, first.b, first.label) == ((("user", ASKED),), FIRST, SECOND, 1.0)
    as_text = {side: json.dumps(turns) for side, turns in sides.items()}
    assert read({**as_text, "winner": "model_a", "turn": 1.0})[0].a == FIRST
    for whole in ({"turn": 2}, {}):
        (both,) = read({**sides, "winner": "model_a", **whole})
        assert both.a.endswith(f"{FIRST} Yes.")
    spoken = {
        side: [{"from": turn["role"].title(), "value": turn["content"]} for turn in sides[side]] for side in sides
    }
    assert read({**spoken, "winner": "model_a", "turn": 1})[0].a == FIRST
    texts = texts_of_record(("p:1", {**sides, "winner": "model_a", "turn": 1}))
    assert [len(turns) for turns in texts.responses] == [1, 1]
    with pytest.raises(LabelCodingError, match=r"got 'last', expected the number of the turn"):
        read({**sides, "winner": "model_a", "turn": "last"})
