"""Rows that were made up, written in each layout and read back, are the same; junk is one error and no traceback."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpm.data.conversations import canonical
from bgpm.data.readers import read_rows, rows_of_record
from bgpm.data.schema import PoolSettings
from bgpm.errors import DataError

EXAMPLES = int(
    os.environ.get("BGPM_FUZZ_EXAMPLES", "36")
)  # of 20 rows, each in 26 layouts and 2 tables: some 18,000 rows
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip

# Texts of any kind, those that look like structure among them.
ODD = [
    "[1, 2]",
    '{"a": 1}',
    "[]",
    "NaN",
    "null",
    "a;b,c\td|e",
    'He said "no".',
    "l1\nl2\r\nl3",
    "\u2028x",
    "\x00y",
    "🙂",
]
TEXT = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)).map(
    lambda text: f"q{text}"
)  # never blank
RESPONSE = st.one_of(st.just(""), st.sampled_from(ODD), TEXT)
LABEL = st.sampled_from([1.0, 0.5, 0.0])

Made = tuple[str, str, str, float]  # prompt, a, b, label
MADE = st.lists(st.tuples(TEXT, RESPONSE, RESPONSE, LABEL), min_size=20, max_size=20)


def chat(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, "tool_calls": None}]


def share_gpt(prompt: str, a: str, b: str) -> dict[str, Any]:
    sides = {"response_a": {"from": "gpt", "value": a}, "response_b": {"from": "gpt", "value": b}}
    return {"conversations": [{"from": "human", "value": prompt}]} | sides


WINNER = {1.0: "model_a", 0.5: "tie (bothbad)", 0.0: "model_b"}
LAYOUTS: dict[str, Callable[[str, str, str, float], dict[str, Any]]] = {
    "texts": lambda p, a, b, y: {"prompt": p, "response_a": a, "response_b": b, "label": y},
    "words": lambda p, a, b, y: {"prompt": p, "response_a": a, "response_b": b, "label": WINNER[y]},
    "question and input": lambda p, a, b, y: {
        "question": p, "input": "", "response_a": a, "response_b": b, "label": y, "history": [], "system": None,
    },
    "messages": lambda p, a, b, y: {
        "prompt": chat(p), "response_a": said(a), "response_b": said(b)[0], "label": y, "tools": None,
    },
    "conversations": lambda p, a, b, y: {"response_a": chat(p, a), "response_b": chat(p, b), "label": y},
    "dict of lists": lambda p, a, b, y: {
        "prompt": {"role": ["user"], "content": [p]}, "response_a": {"role": ["assistant"], "content": [a]},
        "response_b": {"role": ["assistant"], "content": [b]}, "label": y,
    },
    "JSON as text": lambda p, a, b, y: {
        "response_a": json.dumps(chat(p, a)), "response_b": json.dumps(chat(p, b)), "label": y,
    },
    "Python as text": lambda p, a, b, y: {"response_a": repr(chat(p, a)), "response_b": repr(chat(p, b)), "label": y},
    "parts": lambda p, a, b, y: {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": p}]}],
        "response_a": [{"role": "assistant", "content": [{"type": "text", "text": a, "image": None}]}],
        "response_b": said(b), "label": y,
    },
    "ShareGPT": lambda p, a, b, y: share_gpt(p, a, b) | {"label": y},
    "ranks": lambda p, a, b, y: {"prompt": p, "responses": [a, b], "ranks": [2 - y, 1 + y]},
    "UltraFeedback": lambda p, a, b, y: {
        "instruction": p,
        "completions": [{"response": a, "overall_score": y}, {"response": b, "overall_score": 1 - y}],
    },
    "LMSYS 55k": lambda p, a, b, y: {
        "prompt": json.dumps([p]), "response_a": json.dumps([a]), "response_b": json.dumps([b]),
        "winner_model_a": int(y == 1), "winner_model_b": int(y == 0), "winner_tie": int(y == 0.5),
    },
    "Chatbot Arena": lambda p, a, b, y: {
        "conversation_a": chat(p, a), "conversation_b": chat(p, b), "winner": WINNER[y],
    },
    "HelpSteer3": lambda p, a, b, y: {
        "context": chat(p), "response1": a, "response2": b, "overall_preference": int(2 - 4 * y),
    },
    "AlpacaEval": lambda p, a, b, y: {"instruction": p, "output_1": a, "output_2": b, "preference": 2 - y},
    "SHP": lambda p, a, b, y: {"history": p, "human_ref_A": a, "human_ref_B": b, "labels": y},
    "HelpSteer2": lambda p, a, b, y: {
        "prompt": p, "response_1": a, "response_2": b, "preference_strength": int(1 - 2 * y),
    },
    "WebGPT": lambda p, a, b, y: {
        "question": {"full_text": p}, "answer_0": a, "answer_1": b, "score_0": 2 * y - 1, "score_1": 1 - 2 * y,
    },
    "Nectar": lambda p, a, b, y: {
        "prompt": p, "answers": [{"answer": a, "rank": 2 - y, "model": "m"}, {"answer": b, "rank": 1 + y}], "turns": 1,
    },
}  # fmt: skip

# Layouts that know no tie: the better response first.
DECIDED: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "chosen": lambda p, a, b: {"prompt": p, "chosen": a, "rejected": b},
    "binarised": lambda p, a, b: {
        "prompt": p, "chosen": chat(p, a), "rejected": chat(p, b), "messages": chat(p, a), "score_chosen": 4.0,
        "score_rejected": 2.5,
    },
    "cleaned UltraFeedback": lambda p, a, b: {
        "instruction": p, "chosen_response": a, "rejected_response": b, "chosen_avg_rating": 4,
        "rejected_avg_rating": 3,
    },
    "PKU-SafeRLHF": lambda p, a, b: {"prompt": p, "response_0": a, "response_1": b, "better_response_id": 0},
    "OpenAI": lambda p, a, b: {
        "input": {"messages": chat(p), "tools": [], "parallel_tool_calls": True}, "preferred_output": said(a),
        "non_preferred_output": said(b),
    },
    "transcripts": lambda p, a, b: {
        "chosen": f"\n\nHuman: {p}\n\nAssistant: {a}", "rejected": f"\n\nHuman: {p}\n\nAssistant: {b}",
    },
}  # fmt: skip


def read(path: Path) -> list[Made]:
    rows = read_rows(PoolSettings(path=str(path), heldout=0.5))
    assert all(len(row.prompt) == 1 and row.prompt[0][0] == "user" for row in rows)
    return [(row.prompt[0][1], row.a, row.b, row.label) for row in rows]


@FUZZ
@given(MADE)
def test_rows_come_back_from_every_layout(tmp_path: Path, made: list[Made]) -> None:
    for name, layout in LAYOUTS.items():
        path = tmp_path / "pool.jsonl"
        path.write_text("".join(json.dumps(layout(*row)) + "\n" for row in made), encoding="utf-8")
        assert read(path) == made, name


@FUZZ
@given(MADE)
def test_the_better_response_comes_back_from_every_layout_that_knows_no_tie(tmp_path: Path, made: list[Made]) -> None:
    rows = [(p, *((a, b) if y else (b, a)), 1.0) for p, a, b, y in made if y != 0.5]
    for name, layout in DECIDED.items():
        path = tmp_path / "pool.json"
        path.write_text(json.dumps([layout(*row[:3]) for row in rows]), encoding="utf-8")
        found = [(p.removeprefix("Human: ") if name == "transcripts" else p, a, b, y) for p, a, b, y in read(path)]
        assert found == rows, name


@FUZZ
@given(MADE)
def test_rows_come_back_from_tables(tmp_path: Path, made: list[Made]) -> None:
    records = [LAYOUTS["texts"](*row) for row in made]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "pool.parquet")
    assert read(tmp_path / "pool.parquet") == made
    with (tmp_path / "pool.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    assert read(tmp_path / "pool.csv") == made


@FUZZ
@given(MADE, st.integers(0, 3))
def test_a_tool_call_comes_back_in_what_is_read(tmp_path: Path, made: list[Made], town: int) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": json.dumps({"town": town})}}
    for n, (prompt, a, b, label) in enumerate(made):
        side = said(a)[0] | {"tool_calls": [call]}
        columns = {"prompt": prompt, "response_a": [side], "response_b": said(b), "label": label}
        (row,) = rows_of_record((f"x:{n}", columns))
        assert row.a == "\n".join(part for part in (a, canonical({"tool_calls": [call]})) if part)
        assert row.b == b


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls", "type", "text"]), inner),
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(FUZZ, max_examples=20)
@given(st.data())
def test_junk_in_any_column_is_read_or_refused_in_one_sentence(name: str, data: st.DataObject) -> None:
    columns = LAYOUTS[name]("Why?", "x", "y", 1.0)
    columns |= {column: data.draw(JUNK) for column in data.draw(st.sets(st.sampled_from(sorted(columns)), min_size=1))}
    message = ""
    try:
        list(rows_of_record(("pool.jsonl:7", columns)))
    except DataError as error:
        message = str(error)
    assert not message or message.startswith("pool.jsonl:7: ")
