"""Labels to and from other tools, for the command line::

    bgpm labels export data/annotations/ada.jsonl --shape csv > ada.csv
    bgpm labels export --batch data/auto/round-0/batch.parquet --shape label-studio > tasks.json
    bgpm labels import export.json --shape label-studio data/annotations/studio.jsonl

Shapes are csv, jsonl, argilla and label-studio (see `bgpm.annotations.exchange`). Labels are imported for pairs of the
pool, or of one batch with ``--batch``; where anything is wrong nothing is imported.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast, get_args

from bgpm.annotations.exchange import Shape, export_annotations, import_annotations
from bgpm.annotations.store import LabelStore
from bgpm.annotations.texts import batch_texts, pair_texts
from bgpm.data.tables import read_table
from bgpm.errors import BgpmError, DataError
from bgpm.stage import POOL

__all__ = ["export_annotations", "import_annotations"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm labels``."""
    commands = parser.add_subparsers(dest="direction", required=True)
    out = commands.add_parser("export", help="print the annotations of a store, or the pairs of a batch")
    out.add_argument("store", nargs="?", type=Path, help="a .jsonl file of data/annotations; left out: no annotations")
    into = commands.add_parser("import", help="add the annotations of a file to a store")
    into.add_argument("file", type=Path)
    into.add_argument("store", type=Path, help="a .jsonl file of data/annotations")
    into.add_argument(
        "--last-wins", action="store_true", help="of two labels by one annotator for one pair the last counts"
    )
    into.add_argument(
        "--tag", default="", metavar="NAME",
        help="tag of Label Studio, or question of Argilla, that is the preference, where the file leaves it open",
    )  # fmt: skip
    for command in (out, into):
        default = "jsonl by default" if command is out else "by default the file's ending says it"
        command.add_argument("--shape", choices=get_args(Shape), help=default)
        command.add_argument("--batch", type=Path, help="pairs of this batch.parquet only; by default of the pool")


def run(given: argparse.Namespace) -> None:
    """Export or import; raises DataError where a file or a label is wrong."""
    if given.direction == "export":
        _export(given)
    else:
        _import(given)


def _export(given: argparse.Namespace) -> None:
    if given.store and not given.store.is_file():
        raise DataError(f"{given.store}: no such file")
    annotations = LabelStore(given.store).annotations() if given.store else []
    shape = given.shape or "jsonl"
    asked: list[dict[str, str]] = []
    if given.batch:
        asked = list(batch_texts(given.batch))
        names = {question["pair_id"] for question in asked}
        annotations = [annotation for annotation in annotations if annotation.pair_id in names]
    elif shape not in ("csv", "jsonl"):  # which have no place for texts
        asked = list(pair_texts(list(dict.fromkeys(annotation.pair_id for annotation in annotations))))
    sys.stdout.write(export_annotations(annotations, shape, asked))


def _import(given: argparse.Namespace) -> None:
    if given.store.suffix != ".jsonl":
        raise DataError(f"{given.store}: labels are read from .jsonl files only; name the store so")
    shape = given.shape or {".csv": "csv", ".jsonl": "jsonl"}.get(given.file.suffix)
    if shape is None:
        raise DataError(f"{given.file}: which shape? add --shape {' | '.join(get_args(Shape))}")
    pairs = given.batch or POOL / "pairs.parquet"
    known = set(read_table(pairs, ["pair_id"])["pair_id"])
    store = LabelStore(given.store)
    more = {"source": str(pairs), "last_wins": given.last_wins, "tag": given.tag}
    new = import_annotations(given.file, cast(Shape, shape), store, known, **more)
    print(f"{new} new answers in {given.store}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """``python -m bgpm.labels``, the same."""
    parser = argparse.ArgumentParser(prog="python -m bgpm.labels", description="Labels to and from other tools")
    add_arguments(parser)
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    try:
        main()
    except (BgpmError, OSError) as error:
        sys.exit(f"error: {error}")
