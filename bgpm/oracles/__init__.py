"""Oracles: who answers the question "which of the two answers is better?".

One file an oracle, found by its name (see `bgpm.registry`). An oracle sees a batch whose A/B order was
shuffled when the pool was made; it gives a label for every pair or says what is missing. It never
invents one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bgpm.registry import Component


@dataclass(frozen=True)
class Question:
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
        annotations: Folder of labels given by people.
        batch: The batch being asked, named in messages.
    """

    truth: Path
    annotations: Path
    batch: Path


class Oracle(Component):
    """Base of every oracle.

    Class attributes:
        paid: True where every label costs somebody's time or money: then one arm and one seed, unless asked.
    """

    paid: ClassVar[bool] = False

    def __call__(self, questions: Sequence[Question], files: OracleFiles) -> tuple[np.ndarray, np.ndarray]:
        """Labels float64 [n] in [0, 1] (probability that the first answer is better) and margins [n] (NaN: unknown).

        Raises:
            MissingLabelError: If a pair has no recorded label.
            LabelsPendingError: If people have not answered yet.
        """
        raise NotImplementedError
