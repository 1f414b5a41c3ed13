"""Records of a file, a folder or a hub data set, each with the place it came from.

Places are ``file:line`` for text and ``file: row n`` for tables, so that every complaint about the
data can be followed to where it is wrong.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bgpm.errors import DataError

Record = tuple[str, dict[str, Any]]  # place, columns

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


def records(path: Path, split: str) -> Iterator[Record]:
    """Records of whatever lies at ``path``; ``split`` is read for a `datasets` folder only.

    Raises:
        DataError: If nothing lies there, the format is unknown, or a line cannot be read.
    """
    if path.is_dir():
        yield from _folder(path, split)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder; set pool.path or benchmark.path, or name a hub data set")
    else:
        yield from _READERS[_format(path)](path)


def hub_records(name: str, split: str) -> Iterator[Record]:
    """Records of one split of a Hugging Face data set; the only place that uses the network.

    Raises:
        DataError: If the data set or the split cannot be had.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        data = load_dataset(name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"hub data set {name!r}, split {split!r}: cannot be read: {error}") from error
    for number, record in enumerate(data):
        yield f"{name}[{split}]: row {number}", dict(record)


def json_lines(path: Path) -> Iterator[Record]:
    """Objects of a JSONL file; blank lines are passed over.

    Raises:
        DataError: Naming file and line of what is not UTF-8, not JSON or not an object.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: malformed line, not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
        yield f"{path}:{number}", record


def _format(path: Path) -> str:
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in _READERS:
        raise DataError(f"{path}: unknown format {kind!r}; expected {', '.join(FORMATS)}, each also with .gz")
    return kind


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, split at line feeds only: U+2028 and its like may stand inside a text."""
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from None


def _json(path: Path) -> Iterator[Record]:
    try:
        whole = json.loads("".join(_lines(path)))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; a file with one object a line is called .jsonl") from None
    if not isinstance(whole, list) or not all(isinstance(record, dict) for record in whole):
        raise DataError(f"{path}: expected a list of JSON objects")
    for number, record in enumerate(whole):
        yield f"{path}: row {number}", record


def _csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if twice:
            raise DataError(f"{path}:1: column {twice[0]!r} stands more than once in the header; rename or drop one")
        for record in reader:
            place = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                fields = len(reader.fieldnames or [])
                raise DataError(f"{place}: malformed line: expected {fields} fields, as in the header")
            yield place, record
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: malformed line: {error}") from None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _open(path) as file:
            source = pa.BufferReader(file.read()) if path.name.endswith(".gz") else file
            for batch in pq.ParquetFile(source).iter_batches(4096):
                for record in batch.to_pylist():
                    yield f"{path}: row {number}", record
                    number += 1
    except (pa.ArrowException, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None


def _folder(path: Path, split: str) -> Iterator[Record]:
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        yield from _saved_data_set(path, split)
        return
    files = [file for file in sorted(path.iterdir()) if Path(file.name.removesuffix(".gz")).suffix.lower() in _READERS]
    if not files:
        raise DataError(
            f"{path}: expected a corpus (with annotators.yaml), a folder saved by `datasets`, or files ending in "
            f"{', '.join(FORMATS)}; found none of these"
        )
    for file in files:
        yield from _READERS[_format(file)](file)


def _saved_data_set(path: Path, split: str) -> Iterator[Record]:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable `datasets` folder: {error}") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise DataError(f"{path}: no split {split!r}; it has {', '.join(map(str, data))}")
        data = data[split]
    for number, record in enumerate(data):
        yield f"{path}: row {number}", dict(record)


_READERS = {".jsonl": json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
