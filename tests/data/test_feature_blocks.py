"""Which columns are whose, on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bgpm.data.feature_blocks import read_blocks, write_blocks
from bgpm.data.tables import iterate_table, read_table, read_table_rows, write_table
from bgpm.errors import StateError
from bgpm.types import FeatureBlock


def test_blocks_are_read_as_they_were_written_and_older_features_have_none(tmp_path: Path) -> None:
    assert read_blocks(tmp_path) == ()
    blocks = (FeatureBlock("states", 0, 4), FeatureBlock("rich", 4, 25))
    write_blocks(tmp_path, blocks)
    assert read_blocks(tmp_path) == blocks


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"name": 1, "start": 0, "stop": 2}]', '[{"name": "a"}]', "3"])
def test_a_damaged_list_of_blocks_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "blocks.json").write_text(text, encoding="utf-8")
    with pytest.raises(StateError, match=r"blocks\.json: is no list of blocks .*run `dvc repro features`"):
        read_blocks(tmp_path)


def test_rows_read_a_batch_at_a_time_are_those_of_the_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, {"n": np.arange(50), "text": [f"text {n}" for n in range(50)]})
    whole = read_table(path)
    for rows in (np.array([], np.int64), np.array([0, 6, 7, 13, 49]), np.arange(50)):
        some = read_table_rows(path, ["text", "n"], rows, size=7)
        np.testing.assert_array_equal(some["n"], rows)
        assert some["text"].tolist() == whole["text"][rows].tolist()
    assert [len(batch["n"]) for batch in iterate_table(path, ["n"], 20)] == [20, 20, 10]
    with pytest.raises(StateError, match="no column colour"):
        list(iterate_table(path, ["colour"], 20))
    with pytest.raises(StateError, match="cannot be read"):
        list(iterate_table(tmp_path / "none.parquet", ["n"], 20))
