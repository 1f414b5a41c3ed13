"""The store of annotations: an append-only file that loses none of them.

One JSON object a line. A line is either an annotation (the fields of `Annotation`; ``pair_id`` and ``label`` suffice
for lines written by hand) or a retraction ``{"retract": ID, "annotator": ..., "at": ...}``. Nothing is ever rewritten,
so a file can be merged, read and mended with any editor.

An answer is on disk before `LabelStore.append` returns. What a crash or a full disk cuts off is the line that was being
written and had not been acknowledged; it is moved aside, not deleted. One process writes at a time; readers need
no lock. The lock is ``flock``: on a network folder it is as good as that file system's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from bgpm.annotations.lock import only_one
from bgpm.annotations.names import ANONYMOUS, annotator_name, spelling
from bgpm.errors import DataError, StateError
from bgpm.values import parse_json

log = logging.getLogger("bgpm")

AnnotatorKind = Literal["recorded", "judge", "human"]
Shown = Literal["ab", "ba"]
Strength = Literal["slight", "clear", "much"]  # how much better the better response is
Flag = Literal["both_bad", "cannot_judge", "unsafe", "wrong_language"]
CheckKind = Literal["gold", "repeat", "changed"]  # see `bgpm.annotations.checks`

LONGEST_SECONDS = 86_400.0  # that anybody spends on one pair
HIGHEST_COST = 1e9  # of one annotation, in whatever currency
GIVEN = ("label", "strength", "flags")  # what an annotator says of a pair


def now() -> str:
    """This moment, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Annotation:
    """What one annotator gave for one pair.

    Attributes:
        pair_id: The pair, in the order of its answers that the batch has.
        label: Probability that response_a is better (1, 0, 0.5 for a tie, or between),
            whichever was shown first; None for a question that was skipped.
        annotator: Who said it, in the one spelling that counts (`bgpm.annotations.names`), whichever was given.
        at: When, UTC, ISO 8601; empty where it is not known.
        cost: What the answer cost, in the currency of the settings.
        seconds: Time spent on it; None where it is not known.
        source: What kind of annotator it is.
        shown: Which order was shown: "ba" when the batch's second answer stood first.
        note: Free text: a reason, a remark.
        strength: How much better the better response is, as it was given; None where it was not asked or not said.
        flags: What else was said: of a tie that both are bad, of a skipped pair that it cannot be judged, of any that
            a response is unsafe or the language wrong; sorted.
        id: Name of this answer; a second answer of the same name is not written again.

    Raises:
        DataError: If a field cannot be what it says; names the field.
    """

    pair_id: str
    label: float | None
    annotator: str
    at: str
    cost: float = 0.0
    seconds: float | None = None
    source: AnnotatorKind = "human"
    shown: Shown = "ab"
    note: str = ""
    id: str = field(default_factory=_new_id)
    strength: Strength | None = None
    flags: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.annotator, str):
            object.__setattr__(self, "annotator", spelling(self.annotator))
        for name in ("pair_id", "annotator", "at", "note", "id"):
            value = getattr(self, name)
            if not isinstance(value, str) or (not value and name in ("pair_id", "annotator", "id")):
                raise DataError(f"{name} {value!r}: expected text")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise DataError(f"{name} {value!r}: expected text, got half a character (a lone surrogate)") from None
        if not (self.label is None or _is_number(self.label, 1.0)):
            raise DataError(f"label {self.label!r}: expected a probability in [0, 1] (0.5 for a tie), or null")
        if not _is_number(self.cost, HIGHEST_COST):
            raise DataError(f"cost {self.cost!r}: expected a number from 0 to {HIGHEST_COST:.0f}")
        if not (self.seconds is None or _is_number(self.seconds, LONGEST_SECONDS)):
            raise DataError(f"seconds {self.seconds!r}: expected a number from 0 to {LONGEST_SECONDS:.0f}, or null")
        for name, allowed in (("source", get_args(AnnotatorKind)), ("shown", get_args(Shown))):
            if getattr(self, name) not in allowed:
                raise DataError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        self._check_strength_and_flags()
        if self.at:
            self.time()

    def _check_strength_and_flags(self) -> None:
        if self.strength is not None and self.strength not in get_args(Strength):
            raise DataError(f"strength {self.strength!r}: expected one of {', '.join(get_args(Strength))}, or null")
        if self.strength is not None and self.label not in (0, 1):
            raise DataError(f"strength {self.strength!r} with label {self.label}: only label 0 or 1 has a strength")
        if not isinstance(self.flags, list | tuple) or any(flag not in get_args(Flag) for flag in self.flags):
            raise DataError(f"flags {self.flags!r}: expected a list of {', '.join(get_args(Flag))}")
        object.__setattr__(self, "flags", tuple(sorted(set(self.flags))))
        for flag, label, what in (("both_bad", 0.5, "a tie, 0.5"), ("cannot_judge", None, "a skipped pair, null")):
            if flag in self.flags and self.label != label:
                raise DataError(f"flag {flag} with label {self.label}: expected {what}")

    def time(self) -> datetime:
        """``at`` as a moment; the beginning of time where it is not known."""
        if not self.at:
            return datetime.min.replace(tzinfo=UTC)
        try:
            moment = datetime.fromisoformat(self.at)
        except ValueError:
            moment = None
        if moment is None or moment.utcoffset() != timedelta(0):
            raise DataError(f"at {self.at!r}: expected a UTC time such as {now()!r}")
        return moment


