"""Annotations as tasks of Label Studio: a ``Pairwise`` or ``Choices`` tag of any name, left or A being response A.

Read as JSON (tasks with ``annotations``; https://labelstud.io/guide/task_format) and as JSON-MIN or its CSV (one row an
annotation, the task's fields and the tags side by side). A cancelled annotation and one without a choice are pairs that
the annotator skipped. Text areas become the note. Where two tags hold a choice the one with our words counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bgpm.annotations.choices import (
    Found,
    Passed,
    annotation_of,
    choice,
    is_choice,
    lead_time,
    name_of,
    pair_id_of,
)
from bgpm.annotations.store import Annotation
from bgpm.data.files import records
from bgpm.errors import DataError

OURS = ("pair_id", "prompt", "response_a", "response_b", "answer_a", "answer_b")
MIN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")  # what JSON-MIN adds to a row
CHOICES = ("choices", "pairwise")


def task(question: Mapping[str, str], annotations: Sequence[Annotation]) -> dict[str, Any]:
    """One pair as a task; a skipped question is an annotation that was cancelled."""
    return {"data": dict(question), "annotations": [_written(annotation) for annotation in annotations]}


def _written(annotation: Annotation) -> dict[str, Any]:
    result = []
    if words := name_of(annotation):
        value = {"choices": [words]}
        result = [{"from_name": "preference", "to_name": "prompt", "type": "choices", "value": value}]
    return {
        "completed_by": {"email": annotation.annotator},
        **({"created_at": annotation.at} if annotation.at else {}),  # null is no time to sort by, for the tool
        "lead_time": annotation.seconds,
        "was_cancelled": annotation.label is None,
        "result": result,
    }


def read(path: Path, passed: Passed) -> Iterator[Found]:
    """Annotations of a file of tasks.

    Raises:
        DataError: If a task is none.
    """
    whole = list(records(path, ""))
    if whole and all("data" not in row and "annotator" in row for _, row in whole):
        yield from _rows(whole, passed)
        return
    asked = any(_results(one, CHOICES) for _, row in whole for one in _annotations(row))
    for place, row in whole:
        data, annotations = row.get("data"), row.get("annotations", row.get("completions", []))
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise DataError(f"{place}: not a task of Label Studio: expected `data` and a list `annotations`")
        drafts = row.get("drafts")
        passed.annotations["draft"] += len(drafts) if isinstance(drafts, list) else 0
        for one in annotations:
            yield place, lambda data=data, one=one: _annotation(data, one, passed, asked=asked)
    passed.annotations = +passed.annotations


def _annotations(row: Mapping[str, Any]) -> list[Any]:
    annotations = row.get("annotations", row.get("completions", []))
    return annotations if isinstance(annotations, list) else []


def _results(one: object, kinds: Sequence[str]) -> list[dict[str, Any]]:
    results = one.get("result") if isinstance(one, dict) else None
    return [r for r in results or () if isinstance(r, dict) and r.get("type") in kinds]


def _annotation(data: Mapping[str, Any], one: object, passed: Passed, *, asked: bool) -> Annotation:
    """One annotation of a task.

    Args:
        asked: Whether any annotation of the file holds a choice: if none does, the project did not ask for one.
    """
    if not isinstance(one, dict) or not isinstance(one.get("result"), list):
        raise DataError("not an annotation of Label Studio: expected an object with a list `result`")
    pair_id = pair_id_of(data, "the task's data")
    fields: dict[str, Any] = {"label": None, "note": ""}
    if not one.get("was_cancelled"):
        for result in one["result"]:
            if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
                raise DataError(f"result {result!r}: expected an object with an object `value`")
        said = {str(r.get("from_name")): _chosen(r) for r in _results(one, CHOICES)}
        if len(said) < len(_results(one, CHOICES)):
            raise DataError("a tag stands twice in one annotation: expected one choice a pair")
        others = [r for r in one["result"] if r.get("type") not in CHOICES]
        if said:
            fields = _one_choice(said, passed)
        elif others and not asked:
            kinds = ", ".join(sorted({str(r.get("type")) for r in others}))
            raise DataError(f"no choice in this file, only {kinds}: expected a Pairwise or Choices tag")
        texts = [fields["note"], *(text for r in others if r.get("type") == "textarea" for text in _texts(r["value"]))]
        fields["note"] = "\n".join(text for text in texts if text)
        passed.tags |= {str(r.get("from_name")): str(r.get("type")) for r in others if r.get("type") != "textarea"}
    return _made(pair_id, fields, one.get("completed_by"), one, passed)


def _chosen(result: Mapping[str, Any]) -> list[Any]:
    """What a result chooses. In a Pairwise tag whose texts stand the other way round left is response B."""
    value = result["value"]
    if result.get("type") == "choices":
        return list(value.get("choices") or [])
    selected = value.get("selected")
    places = [re.sub("^answer", "response", name.strip()) for name in str(result.get("to_name", "")).split(",")]
    if places == ["response_b", "response_a"] and selected in ("left", "right"):
        selected = "right" if selected == "left" else "left"
    return [] if selected is None else [selected]


def _texts(value: Mapping[str, Any]) -> list[str]:
    text = value.get("text")
    return [text] if isinstance(text, str) else [one for one in text or [] if isinstance(one, str)]


def _one_choice(said: Mapping[str, list[Any]], passed: Passed) -> dict[str, Any]:
    """What the one tag that is ours says, as `choice` reads it; the label is None where nothing was chosen."""
    given = {name: chosen for name, chosen in said.items() if chosen}
    if not given:
        return {"label": None, "note": ""}
    ours = [name for name, chosen in given.items() if all(map(is_choice, chosen))]
    if len(given) > 1 and len(ours) != 1:
        raise DataError(
            f"choices under {', '.join(map(repr, given))}, of which {len(ours) or 'none'} can be the preference: "
            "export the project with one such tag"
        )
    name = ours[0] if ours else next(iter(given))
    passed.tags |= {other: "choices" for other in given if other != name}
    if len(given[name]) != 1:
        raise DataError(f"expected one choice under {name!r}, got {len(given[name])}")
    return choice(given[name][0])


def _made(pair_id: str, said: Mapping[str, Any], by: object, times: Mapping[str, Any], passed: Passed) -> Annotation:
    return annotation_of(
        {
            "pair_id": pair_id,
            **said,
            "annotator": by.get("email") or by.get("id") if isinstance(by, dict) else by,
            "at": times.get("created_at"),
            "seconds": lead_time(times.get("lead_time"), passed),
        }
    )


def _rows(whole: Sequence[tuple[str, dict[str, Any]]], passed: Passed) -> Iterator[Found]:
    """Rows of JSON-MIN. Which columns are tags the file does not say: those that hold a choice of ours in any row."""
    tags = {
        name
        for _, row in whole
        for name, value in row.items()
        if name not in (*OURS, *MIN) and (chosen := _listed(value)) and all(map(is_choice, chosen))
    }
    for place, row in whole:
        yield place, lambda row=row: _row(row, tags, passed)


def _listed(value: object) -> list[Any]:
    """A tag's value in JSON-MIN as a list: one choice stands alone, several in an object."""
    if isinstance(value, dict):
        value = value.get("choices")
    return list(value) if isinstance(value, list) else [] if value in (None, "") else [value]


def _row(row: Mapping[str, Any], tags: set[str], passed: Passed) -> Annotation:
    pair_id = pair_id_of(row, "the row")
    if not tags:
        names = ", ".join(name for name in row if name not in MIN)
        raise DataError(f"no column holds a choice such as A, B, tie, left or right; the row has {names}")
    said = _one_choice({name: _listed(row.get(name)) for name in sorted(tags)}, passed)
    times = dict(row)
    if isinstance(times.get("lead_time"), str):  # from CSV
        try:
            times["lead_time"] = float(times["lead_time"]) if times["lead_time"] else None
        except ValueError:
            raise DataError(f"lead_time {times['lead_time']!r}: expected a number") from None
    return _made(pair_id, said, row["annotator"], times, passed)
