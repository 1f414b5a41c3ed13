"""State behind the labelling page: hands out pairs, stores annotations, reports progress. Shared by threads."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bgpm.annotate.batches import OpenBatch, PoolTexts, ShownPair, reserve, version
from bgpm.annotate.checking import Checking, Question
from bgpm.annotations.agreement import cohen, fleiss
from bgpm.annotations.checks import Check
from bgpm.annotations.names import spelling
from bgpm.annotations.quality import side_of
from bgpm.annotations.store import Annotation, CheckKind, Flag, LabelStore, Strength, folder_by_pair, now
from bgpm.errors import DataError, StateError
from bgpm.oracles.human import Human
from bgpm.stage import HELDOUT_ANNOTATIONS

log = logging.getLogger("bgpm")

Choice = Literal["left", "right", "tie", "both_bad", "skip", "cannot_judge"]
ABSTENTIONS: tuple[Choice, ...] = ("skip", "cannot_judge")
TIES: tuple[Choice, ...] = ("tie", "both_bad")

AHEAD = 4  # pairs handed out at once: what a person can go on with while the network is away
IN_HAND = 600.0  # seconds for which a pair that one person was given is not given to others, if there is any else
LONGEST_NAME = 64
LONGEST_NOTE = 4000


GONE = (
    "The loop went on while you labelled the last pair: it is not asked for any more. Your annotation of it is kept, "
    "and counts if a later round acquires it."
)
CHANGED = (
    "The texts of the last pair were changed while you labelled it. Your annotation is of the old texts: it is kept in "
    "data/annotations/checks and counts for nothing."
)


class ClosedError(Exception):
    """The pair takes no annotations: it is none of those that people are asked for, or its label was used."""


def shown(annotator: str, pair_id: str) -> Literal["ab", "ba"]:
    """The order in which this annotator sees this pair: a fair draw by annotator and pair, always the same."""
    digest = hashlib.blake2b(f"{annotator}\0{pair_id}".encode(), digest_size=1).digest()
    return "ba" if digest[0] & 1 else "ab"


def label_of(choice: Choice, order: str) -> float | None:
    """The label of a choice: 1 when response_a is better, None for a skipped pair."""
    if choice in (*TIES, *ABSTENTIONS):
        return 0.5 if choice in TIES else None
    return float((choice == "left") == (order == "ab"))


def labels(said: Mapping[str, Annotation]) -> dict[str, float]:
    """The labels that people gave one pair as 1 (A), 0.5 (tie) or 0 (B), without those who skipped it."""
    return {name: side for name, a in said.items() if (side := side_of(a.label)) is not None}


class Progress:
    """Who annotated which pairs of a batch; updated with each annotation.

    Attributes:
        open: Pairs that too few people have answered, in the order of asking.
        mine: Pairs that each person has answered.
        given: Annotations that were needed and given.
    """

    def __init__(self, batch: OpenBatch, said: Mapping[str, Mapping[str, Annotation]], people: int) -> None:
        self.batch, self.people = batch, people
        self.count = {pair: len(said.get(pair, ())) for pair in batch.pair_ids}
        self.open = {pair: None for pair, count in self.count.items() if count < people}
        self.given = sum(min(count, people) for count in self.count.values())
        self.mine: dict[str, set[str]] = {}
        for pair in self.count:
            for name in said.get(pair, ()):
                self.mine.setdefault(name, set()).add(pair)

    def add(self, pair_id: str, annotator: str) -> None:
        """One more answer; a person's second one to a pair changes nothing."""
        mine = self.mine.setdefault(annotator, set())
        if pair_id in self.count and pair_id not in mine:
            mine.add(pair_id)
            self.count[pair_id] += 1
            self.given += self.count[pair_id] <= self.people
            if self.count[pair_id] >= self.people:
                self.open.pop(pair_id, None)


