"""Small pools in every format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bgpm.data.prepare import Prepared, prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings

Records = Sequence[dict[str, Any]]


def make_pool(prompts: int = 60) -> list[dict[str, Any]]:
    """Three pairs a prompt; the answer with the higher number is better."""
    return [
        {
            "prompt": f"Question {q}?\nIn two lines, with a comma.",
            "response_a": f'answer {i} to {q}\n  indented, "quoted"',
            "response_b": f'answer {j} to {q}\n  indented, "quoted"',
            "label": float(i > j),
            "section": "odd" if q % 2 else "even",
            "id": f"q{q}-{i}{j}",
        }
        for q in range(prompts)
        for i, j in ((0, 1), (2, 1), (0, 2))
    ]


def make_benchmark(pairs: int = 4) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Benchmark {n}", "chosen": f"good {n}", "rejected": f"bad {n}", "subset": f"s{n % 2}", "id": n}
        for n in range(pairs)
    ]


def write_records(path: Path, records: Records) -> Path:
    """Records in the format that the file name says."""
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(records)), path)
        return path
    plain = path.with_name(path.name.removesuffix(".gz"))
    with plain.open("w", encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        elif kind == ".json":
            json.dump(list(records), file)
        else:
            names = list(dict.fromkeys(name for r in records for name in r))
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(records)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare a pool and a benchmark given as records or as paths."""

    def run(pool: Records | Path, benchmark: Records | Path | None = None, **settings: Any) -> Prepared:
        def path(value: Records | Path, name: str) -> str:
            return str(value if isinstance(value, Path) else write_records(tmp_path / name, value))

        benchmark = make_benchmark() if benchmark is None else benchmark
        return prepare(
            PoolSettings(path=path(pool, "pool.jsonl"), **{"heldout": 0.25, **settings}),
            BenchmarkSettings(path=path(benchmark, "benchmark.jsonl")),
        )

    return run


@pytest.fixture
def pool_records() -> Callable[..., list[dict[str, Any]]]:
    return make_pool


@pytest.fixture
def benchmark_records() -> Callable[..., list[dict[str, Any]]]:
    return make_benchmark


@pytest.fixture
def save() -> Callable[[Path, Records], Path]:
    return write_records
