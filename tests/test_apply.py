"""Rows for score, rank and export are read as a pool's are, without any model."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from conftest import write_jsonl

from bgpm.apply import add_score, read
from bgpm.errors import ConfigError, DataError

ROW = {"question": "why", "left": [{"role": "assistant", "content": "x", "mood": "fine"}], "right": "y", "verdict": "L"}


def given(file: Path, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_score(parser)
    return parser.parse_args([str(file), "--model", "m", *options])


def test_columns_keys_and_labels_are_named_as_in_the_parameters(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", [ROW])
    named = ["--columns", "{prompt: question, response_a: left, response_b: right, label: verdict}"]
    with pytest.raises(DataError, match="expected columns"):
        read(given(file))
    with pytest.raises(DataError, match="mood"):
        read(given(file, *named))
    options = [*named, "--ignore-keys", "[mood]", "--labels", "{a: [L], b: [R]}"]
    (entry,) = read(given(file, *options))
    assert entry.choice.prompt == (("user", "why"),)
    assert entry.choice.responses == ("x", "y")
    assert entry.columns == ROW


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "{prompt: question"], "--columns: is not YAML"),
        (["--columns", "[" * 1000], "--columns: is not YAML: nested"),
        (["--columns", "question"], "options: columns: Input should be a valid dictionary, got 'question'"),
        (["--columns", "{question: prompt}"], "options: columns.question"),
        (["--ignore-keys", "{mood: 1}"], "options: ignore_keys"),
        (["--labels", "{c: [L]}"], "options: labels.c"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(given(write_jsonl(tmp_path / "f.jsonl", [ROW]), *options))
    assert message in str(error.value)
