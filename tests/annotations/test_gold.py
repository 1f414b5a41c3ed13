"""Gold pairs: any layout that the readers know, with a label that decides, and none that the pool has."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bgpm.annotations.checks import Check, checks_of
from bgpm.annotations.choices import annotation_of
from bgpm.annotations.gold import gold_of, outside
from bgpm.annotations.store import LabelStore, folder_by_pair
from bgpm.errors import ConfigError, DataError, MissingLabelError
from bgpm.oracles import Oracle
from bgpm.oracles.human import Human
from bgpm.registry import build


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pair(prompt: str, a: str = "good", b: str = "bad", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response_a": a, "response_b": b, **more}


def better(path: str, **reading: Any) -> dict[str, str]:
    """The better response by prompt."""
    return {g.turns[-1][1]: g.response_a if g.label else g.response_b for g in gold_of(path, **reading)}


def test_gold_pairs_are_read_in_the_layouts_of_pools(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gold.jsonl",
        pair("one", label=1),
        pair("two", label=0),
        {"prompt": "three", "chosen": "yes", "rejected": "no"},
        {"prompt": "four", "responses": ["x", "y"], "ranks": [2, 1]},
    )
    assert better(path) == {"one": "good", "two": "bad", "three": "yes", "four": "y"}
    odd = write(tmp_path / "odd.jsonl", {"q": "one", "l": "good", "r": "bad", "who": "R"})
    reading = {"prompt": "q", "response_a": "l", "response_b": "r", "label": "who"}
    assert better(odd, columns=reading, labels={"a": ["L"], "b": ["R"], "tie": ["="]}) == {"one": "bad"}
    with pytest.raises(ConfigError, match=r"oracles\.human\.gold\.columns\.prompts"):
        gold_of(odd, {"prompts": "q"})


def test_a_gold_pair_is_the_same_whatever_its_order_in_the_file(tmp_path: Path) -> None:
    one = gold_of(write(tmp_path / "a.jsonl", pair("p", label=1)))
    other = gold_of(write(tmp_path / "b.jsonl", pair("p", "bad", "good", label=0)))
    assert (one[0].name, one[0].label, one[0].response_a) == (other[0].name, other[0].label, other[0].response_a)


def test_what_cannot_be_gold_is_refused_with_its_place_or_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gold.jsonl"
    with pytest.raises(MissingLabelError, match=rf"{path}:2: no label, like 1 of 2 gold pairs"):
        gold_of(write(path, pair("p", label=1), pair("q")))
    with pytest.raises(DataError, match=rf"{path}:\d: this gold pair is in .* with different labels"):
        gold_of(write(path, pair("p", label=1), pair("p", "bad", "good", label=1)))
    with pytest.raises(DataError, match="no gold pair: expected pairs of which one response is better"):
        gold_of(write(path, pair("p", label=0.5)))
    with pytest.raises(DataError, match=r"no\.jsonl"):
        gold_of(str(tmp_path / "no.jsonl"))
    caplog.set_level(logging.WARNING, "bgpm")
    rows = [pair("p", label=1), pair("q", label=0.5), pair("r", "same", "same", label=1)]
    assert len(gold_of(write(path, *rows))) == 1
    assert "1 rows have two identical responses and are no gold pairs" in caplog.text
    assert "1 rows have no better response and are no gold pairs" in caplog.text


def test_a_pair_of_the_pool_is_no_gold_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gold = gold_of(write(tmp_path / "gold.jsonl", pair("p", label=1), pair("q", label=1)))
    kept = next(g for g in gold if g.turns[-1][1] == "q")
    caplog.set_level(logging.WARNING, "bgpm")
    assert outside(gold, {g.key for g in gold} - {kept.key}) == [kept]
    assert (
        f"1 of 2 gold pairs are pairs of the pool too and are not used as gold, the first is {tmp_path}" in caplog.text
    )
    assert outside(gold, set()) == gold


def test_a_share_of_gold_pairs_needs_a_file_and_is_small() -> None:
    with pytest.raises(ConfigError, match=r"oracles\.human\.gold\.share: above 0, and gold\.path names no file"):
        Human(gold={"share": 0.1}).check(Path())
    for key, value in (("gold", {"share": 0.3}), ("repeats", {"share": -0.1}), ("repeats", {"after": 2})):
        with pytest.raises(ConfigError, match=rf"oracles\.human\.{key}\.{next(iter(value))}: Input should be"):
            build(Oracle, "human", {key: value}, "oracles")


def test_a_check_is_never_read_as_an_annotation(tmp_path: Path) -> None:
    path = tmp_path / "checks/people.jsonl"
    store = LabelStore(path, Check)
    first = Check("p", 1.0, "ada", "2026-01-01T00:00:00+00:00", kind="repeat", batch="seed set")
    store.append(first)
    assert checks_of([LabelStore(path, Check)]) == [first]
    store.undo(first.id, "ada")
    assert checks_of([LabelStore(path, Check)]) == []
    assert folder_by_pair(tmp_path, "human") == {}
    (tmp_path / "copied.jsonl").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"copied\.jsonl:1: an annotation with kind 'repeat' is a check"):
        folder_by_pair(tmp_path, "human")
    with pytest.raises(DataError, match="an annotation with kind 'gold' is a check"):
        annotation_of({"pair_id": "p", "label": 1, "kind": "gold"})
    assert annotation_of({"pair_id": "p", "label": 1, "kind": "another tool's word"}).label == 1
    path.write_text('{"pair_id": "p", "label": 1, "kind": "other"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"people\.jsonl:1: kind 'other': expected one of gold, repeat, changed"):
        checks_of([LabelStore(path, Check)])
