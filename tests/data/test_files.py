"""The same pairs from every format, and one clear error with its line from every broken file."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bgpm.data.files import hub_records, records
from bgpm.data.prepare import Prepared
from bgpm.errors import DataError

Run = Callable[..., Prepared]
Save = Callable[[Path, list[dict[str, Any]]], Path]
Make = Callable[..., list[dict[str, Any]]]

FORMATS = ["p.jsonl", "p.jsonl.gz", "p.json", "p.json.gz", "p.csv", "p.csv.gz", "p.parquet"]


def same(one: Prepared, other: Prepared) -> bool:
    """Whether tables and labels are equal to the last text and bit."""
    tables = [
        (a[name], b[name])
        for a, b in ((one.pool, other.pool), (one.benchmark, other.benchmark), (one.truth, other.truth))
        for name in a
    ]
    return all(
        left.keys() == right.keys()
        and all(np.array_equal(left[k], right[k], equal_nan=left[k].dtype == float) for k in left)
        for left, right in tables
    )


@pytest.mark.parametrize("name", FORMATS[1:])
def test_every_format_gives_the_same_pairs(name: str, tmp_path: Path, run: Run, save: Save, pool_records: Make) -> None:
    assert same(run(pool_records()), run(save(tmp_path / name, pool_records())))


def test_a_gzipped_parquet_file_gives_the_same_pairs(tmp_path: Path, run: Run, save: Save, pool_records: Make) -> None:
    packed = tmp_path / "p.parquet.gz"
    packed.write_bytes(gzip.compress(save(tmp_path / "p.parquet", pool_records()).read_bytes()))
    assert same(run(pool_records()), run(packed))


def test_a_datasets_folder_gives_the_same_pairs(tmp_path: Path, run: Run, pool_records: Make) -> None:
    data = datasets.Dataset.from_list(pool_records())
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "many"))
    plain = run(pool_records())
    assert same(plain, run(tmp_path / "one"))
    assert same(plain, run(tmp_path / "many"))
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test"):
        run(tmp_path / "many", split="dev")


def test_conversations_survive_parquet_and_datasets(tmp_path: Path, save: Save) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"chosen": talk, "rejected": [talk[0], {"role": "assistant", "content": "What?"}]}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "folder"))
    for path in (save(tmp_path / "p.parquet", rows), tmp_path / "folder"):
        assert [record for _, record in records(path, "train")] == rows


def test_a_folder_of_files_is_read_file_by_file(tmp_path: Path, run: Run, save: Save, pool_records: Make) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    save(folder / "b.csv", pool_records()[50:])
    save(folder / "a.jsonl.gz", pool_records()[:50])
    (folder / "notes.txt").write_text("not data")
    assert same(run(pool_records()), run(folder))


def test_line_separators_inside_a_text_do_not_break_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b\x85c"}\n\n{"prompt": "d"}\n', encoding="utf-8")
    assert list(records(path, "")) == [(f"{path}:1", {"prompt": "a\u2028b\x85c"}), (f"{path}:3", {"prompt": "d"})]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,chosen\nx,y\n")
    assert list(records(path, "")) == [(f"{path}:2", {"prompt": "x", "chosen": "y"})]


def test_a_csv_text_may_be_longer_than_the_default_limit(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt\n" + "x" * 200_000 + "\n")
    assert len(next(records(path, ""))[1]["prompt"]) == 200_000


GOOD = b'{"prompt": "p", "chosen": "x", "rejected": "y"}\n'


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("p.jsonl", GOOD + b'{"prompt": \n', r"p\.jsonl:2: malformed line, not JSON"),
        ("p.jsonl", GOOD + GOOD + b'["p"]\n', r"p\.jsonl:3: expected a JSON object, got list"),
        ("p.jsonl", GOOD + GOOD.replace(b"x", b"\xe9"), r"p\.jsonl:2: not UTF-8"),
        ("p.jsonl.gz", gzip.compress(GOOD * 99, mtime=0)[:-20], r"p\.jsonl\.gz: damaged gzip file"),
        ("p.jsonl.gz", GOOD, r"p\.jsonl\.gz: damaged gzip file"),
        ("p.json", GOOD + GOOD, r"p\.json: not JSON"),
        ("p.json", b'{"a": 1}', r"p\.json: expected a list"),
        ("p.csv", b'prompt,chosen,rejected\n"a\nb",x,y\np,x\n', r"p\.csv:4: malformed line: expected 3 fields"),
        ("p.jsonl", GOOD + b"[" * 20_000, r"p\.jsonl:2: malformed line, not JSON"),
        ("p.csv", b"prompt,chosen,rejected,chosen\np,x,y,z\n", r"p\.csv:1: column 'chosen' stands more than once"),
        ("p.csv", b"prompt,chosen,rejected\np,x,y,z\n", r"p\.csv:2: malformed line: expected 3 fields"),
        ("p.csv", b'prompt,chosen,rejected\np,"x,y\n', r"p\.csv:\d: malformed line"),
        ("p.csv", b"prompt,chosen,rejected\np,\xff,y\n", r"p\.csv:2: not UTF-8"),
        ("p.parquet", b"PAR1 no", r"p\.parquet: not a readable parquet"),
        ("p.txt", GOOD, r"p\.txt: unknown format '\.txt'; expected \.jsonl"),
    ],
)
def test_a_broken_file_is_one_error_with_its_line(
    name: str, content: bytes, complaint: str, tmp_path: Path, run: Run
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        run(tmp_path / name)


HEADER = "prompt,chosen,rejected\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEADER + 'q,a,b\nq,"a" it said,b\nq,a,b\n', ":3: malformed line: ',' expected"),
        (HEADER + 'q,"a\na",b\nq,"a,b\nq,a,b\n', ":4: malformed line: unexpected end"),
        ('prompt,"chosen,rejected\nq,a,b\n', ":1: malformed line"),
        ((HEADER + "q,a,b\n").replace("\n", "\r"), ":1: malformed line: a line ends with CR alone"),
        ("sep=;\nprompt;chosen;rejected\nq;a\n", ":3: malformed line: expected 3 fields"),
    ],
)
def test_an_error_of_a_table_names_the_line_where_the_bad_row_begins(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode())
    with pytest.raises(DataError, match=re.escape(f"{path}{place}")):
        list(records(path, ""))


def test_the_delimiter_that_excel_writes_above_the_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\nprompt;chosen;rejected\r\nq;a, b;c\r\n")
    assert list(records(tmp_path / "p.csv", "")) == [
        (f"{tmp_path}/p.csv:3", {"prompt": "q", "chosen": "a, b", "rejected": "c"})
    ]


NO_UTF8 = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("x", NO_UTF8, "rows 0 to 0: column 'x' cannot be read: 'utf-8'"),
        ("x", pa.array([10**13], pa.timestamp("s")), "rows 0 to 0: column 'x' cannot be read: date value"),
        ("q", pa.array(["b"]), "column 'q' stands more than once"),
    ],
)
def test_a_parquet_file_with_what_python_cannot_hold_is_one_error(
    tmp_path: Path, name: str, column: Any, message: str
) -> None:
    pq.write_table(pa.table([pa.array(["a"]), column], ["q", name]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=rf"p\.parquet: {message}"):
        list(records(tmp_path / "p.parquet", ""))


def test_a_missing_file_and_an_empty_folder_are_errors(tmp_path: Path, run: Run) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        run(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none of these"):
        run(tmp_path / "empty")


def test_a_hub_data_set_that_cannot_be_had_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, **_: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        DataError, match=r"'no/such', config None, split 'train', revision None: cannot be read: offline"
    ):
        list(hub_records("no/such", "train"))


def test_a_hub_data_set_takes_the_place_of_the_path(
    monkeypatch: pytest.MonkeyPatch, run: Run, pool_records: Make
) -> None:
    asked = []

    def load(path: str, name: str | None, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list(pool_records())

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert same(
        run(Path("nowhere"), hub="some/pool", split="train_prefs", config="b", revision="v1"), run(pool_records())
    )
    assert asked == [("some/pool", "b", "train_prefs", "v1")]
