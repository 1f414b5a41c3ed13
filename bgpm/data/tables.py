"""The tables that stages exchange, as parquet, read column by column into numpy.

``data/pool`` and ``data/benchmark`` have one shape::

    prompts.parquet    prompt_id, text, messages (JSON list of {role, content}), section, split
    responses.parquet  response_id, prompt (row), text
    pairs.parquet      pair_id, prompt (row), response_a (row), response_b (row), section, subset, split, key

and a benchmark whose items are scored whole (`bgpm.data.benchmarks`) has, row by row of its pairs::

    items.parquet      pair_id, rule, item, cell

``pair_id`` stands for one order of the responses: a user's id reads ``ID:KEY:up`` (texts ascending) or
``ID:KEY:down``, KEY the beginning of the hash of its texts.
``key`` names the pair whatever its order. ``split`` is ``pool``, ``heldout`` or ``benchmark``. Labels are in tables of
their own (``data/truth``): pair_id, label (probability that ``response_a`` is better, NaN when unknown), margin (NaN
when unknown).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bgpm.errors import StateError
from bgpm.types import Pairs

log = logging.getLogger("bgpm")

Table = dict[str, np.ndarray]  # columns of one length
RENAMED = {"response_a": "first", "response_b": "second"}  # columns of tables, and what older runs called them


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Columns of a parquet file as numpy arrays; text columns have dtype object.

    Columns that an older run called otherwise (`RENAMED`) are found under their names of today.

    Raises:
        StateError: If the file is absent, damaged, or lacks a column.
    """
    try:
        given = pq.read_schema(path).names
        older = {new: old for new, old in RENAMED.items() if old in given and new not in given}
        present = [next((new for new in older if older[new] == name), name) for name in given]
        missing = sorted(set(columns or []) - set(present))
        if missing:
            raise StateError(f"{path}: no column {', '.join(missing)}; it has {', '.join(present)}; run `dvc repro`")
        wanted = present if columns is None else list(columns)
        table = pq.read_table(path, columns=[older.get(name, name) for name in wanted])
    except (OSError, pa.ArrowException) as error:
        raise StateError(f"{path}: cannot be read ({error}); run `dvc repro` or `dvc checkout`") from error
    if older and not older.keys().isdisjoint(wanted):
        _say_older(path, tuple(older.items()))
    return {name: table.column(older.get(name, name)).to_numpy() for name in wanted}


@cache
def _say_older(path: Path, older: tuple[tuple[str, str], ...]) -> None:
    """Once a file and process."""
    log.warning("%s: an older run wrote it; %s", path, ", ".join(f"{old} is read as {new}" for new, old in older))


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """A table of numbers that a stage wrote as .npy: float32, or a wider float, of two or three dimensions.

    Args:
        mapped: Leave it on disk, to be read piece by piece.

    Raises:
        StateError: If the file is absent, damaged, or holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if array.dtype.kind != "f" or array.ndim not in (2, 3):
            raise ValueError(f"it holds {array.dtype} {list(array.shape)}, expected numbers, one row a text")
    except (OSError, ValueError, EOFError, TypeError, SyntaxError) as error:
        raise StateError(f"{path}: cannot be read ({error}); run `dvc repro` or `dvc checkout`") from error
    return array


def iterate_table(path: Path, columns: Sequence[str], size: int) -> Iterator[dict[str, np.ndarray]]:
    """`read_table` at most ``size`` rows at a time, so that the whole is never in memory."""
    read_table(path, columns[:0])  # refuses what cannot be read
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            if missing := sorted(set(columns) - set(file.schema_arrow.names)):
                raise StateError(f"{path}: no column {', '.join(missing)}; run `dvc repro`")
            for batch in file.iter_batches(size, columns=list(columns)):
                yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}
    except (OSError, pa.ArrowException) as error:
        raise StateError(f"{path}: cannot be read ({error}); run `dvc repro` or `dvc checkout`") from error


def read_table_rows(path: Path, columns: Sequence[str], rows: np.ndarray, size: int = 10_000) -> dict[str, np.ndarray]:
    """The rows of a table at ascending numbers, read without ever holding the whole."""
    parts, at = [], 0
    for batch in iterate_table(path, columns, size):
        stop = at + len(batch[columns[0]])
        inside = rows[np.searchsorted(rows, at) : np.searchsorted(rows, stop)] - at
        parts.append(where(batch, inside))
        at = stop
    return concatenate(parts) if parts else read_table(path, columns)


def write_table(path: Path, columns: Mapping[str, np.ndarray | Sequence[object]]) -> None:
    """Write columns as parquet, whole or not at all: a crash never leaves half a file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), part, compression="zstd")
    part.replace(path)


def concatenate(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tables of the same columns, one below the other."""
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def pool_size(pool: Path) -> int:
    """How many pairs of a pool may be acquired: those that are not held out."""
    return int((read_table(pool / "pairs.parquet", ["split"])["split"] == "pool").sum())


def where(table: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of a table at a mask or at row numbers."""
    return {name: column[mask] for name, column in table.items()}


def as_pairs(table: Mapping[str, np.ndarray]) -> Pairs:
    """The index columns of a pairs table."""
    return Pairs(*(np.asarray(table[name], np.int64) for name in ("response_a", "response_b", "prompt")))


def rows_of(ids: np.ndarray, wanted: np.ndarray, where: str) -> np.ndarray:
    """Row of each wanted id, int64.

    Raises:
        StateError: If an id is not there; ``where`` names the table in the message.
    """
    position = {value: row for row, value in enumerate(ids)}
    try:
        return np.fromiter((position[value] for value in wanted), np.int64, len(wanted))
    except KeyError as error:
        raise StateError(f"{where}: no row with id {error.args[0]!r}; the file belongs to another pool") from None
