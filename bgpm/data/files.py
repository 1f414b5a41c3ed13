"""Records of a file, a folder or a hub data set, each with the place it came from.

Places are ``file:line`` for text and ``file: row n`` for tables, so that every complaint about the
data can be followed to where it is wrong.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import io
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpm.errors import DataError
from bgpm.values import parse_json, parse_yaml

Record = tuple[str, dict[str, Any]]  # place, columns

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


# Words in a file's name that say which split it holds, as the `datasets` library reads them.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Limits:
    """How much of a file is read before it is refused.

    Attributes:
        line: Bytes of a line.
        file: Bytes of a file, unpacked.
    """

    line: int = 16 * 2**20
    file: int = 16 * 2**30


Skip = Callable[[DataError], None]


def records(
    path: Path, split: str, config: str | None = None, limits: Limits | None = None, skip: Skip | None = None
) -> Iterator[Record]:
    """Records of whatever lies at ``path``.

    Args:
        split: Of a folder whose files or parts name it.
        config: Of a folder whose README lists several configurations.
        skip: Told of a line that cannot be read, where such lines may be passed over.

    Raises:
        DataError: If nothing lies there, the format is unknown, or a line cannot be read.
    """
    limits = limits or Limits()
    if path.is_dir():
        yield from _folder(path, split, config, limits, skip)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder; set pool.path or benchmark.path, or name a hub data set")
    else:
        yield from _of_file(path, limits, skip)


def _of_file(path: Path, limits: Limits, skip: Skip | None = None) -> Iterator[Record]:
    if not path.is_file():
        raise DataError(f"{path}: not a regular file (a device or a pipe); copy the data into a file")
    reader = _READERS[_format(path)]
    return json_lines(path, limits, skip) if reader is json_lines else reader(path, limits)


def hub_records(name: str, split: str, config: str | None = None, revision: str | None = None) -> Iterator[Record]:
    """Records of one split of a Hugging Face data set; the only place that uses the network.

    Raises:
        DataError: If the data set or the split cannot be had.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        data = load_dataset(name, name=config, split=split, revision=revision)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"hub data set {name!r}, config {config!r}, split {split!r}, revision {revision!r}: cannot be read: {error}"
        ) from error
    yield from _of_data_set(data, f"{name}[{split}]: row")


