"""JSON and YAML that were damaged, or meant to do harm, are one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import damage
import numpy as np
import pytest
from conftest import ROOT

from bgpm.config import check
from bgpm.data.files import json_lines
from bgpm.data.tables import read_array
from bgpm.errors import BgpmError, DataError, StateError
from bgpm.stage import read_params
from bgpm.values import parse_json, parse_yaml, read_json

DEEP = ["[" * 100_000, '{"a":' * 100_000, "- " * 5_000 + "a", "{" * 200 + "}" * 200]


@pytest.mark.parametrize("text", DEEP)
def test_nesting_without_end_is_refused_and_ends_no_process(text: str, tmp_path: Path) -> None:
    """Python's reader of YAML ends in a RecursionError, libyaml's with the process: so in one of its own."""
    (tmp_path / "f").write_text(text, encoding="utf-8")
    script = (
        "import sys; from bgpm.values import parse_yaml\n"
        "try: parse_yaml(open(sys.argv[1]).read())\n"
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "f")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert done.stdout.count("nested more than 100 levels, at line 1") == 1
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting|delimiter"):
        parse_json(text)


def test_a_key_that_stands_twice_is_refused_and_the_same_key_in_two_places_is_not() -> None:
    for text in ('{"a": 1, "a": 2}', '[{"b": {"a": 1, "c": 2, "a": 1}}]'):
        with pytest.raises(ValueError, match="the key 'a' stands twice"):
            parse_json(text)
        with pytest.raises(ValueError, match=r'^found duplicate key "a", at line 1$'):
            parse_yaml(text)
    once = {"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}
    assert parse_json(json.dumps(once)) == parse_yaml(json.dumps(once)) == once
    merged = "x: &x {a: 1}\ny: {<<: *x, a: 2}"
    assert parse_yaml(merged)["y"] == {"a": 2}


def test_a_row_that_says_a_column_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "a", "label": 1, "label": 0}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"f\.jsonl:2: .*the key 'label' stands twice"):
        list(json_lines(path))


def test_a_file_of_an_earlier_step_is_an_object_or_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    whole = json.dumps({"kind": "x", "values": [1.0, 2.0]}).encode()
    for what, content in [*damage.contents(whole), ("a list", b"[1]"), ("null", b"null")]:
        path.write_bytes(content)
        said = damage.refusal(lambda: read_json(path), StateError)
        if said is None:  # another letter within a word: only a digest can tell
            assert what.startswith("another byte"), what
            continue
        assert "f.json: " in said, said
        assert "dvc repro" in said, said
    path.write_bytes(whole)
    assert read_json(path) == {"kind": "x", "values": [1.0, 2.0]}


def test_a_table_of_numbers_is_whole_or_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "responses.npy"
    np.save(path, np.arange(12.0, dtype=np.float32).reshape(3, 4))
    whole = path.read_bytes()
    assert read_array(path).shape == read_array(path, mapped=True).shape == (3, 4)
    contents = [(what, content) for what, content in damage.contents(whole) if what != "twice"]
    for array in (np.array([{"a": 1}], object), np.arange(3), np.float32(1)):
        np.save(path, array, allow_pickle=True)
        contents.append((str(array), path.read_bytes()))
    for what, content in contents:
        path.write_bytes(content)
        for mapped in (False, True):
            said = damage.refusal(lambda mapped=mapped: read_array(path, mapped=mapped), StateError)
            assert said is not None or what.startswith("another byte at "), what
            assert "responses.npy: cannot be read" in (said or "responses.npy: cannot be read"), said


def test_parameters_that_are_damaged_are_taken_or_refused_in_few_words(tmp_path: Path) -> None:
    raw = read_params(ROOT / "params.yaml")
    every = list(damage.values(raw))
    for what, changed in every[:: max(1, len(every) // 150)]:
        said = damage.refusal(lambda changed=changed: check(changed), BgpmError)
        assert said is None or ("params.yaml: " in said and len(said) < 2000), (what, said)
    path = tmp_path / "params.yaml"
    for what, content in damage.contents((ROOT / "params.yaml").read_bytes()):
        path.write_bytes(content)
        said = damage.refusal(lambda: check(read_params(path)), BgpmError)
        assert "params.yaml: " in (said or "params.yaml: "), (what, said)
        assert said is not None or what.startswith(("another byte at ", "0.99")), what  # within a comment


def test_aliases_that_would_fill_the_memory_are_shown_in_few_words() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        bomb += f"{name}: &{name} [{', '.join(9 * ['*' + before])}]\n"
    value = parse_yaml(bomb)
    said = damage.refusal(lambda: check(read_params(ROOT / "params.yaml") | {"seeds": [value["j"]]}), BgpmError)
    assert said is not None
    assert len(said) < 2000
