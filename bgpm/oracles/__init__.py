"""Oracles: who answers the question "which of the two answers is better?".

One file an oracle, found by its name (see `bgpm.registry`). An oracle sees a batch whose A/B order was
shuffled when the pool was made; it answers every question or says what is missing. It never invents a label:
who cannot say abstains. What people and models answered is kept (see `bgpm.annotations.store`), so that asking twice
is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bgpm.annotations.store import Annotation
from bgpm.registry import Component, kinds, member


@dataclass(frozen=True)
class Query:
    """One pair to be labelled.

    Attributes:
        pair_id: Stable name of the pair, made from its texts and their order.
        seed: Which replication asks; a recorded oracle with noise answers each seed on its own.
    """

    pair_id: str
    seed: int


@dataclass(frozen=True)
class OracleFiles:
    """Where answers may come from.

    Attributes:
        truth: Recorded labels of the pool (columns pair_id, label, margin).
        annotations: Folder of labels given by people and of what judges replied.
        batch: The batch being asked.
        pool: Folder of the pool's tables, with the texts.
        frozen: What the labels of this batch rest on, once they were given; None where nothing is kept.
    """

    truth: Path
    annotations: Path
    batch: Path
    pool: Path
    frozen: Path | None = None


@dataclass(frozen=True)
class Verdicts:
    """What an oracle says to n questions, in their order.

    Attributes:
        label: float64 [n] in [0, 1], probability that response_a is better; NaN where all abstained.
        margin: float64 [n], how much better the winner is; NaN where it is not known.
        answers: For each question who said what, when, and at what cost.
    """

    label: np.ndarray
    margin: np.ndarray
    annotations: tuple[tuple[Annotation, ...], ...]

    @property
    def annotators(self) -> np.ndarray:
        """How many answers that are labels each verdict rests on, int64 [n]."""
        return np.array([sum(a.label is not None for a in some) for some in self.annotations], np.int64)

    @property
    def cost(self) -> np.ndarray:
        """What each verdict's answers cost, whoever asked for them first, float64 [n]."""
        return np.array([sum(a.cost for a in some) for some in self.annotations], np.float64)


def mean_label(annotations: Sequence[Annotation]) -> float:
    """Mean of the labels given; NaN where everybody abstained."""
    labels = [a.label for a in annotations if a.label is not None]
    return sum(labels) / len(labels) if labels else float("nan")


class Oracle(Component):
    """Base of every oracle.

    Class attributes:
        paid: True where every label costs somebody's time or money: then one arm and one seed, unless asked.
        by_language_model: Whether a language model gives the labels: what is published of them says so.
        worker: Module that is imported only when the oracle is asked, whose code counts for what labels while it is
            chosen; None for none.
    """

    paid: ClassVar[bool] = False
    by_language_model: ClassVar[bool] = False
    worker: ClassVar[str | None] = None

    def check(self, annotations: Path) -> None:
        """Refuse settings that do not go together or files that are not there, before any work starts.

        Args:
            annotations: Folder of labels, where an oracle may have files of its own.

        Raises:
            ConfigError: Naming the key.
        """

    def __call__(self, queries: Sequence[Query], files: OracleFiles) -> Verdicts:
        """An answer to every question.

        Raises:
            MissingLabelError: If a pair has no recorded label.
            LabelsPendingError: If people or a service have not answered yet; what they did answer is kept.
        """
        raise NotImplementedError


def by_language_model(kind: str | None) -> bool:
    """Whether an oracle of this kind gives labels of a language model; False of a kind that is not known here."""
    return kind in kinds(Oracle) and member(Oracle, kind).by_language_model