def json_lines(path: Path, limits: Limits | None = None, skip: Skip | None = None) -> Iterator[Record]:
    """Objects of a JSONL file; blank lines are passed over.

    Args:
        skip: Told of a line that is no JSON object, which is then passed over.

    Raises:
        DataError: Naming file and line of what is not UTF-8, not JSON or not an object.
    """
    for number, line in enumerate(_lines(path, limits or Limits()), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", _object(line, f"{path}:{number}", suffix_of(path))
        except DataError as error:
            if skip is None:
                raise
            skip(error)


def _object(line: str, place: str, suffix: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        other = "" if suffix in FORMATS else f"; a file of another kind than JSONL ends in {', '.join(FORMATS[1:])}"
        raise DataError(f"{place}: malformed line, not JSON: {error}{other}") from None
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected a JSON object, got {type(record).__name__}")
    return record


def suffix_of(path: Path) -> str:
    """How a file's name ends, in lower case and without .gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _format(path: Path) -> str:
    kind = suffix_of(path)
    if kind not in _READERS:
        raise DataError(f"{path}: unknown format {kind!r}; expected {', '.join(FORMATS)}, each also with .gz")
    return kind


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _lines(path: Path, limits: Limits) -> Iterator[str]:
    """Lines with their ends, split at line feeds only: U+2028 and its like may stand inside a text."""
    number = size = 0
    try:
        with _open(path) as file:
            while raw := file.readline(limits.line + 1):
                number += 1
                size += len(raw)
                if len(raw) > limits.line:
                    raise DataError(
                        f"{path}:{number}: a line of more than {limits.line / 2**20:g} MiB; is it one record a line? "
                        "pool.max_line_mib raises the limit"
                    )
                if size > limits.file:
                    raise _too_large(path, limits)
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from None


def _too_large(path: Path, limits: Limits) -> DataError:
    return DataError(
        f"{path}: more than {limits.file / 2**30:g} GiB unpacked; pool.max_file_gib raises the limit, pool.limit takes "
        "a sample of what is read"
    )


def _json(path: Path, limits: Limits) -> Iterator[Record]:
    try:  # one line may hold the whole list
        whole = parse_json("".join(_lines(path, Limits(limits.file, limits.file))))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; a file with one object a line is called .jsonl") from None
    if not isinstance(whole, list) or not all(isinstance(record, dict) for record in whole):
        found = f"an object with {', '.join(list(whole)[:5])}" if isinstance(whole, dict) else type(whole).__name__
        raise DataError(f"{path}: expected a list of JSON objects, got {found}; take the list out of its wrapper")
    for number, record in enumerate(whole):
        yield f"{path}: row {number}", record


def _csv(path: Path, limits: Limits) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    lines = _lines(path, limits)
    header, above = next(lines, ""), 0
    given = re.fullmatch(r"\"?sep=(.)\"?\r?\n?", header)  # as Excel has it above the header
    if given:
        header, above = next(lines, ""), 1
    last = above  # line of the last record that could be read
    try:
        delimiter = given[1] if given else _delimiter(header)
        reader = csv.DictReader(_chained(header, lines), strict=True, delimiter=delimiter)
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if twice:
            raise _twice(f"{path}:{above + 1}", twice[0])
        last = reader.reader.line_num + above
        for record in reader:
            place = f"{path}:{reader.line_num + above}"
            if None in record or None in record.values():
                fields = len(reader.fieldnames or [])
                raise DataError(
                    f"{place}: malformed line: expected {fields} fields, as in the header, with {delimiter!r} between"
                )
            last = reader.reader.line_num + above
            yield place, record
    except csv.Error as error:
        said = "a line ends with CR alone: save the file as CSV UTF-8" if "new-line" in str(error) else error
        raise DataError(f"{path}:{last + 1}: malformed line: {said}") from None


def _twice(place: str, column: str) -> DataError:
    return DataError(f"{place}: column {column!r} stands more than once in the header; rename or drop one")


def _chained(first: str, rest: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _delimiter(header: str) -> str:
    """What stands between the fields of a header: the one of these that makes most of it; a comma where none does."""

    def fields(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(header), delimiter=delimiter), []))

    return max(",;\t|", key=lambda delimiter: (fields(delimiter), delimiter == ","))


def _parquet(path: Path, limits: Limits) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _open(path) as file:
            source = pa.BufferReader(_unpacked(path, file, limits)) if path.name.endswith(".gz") else file
            parquet = pq.ParquetFile(source)
            groups = (parquet.metadata.row_group(n).total_byte_size for n in range(parquet.metadata.num_row_groups))
            if sum(groups) > limits.file:
                raise _too_large(path, limits)
            twice = [name for name, count in Counter(parquet.schema_arrow.names).items() if count > 1]
            if twice:
                raise _twice(str(path), twice[0])
            names = _class_names(parquet.schema_arrow.metadata or {})
            for batch in parquet.iter_batches(4096):
                for record in _of_batch(batch, f"{path}: rows {number} to {number + batch.num_rows - 1}"):
                    yield f"{path}: row {number}", _named(record, names)
                    number += 1
    except (pa.ArrowException, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None


def _of_batch(batch: Any, place: str) -> list[dict[str, Any]]:
    """Records of a batch of a table.

    Raises:
        DataError: Naming the column of a value that Python has no form for: no UTF-8, or a time beyond its years.
    """
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            raise DataError(f"{place}: column {name!r} cannot be read: {error}; mend or drop it") from None
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _unpacked(path: Path, file: Any, limits: Limits) -> bytes:
    data = file.read(limits.file + 1)
    if len(data) > limits.file:
        raise _too_large(path, limits)
    return data


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the classes of columns that hold their numbers, as `datasets` writes them beside a table."""
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    return {name: kind["names"] for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}


def _named(record: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """A record whose class numbers are names again; -1 is none."""
    for name, classes in names.items():
        value = record.get(name)
        if isinstance(value, int):
            record[name] = classes[value] if 0 <= value < len(classes) else None
    return record


def _folder(path: Path, split: str, config: str | None, limits: Limits, skip: Skip | None) -> Iterator[Record]:
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        yield from _saved_data_set(path, split)
        return
    listed = _configured(path, split, config)
    files = _data_files(path) if listed is None else listed
    if not files:
        raise DataError(
            f"{path}: expected a corpus (with annotators.yaml), a folder saved by `datasets`, or files ending in "
            f"{', '.join(FORMATS)}; found none of these"
        )
    for file in files if listed is not None else _of_split(path, files, split):
        yield from _of_file(file, limits, skip)


def _data_files(path: Path) -> list[Path]:
    """Files of a folder, or of its folder data/, where the hub's data sets keep them."""
    here = [file for file in sorted(path.iterdir()) if Path(file.name.removesuffix(".gz")).suffix.lower() in _READERS]
    return here or (_data_files(path / "data") if (path / "data").is_dir() else [])


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files whose names say the split; all of them where no name says one."""
    said = {file: _split_of(file) for file in files}
    if not any(said.values()) and any(_stem(file) == split for file in files):
        said = {file: _stem(file) for file in files}
    known = sorted({word for word in said.values() if word})
    if not known:
        return files
    wanted = split if split in known else _split_word(split) or split
    chosen = [file for file in files if said[file] == wanted]
    if not chosen:
        raise DataError(
            f"{folder}: no file of split {split!r}: the names say {', '.join(known)}; set pool.split "
            "(benchmark.split, --split) to one of these"
        )
    return chosen


def _split_of(file: Path) -> str | None:
    """The split that a file's name says: all of it where it is a shard's (train_sft-00000-of-00001), else a word."""
    shard = re.match(r"(.+)-\d{5}-of-\d{5}", file.name)
    return shard[1] if shard else _split_word(_stem(file))


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[0]


def _split_word(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, known in SPLIT_WORDS.items() for word in known if word in words), None)


def _configured(path: Path, split: str, config: str | None) -> list[Path] | None:
    """Files of the configuration asked for, as the folder's README lists them; None where it lists none.

    Raises:
        DataError: If there are several and none is asked for, or another one is.
    """
    configs = _configs(path)
    if not configs:
        if config is not None:
            raise DataError(f"{path}: no configuration {config!r}: its README.md lists none; set pool.config to null")
        return None
    if config is None and len(configs) == 1:
        config = next(iter(configs))
    if config not in configs:
        asked = "several configurations" if config is None else f"no configuration {config!r}"
        raise DataError(
            f"{path}: {asked}: set pool.config (benchmark.config, --config) to one of {', '.join(sorted(configs))}"
        )
    listed = configs[config]
    splits = sorted({item["split"] for item in listed if item.get("split")})
    if splits:
        wanted = _split_word(split) or split
        listed = [item for item in listed if item.get("split") in (split, wanted)]
        if not listed:
            raise DataError(f"{path}: configuration {config!r} has no split {split!r}; it has {', '.join(splits)}")
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    patterns = [pattern for item in listed for pattern in _as_list(item["path"])]
    files = [
        file for file in inside if any(fnmatch.fnmatch(str(file.relative_to(path)), pattern) for pattern in patterns)
    ]
    if not files:
        raise DataError(f"{path}: configuration {config!r}: no file at {', '.join(patterns)}")
    return files if splits else _of_split(path, files, split)


def _configs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Files by configuration, from the head of a data set card."""

    card = path / "README.md"
    if not card.is_file():
        return {}
    head = re.match(r"\A---\n(.*?)\n---\s*(\n|\Z)", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        listed = (parse_yaml(head[1]) if head else None) or {}
    except ValueError as error:
        raise DataError(f"{card}: the head between --- lines is not YAML: {' '.join(str(error).split())}") from None
    configs: dict[str, list[dict[str, Any]]] = {}
    for item in listed.get("configs") or [] if isinstance(listed, dict) else []:
        if isinstance(item, dict) and item.get("config_name") is not None and item.get("data_files") is not None:
            files = _as_list(item["data_files"])
            configs[str(item["config_name"])] = [
                file if isinstance(file, dict) and "path" in file else {"path": file} for file in files
            ]
    return configs


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _saved_data_set(path: Path, split: str) -> Iterator[Record]:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable `datasets` folder: {error}") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise DataError(
                f"{path}: no split {split!r}; it has {', '.join(map(str, data))}: set pool.split (benchmark.split, "
                "--split)"
            )
        data = data[split]
    yield from _of_data_set(data, f"{path}: row")


def _of_data_set(data: Any, place: str) -> Iterator[Record]:
    """Records of a data set of `datasets`, class numbers as the names of their classes."""
    kinds = getattr(data, "features", None) or {}
    names = {name: list(kind.names) for name, kind in kinds.items() if type(kind).__name__ == "ClassLabel"}
    for number, record in enumerate(data):
        yield f"{place} {number}", _named(dict(record), names)


_READERS: dict[str, Callable[..., Iterator[Record]]] = {
    ".jsonl": json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
