"""Labels to and from other tools: they come back as they left, and nothing wrong gets in."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchanged import AT, KNOWN, QUESTIONS, facts

from bgpm.annotations.argilla import user_of
from bgpm.annotations.store import Annotation, LabelStore
from bgpm.data.tables import write_table
from bgpm.errors import DataError
from bgpm.labels import export_annotations, import_annotations

ANNOTATIONS = [
    Annotation("p", 1.0, "ada", AT, seconds=3.5),
    Annotation("p", 0.0, "bo@example.org", AT, strength="clear"),
    Annotation("q", 0.5, "ada", "", flags=("both_bad",)),
    Annotation("r", None, "ada", AT),
]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "store.jsonl")


def write(path: Path, content: Any) -> Path:
    lines = path.suffix == ".jsonl" and not isinstance(content, str)
    text = "".join(json.dumps(row) + "\n" for row in content) if lines else content
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


@pytest.mark.parametrize(("shape", "suffix"), [("csv", "csv"), ("jsonl", "jsonl")])
def test_our_own_shapes_keep_every_field(tmp_path: Path, store: LabelStore, shape: Any, suffix: str) -> None:
    said = [
        *(ANNOTATIONS[n] for n in (0, 2)),
        Annotation("p", 0.0, "bo@example.org", AT, strength="clear", flags=("unsafe", "wrong_language")),
        Annotation("r", None, "ada", AT, flags=("cannot_judge",)),
        Annotation("q", 0.3, "m (ba)", AT, cost=0.01, source="judge", shown="ba", note='=1+1, "so"\nit is', id="k"),
    ]
    path = write(tmp_path / f"x.{suffix}", export_annotations(said, shape))
    assert import_annotations(path, shape, store, KNOWN) == 5
    assert store.annotations() == said
    assert import_annotations(path, shape, store, KNOWN) == 0
    assert store.path.read_bytes().count(b"\n") == 5


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''=1", "'quoted'", "plain"]
)
def test_no_cell_of_a_table_is_a_formula_and_all_come_back_as_they_were(
    tmp_path: Path, store: LabelStore, text: str
) -> None:
    said = [
        Annotation("p", 1.0, f"{text}x", AT, note=text, id=f"{text}y"),
        Annotation(f"{text}p", 0.0, "ada", AT, id="k"),
    ]
    path = tmp_path / "x.csv"
    path.write_text(export_annotations(said, "csv"), encoding="utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "＝", "\t", "\r", "\n"))]
    assert import_annotations(path, "csv", store, {"p", f"{text}p"}) == 2
    assert store.annotations() == said


def test_label_studio_gives_back_what_it_got(tmp_path: Path, store: LabelStore) -> None:
    path = write(tmp_path / "tasks.json", export_annotations(ANNOTATIONS, "label-studio", QUESTIONS))
    tasks = json.loads(path.read_text())
    assert [task["data"] for task in tasks] == QUESTIONS
    assert import_annotations(path, "label-studio", store, KNOWN) == 4
    assert facts(store.annotations()) == facts(ANNOTATIONS)
    assert import_annotations(path, "label-studio", store, KNOWN) == 0


def test_argilla_gives_back_what_it_got_except_what_was_skipped(tmp_path: Path, store: LabelStore) -> None:
    path = write(tmp_path / "records.json", export_annotations(ANNOTATIONS, "argilla", QUESTIONS))
    records = json.loads(path.read_text())
    assert records[0]["fields"] == {name: QUESTIONS[0][name] for name in ("prompt", "response_a", "response_b")}
    assert records[0]["responses"]["preference"] == [
        {"value": "A", "user_id": user_of("ada"), "status": "submitted"},
        {"value": "B clearly better", "user_id": user_of("bo@example.org"), "status": "submitted"},
    ]
    assert records[0]["metadata"] == {"annotators": ["ada", "bo@example.org"]}
    assert records[2]["responses"] == {}
    assert import_annotations(path, "argilla", store, KNOWN) == 3
    assert {(a.pair_id, a.label, a.strength, a.flags, a.annotator) for a in store.annotations()} == {
        (a.pair_id, a.label, a.strength, a.flags, a.annotator) for a in ANNOTATIONS if a.label is not None
    }


def studio(pair_id: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 7, "completed_by": 3, "was_cancelled": False, "lead_time": 4.25, "result": list(results)} | more
    return {"id": 1, "data": {"pair_id": pair_id}, "annotations": [annotation], "predictions": []}


def pairwise(selected: str) -> dict[str, Any]:
    return {"from_name": "pw", "to_name": "a,b", "type": "pairwise", "value": {"selected": selected}}


def choices(*chosen: str, tag: str = "c") -> dict[str, Any]:
    return {"from_name": tag, "to_name": "prompt", "type": "choices", "value": {"choices": list(chosen)}}


def rating(stars: int) -> dict[str, Any]:
    return {"from_name": "stars", "to_name": "prompt", "type": "rating", "value": {"rating": stars}}


def small(pair_id: str, **tags: Any) -> dict[str, Any]:
    """A row of JSON-MIN."""
    texts = {"pair_id": pair_id, "prompt": "p", "answer_a": "x", "answer_b": "y"}
    return texts | {"id": 1, "annotator": 1, "annotation_id": 5, "created_at": AT, "lead_time": 3.2} | tags


def labels_of(store: LabelStore) -> dict[str, Any]:
    return {a.pair_id: (a.label, a.note) if a.note else a.label for a in store.annotations()}


@pytest.mark.parametrize(
    "responses",
    [
        [  # Record.to_dict
            {"id": "p", "responses": {"preference": [{"value": "A", "user_id": "u1", "status": "submitted"},
                                                     {"value": "B", "user_id": "u2", "status": "discarded"}]}},
            {"id": "q", "responses": {"preference": [{"value": "B", "user_id": "u1", "status": "draft"}]}},
            {"id": "r", "responses": {"preference": [{"value": None, "user_id": "u1"}]}},
        ],
        [  # a data set's columns
            {"id": "p", "preference.responses": ["A", "B"], "preference.responses.users": ["u1", "u2"],
             "preference.responses.status": ["submitted", "discarded"]},
            {"id": "q", "preference.responses": ["B"], "preference.responses.users": ["u1"],
             "preference.responses.status": ["draft"]},
            {"id": "r", "preference.responses": [None], "preference.responses.users": ["u1"]},
        ],
        [  # the server's, and Argilla 1
            {"id": "3f1c", "external_id": "p",
             "responses": [{"user_id": "u1", "status": "submitted", "values": {"preference": {"value": "A"}}},
                           {"user_id": "u2", "status": "discarded", "values": None}]},
            {"id": "77aa", "external_id": "q",
             "responses": [{"user_id": "u1", "status": "draft", "values": {"preference": {"value": "B"}}}]},
            {"id": "99bb", "external_id": "r",
             "responses": [{"user_id": "u1", "values": {"preference": {"value": None}}}]},
        ],
    ],
)  # fmt: skip
def test_what_nobody_submitted_in_argilla_is_passed_over_and_counted(
    tmp_path: Path, store: LabelStore, caplog: pytest.LogCaptureFixture, responses: list[dict[str, Any]]
) -> None:
    assert import_annotations(write(tmp_path / "x.json", responses), "argilla", store, KNOWN) == 1
    assert [(a.pair_id, a.label, a.annotator) for a in store.annotations()] == [("p", 1.0, "u1")]
    assert "3 annotations were passed over: 1 discarded, 1 draft, 1 without a value" in caplog.text


def test_of_several_questions_the_one_with_our_words_is_the_preference(
    tmp_path: Path, store: LabelStore, caplog: pytest.LogCaptureFixture
) -> None:
    records = [
        {"id": "p", "responses": {"which": [{"value": "response_a", "user_id": 1}], "tone": [{"value": "kind"}]}},
        {"id": "q", "responses": {"which": [], "tone": [{"value": "rude"}]}},
        {"id": "r", "responses": {"which": [{"value": "Both are good", "user_id": 1}], "tone": []}},
    ]
    assert import_annotations(write(tmp_path / "x.json", records), "argilla", store, KNOWN) == 2
    assert labels_of(store) == {"p": 1.0, "r": (0.5, "Both are good")}
    assert caplog.text.count("what was said under 'tone' is not a preference and was not read") == 1


def test_an_annotation_without_a_choice_is_a_skip_and_other_tags_are_named_once(
    tmp_path: Path, store: LabelStore, caplog: pytest.LogCaptureFixture
) -> None:
    why = {"from_name": "why", "to_name": "prompt", "type": "textarea", "value": {"text": ["short"]}}
    tasks = [
        studio("p", pairwise("left"), rating(4), why),
        studio("q", rating(1)),
        studio("r") | {"drafts": [{"result": [pairwise("left")]}]},
    ]
    assert import_annotations(write(tmp_path / "x.json", tasks), "label-studio", store, KNOWN) == 3
    assert labels_of(store) == {"p": (1.0, "short"), "q": None, "r": None}
    assert caplog.text.count("what was said under 'stars' (rating) is not a preference and was not read") == 1
    assert "1 annotations were passed over: 1 draft" in caplog.text


def test_of_two_choice_tags_the_one_with_our_words_counts(
    tmp_path: Path, store: LabelStore, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [studio("p", choices("safe", tag="harm"), choices("B is better", tag="which")), studio("q", choices("tie"))]
    assert import_annotations(write(tmp_path / "x.json", tasks), "label-studio", store, KNOWN) == 2
    assert labels_of(store) == {"p": 0.0, "q": 0.5}
    assert "under 'harm' (choices)" in caplog.text


@pytest.mark.parametrize(
    ("words", "label", "why"),
    [
        ("Both are bad", 0.5, ("both_bad",)), ("both_bad", 0.5, ("both_bad",)), ("Neither", 0.5, ("both_bad",)),
        ("tie (bothbad)", 0.5, ("both_bad",)), ("A is much better", 1.0, "much"),
        ("response_b slightly better", 0.0, "slight"),
        ("both are good", 0.5, "both are good"), ("Tie", 0.5, ""), ("draw", 0.5, ""),
        ("A", 1.0, ""), ("Response B", 0.0, ""), ("answer_a", 1.0, ""), ("response-b", 0.0, ""),
        ("B is better.", 0.0, ""),
    ],
)  # fmt: skip
def test_words_become_label_strength_flag_or_note(
    tmp_path: Path, store: LabelStore, words: str, label: float, why: object
) -> None:
    assert (
        import_annotations(write(tmp_path / "x.json", [studio("p", choices(words))]), "label-studio", store, KNOWN) == 1
    )
    assert [(a.label, a.strength or a.flags or a.note) for a in store.annotations()] == [(label, why)]


def test_left_is_response_b_where_the_pairwise_tag_shows_the_texts_the_other_way_round(
    tmp_path: Path, store: LabelStore
) -> None:
    tasks = [
        studio("p", pairwise("left") | {"to_name": "answer_b,answer_a"}),
        studio("q", pairwise("left") | {"to_name": "response_a,response_b"}),
    ]
    assert import_annotations(write(tmp_path / "x.json", tasks), "label-studio", store, KNOWN) == 2
    assert labels_of(store) == {"p": 0.0, "q": 1.0}


def test_json_min_and_its_csv_are_read(tmp_path: Path, store: LabelStore, caplog: pytest.LogCaptureFixture) -> None:
    rows = [small("p", pw="left", topic="sums"), small("q", pw="right", topic="names"), small("r", topic="dates")]
    assert import_annotations(write(tmp_path / "x.json", rows), "label-studio", store, KNOWN) == 3
    assert labels_of(store) == {"p": 1.0, "q": 0.0, "r": None}
    assert {(a.annotator, a.seconds) for a in store.annotations()} == {("1", 3.2)}
    other = LabelStore(tmp_path / "other.jsonl")
    table = "pair_id,prompt,annotator,lead_time,pw\np,x,2,4.5,left\nq,x,2,200000,\n"
    assert import_annotations(write(tmp_path / "x.csv", table), "label-studio", other, KNOWN) == 2
    assert [(a.pair_id, a.label, a.seconds) for a in other.annotations()] == [("p", 1.0, 4.5), ("q", None, None)]
    assert "1 annotations took over 86400 s: their time counts as not known" in caplog.text


SELECTED = {"left": [{"selected": "left"}], "right": [{"selected": "right"}]}


@pytest.mark.parametrize("write_value", [lambda value: value, json.dumps])
@pytest.mark.parametrize("more", [{}, {"arm": "B"}, {"why": "short"}])
def test_a_pairwise_tag_of_json_min_is_read_whatever_stands_beside_it(
    tmp_path: Path, store: LabelStore, write_value: Any, more: dict[str, str]
) -> None:
    rows = [small(name, which=write_value(SELECTED[side]), **more) for name, side in (("p", "left"), ("q", "right"))]
    assert import_annotations(write(tmp_path / "x.json", rows), "label-studio", store, KNOWN) == 2
    assert labels_of(store) == {"p": 1.0, "q": 0.0}


def test_a_column_of_json_min_that_may_be_a_tasks_field_is_no_answer_until_it_is_named(
    tmp_path: Path, store: LabelStore
) -> None:
    rows = [small("p", pref="Response 1", arm="B"), small("q", pref="Response 2", arm="B")]
    path = write(tmp_path / "x.json", rows)
    with pytest.raises(DataError, match=r"arm holds a choice such as A or left.*, and pref the tag; .* --tag"):
        import_annotations(path, "label-studio", store, KNOWN)
    with pytest.raises(DataError, match="choice 'Response 1': expected one of A"):
        import_annotations(path, "label-studio", store, KNOWN, tag="pref")
    path = write(tmp_path / "y.json", [small("p", pref="A", arm="B"), small("q", arm="B")])
    with pytest.raises(DataError, match=r"choices under 'arm', 'pref', of which 2 .* --tag"):
        import_annotations(path, "label-studio", store, KNOWN)
    assert import_annotations(path, "label-studio", store, KNOWN, tag="pref") == 2
    assert labels_of(store) == {"p": 1.0, "q": None}


def test_the_tag_that_is_named_is_the_preference_in_every_shape(tmp_path: Path, store: LabelStore) -> None:
    tasks = write(tmp_path / "t.json", [studio("p", choices("B", tag="which"), choices("same", tag="style"))])
    records = [{"id": "q", "responses": {"which": [{"value": "A", "user_id": 1}], "tone": [{"value": "B"}]}}]
    for path, shape in ((tasks, "label-studio"), (write(tmp_path / "r.json", records), "argilla")):
        with pytest.raises(DataError, match="--tag"):
            import_annotations(path, shape, store, KNOWN)
        with pytest.raises(DataError, match=r"'none' \(--tag\); there are \w+, which|'none' .* are which, tone"):
            import_annotations(path, shape, store, KNOWN, tag="none")
        assert import_annotations(path, shape, store, KNOWN, tag="which") == 1
    assert labels_of(store) == {"p": 0.0, "q": 1.0}


def test_label_studios_own_export_is_understood(tmp_path: Path, store: LabelStore) -> None:
    person = {"id": 4, "email": "cy@example.org", "first_name": "Cy"}
    note = {"from_name": "why", "to_name": "a", "type": "textarea", "value": {"text": ["clearer"]}}
    tasks = [
        studio("p", pairwise("left"), note, created_at="2021-03-09T22:16:08.728353Z"),
        studio("q", pairwise("right"), completed_by=person, created_at="2021-03-10T00:00:00+02:00"),
        studio("r", was_cancelled=True),
        {"id": 2, "data": {"pair_id": "q"}, "annotations": []},
    ]
    assert import_annotations(write(tmp_path / "x.json", tasks), "label-studio", store, KNOWN) == 3
    assert facts(store.annotations()) == {
        ("p", 1.0, None, (), "3", "2021-03-09T22:16:08.728353+00:00", 4.25),
        ("q", 0.0, None, (), "cy@example.org", "2021-03-09T22:00:00+00:00", 4.25),
        ("r", None, None, (), "3", "", 4.25),
    }


def test_a_table_needs_two_columns_only(tmp_path: Path, store: LabelStore) -> None:
    path = write(tmp_path / "x.csv", "label,pair_id,remark\n1,p,fine\n0.25,q,\n,r,no idea\n")
    assert import_annotations(path, "csv", store, KNOWN) == 3
    assert [(a.pair_id, a.label, a.annotator, a.source) for a in store.annotations()] == [
        ("p", 1.0, "anonymous", "human"),
        ("q", 0.25, "anonymous", "human"),
        ("r", None, "anonymous", "human"),
    ]


def line(pair_id: str = "p", label: object = 1, annotator: str = "ada", **more: Any) -> dict[str, Any]:
    return {"pair_id": pair_id, "label": label, "annotator": annotator, **more}


@pytest.mark.parametrize(
    ("name", "shape", "content", "message"),
    [
        ("x.jsonl", "jsonl", [line(), line("z")], "x.jsonl:2: pair 'z' is not in the pool"),
        ("x.jsonl", "jsonl", [line(), line(label=0)], "x.jsonl:2: ada says label 0 of pair 'p', but label 1 in "),
        ("x.jsonl", "jsonl", [line(), line(label=None)], "x.jsonl:2: ada says skip of pair 'p', but label 1 in "),
        ("x.jsonl", "jsonl", [line(label=2)], "x.jsonl:1: label 2: expected a probability"),
        ("x.jsonl", "jsonl", [{"pair_id": "p"}], "x.jsonl:1: no label; expected pair_id, label, annotator"),
        ("x.jsonl", "jsonl", [{"retract": "k"}], "x.jsonl:1: no pair_id and no label"),
        ("x.jsonl", "jsonl", [line(at="noon")], "x.jsonl:1: at 'noon': expected a time in ISO 8601"),
        ("x.jsonl", "jsonl", '{"pair_id": "p", ', "x.jsonl:1: malformed line, not JSON"),
        ("x.csv", "csv", "pair_id,label\np,1\nq,yes\n", "x.csv:3: label 'yes': expected a number"),
        ("x.csv", "csv", "pair_id,annotator\np,ada\n", "x.csv:2: no label"),
        ("x.csv", "csv", "pair_id,label\np,1,2\n", "x.csv:2: malformed line"),
        ("x.json", "argilla", [{"id": "p"}], "x.json: row 0: not a record of Argilla"),
        ("x.json", "argilla", [{"id": "p", "responses": {"a": [], "b": []}}], "several questions (a, b) and none"),
        ("x.json", "argilla", [{"id": "p", "responses": {"q": [{"value": "C"}]}}], "row 0: choice 'C'"),
        ("x.json", "argilla", [{"responses": {"q": [{"value": "A"}]}}], "x.json: row 0: pair_id None: expected text"),
        ("x.json", "argilla", [{"id": "p", "responses": {"q": ["A"]}}], "row 0: response 'A': expected an object"),
        ("x.json", "label-studio", [{"id": 1}], "x.json: row 0: not a task of Label Studio"),
        ("x.json", "argilla", [{"id": "p", "responses": {"q": [{"value": "A", "status": "lost"}]}}], "status 'lost'"),
        ("x.json", "argilla", [{"id": "p", "responses": {"q": [{"value": "A"}], "r": [{"value": "B"}]}}], "more than"),
        ("x.json", "argilla", [{"id": "p", "q.responses": ["A"], "q.responses.users": []}], "lists of the same length"),
        ("x.json", "label-studio", [studio("p", pairwise("left"), pairwise("left"))], "a tag stands twice"),
        ("x.json", "label-studio", [studio("p", choices("A", tag="x"), choices("B", tag="y"))], "of which 2 can be"),
        ("x.json", "label-studio", [studio("p", choices("good", tag="x"), choices("bad", tag="y"))], "of which none"),
        ("x.json", "label-studio", [studio("p", choices("A", "B"))], "expected one choice under 'c', got 2"),
        ("x.json", "label-studio", [studio("p", rating(4))], "no choice in this file, only rating"),
        ("x.json", "label-studio", [studio("", pairwise("left"))], "no pair_id in the task's data"),
        ("x.json", "label-studio", [{"prompt": "x", "annotator": 1, "pw": "left"}], "no pair_id in the row"),
        ("x.json", "label-studio", [{"pair_id": "p", "annotator": 1, "pw": "up"}], "no column holds a choice"),
        ("x.json", "label-studio", [small("p", pw="left", c="B")], "of which 2 can be the preference"),
        ("x.json", "label-studio", [studio("p", pairwise("up"))], "row 0: choice 'up': expected one of"),
        ("x.json", "label-studio", [studio("p", {"type": "pairwise"})], "expected an object with an object `value`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_then_nothing_is_written(
    tmp_path: Path, store: LabelStore, name: str, shape: Any, content: Any, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=re.escape(message)):
        import_annotations(path, shape, store, KNOWN)
    assert store.history() == []


def test_every_wrong_line_is_named_up_to_ten(tmp_path: Path, store: LabelStore) -> None:
    path = write(tmp_path / "x.jsonl", [line(f"z{n}") for n in range(13)])
    with pytest.raises(DataError) as caught:
        import_annotations(path, "jsonl", store, KNOWN)
    text = str(caught.value).splitlines()
    assert [f"x.jsonl:{n}:" in row for n, row in enumerate(text[:10], 1)] == [True] * 10
    assert text[10:] == ["... and 3 more", "nothing was imported"]


def test_the_last_word_wins_where_that_is_asked_for(tmp_path: Path, store: LabelStore) -> None:
    store.append(Annotation("q", 1.0, "ada", AT))
    path = write(tmp_path / "x.jsonl", [line(), line(label=0), line(label=1), line("q", 0), line("q", 0, "bo")])
    with pytest.raises(
        DataError,
        match=r"(?s):2: ada says label 0 .*:4: ada says label 0 of pair 'q', but label 1 in what the store has",
    ):
        import_annotations(path, "jsonl", store, KNOWN)
    assert len(store.history()) == 1
    assert import_annotations(path, "jsonl", store, KNOWN, last_wins=True) == 5
    assert {(a.pair_id, a.annotator): a.label for a in store.annotations()} == {
        ("p", "ada"): 1.0,
        ("q", "ada"): 0.0,
        ("q", "bo"): 0.0,
    }


def test_an_older_answer_can_become_the_last_word_again(tmp_path: Path, store: LabelStore) -> None:
    path = write(tmp_path / "x.jsonl", [line(id="first")])
    import_annotations(path, "jsonl", store, KNOWN)
    store.append(Annotation("p", 0.0, "ada", AT))
    assert import_annotations(path, "jsonl", store, KNOWN, last_wins=True) == 1
    assert [a.label for a in store.annotations()] == [1.0]


def test_a_label_that_a_tool_has_no_name_for_and_a_pair_without_text_are_refused() -> None:
    with pytest.raises(DataError, match=r"pair 'p': label 0\.3 of m is neither A, B nor a tie; export csv or jsonl"):
        export_annotations([Annotation("p", 0.3, "m", AT)], "argilla", QUESTIONS)
    with pytest.raises(DataError, match="1 pairs with an answer have no text, the first is 'z'"):
        export_annotations([Annotation("z", 1.0, "m", AT)], "label-studio", QUESTIONS)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a folder with a pool of three pairs, two of them in a batch."""
    write_table(tmp_path / "data/pool/prompts.parquet", {"text": [q["prompt"] for q in QUESTIONS]})
    annotations = [q[name] for q in QUESTIONS for name in ("response_a", "response_b")]
    write_table(tmp_path / "data/pool/responses.parquet", {"text": annotations})
    rows = np.arange(3)
    pairs = {"pair_id": list("pqr"), "prompt": rows, "response_a": 2 * rows, "response_b": 2 * rows + 1}
    write_table(tmp_path / "data/pool/pairs.parquet", pairs)
    write_table(tmp_path / "batch.parquet", {"pair": [2, 0], "pair_id": ["r", "p"]})

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "bgpm.labels", *words]
        return subprocess.run(line, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("shape", ["csv", "jsonl", "argilla", "label-studio"])
def test_an_export_of_a_batch_passes_over_what_earlier_batches_had(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, shape: Any
) -> None:
    said = [Annotation("q", 1.0, "ada", AT), Annotation("r", 0.0, "ada", AT)]
    LabelStore(tmp_path / "data/annotations/ada.jsonl").extend(said)
    done = command("export", "data/annotations/ada.jsonl", "--batch", "batch.parquet", "--shape", shape)
    assert (done.returncode, done.stderr) == (0, "")
    back = LabelStore(tmp_path / "back.jsonl")
    path = write(tmp_path / f"x.{ {'csv': 'csv', 'jsonl': 'jsonl'}.get(shape, 'json') }", done.stdout)
    assert import_annotations(path, shape, back, KNOWN) == 1
    assert [(a.pair_id, a.label) for a in back.annotations()] == [("r", 0.0)]
    if shape in ("argilla", "label-studio"):
        assert len(json.loads(done.stdout)) == 2  # the unanswered pair of the batch too


@pytest.mark.slow
def test_the_command_line_hands_a_batch_to_a_tool_and_takes_the_labels_back(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    tasks = json.loads(command("export", "--batch", "batch.parquet", "--shape", "label-studio").stdout)
    assert [task["data"] for task in tasks] == [QUESTIONS[2], QUESTIONS[0]]
    for task in tasks:
        task["annotations"] = studio("", pairwise("left"))["annotations"]
    write(tmp_path / "done.json", tasks)
    done = command("import", "done.json", "data/annotations/studio.jsonl")
    assert done.returncode == 1
    assert "error: done.json: which shape? add --shape csv | jsonl | argilla | label-studio" in done.stderr
    done = command("import", "done.json", "data/annotations/studio.jsonl", "--shape", "label-studio")
    assert (done.returncode, done.stderr) == (0, "2 new answers in data/annotations/studio.jsonl\n")
    rows = list(
        csv.DictReader(command("export", "data/annotations/studio.jsonl", "--shape", "csv").stdout.splitlines())
    )
    assert [(row["pair_id"], row["label"], row["annotator"]) for row in rows] == [("r", "1.0", "3"), ("p", "1.0", "3")]
    write(tmp_path / "more.csv", "pair_id,label\nq,1\n")
    refused = command("import", "more.csv", "data/annotations/more.jsonl", "--batch", "batch.parquet")
    assert refused.returncode == 1
    assert "error: more.csv:2: pair 'q' is not in batch.parquet\nnothing was imported" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert command("import", "more.csv", "data/annotations/more.jsonl").returncode == 0
    assert "x.json: labels are read from .jsonl files only" in command("import", "more.csv", "x.json").stderr
    assert "absent.jsonl: no such file" in command("export", "absent.jsonl").stderr
