"""What other tools' records mean as annotations: the words of a choice, and the fields of an annotation."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from bgpm.annotations.names import annotator_name
from bgpm.annotations.store import LONGEST_SECONDS, Annotation, Strength, refuse_check
from bgpm.errors import DataError

COLUMNS = [field.name for field in fields(Annotation)]
A = ("a", "left", "response a", "answer a")
B = ("b", "right", "response b", "answer b")
TIE = ("tie", "draw", "equal", "same", "both")  # say nothing but that neither is better
BOTH_BAD = ("both are bad", "both bad", "bothbad", "tie (bothbad)", "neither", "neither is good", "none", "equally bad")
REASONS = ("both are good", "both good", "tie (bothgood)", "equally good")  # ties whose words are kept as the note
STRENGTHS: dict[str, Strength] = {
    " much better": "much", " clearly better": "clear", " slightly better": "slight",
}  # fmt: skip
NAMES = {1.0: "A", 0.0: "B", 0.5: "tie"}
WORDS = [*NAMES.values(), BOTH_BAD[0], *(name + how for how in STRENGTHS for name in ("A", "B"))]  # all of `name_of`
EXPECTED = "A, B, tie, left, right, response_a, response_b, 'A much better', or words such as 'both are bad'"


def name_of(annotation: Annotation) -> str | None:
    """The words of an annotation's choice, as `choice` reads them; None where it was skipped.

    Raises:
        DataError: If the label is a probability, for which there are no words.
    """
    if annotation.label is None or "both_bad" in annotation.flags:
        return None if annotation.label is None else BOTH_BAD[0]
    if annotation.label not in NAMES:
        raise DataError(
            f"pair {annotation.pair_id!r}: label {annotation.label:g} of {annotation.annotator} is neither A, B "
            "nor a tie; export csv or jsonl"
        )
    how = next((words for words, strength in STRENGTHS.items() if strength == annotation.strength), "")
    return NAMES[annotation.label] + how


@dataclass
class Passed:
    """What an import skipped, for one warning.

    Attributes:
        annotations: How many annotations were passed over, by reason.
        tags: Questions of the tool that are not ours, with their kind.
        long: How many annotations have a time that nobody spends on a pair.
    """

    annotations: Counter[str] = field(default_factory=Counter)
    tags: dict[str, str] = field(default_factory=dict)
    long: int = 0

    def sentences(self) -> list[str]:
        """One for each thing that there is to say."""
        found = []
        if self.annotations:
            parts = ", ".join(f"{count} {why}" for why, count in sorted(self.annotations.items()))
            found.append(f"{self.annotations.total()} annotations were passed over: {parts}")
        if self.tags:
            names = ", ".join(f"{name!r} ({kind})" if kind else repr(name) for name, kind in sorted(self.tags.items()))
            found.append(f"what was said under {names} is not a preference and was not read")
        if self.long:
            found.append(f"{self.long} annotations took over {LONGEST_SECONDS:.0f} s: their time counts as not known")
        return found


Read = Callable[[], Annotation | str]  # an annotation, or why it is passed over; DataError where it is neither
Found = tuple[str, Read]  # with its place


def choice(value: object) -> dict[str, Any]:
    """The fields of an annotation that a choice gives: label, 1 where response A is better; note, the words of a tie
    that says why; strength and flags where the words say them.

    Raises:
        DataError: If the words are none of ours.
    """
    if isinstance(value, str):
        words = " ".join(unicodedata.normalize("NFKC", value).casefold().replace("_", " ").replace("-", " ").split())
        words = words.strip(" .!").removesuffix(" is better")
        if words in BOTH_BAD:
            return {"label": 0.5, "note": "", "flags": ["both_bad"]}
        if words in REASONS:
            return {"label": 0.5, "note": value.strip()}
        how = next((end for end in STRENGTHS if words.endswith(end)), "")
        words = words.removesuffix(how).removesuffix(" is")
        for label, known in ((1.0, A), (0.0, B), *([] if how else [(0.5, TIE)])):
            if words in known:
                return {"label": label, "note": "", **({"strength": STRENGTHS[how]} if how else {})}
    raise DataError(f"choice {value!r}: expected one of {EXPECTED}")


def is_choice(value: object) -> bool:
    """Whether `choice` reads this."""
    try:
        choice(value)
    except DataError:
        return False
    return True


def annotation_of(entry: Mapping[str, Any]) -> Annotation:
    """An annotation from its fields; pair_id and label must be there, a name is made from the rest."""
    missing = [name for name in ("pair_id", "label") if name not in entry]
    if missing:
        raise DataError(f"no {' and no '.join(missing)}; expected {', '.join(COLUMNS[:3])} and perhaps more")
    refuse_check(entry)
    given = {name: entry[name] for name in COLUMNS if name in entry}
    given["annotator"] = annotator_name(given.get("annotator"))
    given["at"] = utc(given.get("at"))
    content = json.dumps([given["pair_id"], given["label"], given["annotator"], given["at"]], default=str)
    given.setdefault("id", hashlib.blake2b(content.encode(), digest_size=16).hexdigest())
    return Annotation(**given)


def pair_id_of(data: Mapping[str, Any], where: str) -> str:
    """The pair that a record of a tool is about.

    Raises:
        DataError: If the record does not say; its texts cannot say it, since pairs may share them.
    """
    name = data.get("pair_id")
    if not isinstance(name, str) or not name:
        found = ", ".join(map(str, data)) or "nothing"
        raise DataError(
            f"no pair_id in {where}, which has {found}: import the tasks that `bgpm labels export --batch` makes into "
            "the tool, and keep that field"
        )
    return name


def lead_time(seconds: object, passed: Passed) -> object:
    """Time spent as a tool measured it; not known where a page was left open for longer than anybody labels."""
    if isinstance(seconds, int | float) and seconds > LONGEST_SECONDS:
        passed.long += 1
        return None
    return seconds


def utc(moment: object) -> str:
    """A time as UTC; one without a zone is taken to be it, as the tools mean it. Empty where none is given."""
    if moment in (None, ""):
        return ""
    try:
        parsed = datetime.fromisoformat(str(moment))
    except ValueError:
        raise DataError(f"at {moment!r}: expected a time in ISO 8601") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
