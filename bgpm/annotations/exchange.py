"""Labels to and from other tools: CSV, JSONL, Argilla's records and Label Studio's tasks.

The two tools get one record a question, with the fields pair_id, prompt, answer_a and answer_b, so that an export
of a batch that nobody has labelled is what they import to have it labelled. In Argilla the question is a label
question ``preference`` with the labels A, B and tie (records as ``Record.to_dict`` of Argilla 2 has them,
https://docs.argilla.io/latest/reference/argilla/records/records); in Label Studio a ``Pairwise`` or ``Choices`` tag of
any name, left or A being ``answer_a`` (https://labelstud.io/guide/task_format).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bgpm.annotations.store import Answer, LabelStore, annotator_name
from bgpm.data.files import records
from bgpm.data.sheets import bare, guarded
from bgpm.errors import DataError

Shape = Literal["csv", "jsonl", "argilla", "label-studio"]
COLUMNS = [field.name for field in fields(Answer)]
NAMES = {1.0: "A", 0.0: "B", 0.5: "tie"}
SIDES = {"a": 1.0, "answer_a": 1.0, "left": 1.0, "b": 0.0, "answer_b": 0.0, "right": 0.0, "tie": 0.5}
PROBLEMS_SHOWN = 10


def export_answers(answers: Sequence[Answer], shape: Shape, questions: Iterable[Mapping[str, str]] = ()) -> str:
    """Answers as the text of a file.

    Args:
        questions: For Argilla and Label Studio, the pairs with their texts (`bgpm.annotations.questions`), answered or
            not.

    Raises:
        DataError: If a pair has no text, or a label has no name in the tool.
    """
    if shape == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)  # ends lines with CR LF, else it would not quote a CR in a note
        writer.writeheader()
        writer.writerows(_guarded(asdict(answer)) for answer in answers)
        return text.getvalue()
    if shape == "jsonl":
        return "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    by_pair: dict[str, list[Answer]] = {}
    for answer in answers:
        by_pair.setdefault(answer.pair_id, []).append(answer)
        if answer.label is not None and answer.label not in NAMES:
            raise DataError(
                f"pair {answer.pair_id!r}: label {answer.label:g} of {answer.annotator} is neither A, B nor a tie; "
                "export csv or jsonl"
            )
    record = _argilla_record if shape == "argilla" else _label_studio_task
    whole = [record(question, by_pair.pop(question["pair_id"], [])) for question in questions]
    if by_pair:
        raise DataError(f"{len(by_pair)} pairs with an answer have no text, the first is {next(iter(by_pair))!r}")
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def import_answers(
    path: Path, shape: Shape, store: LabelStore, known: Set[str], *, source: str = "the pool", last_wins: bool = False
) -> int:
    """Append what a file holds to a store: everything, or nothing where anything is wrong.

    What the store holds already is passed over.

    Args:
        known: Names of the pairs that may be labelled.
        source: Where these names come from, for messages.
        last_wins: Where an annotator says two things of a pair, in the file or in file and store, the last counts.

    Returns:
        How many answers were new.

    Raises:
        DataError: Naming each line that is no answer, whose pair is not known, or that contradicts another.
        StateError: If another process writes to the store, or the disk is full.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with store.writer():
        written = {answer.id for answer in store.history(retracted=True)}
        word = {(a.pair_id, a.annotator): (a.label, "what the store has") for a in store.answers()}
        problems: list[str] = []
        fresh: list[Answer] = []
        for place, read in _READERS[shape](path):
            try:
                answer = read()
            except DataError as error:
                problems.append(f"{place}: {error}")
                continue
            key = answer.pair_id, answer.annotator
            said, where = word.get(key, (answer.label, ""))
            if answer.pair_id not in known:
                problems.append(f"{place}: pair {answer.pair_id!r} is not in {source}")
            elif said != answer.label and not last_wins:
                problems.append(
                    f"{place}: {answer.annotator} says {answer.label} of pair {answer.pair_id!r}, but {said} in "
                    f"{where}; take one out, or let the last win (--last-wins)"
                )
            elif said != answer.label or key not in word:
                fresh.append(replace(answer, id=uuid.uuid4().hex) if answer.id in written else answer)
                written.add(answer.id)
                word[key] = answer.label, place
        if problems:
            more = len(problems) - PROBLEMS_SHOWN
            tail = [f"... and {more} more"] if more > 0 else []
            raise DataError("\n".join([*problems[:PROBLEMS_SHOWN], *tail, "nothing was imported"]))
        store.extend(fresh)
    return len(fresh)


FREE = ("pair_id", "annotator", "note", "id")  # columns of a table whose text anybody may have written


