"""Rows for score, rank and export are read as a pool's are, without any model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from bgpm.apply import _preference, add_score, read
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
        (["--blank", "hide"], "options: blank"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(given(write_jsonl(tmp_path / "f.jsonl", [ROW]), *options))
    assert message in str(error.value)


PAIR = {"prompt": "why", "response_a": "x", "response_b": "y"}


def test_a_folder_is_read_by_its_split_and_configuration(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "split" / "train.jsonl", [PAIR])
    write_jsonl(tmp_path / "split" / "test.jsonl", [PAIR | {"prompt": "how"}])
    assert [entry.choice.prompt[0][1] for entry in read(given(tmp_path / "split"))] == ["why"]
    assert [entry.choice.prompt[0][1] for entry in read(given(tmp_path / "split", "--split", "test"))] == ["how"]
    with pytest.raises(DataError, match=r"no file of split 'dev'.*--split"):
        read(given(tmp_path / "split", "--split", "dev"))

    folder = tmp_path / "configs"
    write_jsonl(folder / "en.jsonl", [PAIR])
    write_jsonl(folder / "de.jsonl", [PAIR | {"prompt": "warum"}])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- {config_name: en, data_files: en.jsonl}\n- {config_name: de, data_files: de.jsonl}\n---\n"
    )
    with pytest.raises(DataError, match=r"several configurations.*--config.* de, en"):
        read(given(folder))
    assert [entry.choice.prompt[0][1] for entry in read(given(folder, "--config", "de"))] == ["warum"]


def test_class_labels_of_a_saved_data_set_are_read_as_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    words = Features(dict.fromkeys(PAIR, Value("string")) | {"label": ClassLabel(names=["b", "a"])})
    Dataset.from_list([PAIR | {"label": 1}], features=words).save_to_disk(tmp_path / "saved")
    (entry,) = read(given(tmp_path / "saved"))
    assert entry.columns == PAIR | {"label": "a"}


def test_blank_responses_are_kept_left_out_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", [PAIR, PAIR | {"response_b": "\u200b"}])
    assert len(read(given(file))) == 2
    assert "row with a blank response, kept: 1, first at" in capsys.readouterr().err
    assert len(read(given(file, "--blank", "drop"))) == 1
    assert "row with a blank response left out: 1, first at" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"f\.jsonl:2: .*set --blank to keep or drop such rows"):
        read(given(file, "--blank", "refuse"))
    alone = write_jsonl(tmp_path / "g.jsonl", [PAIR | {"response_b": ""}])
    with pytest.raises(DataError, match="no row in it, but for those left out"):
        read(given(alone, "--blank", "drop"))


def test_a_files_format_is_told_by_its_ending_in_any_case(tmp_path: Path) -> None:
    for name, mark in (("f.CSV", ","), ("f.tsv", "\t")):
        (tmp_path / name).write_text(f"{mark.join(PAIR)}\n{mark.join(PAIR.values())}\n")
    assert read(given(tmp_path / "f.CSV"))[0].columns == PAIR
    with pytest.raises(DataError, match=r"f\.tsv:1: malformed line, not JSON: .* ends in \.json, \.csv, \.parquet"):
        read(given(tmp_path / "f.tsv"))


def test_a_column_of_texts_that_is_not_there_is_refused_and_one_of_labels_passed_over(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", [PAIR | {"question": "how"}])
    for ours in ("prompt", "system", "tools", "response_a"):
        with pytest.raises(DataError, match=r"no column 'typo', which pool\.columns \(--columns\) names; .* question"):
            read(given(file, "--columns", f"{{{ours}: typo}}"))
    unused = "{label: typo, margin: typo, id: typo, split: typo, score_chosen: typo}"
    assert [
        entry.choice.prompt[0][1]
        for entry in read(given(write_jsonl(tmp_path / "g.jsonl", [PAIR]), "--columns", unused))
    ] == ["why"]


ASK, SAY = {"role": "user", "content": "why"}, [{"role": "assistant", "content": "x"}]
TOOLS = [{"type": "function", "function": {"name": "find"}}]


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"prompt": [ASK], "chosen": SAY, "rejected": "y", "tools": TOOLS}, []),
        ({"prompt": [ASK], "chosen": SAY, "rejected": "y", "mine": TOOLS}, ["--columns", "{tools: mine}"]),
        ({"input": {"messages": [ASK], "tools": TOOLS}, "preferred_output": SAY, "non_preferred_output": SAY}, []),
    ],
)  # fmt: skip
def test_tools_that_the_model_saw_are_exported(tmp_path: Path, columns: dict[str, Any], options: list[str]) -> None:
    (entry,) = read(given(write_jsonl(tmp_path / "f.jsonl", [columns]), *options))
    assert "find" in entry.choice.prompt[0][1]
    row = _preference(entry, 0, 1, chat=True)
    assert (row["tools"], row["prompt"]) == (TOOLS, [ASK])


def test_what_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read(given(tmp_path / "none"))
