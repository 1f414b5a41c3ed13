"""State behind the labelling page: hands out pairs, stores annotations, reports progress. Shared by threads."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from bgpm.annotate.batches import OpenBatch, PoolTexts, reserve
from bgpm.annotations.agreement import cohen, fleiss
from bgpm.annotations.names import spelling
from bgpm.annotations.store import Annotation, Flag, LabelStore, Strength, folder_by_pair, now
from bgpm.errors import DataError, StateError
from bgpm.oracles.human import Human

log = logging.getLogger("bgpm")

Choice = Literal["left", "right", "tie", "both_bad", "skip", "cannot_judge"]
ABSTENTIONS: tuple[Choice, ...] = ("skip", "cannot_judge")
TIES: tuple[Choice, ...] = ("tie", "both_bad")

AHEAD = 4  # pairs handed out at once: what a person can go on with while the network is away
IN_HAND = 600.0  # seconds for which a pair that one person was given is not given to others, if there is any else
LONGEST_NAME = 64
LONGEST_NOTE = 4000


class ClosedError(Exception):
    """The pair takes no annotations any more: its label was used, or the pool changed."""


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
    given = {name: a.label for name, a in said.items() if a.label is not None}
    return {name: 0.5 if label == 0.5 else float(label > 0.5) for name, label in given.items()}


class Progress:
    """Who annotated which pairs of a batch; updated with each annotation.

    Attributes:
        open: Pairs that too few people have answered, in the order of asking.
        mine: Pairs that each person has answered.
    """

    def __init__(self, batch: OpenBatch, said: Mapping[str, Mapping[str, Annotation]], people: int) -> None:
        self.batch, self.people = batch, people
        self.count = {pair: len(said.get(pair, ())) for pair in batch.pair_ids}
        self.open = {pair: None for pair, count in self.count.items() if count < people}
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
            if self.count[pair_id] >= self.people:
                self.open.pop(pair_id, None)


class Desk:
    """What is asked, who was given what, and what was answered.

    Args:
        texts: The pool.
        look: Says which batches wait, now.
        store: Where answers go; held as the only writer by the caller.
        settings: Says how many people a pair needs, and prices, now.
        ahead: How many pairs the reserve has, which is handed out while no batch has any for somebody; 0 for none.
    """

    def __init__(
        self,
        texts: PoolTexts,
        look: Callable[[], list[OpenBatch]],
        store: LabelStore,
        settings: Callable[[], Human],
        ahead: int = 0,
    ) -> None:
        self.texts, self.store, self.settings = texts, store, settings()
        self._look, self._settings = look, settings
        self._lock = threading.RLock()
        self._batches: list[OpenBatch] = []
        self._asked: set[str] = set()
        self._size = ahead
        self._reserve: OpenBatch | None = None  # what follows the batch that waited last
        self._offered: set[str] = set()  # pairs of every reserve that no batch has asked for since
        self._last = time.monotonic()  # when something was annotated or taken back
        self._seen: object = None
        self._said: dict[str, dict[str, Annotation]] = {}
        self._history: list[Annotation] = []
        self._by: dict[str, list[Annotation]] = {}  # the history of each person
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
                return {"batch": None, "annotator": annotator, "queue": [], "last": None}
            progress = self._on(batch)
            mine = progress.mine.get(annotator, set())
            others = [p for p in progress.count if p not in mine and p not in progress.open] if more else []
            queue = self._hand_out(annotator, (p for p in progress.open if p not in mine), others)
            finished = len(progress.count) - len(progress.open)
            last = next((a for a in reversed(self._by.get(annotator, [])) if a.pair_id in self._asked), None)
            return {
                "batch": batch.title,
                "annotator": annotator,
                "heldout": batch.path is None and not batch.reserve,
                "reserve": batch.reserve,
                "total": len(progress.count),
                "finished": finished,
                "people": self.settings.annotators_per_pair,
                "scale": self.settings.scale,
                "mine": len(mine),
                "extra": finished - sum(pair not in progress.open for pair in mine),
                "queue": [self.question(annotator, p) for p in queue],
                "last": last and {"id": last.id, "pair_id": last.pair_id},
                "agreement": None if queue else self._agreement(annotator, batch),
            }

    def question(self, annotator: str, pair_id: str) -> dict[str, Any]:
        """A pair as this person is shown it."""
        asked, order = self.texts[pair_id], shown(annotator, pair_id)
        left, right = (asked.response_a, asked.response_b) if order == "ab" else (asked.response_b, asked.response_a)
        turns = [{"role": role, "content": content} for role, content in asked.turns]
        return {"pair_id": pair_id, "turns": turns, "left": left, "right": right, "shown": order}

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
    ) -> None:
        """Put an answer on disk; it is there when this returns. A repeated one (same ``id``) changes nothing.

        Args:
            strength: How much better the better response is, kept as given whatever the scale is by now.
            flags: ``unsafe`` and ``wrong_language``; the other two are choices.

        Raises:
            DataError: If a field cannot be right.
            ClosedError: If the pair is not asked for any more.
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
            if pair_id not in self._asked:
                raise ClosedError("this pair is not asked for any more: the loop went on with the labels it had")
            annotation = Annotation(
                pair_id, label, annotator, now(), 0.0, seconds, "human", shown, note, id, strength, marks
            )
            paid = self.settings
            price = (0.0 if label is None else paid.price_per_label) + paid.price_per_hour * seconds / 3600
            self.store.append(annotation := replace(annotation, cost=price))
            self._hands.pop((annotator, pair_id), None)
            if self._seen != (fingerprint := self._fingerprint()):  # else it had come before
                self._history.append(annotation)
                self._by.setdefault(annotator, []).append(annotation)
                self._said.setdefault(pair_id, {})[annotator] = annotation
                for progress in self._progress.values():
                    progress.add(pair_id, annotator)
                self._seen = fingerprint
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
            pair_id = next((a.pair_id for a in self._history if a.id == id and a.annotator == annotator), None)
            if pair_id is not None and pair_id not in self._asked:
                raise ClosedError("this answer cannot be taken back any more: the loop went on with it")
            self.store.undo(id, annotator)
            self._seen, self._last = None, time.monotonic()
            self._refresh()
            return {} if pair_id is None else self.question(annotator, pair_id)

    def _refresh(self) -> None:
        """Read settings, answers and batches anew where a file changed since our last look.

        Raises:
            StateError: If a file of answers is broken: what a person sends meanwhile is worth another try.
            ConfigError: If the settings are.
        """
        self.settings = self._settings()
        if changed := (batches := self._look()) != self._batches:
            self._batches = batches
            self._asked = {pair for batch in batches for pair in batch.pair_ids}
        if self._seen != (fingerprint := self._fingerprint()):
            try:
                self._said = folder_by_pair(self.store.path.parent, "human")
                self._history = self.store.history()
            except DataError as error:
                raise StateError(str(error)) from None
            self._by = {}
            for annotation in self._history:
                self._by.setdefault(annotation.annotator, []).append(annotation)
            self._progress = {}
            self._seen = fingerprint
        if changed and self._size:
            self._offered -= self._asked
            if batches:
                enough = self.settings.annotators_per_pair
                full = {pair for pair, said in self._said.items() if len(said) >= enough}
                try:
                    self._reserve = reserve(batches[0], full, self._size)
                except StateError as error:  # `dvc repro` is writing that file
                    log.warning("no reserve: %s", error)
                    self._reserve = None
            self._offered |= set(self._reserve.pair_ids if self._reserve else ())
            self._asked |= self._offered

    def _fingerprint(self) -> object:
        files = sorted(self.store.path.parent.glob("*.jsonl"))
        return [(path.name, (status := path.stat()).st_size, status.st_mtime_ns, status.st_ino) for path in files]

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
