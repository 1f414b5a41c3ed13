"""Ground truth that came with the pool, optionally made noisy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from bgpm.data.tables import read_table
from bgpm.errors import MissingLabelError
from bgpm.oracles import Oracle, OracleFiles, Question


class Recorded(Oracle):
    """Labels from the pool's own file.

    Attributes:
        noise: Probability that an answer is the opposite of the record. The draw depends on pair and seed
            only, so that every arm hears the same answer to the same question.
    """

    kind: Literal["recorded"] = "recorded"
    noise: float = Field(default=0.0, ge=0.0, lt=0.5)

    def __call__(self, questions: Sequence[Question], files: OracleFiles) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle`."""
        table = read_table(files.truth, ["pair_id", "label", "margin"])
        row = {pair_id: n for n, pair_id in enumerate(table["pair_id"])}
        lost = [q.pair_id for q in questions if q.pair_id not in row or np.isnan(table["label"][row[q.pair_id]])]
        if lost:
            raise MissingLabelError(
                f"{files.batch}: {len(lost)} of {len(questions)} pairs have no recorded label, the first is {lost[0]}; "
                "give the pool a label column, or set oracle=human"
            )
        rows = [row[q.pair_id] for q in questions]
        label, margin = table["label"][rows].astype(np.float64), table["margin"][rows].astype(np.float64)
        flip = np.array([_uniform(q) < self.noise for q in questions], bool)
        return np.where(flip, 1.0 - label, label), np.where(flip, np.nan, margin)


def _uniform(question: Question) -> float:
    """A number in [0, 1) that depends on the question alone."""
    digest = hashlib.blake2b(f"{question.seed}:{question.pair_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