def _guarded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table in which no cell is a formula."""
    return {name: guarded(value) if name in FREE else value for name, value in row.items()}


def _bare(row: Mapping[str, str]) -> dict[str, str]:
    """A row as it was before `_guarded`."""
    return {name: bare(value) if name in FREE else value for name, value in row.items()}


Found = tuple[str, Callable[[], Answer]]  # a place, and its answer, which may turn out to be none


def _lines(path: Path) -> Iterator[Found]:
    """Answers of JSONL, one an object."""
    for place, entry in records(path, ""):
        yield place, lambda entry=entry: _answer(entry)


def _rows(path: Path) -> Iterator[Found]:
    """Answers of CSV, one a row; an empty cell is a value that was not given, and an empty label a skipped pair."""

    def answer(row: Mapping[str, str]) -> Answer:
        given: dict[str, Any] = {name: value for name, value in _bare(row).items() if value != ""}
        for name in ("label", "cost", "seconds"):
            if name in given:
                try:
                    given[name] = float(given[name])
                except ValueError:
                    raise DataError(f"{name} {given[name]!r}: expected a number") from None
        if "label" in row:
            given.setdefault("label", None)
        return _answer(given)

    for place, row in records(path, ""):
        yield place, lambda row=row: answer(row)


def _answer(entry: Mapping[str, Any]) -> Answer:
    """An answer from its fields; pair_id and label must be there, a name is made from the rest."""
    missing = [name for name in ("pair_id", "label") if name not in entry]
    if missing:
        raise DataError(f"no {' and no '.join(missing)}; expected {', '.join(COLUMNS[:3])} and perhaps more")
    given = {name: entry[name] for name in COLUMNS if name in entry}
    given["annotator"] = annotator_name(given.get("annotator"))
    given["at"] = _utc(given.get("at"))
    content = json.dumps([given["pair_id"], given["label"], given["annotator"], given["at"]], default=str)
    given.setdefault("id", hashlib.blake2b(content.encode(), digest_size=16).hexdigest())
    return Answer(**given)


def _utc(moment: object) -> str:
    """A time as UTC; one without a zone is taken to be it, as the tools mean it. Empty where none is given."""
    if moment in (None, ""):
        return ""
    try:
        parsed = datetime.fromisoformat(str(moment))
    except ValueError:
        raise DataError(f"at {moment!r}: expected a time in ISO 8601") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _side(value: object) -> float:
    label = SIDES.get(value.lower()) if isinstance(value, str) else None
    if label is None:
        raise DataError(f"choice {value!r}: expected one of {', '.join(SIDES)}")
    return label


def _argilla_record(question: Mapping[str, str], answers: Sequence[Answer]) -> dict[str, Any]:
    """One record; a skipped question has no response, since records do not hold what was discarded."""
    told = [{"value": NAMES[a.label], "user_id": a.annotator} for a in answers if a.label is not None]
    texts = {name: text for name, text in question.items() if name != "pair_id"}
    return {
        "id": question["pair_id"],
        "fields": texts,
        "metadata": {},
        "suggestions": {},
        "responses": {"preference": told} if told else {},
        "vectors": {},
    }


def _argilla(path: Path) -> Iterator[Found]:
    for place, record in records(path, ""):
        responses = record.get("responses")
        if not isinstance(responses, dict) or not all(isinstance(some, list) for some in responses.values()):
            raise DataError(f"{place}: not a record of Argilla: no object `responses` with a list for each question")
        if len(responses) > 1 and "preference" not in responses:
            raise DataError(f"{place}: several questions ({', '.join(responses)}) and none is called preference")
        name = "preference" if "preference" in responses else next(iter(responses), "")
        for response in responses.get(name, []):
            yield place, lambda record=record, response=response: _responded(record, response)


def _responded(record: Mapping[str, Any], response: object) -> Answer:
    if not isinstance(response, dict):
        raise DataError(f"response {response!r}: expected an object with value and user_id")
    label = _side(response.get("value"))
    return _answer({"pair_id": record.get("id"), "label": label, "annotator": response.get("user_id")})


def _label_studio_task(question: Mapping[str, str], answers: Sequence[Answer]) -> dict[str, Any]:
    return {"data": dict(question), "annotations": [_annotation(answer) for answer in answers]}


def _annotation(answer: Answer) -> dict[str, Any]:
    """One answer; a skipped question is one that was cancelled."""
    result = []
    if answer.label is not None:
        value = {"choices": [NAMES[answer.label]]}
        result = [{"from_name": "preference", "to_name": "prompt", "type": "choices", "value": value}]
    return {
        "completed_by": {"email": answer.annotator},
        "created_at": answer.at or None,
        "lead_time": answer.seconds,
        "was_cancelled": answer.label is None,
        "result": result,
    }


def _label_studio(path: Path) -> Iterator[Found]:
    for place, task in records(path, ""):
        data, annotations = task.get("data"), task.get("annotations", [])
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise DataError(f"{place}: not a task of Label Studio: expected `data` and a list `annotations`")
        for annotation in annotations:
            yield place, lambda data=data, annotation=annotation: _annotated(data, annotation)


def _annotated(data: Mapping[str, Any], annotation: object) -> Answer:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise DataError("not an annotation of Label Studio: expected an object with a list `result`")
    label = None
    if not annotation.get("was_cancelled"):
        chosen = [choice for result in annotation["result"] for choice in _choices(result)]
        if len(chosen) != 1:
            raise DataError(f"expected one choice in an annotation that was not skipped, got {len(chosen)}")
        label = _side(chosen[0])
    by = annotation.get("completed_by")
    return _answer(
        {
            "pair_id": data.get("pair_id"),
            "label": label,
            "annotator": by.get("email") or by.get("id") if isinstance(by, dict) else by,
            "at": annotation.get("created_at"),
            "seconds": annotation.get("lead_time"),
        }
    )


def _choices(result: object) -> list[Any]:
    """What a result of Label Studio chooses; nothing where it is about something else."""
    if not isinstance(result, dict) or not isinstance(value := result.get("value"), dict):
        return []
    if result.get("type") == "pairwise":
        return [value.get("selected")]
    return list(value.get("choices", [])) if result.get("type") == "choices" else []


_READERS: dict[Shape, Callable[[Path], Iterator[Found]]] = {
    "csv": _rows,
    "jsonl": _lines,
    "argilla": _argilla,
    "label-studio": _label_studio,
}
