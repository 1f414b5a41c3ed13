"""Many seeds of one arm: run side by side, and their results put into one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from bgpm.data.tables import Table, concatenate, write_table

R = TypeVar("R")
COLUMNS = ("seed", "round", "labels", "split", "section", "metric", "value")  # of a curve


def side_by_side(job: Callable[[int], R], seeds: Sequence[int], processes: int, title: str) -> list[R]:
    """The job of every seed, in their order, each in a process of its own; so many processes at a time."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as workers:
        return list(tqdm(workers.map(job, seeds), total=len(seeds), desc=title, unit="seed", disable=None))


def write_curve(path: Path, seeds: Sequence[int], curves: Sequence[Sequence[tuple[object, ...]]]) -> None:
    """Rows (round, labels, split, section, metric, value) of every seed as one table."""
    rows = [(seed, *row) for seed, curve in zip(seeds, curves, strict=True) for row in curve]
    write_table(path, dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))


def of_all(seeds: Sequence[int], tables: Sequence[Table]) -> Table:
    """The tables of every seed one below the other, with a column seed."""
    return concatenate(
        [
            {"seed": np.full(len(next(iter(table.values()))), seed)} | table
            for seed, table in zip(seeds, tables, strict=True)
        ]
    )
