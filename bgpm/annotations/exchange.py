"""Labels to and from other tools: CSV, JSONL, Argilla's records and Label Studio's tasks.

The two tools get one record a question, with the fields pair_id, prompt, response_a and response_b, so that an export
of a batch that nobody has labelled is what they import to have it labelled (see `argilla` and `label_studio` beside
this file). Files that name the fields answer_a and answer_b are read too.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from bgpm.annotations import argilla, label_studio
from bgpm.annotations.choices import COLUMNS, Found, Passed, annotation_of
from bgpm.annotations.store import Annotation, LabelStore, jsonl, words_of
from bgpm.data.files import records
from bgpm.data.sheets import bare, guarded
from bgpm.errors import DataError

log = logging.getLogger("bgpm")

Shape = Literal["csv", "jsonl", "argilla", "label-studio"]
PROBLEMS_SHOWN = 10


def export_annotations(
    annotations: Sequence[Annotation], shape: Shape, questions: Iterable[Mapping[str, str]] = ()
) -> str:
    """Answers as the text of a file.

    Args:
        questions: For Argilla and Label Studio, the pairs with their texts (`bgpm.annotations.texts`), answered or
            not.

    Raises:
        DataError: If a pair has no text, or a label has no name in the tool.
    """
    if shape == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)  # ends lines with CR LF, else it would not quote a CR in a note
        writer.writeheader()
        writer.writerows(_guarded(asdict(annotation)) for annotation in annotations)
        return text.getvalue()
    if shape == "jsonl":
        return jsonl(annotations)
    by_pair: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        by_pair.setdefault(annotation.pair_id, []).append(annotation)
    record = argilla.record if shape == "argilla" else label_studio.task
    whole = [record(question, by_pair.pop(question["pair_id"], [])) for question in questions]
    if by_pair:
        raise DataError(f"{len(by_pair)} pairs with an answer have no text, the first is {next(iter(by_pair))!r}")
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def import_annotations(
    path: Path,
    shape: Shape,
    store: LabelStore,
    known: Set[str],
    *,
    source: str = "the pool",
    last_wins: bool = False,
    tag: str = "",
) -> int:
    """Append what a file holds to a store: everything, or nothing where anything is wrong.

    What the store holds already is passed over; what the file holds beside annotations is counted in a warning.

    Args:
        known: Names of the pairs that may be labelled.
        source: Where these names come from, for messages.
        last_wins: Where an annotator says two things of a pair, in the file or in file and store, the last counts.
        tag: Name of the tool's tag or question that is the preference; empty where the file shows it.

    Returns:
        How many answers were new.

    Raises:
        DataError: Naming each line that is no answer, whose pair is not known, or that contradicts another.
        StateError: If another process writes to the store, or the disk is full.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with store.writer():
        written = {annotation.id for annotation in store.history(retracted=True)}
        word = {(a.pair_id, a.annotator): (a, "what the store has") for a in store.annotations()}
        problems: list[str] = []
        passed = Passed()
        fresh: list[Annotation] = []
        for place, read in _READERS[shape](path, passed, tag):
            try:
                annotation = read()
            except DataError as error:
                problems.append(f"{place}: {error}")
                continue
            if isinstance(annotation, str):
                passed.annotations[annotation] += 1
                continue
            key = annotation.pair_id, annotation.annotator
            said, where = word.get(key, (annotation, ""))
            differs = (said.label, said.strength) != (annotation.label, annotation.strength)
            if annotation.pair_id not in known:
                problems.append(f"{place}: pair {annotation.pair_id!r} is not in {source}")
            elif differs and not last_wins:
                problems.append(
                    f"{place}: {annotation.annotator} says {words_of(annotation)} of pair {annotation.pair_id!r}, but "
                    f"{words_of(said)} in {where}; take one out, or let the last win (--last-wins)"
                )
            elif differs or key not in word:
                fresh.append(replace(annotation, id=uuid.uuid4().hex) if annotation.id in written else annotation)
                written.add(annotation.id)
                word[key] = annotation, place
        if problems:
            more = len(problems) - PROBLEMS_SHOWN
            tail = [f"... and {more} more"] if more > 0 else []
            raise DataError("\n".join([*problems[:PROBLEMS_SHOWN], *tail, "nothing was imported"]))
        store.extend(fresh)
    for sentence in passed.sentences():
        log.warning("%s: %s", path, sentence)
    return len(fresh)


FREE = ("pair_id", "annotator", "note", "id")  # columns of a table whose text anybody may have written


def _guarded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table in which no cell is a formula."""
    row = {**row, "flags": " ".join(row["flags"])}
    return {name: guarded(value) if name in FREE else value for name, value in row.items()}


def _bare(row: Mapping[str, str]) -> dict[str, str]:
    """A row as it was before `_guarded`."""
    return {name: bare(value) if name in FREE else value for name, value in row.items()}


def _lines(path: Path, *_: object) -> Iterator[Found]:
    """Annotations of JSONL, one an object."""
    for place, entry in records(path, ""):
        yield place, lambda entry=entry: annotation_of(entry)


def _rows(path: Path, *_: object) -> Iterator[Found]:
    """Annotations of CSV, one a row; an empty cell is a value that was not given, an empty label a skipped pair."""

    def of_row(row: Mapping[str, str]) -> Annotation:
        given: dict[str, Any] = {name: value for name, value in _bare(row).items() if value != ""}
        for name in ("label", "cost", "seconds"):
            if name in given:
                try:
                    given[name] = float(given[name])
                except ValueError:
                    raise DataError(f"{name} {given[name]!r}: expected a number") from None
        if "flags" in given:
            given["flags"] = given["flags"].split()
        if "label" in row:
            given.setdefault("label", None)
        return annotation_of(given)

    for place, row in records(path, ""):
        yield place, lambda row=row: of_row(row)


_READERS: dict[Shape, Callable[[Path, Passed, str], Iterator[Found]]] = {
    "csv": _rows,
    "jsonl": _lines,
    "argilla": argilla.read,
    "label-studio": label_studio.read,
}
