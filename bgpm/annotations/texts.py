"""The text of a question: a pair of the pool as the people and models that annotate it read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_table, rows_of
from bgpm.stage import POOL


def batch_texts(batch: Path, pool: Path = POOL) -> Iterator[dict[str, str]]:
    """Each distinct pair of a batch as pair_id, prompt, response_a and response_b, in the order of picking.

    Raises:
        StateError: If the batch or the pool cannot be read.
    """
    yield from _texts(pool, lambda _: dict.fromkeys(read_table(batch, ["pair"])["pair"].tolist()))


def pair_texts(pair_ids: Sequence[str], pool: Path = POOL) -> Iterator[dict[str, str]]:
    """These pairs of the pool, likewise; StateError where one is not in it."""
    place = str(pool / "pairs.parquet")
    yield from _texts(pool, lambda names: rows_of(names, np.array(pair_ids, object), place).tolist())


def _texts(pool: Path, rows: Callable[[np.ndarray], Iterable[int]]) -> Iterator[dict[str, str]]:
    prompts = read_table(pool / "prompts.parquet", ["text"])["text"]
    responses = read_table(pool / "responses.parquet", ["text"])["text"]
    pairs = read_table(pool / "pairs.parquet", ["pair_id", "prompt", "response_a", "response_b"])
    for row in rows(pairs["pair_id"]):
        yield {
            "pair_id": str(pairs["pair_id"][row]),
            "prompt": str(prompts[pairs["prompt"][row]]),
            "response_a": str(responses[pairs["response_a"][row]]),
            "response_b": str(responses[pairs["response_b"][row]]),
        }
