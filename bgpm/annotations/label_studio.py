"""Annotations as tasks of Label Studio: a ``Pairwise`` or ``Choices`` tag of any name, left or A being response A.

Read as JSON (tasks with ``annotations``; https://labelstud.io/guide/task_format) and as JSON-MIN or its CSV (one row an
annotation, the task's fields and the tags side by side). A cancelled annotation and one without a choice are pairs that
the annotator skipped. Text areas become the note. Where two tags hold a choice the one with our words counts. JSON-MIN
does not say which columns are tags: a value of Pairwise is one, ``[{"selected": "left"}]``, and so are `TAGS`.
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
from bgpm.data.conversations import parsed_list
from bgpm.data.files import records
from bgpm.errors import DataError

OURS = ("pair_id", "prompt", "response_a", "response_b", "answer_a", "answer_b")
MIN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")  # what JSON-MIN adds to a row
CHOICES = ("choices", "pairwise")
TAGS = ("preference", "pw")  # names of a tag that no field of a task has
LONGEST = 40  # characters of a choice's words


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


def read(path: Path, passed: Passed, tag: str = "") -> Iterator[Found]:
    """Annotations of a file of tasks.

    Args:
        tag: Name of the one that is the preference; empty where the file shows it.

    Raises:
        DataError: If a task is none, or which tag is the preference cannot be told.
    """
    whole = list(records(path, ""))
    if whole and all("data" not in row and "annotator" in row for _, row in whole):
        yield from _rows(whole, path, passed, tag)
        return
    found = {str(r.get("from_name")) for _, row in whole for one in _annotations(row) for r in _results(one, CHOICES)}
    if tag and tag not in found:
        raise DataError(f"{path}: no choice under {tag!r} (--tag); there are {', '.join(sorted(found)) or 'none'}")
    asked = bool(found)
    for place, row in whole:
        data, annotations = row.get("data"), row.get("annotations", row.get("completions", []))
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise DataError(f"{place}: not a task of Label Studio: expected `data` and a list `annotations`")
        drafts = row.get("drafts")
        passed.annotations["draft"] += len(drafts) if isinstance(drafts, list) else 0
        for one in annotations:
            yield place, lambda data=data, one=one: _annotation(data, one, passed, asked=asked, tag=tag)
    passed.annotations = +passed.annotations


def _annotations(row: Mapping[str, Any]) -> list[Any]:
    annotations = row.get("annotations", row.get("completions", []))
    return annotations if isinstance(annotations, list) else []


def _results(one: object, kinds: Sequence[str]) -> list[dict[str, Any]]:
    results = one.get("result") if isinstance(one, dict) else None
    return [r for r in results or () if isinstance(r, dict) and r.get("type") in kinds]


def _annotation(data: Mapping[str, Any], one: object, passed: Passed, *, asked: bool, tag: str) -> Annotation:
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
            fields = _one_choice(said, passed, tag)
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


def _one_choice(said: Mapping[str, list[Any]], passed: Passed, tag: str) -> dict[str, Any]:
    """What the one tag that is ours says, as `choice` reads it; the label is None where nothing was chosen."""
    given = {name: chosen for name, chosen in said.items() if chosen}
    ours = [tag] if tag else [name for name, chosen in given.items() if all(map(is_choice, chosen))]
    if len(given) > 1 and len(ours) != 1:
        raise DataError(
            f"choices under {', '.join(map(repr, given))}, of which {len(ours) or 'none'} can be the preference: "
            "name it with --tag, or export the project with one such tag"
        )
    name = ours[0] if ours else next(iter(given), "")
    passed.tags |= {other: "choices" for other in given if other != name}
    if name not in given:
        return {"label": None, "note": ""}
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


def _rows(whole: Sequence[tuple[str, dict[str, Any]]], path: Path, passed: Passed, tag: str) -> Iterator[Found]:
    """Rows of JSON-MIN, in which tags and fields of the task stand side by side."""
    names = dict.fromkeys(name for _, row in whole for name in row if name not in (*OURS, *MIN))
    said = {name: [row[name] for _, row in whole if _listed(row.get(name))] for name in names}
    if tag and tag not in names:
        raise DataError(f"{path}: no column {tag!r} (--tag); there are {', '.join(names) or 'none'}")
    tags = {tag} if tag else _tags(said, path, passed)
    for place, row in whole:
        yield place, lambda row=row: _row(row, tags, passed, tag)


def _tags(said: Mapping[str, list[object]], path: Path, passed: Passed) -> set[str]:
    """Columns of JSON-MIN that may be the tag: those of Pairwise, else those with a choice of ours in any row.

    Raises:
        DataError: If another column may as well be the tag, with words that are not ours.
    """
    ours = {name for name, values in said.items() if any(all(map(is_choice, _listed(value))) for value in values)}
    sure = {name for name in ours if any(map(_is_pairwise, said[name]))}
    others = [name for name, values in said.items() if name not in ours and any(map(_may_be_choice, values))]
    if ours and others and not sure and ours.isdisjoint(TAGS):
        raise DataError(
            f"{path}: {', '.join(sorted(ours))} holds a choice such as A or left, but may be a field of the tasks, and "
            f"{', '.join(others)} the tag; name the tag with --tag"
        )
    passed.tags |= dict.fromkeys(ours - sure if sure else (), "")
    return sure or ours


def _is_pairwise(value: object) -> bool:
    return any(isinstance(item, dict) and "selected" in item for item in _items(value))


def _may_be_choice(value: object) -> bool:
    """Whether a cell may hold a choice in words of the project's own: one short text that is no number."""
    listed = _listed(value)
    word = listed[0].strip() if len(listed) == 1 and isinstance(listed[0], str) else ""
    return 0 < len(word) <= LONGEST and not re.fullmatch(r"[-+.,:\dTZ ]+", word)


def _listed(value: object) -> list[Any]:
    """A tag's value in JSON-MIN as a list: one choice stands alone, several in an object, Pairwise in a list of one."""
    found: list[Any] = []
    for item in _items(value):
        chosen = item.get("selected", item.get("choices")) if isinstance(item, dict) else item
        found += chosen if isinstance(chosen, list) else [] if chosen in (None, "") else [chosen]
    return found


def _items(value: object) -> list[Any]:
    """A cell as a list of what it holds; CSV has lists and objects as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        found = parsed_list(value)
        value = found if isinstance(found, list | dict) else value
    return value if isinstance(value, list) else [value]


def _row(row: Mapping[str, Any], tags: set[str], passed: Passed, tag: str) -> Annotation:
    pair_id = pair_id_of(row, "the row")
    if not tags:
        names = ", ".join(name for name in row if name not in MIN)
        raise DataError(
            f"no column holds a choice such as A, B, tie, left or right; the row has {names}; name it with --tag"
        )
    said = _one_choice({name: _listed(row.get(name)) for name in sorted(tags)}, passed, tag)
    times = dict(row)
    if isinstance(times.get("lead_time"), str):  # from CSV
        try:
            times["lead_time"] = float(times["lead_time"]) if times["lead_time"] else None
        except ValueError:
            raise DataError(f"lead_time {times['lead_time']!r}: expected a number") from None
    return _made(pair_id, said, row["annotator"], times, passed)
