"""Tables as parquet: what is written is what is read, and a damaged file is said to be one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bgpm.data.tables import as_pairs, concatenate, read_table, rows_of, where, write_table
from bgpm.errors import StateError

TABLE = {
    "pair_id": np.array(["a", "ü", "\u2028", ""], object),
    "response_a": np.array([3, 0, 2, 1]),
    "label": np.array([1.0, np.nan, 0.5, 0.0]),
    "known": np.array([True, False, True, True]),
}


def test_columns_come_back_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "t.parquet"
    write_table(path, TABLE)
    back = read_table(path)
    assert list(back) == list(TABLE)
    for name, column in TABLE.items():
        assert back[name].dtype == column.dtype
        np.testing.assert_array_equal(back[name], column)
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_only_the_columns_asked_for_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", TABLE)
    assert list(read_table(tmp_path / "t.parquet", ["label", "pair_id"])) == ["label", "pair_id"]


def test_the_same_table_is_the_same_bytes(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    write_table(tmp_path / "b.parquet", {name: list(column) for name, column in TABLE.items()})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_absent_or_damaged_file_or_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(StateError, match=r"t\.parquet: cannot be read .*run `dvc repro` or `dvc checkout`"):
        read_table(path)
    write_table(path, TABLE)
    with pytest.raises(StateError, match=r"t\.parquet: no column margin, value; it has "):
        read_table(path, ["label", "value", "margin"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StateError, match=r"t\.parquet: cannot be read"):
        read_table(path)
    path.write_bytes(b"")
    with pytest.raises(StateError, match=r"t\.parquet: cannot be read"):
        read_table(path)


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, TABLE)
    before = path.read_bytes()
    path.with_name("t.parquet.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_table(path, concatenate([TABLE] * 5000))
    assert path.read_bytes() == before


def test_tables_of_no_rows_survive(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", where(TABLE, np.zeros(4, bool)))
    back = read_table(tmp_path / "t.parquet")
    assert {name: len(column) for name, column in back.items()} == dict.fromkeys(TABLE, 0)
    assert len(concatenate([back, TABLE])["pair_id"]) == 4


def test_tables_are_stacked_and_cut_row_by_row() -> None:
    both = concatenate([TABLE, where(TABLE, np.array([2, 0]))])
    assert both["response_a"].tolist() == [3, 0, 2, 1, 2, 3]
    assert where(both, both["known"])["pair_id"].tolist() == ["a", "\u2028", "", "\u2028", "a"]


def test_rows_are_found_by_id_and_a_strange_id_is_named() -> None:
    ids = np.array(["c", "a", "b"], object)
    rows = rows_of(ids, np.array(["b", "c", "b"], object), "pairs.parquet")
    assert rows.tolist() == [2, 0, 2]
    assert rows.dtype == np.int64
    assert rows_of(ids, np.array([], object), "pairs.parquet").tolist() == []
    with pytest.raises(StateError, match=r"pairs\.parquet: no row with id 'd'; the file belongs to another pool"):
        rows_of(ids, np.array(["a", "d"], object), "pairs.parquet")


def test_the_index_columns_become_pairs() -> None:
    pairs = as_pairs(
        {"response_a": np.array([0, 1], np.int32), "response_b": [2, 3], "prompt": np.array([0, 0]), "more": None}
    )
    assert (pairs.response_a.dtype, pairs.response_b.tolist()) == (np.int64, [2, 3])


def test_columns_of_an_older_run_are_read_under_their_new_names_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pairs.parquet"
    write_table(path, {"pair_id": ["p"], "first": np.array([3]), "second": np.array([4]), "prompt": np.array([0])})
    for columns in (["response_b", "pair_id"], None, ["prompt"]):
        found = read_table(path, columns)
        assert list(found) == (columns or ["pair_id", "response_a", "response_b", "prompt"])
        assert found.get("response_b", [4]) == [4]
    assert caplog.messages == [
        f"{path}: an older run wrote it; first is read as response_a, second is read as response_b"
    ]
    with pytest.raises(StateError, match="no column first; it has pair_id, response_a, response_b, prompt"):
        read_table(path, ["first"])
