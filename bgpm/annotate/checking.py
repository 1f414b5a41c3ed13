"""Gold pairs and repeats on the labelling page: where they come, which, and under what name.

A person is shown pairs one after another. Whether the n-th pair of a batch is one of the batch, a gold pair or a repeat
is a draw by person, batch and n, the same after a restart. It is keyed with the names of all pairs of the pool, which
no browser gets, so nobody can work it out from outside. In the browser every pair has a name by person and pair that
tells nothing either.

Legend: a slot is a place in a person's sequence; the supply is what can still be shown there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bgpm.annotate.batches import PoolTexts, ShownPair, version
from bgpm.annotations.checks import Check, check_files, read_checks
from bgpm.annotations.gold import GoldPair, gold_of, outside
from bgpm.annotations.store import Annotation, LabelStore
from bgpm.errors import BgpmError, ConfigError, DataError, StateError
from bgpm.oracles.human import GoldSettings, Human

log = logging.getLogger("bgpm")

Kind = Literal["pool", "gold", "repeat", "changed"]


@dataclass(frozen=True)
class Question:
    """What a person is shown: a pair to be labelled, or a check.

    Attributes:
        kind: What it is asked for; ``changed`` where the pool has other texts by now.
        pair_id: Of the pool, or the name of a gold pair.
    """

    kind: Kind
    pair_id: str


class Checking:
    """Gold pairs and repeats of a campaign.

    Args:
        store: Where answers to them go.
        texts: The pool.
        settings: Of people, now.

    Raises:
        ConfigError, DataError: If the gold pairs cannot be read, or the pool has them all.
    """

    def __init__(self, store: LabelStore, texts: PoolTexts, settings: Human) -> None:
        self.store = store
        self.trouble = ""  # why the gold pairs are those of before
        self._seen: object = None
        self._checks: list[Check] = []
        self._read: object = None
        self.gold: dict[str, GoldPair] = {}
        self._known: dict[tuple[str, str], Question] = {}  # by person and name in the browser
        self._planned: dict[object, int] = {}
        self._key = b""
        self._load(texts, settings.gold)
        self.refresh(texts, settings)

    def refresh(self, texts: PoolTexts, settings: Human) -> None:
        """Read what changed. Gold pairs that cannot be read any more stay as they were, and `trouble` says why.

        Raises:
            StateError: If a file of checks is broken.
        """
        if self._read != _gold_version(texts, settings.gold):
            try:
                self._load(texts, settings.gold)
            except BgpmError as error:
                self.trouble, self._read = str(error), _gold_version(texts, settings.gold)
                log.warning("%s; the gold pairs of before stay", error)
        if self._seen != (files := self._files()):
            try:
                self._checks = read_checks(self.store.path.parent.parent)
            except DataError as error:
                raise StateError(str(error)) from None
            self._seen = files

    def _files(self) -> object:
        return [(path.name, version(path)) for path in check_files(self.store.path.parent.parent)]

    def _load(self, texts: PoolTexts, settings: GoldSettings) -> None:
        self._key = hashlib.blake2b("\0".join(texts.row).encode(), digest_size=32).digest()
        gold = []
        if settings.path:
            gold = outside(gold_of(settings.path, settings.columns, settings.labels), texts.keys())
            if not gold:
                raise ConfigError(
                    f"{settings.path}: every gold pair is a pair of the pool too, and none is left to measure with; "
                    "give pairs that the pool does not have"
                )
        self.gold = {pair.name: pair for pair in gold}
        self.trouble, self._read = "", _gold_version(texts, settings)
        self._planned = {}

    def checks(self) -> list[Check]:
        """Every check that counts."""
        return list(self._checks)

    def done(self, annotator: str, batch: str | None = None) -> list[Check]:
        """What somebody answered, in one batch or in all; annotations of changed texts are not among them."""
        return [
            check
            for check in self._checks
            if check.annotator == annotator and check.kind != "changed" and batch in (None, check.batch)
        ]

    def shares(self, settings: Human) -> tuple[float, float]:
        """Shares of gold pairs and of repeats, 0 where there are no gold pairs."""
        return settings.gold.share if self.gold else 0.0, settings.repeats.share

    def _draw(self, *parts: str | int) -> float:
        """A number in [0, 1) that is a function of the parts and the pool."""
        hashed = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(hashed, "big") / 2**64

    def _slot(self, annotator: str, batch: str, number: int, shares: tuple[float, float]) -> Kind:
        draw = self._draw("slot", annotator, batch, number)
        return "gold" if draw < shares[0] else "repeat" if draw < sum(shares) else "pool"

    def queue(
        self,
        annotator: str,
        batch: str,
        pairs: Sequence[str],
        before: int,
        given: Mapping[str, Annotation],
        human: Human,
        texts: PoolTexts,
    ) -> list[Question]:
        """Pairs of a batch with the checks that come before each.

        Args:
            pairs: To be shown next, in this order.
            before: How many pairs of the batch this person has annotated.
            given: What this person annotated, by pair, the oldest first.
        """
        shares, items, taken = self.shares(human), list[Question](), set[str]()
        if not any(shares):
            return [Question("pool", pair) for pair in pairs]
        done, earlier = self.done(annotator), list(given.values())
        number = before + sum(check.batch == batch for check in done)
        for count, pair in enumerate(pairs):
            while (kind := self._slot(annotator, batch, number, shares)) != "pool":
                answered = {check.pair_id for check in done if check.kind == kind} | taken
                left = self._gold_left(annotator, answered) if kind == "gold" else None
                if kind == "repeat":
                    left = self._repeat_left(
                        annotator, earlier, answered, len(given) + count - human.repeats.after, texts
                    )
                if left is None:
                    break
                taken.add(left)
                items.append(Question(kind, left))
                number += 1
            items.append(Question("pool", pair))
            number += 1
        return items

    def _gold_left(self, annotator: str, answered: Collection[str]) -> str | None:
        left = (name for name in self.gold if name not in answered)
        return min(left, key=lambda name: self._draw("gold", annotator, name), default=None)

    def _repeat_left(
        self, annotator: str, given: Sequence[Annotation], answered: Collection[str], old: int, texts: PoolTexts
    ) -> str | None:
        """A pair among the ``old`` that this person labelled first; it does not depend on what comes later."""
        left = (
            a.pair_id
            for a in given[: max(old, 0)]
            if a.label is not None and a.pair_id not in answered and a.pair_id in texts.row
        )
        return min(left, key=lambda pair: self._draw("repeat", annotator, pair), default=None)

    def expected(self, annotator: str, batch: str, pairs: int, given: Set[str], mine: Set[str], human: Human) -> int:
        """How many checks somebody gets who annotates all pairs of a batch, as far as the supply goes.

        Args:
            pairs: Of the batch.
            given: Pairs that this person annotated.
            mine: Those of the batch that this person annotated.
        """
        shares = self.shares(human)
        if not any(shares):
            return 0
        done, others = self.done(annotator), len(given - mine)
        elsewhere = [check.kind for check in done if check.batch != batch]
        supply = {"gold": len(self.gold) - elsewhere.count("gold"), "repeat": -elsewhere.count("repeat")}
        key = annotator, batch, pairs, others, shares, *supply.values(), human.repeats.after
        if key not in self._planned:
            self._planned[key] = self._count(annotator, batch, pairs, shares, supply, others - human.repeats.after)
        return self._planned[key]

    def _count(
        self, annotator: str, batch: str, pairs: int, shares: tuple[float, float], supply: dict[str, int], old: int
    ) -> int:
        number = checks = 0
        for pair in range(pairs):
            while (kind := self._slot(annotator, batch, number, shares)) != "pool":
                if supply[kind] + (max(old + pair, 0) if kind == "repeat" else 0) <= 0:
                    break
                supply[kind] -= 1
                checks += 1
                number += 1
            number += 1
        return checks

    def name(self, annotator: str, item: Question, human: Human) -> str:
        """What the browser calls a pair: the pool's own name where nobody is checked."""
        if item.kind == "pool" and not any(self.shares(human)):
            return item.pair_id
        name = self._name(annotator, item)
        self._known[annotator, name] = item
        return name

    def _name(self, annotator: str, item: Question) -> str:
        parts = "\0".join((annotator, item.kind, item.pair_id)).encode()
        return hashlib.blake2b(parts, digest_size=16, key=self._key).hexdigest()

    def item(self, annotator: str, name: str, texts: PoolTexts, given: Iterable[str]) -> Question | None:
        """What a name in the browser means; None where it means nothing (any more).

        Args:
            given: Pairs that this person annotated.
        """
        if name in texts.row:
            return Question("pool", name)
        found = self._known.get((annotator, name))
        if found is None:  # shown before a restart
            every = [Question("gold", gold) for gold in self.gold]
            every += [Question("repeat", pair) for pair in given]
            every += [Question("pool", pair) for pair in texts.row]
            found = next((item for item in every if self._name(annotator, item) == name), None)
        if found and found.kind == "gold" and found.pair_id not in self.gold:
            return None
        return found

    def shown(self, gold: str) -> ShownPair:
        """A gold pair as a person reads it."""
        pair = self.gold[gold]
        return ShownPair(pair.turns, pair.response_a, pair.response_b)

    def add(self, check: Check) -> None:
        """Put a check on disk; it is there when this returns. A repeated one (same ``id``) changes nothing."""
        new = self._seen == self._files() and all(check.id != other.id for other in self._checks)
        self.store.append(check)
        if new and not any(_same(check, other) for other in self._checks):
            self._checks.append(check)
            self._seen = self._files()
        else:
            self._seen = None  # to be read again


def _same(one: Check, other: Check) -> bool:
    """Whether two checks are of one pair by one person, so that the later replaces the earlier."""
    return (one.kind, one.pair_id, one.annotator) == (other.kind, other.pair_id, other.annotator)


def words_by(gold: Mapping[str, GoldPair], texts: PoolTexts) -> Callable[[str], int | None]:
    """Counts the words of both responses of a pair of the pool or a gold pair; None where it is neither."""

    def count(pair_id: str) -> int | None:
        found = gold.get(pair_id) or (texts[pair_id] if pair_id in texts.row else None)
        return None if found is None else len(found.response_a.split()) + len(found.response_b.split())

    return count


def _gold_version(texts: PoolTexts, settings: GoldSettings) -> object:
    path = settings.path
    return texts.version, settings, version(Path(path)) if path else None