def _is_number(value: object, most: float) -> bool:
    """Whether a value is a number from 0 to ``most``; True and False are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


class LabelStore:
    """Answers in one ``.jsonl`` file.

    Reading takes no lock. `append`, `extend` and `undo` take it for themselves, or for as long as `writer` lasts::

        with LabelStore(path).writer() as store:
            store.append(answer)  # on disk when this returns

    One store may be shared by threads.

    Args:
        record: What a line is read as.
    """

    def __init__(self, path: Path, record: type[Annotation] = Annotation) -> None:
        self.path, self.record = path, record
        self._thread = threading.RLock()
        self._held = False
        self._state: tuple[int, ...] | None = None  # which file it was after our last look, and how long
        self._ids: dict[str, Annotation] = {}
        self._retracted: set[str] = set()

    def history(self, *, retracted: bool = False) -> list[Annotation]:
        """Every answer in the order of writing, an annotator's earlier words included.

        Args:
            retracted: Those that were taken back too: they were paid for.

        Raises:
            DataError: Naming file and line of what is neither an answer nor a retraction. A last line that was
                cut off while being written is passed over.
        """
        return [annotation for annotation, _ in self._lines(retracted=retracted)]

    def _lines(self, *, retracted: bool = False) -> list[tuple[Annotation, str]]:
        """Every answer with its place where somebody wrote it by hand, without an id; "" where a program did."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        content = _parse(self.path, data, self.record)
        if content.torn:
            log.warning("%s: the last line is cut off and does not count; it had not been acknowledged", self.path)
        return [
            (annotation, content.by_hand.get(annotation.id, ""))
            for annotation in content.annotations.values()
            if retracted or annotation.id not in content.retracted
        ]

    def annotations(self) -> list[Annotation]:
        """Answers that count: not retracted, and each annotator's last word on each pair."""
        return list({(annotation.pair_id, annotation.annotator): annotation for annotation in self.history()}.values())

    def by_pair(self) -> dict[str, dict[str, Annotation]]:
        """Answers that count, by pair and annotator."""
        return _by_pair(self.annotations())

    @contextmanager
    def writer(self) -> Iterator[LabelStore]:
        """This store, and nobody else writes to it until the block ends.

        Raises:
            StateError: If another process is writing; names it.
            DataError: If the file holds what is no answer.
        """
        with only_one(self.path.with_name(self.path.name + ".lock")) as holder:
            if holder is not None:
                raise StateError(
                    f"{self.path}: process {holder} is writing to it; end that process or wait for it, then try again"
                )
            with self._thread:
                self._held = True
                self._state = None
                if self.path.exists():
                    self._write([])  # mends what an earlier writer left
            try:
                yield self
            finally:
                with self._thread:
                    self._held = False

    def append(self, annotation: Annotation) -> None:
        """Put an answer on disk; nothing happens if one of this ``id`` is there.

        Raises:
            StateError: If another process writes, or the answer did not get onto the disk: then it is not there.
            DataError: If another answer has this ``id``.
        """
        self.extend([annotation])

    def extend(self, annotations: Iterable[Annotation]) -> None:
        """Put answers on disk, all of them or none."""
        annotations = list(annotations)
        with self._writing():
            fresh: dict[str, Annotation] = {}
            for annotation in annotations:
                there = self._ids.get(annotation.id) or fresh.get(annotation.id)
                if there is not None and not _says_the_same(there, annotation):
                    raise DataError(f"{self.path}: another answer has the id {annotation.id!r}: an id names one answer")
                if there is None:
                    fresh[annotation.id] = annotation
            self._write([_entry(annotation) for annotation in fresh.values()])
            self._ids.update(fresh)

    def undo(self, id: str, annotator: str) -> None:
        """Take an answer back: a line is added, none is removed. What the annotator said before counts again.

        Raises:
            DataError: If this annotator gave no such answer.
            StateError: As for `append`.
        """
        with self._writing():
            annotation, annotator = self._ids.get(id), spelling(annotator)
            if annotation is None or annotation.annotator != annotator:
                whose = "there is none" if annotation is None else f"it is by {annotation.annotator!r}"
                raise DataError(f"{self.path}: no answer {id!r} of annotator {annotator!r} to take back: {whose}")
            if id not in self._retracted:
                self._write([{"retract": id, "annotator": annotator, "at": now()}])
                self._retracted.add(id)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock for one change and know what is in the file."""
        with self._thread, contextlib.nullcontext(self) if self._held else self.writer():
            if self.path.exists():
                self._write([])
            else:  # taken away while we had it open
                self._ids, self._retracted = {}, set()
            yield

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines, all or none, after mending and reading the file where it changed since our last look.

        The file is opened each time: a checkout or an editor may have put another one under its name.
        """
        new = not self.path.exists()
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if self._state != _identity(file):
                self._mend(file)
            before = os.fstat(file).st_size
            data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
            if data:
                try:
                    _write_all(file, data)
                    if new:
                        _sync_folder(self.path.parent)
                except BaseException as error:  # Ctrl-C too
                    self._state = None
                    with contextlib.suppress(OSError):  # where even this fails, the next writer finds a torn line
                        os.ftruncate(file, before)
                        os.fsync(file)
                    if not isinstance(error, OSError):
                        raise
                    raise StateError(
                        f"{self.path}: {error.strerror}: {len(lines)} lines were not written and do not count; make "
                        "room and give the answer again"
                    ) from error
            self._state = _identity(file)
        finally:
            os.close(file)

    def _mend(self, file: int) -> None:
        """Read what is there; move a torn last line aside, end an unended one."""
        data = b"".join(iter(lambda: os.read(file, 1 << 20), b""))
        content = _parse(self.path, data, self.record)
        if content.torn:
            aside = _write_aside(self.path, content.torn)
            os.ftruncate(file, len(data) - len(content.torn))
            os.fsync(file)
            log.warning("%s: the last line was cut off by a crash or a full disk: moved to %s", self.path, aside)
        elif data and not data.endswith(b"\n"):
            _write_all(file, b"\n")
        self._ids, self._retracted = content.annotations, content.retracted


