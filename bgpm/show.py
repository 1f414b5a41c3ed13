"""Print a batch for the people who label it: one JSON object a pair, with the texts in the order the label refers to.

For the command line::

    bgpm batch data/auto/round-0/batch.parquet > todo.jsonl

``label`` 1 says that ``response_a`` is better. Labels go to ``data/annotations/`` (see the README there).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bgpm.annotations.texts import batch_texts
from bgpm.errors import BgpmError


def main(batch: str) -> None:
    """Print the pairs of a batch with their texts."""
    for pair in batch_texts(Path(batch)):
        print(json.dumps(pair, ensure_ascii=False))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm batch``."""
    parser.add_argument("batch", metavar="BATCH.parquet", help="of a round: data/auto/round-0/batch.parquet")


def run(given: argparse.Namespace) -> None:
    """Print the pairs of a batch with their texts; StateError where it or the pool cannot be read."""
    main(given.batch)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bgpm.show BATCH.parquet")
    try:
        main(sys.argv[1])
    except BgpmError as error:
        sys.exit(f"error: {error}")