class Desk:
    """What is asked, who was given what, and what was answered.

    Args:
        texts: The pool.
        look: Says which batches wait, now.
        store: Where answers go; held as the only writer by the caller.
        settings: Says how many people a pair needs, and prices, now.
        ahead: How many pairs the reserve has at most, which is handed out while no batch has any for somebody; 0 for
            none.
        checks: Where answers to gold pairs and repeats go, and annotations of texts that were changed.
        split: Of the pool's pairs, whose annotations the store holds.
        contradicted: Says which batch was changed after it was asked for, now; "" where none was.
        planned: Says how many pairs are still acquired after a batch: the reserve has no more.

    Raises:
        ConfigError, DataError: If the gold pairs cannot be read.
    """

    def __init__(
        self,
        texts: PoolTexts,
        look: Callable[[], list[OpenBatch]],
        store: LabelStore,
        settings: Callable[[], Human],
        ahead: int = 0,
        checks: LabelStore | None = None,
        split: Literal["pool", "heldout"] = "pool",
        contradicted: Callable[[], str] = str,
        planned: Callable[[OpenBatch], int] | None = None,
    ) -> None:
        self.texts, self.store, self.settings = texts, store, settings()
        self.split, self._contradicted = split, contradicted
        self.checking = Checking(checks or LabelStore(checks_path(store.path.parent), Check), texts, self.settings)
        self._look, self._settings = look, settings
        self._lock = threading.RLock()
        self._batches: list[OpenBatch] = []
        self._asked: set[str] = set()
        self._size, self._planned = ahead, planned
        self._reserve: OpenBatch | None = None  # what follows the batch that waited last
        self._offered: set[str] = set()  # pairs of every reserve that no batch has asked for since
        self._last = time.monotonic()  # when something was annotated or taken back
        self._seen: object = None
        self._late: set[str] = set()  # ids of annotations of pairs that were not asked for any more
        self._said: dict[str, dict[str, Annotation]] = {}
        self._history: list[Annotation] = []
        self._by: dict[str, list[Annotation]] = {}  # the history of each person
        self._given: dict[str, dict[str, Annotation]] = {}  # their last annotation of each pair, the oldest first
        self._progress: dict[str, Progress] = {}  # of each batch, by its title
        self._hands: dict[tuple[str, str], float] = {}  # (annotator, pair): until when

    def batches(self) -> list[OpenBatch]:
        """Batches that wait, in the order of asking; empty where none does."""
        with self._lock:
            self._refresh()
            return self._batches

    def said(self) -> dict[str, dict[str, Annotation]]:
        """Every answer that counts, by pair and annotator, of this and of earlier batches."""
        with self._lock:
            self._refresh()
            return {pair: dict(said) for pair, said in self._said.items()}

    def open_pairs(self, batch: OpenBatch) -> list[str]:
        """Pairs of a batch that too few people have answered."""
        with self._lock:
            return list(self._on(batch).open)

    def _on(self, batch: OpenBatch) -> Progress:
        found = self._progress.get(batch.title)
        if found is None or found.batch is not batch or found.people != self.settings.annotators_per_pair:
            found = self._progress[batch.title] = Progress(batch, self._said, self.settings.annotators_per_pair)
        return found

    def current(self) -> OpenBatch | None:
        """The first batch that is not finished, or the last; None where none waits."""
        with self._lock:
            batches = self.batches()
            return next((b for b in batches if self._on(b).open), batches[-1] if batches else None)

    def complete(self) -> bool:
        """Whether no batch waits for anybody."""
        with self._lock:
            return not any(self._on(batch).open for batch in self.batches())

    def quiet(self) -> float:
        """Seconds since somebody annotated a pair or took an annotation back."""
        return time.monotonic() - self._last

    def _for(self, annotator: str, *, more: bool) -> OpenBatch | None:
        """What this person works on: the current batch, or the reserve where that has nothing for them."""
        batch = self.current()
        if self._reserve is None or (batch and more):
            return batch
        wanted = batch and any(pair not in self._on(batch).mine.get(annotator, ()) for pair in self._on(batch).open)
        return batch if wanted else self._reserve

    def state(self, annotator: str, *, more: bool = False) -> dict[str, Any]:
        """How far the work is, and the pairs to show this person next.

        Args:
            annotator: Who asks.
            more: Hand out pairs that need no further answer as well, for second opinions.
        """
        annotator = _named(annotator)
        with self._lock:
            batch = self._for(annotator, more=more)
            if batch is None:
                return {
                    "batch": None,
                    "annotator": annotator,
                    "queue": [],
                    "last": None,
                    "changed": self._contradicted() or None,
                }
            progress = self._on(batch)
            mine = progress.mine.get(annotator, set())
            others = [p for p in progress.count if p not in mine and p not in progress.open] if more else []
            queue = self._hand_out(annotator, (p for p in progress.open if p not in mine), others)
            finished = len(progress.count) - len(progress.open)
            given, human = self._given.get(annotator, {}), self.settings
            items = self.checking.queue(annotator, batch.title, queue, len(mine), given, human, self.texts)[:AHEAD]
            checked = len(self.checking.done(annotator, batch.title))
            expected = self.checking.expected(annotator, batch.title, len(progress.count), given.keys(), mine, human)
            total = len(progress.count)
            if expected or checked:  # gold pairs and repeats count like pairs: no number tells that there was one
                people = progress.people
                total = -(-(total * people + max(expected, checked)) // people)
                done = total if not progress.open else min((progress.given + checked) // people, total - 1)
            else:
                done = finished
            last = self._last_of(annotator)
            return {
                "batch": batch.title,
                "annotator": annotator,
                "heldout": batch.path is None and not batch.reserve,
                "reserve": batch.reserve,
                "total": total,
                "finished": done,
                "people": self.settings.annotators_per_pair,
                "scale": self.settings.scale,
                "mine": len(mine) + checked,
                "extra": finished - sum(pair not in progress.open for pair in mine),
                "queue": [self.question(annotator, item) for item in items],
                "last": last and {"id": last.id},
                "agreement": None if queue else self._agreement(annotator, batch),
            }

    def _note(self, annotation: Annotation) -> None:
        """Add an annotation to what its annotator gave."""
        self._by.setdefault(annotation.annotator, []).append(annotation)
        last = self._given.setdefault(annotation.annotator, {})
        last.pop(annotation.pair_id, None)
        last[annotation.pair_id] = annotation

    def _last_of(self, annotator: str) -> Annotation | None:
        """What a person gave last and can take back."""
        last = next((a for a in reversed(self._by.get(annotator, [])) if a.pair_id in self._asked), None)
        check = max(self.checking.done(annotator), key=Annotation.time, default=None)
        return check if check and (last is None or check.time() >= last.time()) else last

    def _pair(self, item: Question) -> ShownPair:
        return self.checking.shown(item.pair_id) if item.kind == "gold" else self.texts[item.pair_id]

    def question(self, annotator: str, item: Question) -> dict[str, Any]:
        """A pair as this person is shown it; nothing in it tells a gold pair or a repeat from another."""
        asked, order = self._pair(item), self._order(annotator, item)
        left, right = (asked.response_a, asked.response_b) if order == "ab" else (asked.response_b, asked.response_a)
        turns = [{"role": role, "content": content} for role, content in asked.turns]
        name = self.checking.name(annotator, item, self.settings)
        return {
            "pair_id": name,
            "turns": turns,
            "left": left,
            "right": right,
            "shown": order,
            "texts": asked.texts,
        }

    def _order(self, annotator: str, item: Question) -> Literal["ab", "ba"]:
        """Which response stands first; in a repeat the one that stood second the first time."""
        if item.kind == "repeat":
            first = self._given.get(annotator, {}).get(item.pair_id)
            if first:
                return "ab" if first.shown == "ba" else "ba"
        return shown(annotator, item.pair_id)

    def annotate(
        self,
        *,
        id: str,
        annotator: str,
        pair_id: str,
        choice: Choice,
        shown: Literal["ab", "ba"],
        seconds: float,
        note: str = "",
        strength: Strength | None = None,
        flags: Sequence[Flag] = (),
        texts: str = "",
    ) -> str:
        """Put an answer on disk; it is there when this returns. A repeated one (same ``id``) changes nothing.

        Args:
            pair_id: As the browser calls it, see `question`.
            strength: How much better the better response is, kept as given whatever the scale is by now.
            flags: ``unsafe`` and ``wrong_language``; the other two are choices.
            texts: `ShownPair.texts` of what was read; empty where nobody says.

        Returns:
            What the person should know: that the pair was not asked for any more, or its texts had changed; else "".

        Raises:
            DataError: If a field cannot be right.
            ClosedError: If the pair is none that people are asked for.
            StateError: If the answer did not get onto the disk.
        """
        annotator = _named(annotator)
        if choice not in get_args(Choice):
            raise DataError(f"choice {choice!r}: expected one of {', '.join(get_args(Choice))}")
        if shown not in ("ab", "ba"):
            raise DataError(f"shown {shown!r}: expected ab or ba")
        if seconds is None:
            raise DataError("seconds None: expected a number >= 0")
        if not isinstance(note, str) or len(note) > LONGEST_NOTE:
            raise DataError(f"note: expected text of at most {LONGEST_NOTE} characters")
        label = label_of(choice, shown)
        marks = (*flags, choice) if choice == "both_bad" or choice == "cannot_judge" else tuple(flags)
        with self._lock:
            self._refresh()
            item = self._taken(annotator, pair_id, texts)
            annotation = Annotation(
                item.pair_id, label, annotator, now(), 0.0, seconds, "human", shown, note, id, strength, marks
            )
            paid, pair_id = self.settings, item.pair_id
            price = (0.0 if label is None else paid.price_per_label) + paid.price_per_hour * seconds / 3600
            annotation = replace(annotation, cost=price)
            if item.kind != "pool":
                self._check(annotation, item.kind)
                return CHANGED if item.kind == "changed" else ""
            self.store.append(annotation)
            self._hands.pop((annotator, pair_id), None)
            if self._seen != (fingerprint := self._fingerprint()):  # else it had come before
                self._history.append(annotation)
                self._note(annotation)
                self._said.setdefault(pair_id, {})[annotator] = annotation
                for progress in self._progress.values():
                    progress.add(pair_id, annotator)
                self._seen = fingerprint
            self._last = time.monotonic()
            if pair_id in self._asked:
                return ""
            self._late.add(id)
            return GONE

    def _taken(self, annotator: str, name: str, texts: str) -> Question:
        """What an annotation is of.

        Raises:
            ClosedError: If nobody was ever asked for it.
        """
        item = self.checking.item(annotator, name, self.texts, self._given.get(annotator, {}))
        if item is None or (item.kind != "gold" and item.pair_id not in self.texts.row):
            if not texts:  # no page asked for it
                raise ClosedError("this pair is none of those that people are asked for")
            return Question("changed", item.pair_id if item else name)
        if texts and texts != self._pair(item).texts:
            return Question("changed", item.pair_id)
        if item.kind == "pool" and item.pair_id not in self._asked and self.texts.split(item.pair_id) != self.split:
            raise ClosedError("this pair is none of those that people are asked for")
        return item

    def _check(self, annotation: Annotation, kind: CheckKind) -> None:
        """Keep what is no annotation of a pair of the batch."""
        batch = self._for(annotation.annotator, more=False)
        title = batch.title if batch else ""
        values = {field.name: getattr(annotation, field.name) for field in fields(annotation)}
        self.checking.add(Check(**values, kind=kind, batch=title))
        self._last = time.monotonic()

    def undo(self, *, id: str, annotator: str) -> dict[str, Any]:
        """Take an answer back and return its question.

        Raises:
            DataError: If this person gave no such answer.
            ClosedError: If its label was used already.
            StateError: If that did not get onto the disk.
        """
        annotator = _named(annotator)
        with self._lock:
            self._refresh()
            check = next((check for check in self.checking.done(annotator) if check.id == id), None)
            if check:
                self.checking.store.undo(id, annotator)
                self._last = time.monotonic()
                self._refresh()
                return self.question(annotator, Question(check.kind, check.pair_id))
            pair_id = next((a.pair_id for a in self._history if a.id == id and a.annotator == annotator), None)
            if pair_id is not None and pair_id not in self._asked and id not in self._late:
                raise ClosedError("this answer cannot be taken back any more: the loop went on with it")
            self.store.undo(id, annotator)
            self._seen, self._last = None, time.monotonic()
            self._refresh()
            return {} if pair_id is None else self.question(annotator, Question("pool", pair_id))

    def _refresh(self) -> None:
        """Read settings, answers and batches anew where a file changed since our last look.

        Raises:
            StateError: If a file of answers is broken: what a person sends meanwhile is worth another try.
            ConfigError: If the settings are.
        """
        self.settings = self._settings()
        self.texts = self.texts.now()
        self.checking.refresh(self.texts, self.settings)
        if changed := (batches := self._look()) != self._batches:
            self._batches = batches
            self._asked = {pair for batch in batches for pair in batch.pair_ids}
        if self._seen != (fingerprint := self._fingerprint()):
            try:
                self._said = folder_by_pair(self.store.path.parent, "human")
                self._history = self.store.history()
            except DataError as error:
                raise StateError(str(error)) from None
            self._by, self._given = {}, {}
            for annotation in self._history:
                self._note(annotation)
            self._progress = {}
            self._seen = fingerprint
        if changed and self._size:
            self._offered -= self._asked
            if batches:
                enough = self.settings.annotators_per_pair
                full = {pair for pair, said in self._said.items() if len(said) >= enough}
                try:
                    most = self._size if self._planned is None else min(self._size, self._planned(batches[0]))
                    self._reserve = reserve(batches[0], full, most)
                except StateError as error:  # `dvc repro` is writing that file
                    log.warning("no reserve: %s", error)
                    self._reserve = None
            self._offered |= set(self._reserve.pair_ids if self._reserve else ())
            self._asked |= self._offered

    def _fingerprint(self) -> object:
        return [(path.name, version(path)) for path in sorted(self.store.path.parent.glob("*.jsonl"))]

    def _hand_out(self, annotator: str, needed: Iterable[str], extra: Sequence[str]) -> list[str]:
        """The next pairs for this person: what is needed first, and of it what nobody else has in hand."""
        moment = time.monotonic()
        self._hands = {key: until for key, until in self._hands.items() if until > moment and key[0] != annotator}
        taken = {pair for _, pair in self._hands}
        free: list[str] = []
        in_hand: list[str] = []
        for pair in needed:
            (in_hand if pair in taken else free).append(pair)
            if len(free) == AHEAD:
                break
        queue = [*free, *in_hand, *extra][:AHEAD]
        self._hands |= {(annotator, pair): moment + IN_HAND for pair in queue}
        return queue

    def _agreement(self, annotator: str, batch: OpenBatch) -> dict[str, Any] | None:
        """How often the others agree with this person in this batch; None where nobody answered the same pair."""
        annotations = {p: labels(self._said[p]) for p in batch.pair_ids if p in self._said}
        others = sorted({name for said in annotations.values() for name in said} - {annotator})
        pairwise = [(name, cohen(annotations, annotator, name)) for name in others]
        pairwise = [(name, a) for name, a in pairwise if a.pairs]
        if not pairwise:
            return None
        everyone = fleiss(annotations)
        return {
            "with": [{"name": n, "pairs": a.pairs, "raw": a.raw, "kappa": _finite(a.kappa)} for n, a in pairwise],
            "pairs": everyone.pairs,
            "raw": everyone.raw,
            "kappa": _finite(everyone.kappa),
        }


def _finite(value: float) -> float | None:
    return None if value != value else value


def _named(annotator: object) -> str:
    """Who this is, in the spelling that counts."""
    if (
        not isinstance(annotator, str)
        or any(unicodedata.category(character) in ("Cc", "Cs") for character in annotator)
        or annotator != annotator.strip()
        or not 0 < len(name := spelling(annotator)) <= LONGEST_NAME
    ):
        raise DataError(f"annotator {annotator!r}: expected 1 to {LONGEST_NAME} characters, none a control character")
    return name


def store_path(folder: Path) -> Path:
    """The file of a folder of annotations that the page writes."""
    return folder / "people.jsonl"


def checks_path(folder: Path) -> Path:
    """The file of checks that belongs to a folder of annotations; beside them, since stages depend on that folder."""
    whole = folder.parent if folder.name == HELDOUT_ANNOTATIONS.name else folder
    return whole / "checks" / ("people.jsonl" if whole == folder else f"{folder.name}.jsonl")