def jsonl(annotations: Iterable[Annotation]) -> str:
    """Annotations as the text of a store's file."""
    return "".join(json.dumps(_entry(annotation), ensure_ascii=False) + "\n" for annotation in annotations)


def _entry(annotation: Annotation) -> dict[str, Any]:
    """An annotation as an object; without strength and flags where there are none, as before there were any."""
    entry = asdict(annotation)
    return {name: value for name, value in entry.items() if value or name not in ("strength", "flags")}


def _identity(file: int) -> tuple[int, ...]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _says_the_same(one: Annotation, other: Annotation) -> bool:
    """Whether a repeated answer is the same one; the time of day may differ where a page sent it twice."""
    return all(getattr(one, name) == getattr(other, name) for name in ("pair_id", "annotator", *GIVEN))


Folder = list[tuple[Path, list[tuple[Annotation, str]]]]  # files, and their answers with the places of those by hand


def read_folder(folder: Path, source: AnnotatorKind) -> Folder:
    """Answers of one kind of annotator in every ``.jsonl`` file of a folder.

    Raises:
        DataError: Naming file and line of what is no answer.
    """
    return [
        (path, [line for line in LabelStore(path)._lines() if line[0].source == source])
        for path in sorted(folder.glob("*.jsonl"))
    ]


