"""Annotations as records of Argilla: a question ``preference`` with the labels A, B and tie.

Read in the three shapes that people have: ``Record.to_dict`` of Argilla 2 (an object of lists by question;
https://docs.argilla.io/latest/reference/argilla/records/records), what its data sets hold (columns
``preference.responses``, ``.responses.users``, ``.responses.status``), and the server's own form, also that of
Argilla 1 (a list of responses with ``values``). A user of Argilla is a UUID: names go out as one made from each, and
stand in the metadata ``annotators``, by which they are found again. Only what was submitted is an annotation: drafts,
pending and discarded responses are passed over and counted.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bgpm.annotations.choices import Found, Passed, annotation_of, choice, is_choice, name_of
from bgpm.annotations.store import Annotation
from bgpm.data.files import records
from bgpm.errors import DataError

QUESTION = "preference"
ANNOTATORS = "annotators"
NAMES = uuid.UUID("6f0e3ad0-4c55-5b41-9d53-0b8a3f6c1d27")  # of the UUIDs that are made from names
NOT_SUBMITTED = ("discarded", "draft", "pending")


def user_of(annotator: str) -> str:
    """An annotator as a user of Argilla: a UUID, always the same one; a UUID stands for itself."""
    try:
        return str(uuid.UUID(annotator))
    except ValueError:
        return str(uuid.uuid5(NAMES, annotator))


def record(question: Mapping[str, str], annotations: Sequence[Annotation]) -> dict[str, Any]:
    """One pair as a record; a skipped question has no response, since records do not hold what was discarded."""
    told = [
        {"value": words, "user_id": user_of(a.annotator), "status": "submitted"}
        for a in annotations
        if (words := name_of(a))
    ]
    return {
        "id": question["pair_id"],
        "fields": {name: text for name, text in question.items() if name != "pair_id"},
        "metadata": {ANNOTATORS: [a.annotator for a in annotations if name_of(a)]} if told else {},
        "suggestions": {},
        "responses": {QUESTION: told} if told else {},
        "vectors": {},
    }


def read(path: Path, passed: Passed, tag: str = "") -> Iterator[Found]:
    """Annotations of a file of records.

    Args:
        tag: Name of the question that is the preference; empty where the file shows it.

    Raises:
        DataError: If a record is none, or which question is the preference cannot be told.
    """
    whole = [(place, found, _responses(found, place)) for place, found in records(path, "")]
    name = _question([responses for _, _, responses in whole], path, tag)
    for place, found, responses in whole:
        for response in responses.get(name, []):
            yield place, lambda found=found, response=response: _annotation(found, response)
        passed.tags |= {other: "" for other, said in responses.items() if other != name and said}


def _responses(found: Mapping[str, Any], place: str) -> dict[str, list[Any]]:
    """What was said under each question, in one shape: objects with value, user_id and perhaps status."""
    given = found.get("responses")
    if isinstance(given, dict) and all(isinstance(some, list) for some in given.values()):
        return given
    if isinstance(given, list) and all(isinstance(one, dict) and "values" in one for one in given):
        by_question: dict[str, list[Any]] = {}
        for one in given:
            values = one["values"] or {QUESTION: None}  # a discarded response may have none
            if not isinstance(values, dict):
                raise DataError(f"{place}: values {values!r}: expected an object by question")
            for name, value in values.items():
                said = {"value": value.get("value") if isinstance(value, dict) else value}
                by_question.setdefault(name, []).append(one | said)
        return by_question
    flat = {name.removesuffix(".responses") for name in found if name.endswith(".responses")}
    if given is None and flat:
        return {name: _columns(found, name, place) for name in flat}
    raise DataError(f"{place}: not a record of Argilla: no object `responses` with a list for each question")


def _columns(found: Mapping[str, Any], name: str, place: str) -> list[dict[str, Any]]:
    values = found[f"{name}.responses"] or []
    users, status = (
        [None] * len(values) if (column := found.get(f"{name}.responses.{what}")) is None else column
        for what in ("users", "status")
    )
    if not all(isinstance(column, list) and len(column) == len(values) for column in (values, users, status)):
        raise DataError(f"{place}: {name}.responses: expected lists of the same length for values, users and status")
    return [
        {"value": v, "user_id": user, "status": state} for v, user, state in zip(values, users, status, strict=True)
    ]


def _question(whole: Sequence[Mapping[str, list[Any]]], path: Path, tag: str) -> str:
    """The question whose values are preferences: ours by its name, the only one, or the only one with our words."""
    names = dict.fromkeys(name for responses in whole for name in responses)
    if tag and tag not in names:
        raise DataError(f"{path}: no question {tag!r} (--tag); there are {', '.join(names) or 'none'}")
    if tag:
        return tag
    if QUESTION in names or len(names) < 2:
        return QUESTION if QUESTION in names else next(iter(names), QUESTION)
    ours = {
        name
        for responses in whole
        for name, said in responses.items()
        if any(isinstance(one, dict) and is_choice(one.get("value")) for one in said)
    }
    if len(ours) != 1:
        raise DataError(
            f"{path}: several questions ({', '.join(names)}) and none is called {QUESTION}; "
            f"{'more than one' if ours else 'none'} has values such as A, B or tie: name it with --tag"
        )
    return ours.pop()


def _annotation(found: Mapping[str, Any], response: object) -> Annotation | str:
    if not isinstance(response, dict):
        raise DataError(f"response {response!r}: expected an object with value and user_id")
    status = response.get("status")
    status = getattr(status, "value", status)
    if status in NOT_SUBMITTED:
        return str(status)
    if status not in (None, "", "submitted"):
        raise DataError(f"status {status!r}: expected submitted, {', '.join(NOT_SUBMITTED)}, or none")
    if response.get("value") is None:
        return "without a value"
    metadata = found.get("metadata")
    names = [metadata.get("pair_id") if isinstance(metadata, dict) else None, found.get("external_id"), found.get("id")]
    return annotation_of(
        {
            "pair_id": next((name for name in names if name is not None), None),
            "annotator": _name(response.get("user_id"), found),
            **choice(response["value"]),
        }
    )


def _name(user: object, found: Mapping[str, Any]) -> object:
    """The name that a user's UUID was made from, where the record has it; else the user as it stands."""
    metadata = found.get("metadata")
    names = (
        metadata.get(ANNOTATORS) if isinstance(metadata, dict) else found.get(ANNOTATORS)
    )  # columns stand side by side
    if isinstance(metadata, list):  # of the server: objects with name and value
        names = next((m.get("value") for m in metadata if isinstance(m, dict) and m.get("name") == ANNOTATORS), None)
    known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((name for name in known if user_of(name) == str(user)), user)
