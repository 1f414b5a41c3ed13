"""Labels from people: averaged, corrected, awaited, and never guessed."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bgpm.annotations import store
from bgpm.annotations.store import folder_by_pair
from bgpm.data.tables import write_table
from bgpm.errors import ConfigError, DataError, LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Query
from bgpm.oracles.human import Human
from bgpm.registry import build


@pytest.fixture
def files(tmp_path: Path) -> OracleFiles:
    (tmp_path / "annotations").mkdir()
    write_table(tmp_path / "pairs.parquet", {"pair_id": ["p", "q", "r", "other"]})
    return OracleFiles(tmp_path / "truth.parquet", tmp_path / "annotations", tmp_path / "batch.parquet", tmp_path)


def write(files: OracleFiles, name: str, *entries: Any) -> None:
    lines = (entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in entries)
    (files.annotations / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def said(pair_id: str, label: float | None, annotator: str = "ada", **more: Any) -> dict[str, Any]:
    return {"pair_id": pair_id, "label": label, "annotator": annotator, **more}


def ask(files: OracleFiles, *pair_ids: str) -> list[float]:
    verdicts = Human()([Query(pair_id, 0) for pair_id in pair_ids], files)
    assert verdicts.label.dtype == np.float64
    assert np.isnan(verdicts.margin).all()
    assert len(verdicts.margin) == len(verdicts.label) == len(verdicts.annotations)
    return verdicts.label.tolist()


def test_several_annotators_of_a_pair_are_averaged(files: OracleFiles) -> None:
    write(files, "one.jsonl", said("p", 1), said("q", 0.5), said("p", 0, "bo"))
    write(files, "two.jsonl", said("p", 0, "cy"), said("p", 0.5, "di"), said("q", 1.0, "bo"))
    assert ask(files, "q", "p") == [0.75, 0.375]


def test_a_strength_becomes_a_probability_or_a_margin_by_setting(files: OracleFiles) -> None:
    write(
        files,
        "one.jsonl",
        said("p", 1, strength="much"),
        said("p", 0, "bo", strength="slight"),
        said("q", 0, strength="clear"),
        said("q", 0.5, "bo", flags=["both_bad"]),
        said("r", 1, strength="slight"),
        said("r", 1, "bo", strength="slight"),
        said("r", 0, "cy", strength="much"),
    )
    much, clear, slight = (1 / (1 + math.exp(-s)) for s in (3, 2, 1))
    queries = [Query(pair_id, 0) for pair_id in "pqr"]
    verdicts = {how: Human(strength=how)(queries, files) for how in ("ignore", "soft", "margin")}
    assert verdicts["ignore"].label.tolist() == verdicts["margin"].label.tolist() == [0.5, 0.25, 2 / 3]
    assert verdicts["soft"].label == pytest.approx(
        [(much + 1 - slight) / 2, (1 - clear + 0.5) / 2, (2 * slight + 1 - much) / 3], rel=1e-14
    )
    assert np.isnan(verdicts["ignore"].margin).all()
    assert np.isnan(verdicts["soft"].margin).all()
    assert verdicts["margin"].margin.tolist() == [0.0, 1.0, 0.0]  # of r the sum is B's, and the label is A's


def test_without_a_strength_a_label_stays_and_its_margin_is_not_known(files: OracleFiles) -> None:
    write(files, "one.jsonl", said("p", 1), said("q", 0.7), said("q", 1, "bo", strength="clear"), said("r", None))
    queries = [Query(pair_id, 0) for pair_id in "pqr"]
    soft, margin = (Human(strength=how)(queries, files) for how in ("soft", "margin"))
    assert soft.label[:2] == pytest.approx([1.0, (0.7 + 1 / (1 + math.exp(-2))) / 2], rel=1e-14)
    assert np.isnan([soft.label[2], margin.label[2], margin.margin[0], margin.margin[2]]).all()
    assert margin.margin[1] == 2.0


def test_the_last_word_of_an_annotator_counts(files: OracleFiles) -> None:
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    write(files, "1.jsonl", said("p", 1, at=early), said("p", 0, "bo"), said("p", 0, at=late))
    assert ask(files, "p") == [0.0]
    write(files, "0.jsonl", said("p", 1, id="a"), said("p", 0, id="b"))  # a program's lines are in order
    write(files, "1.jsonl", said("p", 1, "bo"))
    assert ask(files, "p") == [0.5]


@pytest.mark.parametrize(
    ("files_", "places"),
    [
        ({"a": [said("q", 1), said("p", 1), said("p", 0, "bo"), said("p", 0)]}, ("a.jsonl:4", "a.jsonl:2")),
        ({"a": [said("p", 1)], "b": [said("q", 1), said("p", 0)]}, ("b.jsonl:2", "a.jsonl:1")),
        ({"a": [said("p", 1, id="a")], "b": [said("p", 0, id="b")]}, ("b.jsonl", "a.jsonl")),
        ({"a": [said("p", 1, id="a"), said("p", 0)]}, ("a.jsonl:2", "a.jsonl")),
    ],
)
def test_lines_of_one_person_without_a_time_must_not_contradict_each_other(
    files: OracleFiles, files_: dict[str, list[Any]], places: tuple[str, str]
) -> None:
    for name, lines in files_.items():
        write(files, f"{name}.jsonl", *lines)
    there, before = (files.annotations / place for place in places)
    wrong = f"{there}: ada says label 0 of pair 'p', but label 1 in {before}; take one out, or say `at` in both"
    with pytest.raises(DataError, match=re.escape(wrong)):
        ask(files, "p")


def test_a_pair_that_the_pool_does_not_have_is_named_with_its_line(
    files: OracleFiles, caplog: pytest.LogCaptureFixture
) -> None:
    write(files, "a.jsonl", said("p", 1), said("other", 0))
    assert ask(files, "p") == [1.0]
    write(files, "a.jsonl", said("p", 1), said("pair-O", 1))
    wrong = f"{files.annotations / 'a.jsonl'}:2: pair 'pair-O' is not in {files.pool / 'pairs.parquet'}; mend pair_id"
    with pytest.raises(DataError, match=re.escape(wrong)):
        ask(files, "p", "q")
    write(files, "a.jsonl", said("p", 1), said("gone", 1, id="x"), said("gone too", 1, id="y"))
    assert ask(files, "p") == [1.0]
    assert "2 answers are about pairs that are not in" in caplog.text  # written for another pool
    assert "the first is 'gone' in" in caplog.text


def test_a_pair_nobody_answered_stops_with_what_to_do(files: OracleFiles) -> None:
    write(files, "one.jsonl", said("p", 1), said("other", 1))
    with pytest.raises(LabelsPendingError) as caught:
        ask(files, "p", "q", "r")
    message = str(caught.value)
    assert message.startswith(f"2 of 3 pairs of {files.batch} wait for a label, the first is q: ")
    assert '{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}' in message
    assert "`bgpm annotate` asks for them on a page" in message
    assert message.endswith(f"{files.annotations}/); then run `dvc repro` again")
    assert caught.value.pairs == ("p", "q", "r")  # whoever is answered already belongs to the batch too


def test_a_pair_waits_until_enough_different_people_answered(files: OracleFiles) -> None:
    twice = Human(annotators_per_pair=2)
    queries = [Query(pair_id, 0) for pair_id in "pq"]
    write(files, "a.jsonl", said("p", 0), said("p", 0), said("q", 1), said("q", None, "bo"))
    with pytest.raises(
        LabelsPendingError, match=r"^1 of 2 pairs of .* wait for labels by 2 people each, the first is p"
    ):
        twice(queries, files)
    write(files, "b.jsonl", said("p", 0.5, "bo"))
    assert twice(queries, files).label.tolist() == [0.25, 1.0]


def test_without_any_file_everybody_waits(files: OracleFiles) -> None:
    with pytest.raises(LabelsPendingError, match="1 of 1 pairs"):
        ask(files, "p")
    (files.annotations / "README.md").write_text("not labels")
    files.annotations.joinpath("notes.json").write_text("{")
    assert folder_by_pair(files.annotations, "human") == {}
    assert folder_by_pair(files.annotations / "absent", "human") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not an annotation: expected pair_id, label, annotator; got list"),
        ("3", "not an annotation"),
        ("{}", "not an annotation: expected pair_id, label, annotator; got nothing"),
        ('{"label": 1}', "not an annotation: expected pair_id, label, annotator; got label"),
        ('{"pair_id": "p"}', "not an annotation"),
        (json.dumps(said("p", 2)), "label 2: expected a probability in [0, 1] (0.5 for a tie), or null; mend the line"),
        (json.dumps(said("p", -1)), "label -1: expected"),
        ('{"pair_id": "p", "label": true}', "label True: expected"),
        ('{"pair_id": "p", "label": "1"}', "label '1': expected"),
        ('{"pair_id": "p", "label": [1]}', "label [1]: expected"),
        ('{"pair_id": "p", "label": NaN}', "label nan: expected"),
        ('{"pair_id": 7, "label": 1}', "pair_id 7: expected text"),
        ('{"pair_id": ["p"], "label": 1}', "pair_id ['p']: expected text"),
        ('{"pair_id": "p", "label": 1, "cost": -1}', "cost -1: expected a number from 0 to"),
        (
            '{"pair_id": "p", "label": 1, "seconds": Infinity}',
            "seconds inf: expected a number from 0 to 86400, or null",
        ),
        ('{"pair_id": "p", "label": 1, "seconds": 1' + "0" * 400 + "}", "seconds 1"),
        ("[" * 100_000, "not JSON"),
        ('{"pair_id": "p", "label": 1, "shown": "aa"}', "shown 'aa': expected one of ab, ba"),
        ('{"pair_id": "p", "label": 1, "source": "crowd"}', "source 'crowd': expected one of recorded, judge, human"),
        ('{"pair_id": "p", "label": 1, "at": "yesterday"}', "at 'yesterday': expected a UTC time such as"),
        ('{"pair_id": "p", "label": 1, "at": "2026-01-01T00:00:00+02:00"}', "at '2026-01-01T00:00:00+02:00': expected"),
    ],
)
def test_a_broken_line_is_named_and_stops_everything(files: OracleFiles, line: str, message: str) -> None:
    write(files, "a.jsonl", said("p", 1), "", line, said("q", 1))
    place = f"{files.annotations / 'a.jsonl'}:3: "
    with pytest.raises(DataError, match=re.escape(place + message)):
        ask(files, "p", "q")


def test_a_file_that_is_not_utf8_is_named_with_its_line(files: OracleFiles) -> None:
    (files.annotations / "a.jsonl").write_bytes(
        json.dumps(said("p", 1)).encode() + b'\n{"pair_id": "\xe9", "label": 1}\n'
    )
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON"):
        ask(files, "p")


def test_windows_line_ends_blank_lines_and_separators_in_comments_do_no_harm(files: OracleFiles) -> None:
    comment = json.dumps(said("p", 1, comment="one\u2028two\x85three\x0cfour"), ensure_ascii=False)
    (files.annotations / "a.jsonl").write_bytes(f"\ufeff{comment}\r\n\r\n  \r\n{json.dumps(said('q', 0))}".encode())
    assert ask(files, "p", "q") == [1.0, 0.0]


def test_an_answer_without_a_name_is_one_anonymous_persons(files: OracleFiles) -> None:
    write(files, "a.jsonl", {"pair_id": "p", "label": 1}, {"pair_id": "p", "label": 1}, said("p", 0, "bo"))
    assert ask(files, "p") == [0.5]
    write(files, "b.jsonl", {"pair_id": "p", "label": 0})
    with pytest.raises(DataError, match=r"b\.jsonl:1: anonymous says label 0 .*, but label 1 in .*a\.jsonl:2;"):
        ask(files, "p")


def test_people_are_paid_and_one_pair_may_be_asked_twice(files: OracleFiles) -> None:
    assert Human().paid
    assert not Human().allow_many
    write(files, "a.jsonl", said("p", 1))
    assert ask(files, "p", "p") == [1.0, 1.0]


@pytest.mark.parametrize("key", ["price_per_label", "price_per_hour"])
@pytest.mark.parametrize("price", [math.inf, math.nan, -1.0])
def test_a_price_is_a_number(key: str, price: float) -> None:
    with pytest.raises(ConfigError, match=rf"oracles\.human\.{key}: Input should be"):
        build(Oracle, "human", {key: price}, "oracles")


def test_a_probability_counts_and_a_skipped_pair_is_answered_without_a_label(files: OracleFiles) -> None:
    write(files, "a.jsonl", said("p", 0.7), said("q", None), said("r", None), said("r", 0.2, "bo"))
    verdicts = Human()([Query(pair_id, 0) for pair_id in "pqr"], files)
    np.testing.assert_array_equal(verdicts.label, [0.7, np.nan, 0.2])
    assert verdicts.annotators.tolist() == [1, 0, 1]
    assert [len(some) for some in verdicts.annotations] == [1, 1, 2]


def test_across_files_the_later_answer_counts_and_one_without_a_time_is_the_earlier(files: OracleFiles) -> None:
    write(files, "a.jsonl", said("p", 1, at="2026-01-02T00:00:00Z"), said("q", 1, at="2026-01-02T09:00:00+00:00"))
    write(files, "b.jsonl", said("p", 0, at="2026-01-01T23:59:59Z"), said("q", 0))
    write(files, "c.jsonl", said("q", 0))
    assert ask(files, "p", "q") == [1.0, 1.0]


def test_what_a_judge_said_is_not_taken_for_a_persons_word(files: OracleFiles) -> None:
    write(files, "a.jsonl", said("p", 1), said("p", 0, "gpt", source="judge"), said("q", 0, "gpt", source="judge"))
    assert ask(files, "p") == [1.0]
    with pytest.raises(LabelsPendingError, match="1 of 2 pairs"):
        ask(files, "p", "q")


def test_each_file_of_annotations_is_read_once_a_call(files: OracleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    write(files, "one.jsonl", said("p", 1))
    write(files, "two.jsonl", said("q", 0))
    read: list[str] = []
    parse = store._parse
    monkeypatch.setattr(store, "_parse", lambda path, *more: read.append(path.name) or parse(path, *more))
    assert ask(files, "p", "q") == [1.0, 0.0]
    assert read == ["one.jsonl", "two.jsonl"]