def folder_by_pair(folder: Path, source: AnnotatorKind) -> dict[str, dict[str, Annotation]]:
    """`files_by_pair` of a folder."""
    return files_by_pair(read_folder(folder, source))


def files_by_pair(files: Folder) -> dict[str, dict[str, Annotation]]:
    """Answers by pair and annotator.

    In one file an annotator's last word on a pair counts, across files the latest, and answers without a time count as
    earlier than any with one. What has neither a time nor an order that is meant must say the same: lines written by
    hand, and answers in two files.

    Raises:
        DataError: Naming file and line of two that contradict each other.
    """
    last: dict[tuple[str, str], tuple[Annotation, str]] = {}
    for path, lines in files:
        here: dict[tuple[str, str], tuple[Annotation, str]] = {}
        for annotation, place in lines:
            key = annotation.pair_id, annotation.annotator
            if key in here and (place or here[key][1]):
                _refuse_contradiction(here[key], (annotation, place), path)
            here[key] = annotation, place
        for key, (annotation, place) in here.items():
            if key in last:
                _refuse_contradiction(last[key], (annotation, place or str(path)), path)
            if key not in last or annotation.time() >= last[key][0].time():
                last[key] = annotation, place or str(path)
    return _by_pair(annotation for annotation, _ in last.values())


def words_of(annotation: Annotation) -> str:
    """What an annotation says, for messages."""
    strength = f" ({annotation.strength})" if annotation.strength else ""
    return "skip" if annotation.label is None else f"label {annotation.label:g}{strength}"


def _refuse_contradiction(one: tuple[Annotation, str], other: tuple[Annotation, str], path: Path) -> None:
    """Raise where two answers without a time differ; where no place is given it is the file."""
    (said, where), (annotation, place) = one, other
    if (annotation.label, annotation.strength) != (said.label, said.strength) and not (annotation.at or said.at):
        first, second = (words_of(a) for a in (said, annotation))
        raise DataError(
            f"{place or path}: {annotation.annotator} says {second} of pair {annotation.pair_id!r}, but {first} in "
            f"{where or path}; take one out, or say `at` in both, the later one last"
        )


def paid(folders: Iterable[Path], source: AnnotatorKind) -> list[Annotation]:
    """Every answer of one kind of annotator that was ever given in these folders, each once.

    Those that were taken back, replaced by a later one or never asked for count too: somebody gave time to them.
    """
    stores = [LabelStore(path) for folder in folders for path in sorted(folder.glob("*.jsonl"))]
    given = {annotation.id: annotation for store in stores for annotation in store.history(retracted=True)}
    return [annotation for annotation in given.values() if annotation.source == source]


def check_pairs(files: Folder, known: Container[str], pool: str) -> None:
    """Refuse a line written by hand about a pair that the pool does not have; count what programs wrote of such pairs.

    Args:
        known: Names of the pool's pairs.
        pool: What to call the pool in messages.

    Raises:
        DataError: Naming file, line and pair. What programs wrote is of another pool or order, since they check: that
            is warned of.
    """
    strange: list[str] = []
    for path, lines in files:
        for annotation, place in lines:
            if annotation.pair_id in known:
                continue
            if place:
                raise DataError(
                    f"{place}: pair {annotation.pair_id!r} is not in {pool}; mend pair_id (`bgpm batch BATCH` "
                    "prints the names), or take the line out"
                )
            strange.append(f"{annotation.pair_id!r} in {path}")
    if strange:
        log.warning("%d answers are about pairs that are not in %s, the first is %s", len(strange), pool, strange[0])


def _by_pair(annotations: Iterable[Annotation]) -> dict[str, dict[str, Annotation]]:
    found: dict[str, dict[str, Annotation]] = {}
    for annotation in annotations:
        found.setdefault(annotation.pair_id, {})[annotation.annotator] = annotation
    return found


