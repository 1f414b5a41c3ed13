"""Print a batch for the people who label it: one JSON object a pair, with the texts in the order the label refers to.

For the command line::

    python -m bgpm.show data/entropy/round-0/batch.parquet > todo.jsonl

``label`` 1 says that ``answer_a`` is better. Answers go to ``data/annotations/`` (see the README there).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_table, rows_of
from bgpm.errors import BgpmError
from bgpm.stage import POOL


def questions(batch: Path, pool: Path = POOL) -> Iterator[dict[str, str]]:
    """Each distinct pair of a batch as pair_id, prompt, answer_a and answer_b, in the order of picking.

    Raises:
        StateError: If the batch or the pool cannot be read.
    """
    yield from _texts(pool, lambda _: dict.fromkeys(read_table(batch, ["pair"])["pair"].tolist()))


def texts(pair_ids: Sequence[str], pool: Path = POOL) -> Iterator[dict[str, str]]:
    """These pairs of the pool, likewise; StateError where one is not in it."""
    place = str(pool / "pairs.parquet")
    yield from _texts(pool, lambda names: rows_of(names, np.array(pair_ids, object), place).tolist())


def _texts(pool: Path, rows: Callable[[np.ndarray], Iterable[int]]) -> Iterator[dict[str, str]]:
    prompts = read_table(pool / "prompts.parquet", ["text"])["text"]
    responses = read_table(pool / "responses.parquet", ["text"])["text"]
    pairs = read_table(pool / "pairs.parquet", ["pair_id", "prompt", "first", "second"])
    for row in rows(pairs["pair_id"]):
        yield {
            "pair_id": pairs["pair_id"][row],
            "prompt": prompts[pairs["prompt"][row]],
            "answer_a": responses[pairs["first"][row]],
            "answer_b": responses[pairs["second"][row]],
        }


def main(batch: str) -> None:
    """Print the questions of a batch."""
    for question in questions(Path(batch)):
        print(json.dumps(question, ensure_ascii=False))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bgpm.show BATCH.parquet")
    try:
        main(sys.argv[1])
    except BgpmError as error:
        sys.exit(f"error: {error}")