def refuse_check(entry: Mapping[str, Any]) -> None:
    """Refuse the line of a check where annotations of the pool are read.

    Raises:
        DataError: If it is one.
    """
    if entry.get("kind") in get_args(CheckKind):
        raise DataError(
            f"an annotation with kind {entry['kind']!r} is a check of its annotator and no label; such lines belong to "
            "data/annotations/checks: take it out here"
        )


@dataclass(frozen=True)
class _Content:
    """Answers by id, in order; ids taken back; places of lines without an id; bytes of a last line that was cut off."""

    annotations: dict[str, Annotation]
    retracted: set[str]
    by_hand: dict[str, str]
    torn: bytes


def _parse(path: Path, data: bytes, record: type[Annotation]) -> _Content:
    annotations: dict[str, Annotation] = {}
    retracted: set[str] = set()
    by_hand: dict[str, str] = {}
    # Split at line feeds only: U+2028 and its like may stand inside a note.
    *lines, last = data.split(b"\n")
    for number, line in enumerate([*lines, last], 1):
        if not line.strip():
            continue
        ended = number <= len(lines)
        try:
            entry = parse_json(line)
        except ValueError as error:
            if not ended:
                return _Content(annotations, retracted, by_hand, last)
            raise DataError(f"{path}:{number}: not JSON ({error}); mend the line or take it out") from None
        if isinstance(entry, dict) and isinstance(entry.get("retract"), str):
            retracted.add(entry["retract"])
            continue
        annotation = _annotation(entry, f"{path}:{number}", line, record)
        if not _says_the_same(annotations.setdefault(annotation.id, annotation), annotation):
            raise DataError(f"{path}:{number}: another answer above has the id {annotation.id!r}; take one line out")
        if "id" not in entry:
            by_hand[annotation.id] = f"{path}:{number}"
    return _Content(annotations, retracted, by_hand, b"")


def _annotation(entry: object, place: str, line: bytes, record: type[Annotation]) -> Annotation:
    """One line's answer; a line written by hand needs pair_id and label only, and gets a name of its own."""
    if not isinstance(entry, dict) or not {"pair_id", "label"} <= entry.keys():
        found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{place}: not an annotation: expected pair_id, label, annotator; got {found or 'nothing'}")
    if record is Annotation:
        try:
            refuse_check(entry)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
    given = {name: entry[name] for name in record.__dataclass_fields__ if name in entry}
    given["annotator"] = annotator_name(written := entry.get("annotator"))
    if given["annotator"] not in (str(written), ANONYMOUS):
        file = place.rpartition(":")[0]
        _say_once(f"{file}: the annotator written {str(written)!a} counts as {given['annotator']!r}, one person")
    for name, most in (("seconds", LONGEST_SECONDS), ("cost", HIGHEST_COST)):
        if _is_number(given.get(name), sys.float_info.max) and given[name] > most:  # written before there was a bound
            _say_once(f"{place}: {name} {given[name]:g} is beyond {most:g} and counts as not known; the label counts")
            del given[name]
    given.setdefault("at", "")
    given.setdefault("id", hashlib.blake2b(place.rpartition(":")[2].encode() + line, digest_size=16).hexdigest())
    try:
        annotation = record(**given)
    except DataError as error:
        raise DataError(f"{place}: {error}; mend the line or take it out") from None
    return annotation if annotation.label is None else replace(annotation, label=float(annotation.label))


@cache
def _say_once(warning: str) -> None:
    log.warning("%s", warning)


def _write_all(file: int, data: bytes) -> None:
    """Write every byte and wait until they are on the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _write_aside(path: Path, torn: bytes) -> Path:
    """Keep what was cut off in a new file beside the store."""
    number = 1
    while (aside := path.with_name(f"{path.name}.torn-{number}")).exists():
        number += 1
    with aside.open("xb", buffering=0) as file:
        _write_all(file.fileno(), torn)
    _sync_folder(path.parent)
    return aside


def _sync_folder(folder: Path) -> None:
    """Wait until a new name in a folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
