"""The labels of a batch, as the oracle gives them."""

from __future__ import annotations

import numpy as np

from bgpm.annotations.store import Annotation
from bgpm.loop.draws import COLUMNS
from bgpm.loop.pool import Table
from bgpm.oracles import Oracle, OracleFiles, Query

KEPT = ("pair", "pair_id", "value", "mean", "variance", "tau", *COLUMNS)  # what a label keeps of its batch


def label(oracle: Oracle, batch: Table, files: OracleFiles, *, number: int) -> tuple[Table, list[Annotation]]:
    """The batch with its labels: columns seed, round, those of `KEPT`, label, margin, annotators, cost; and the
    annotations that they rest on, each once.

    A pair on which everybody abstained keeps its row, with label NaN, so that it is not acquired again.

    Args:
        batch: Column seed and those of `KEPT`.
        number: The round that the labels belong to; 0 for the seed labels.

    Raises:
        MissingLabelError: If a pair has no recorded label.
        LabelsPendingError: If people or a service have not answered yet.
    """
    asked = [Query(pair_id, seed) for pair_id, seed in zip(batch["pair_id"], batch["seed"].tolist(), strict=True)]
    verdicts = oracle(asked, files)
    table = {
        "seed": batch["seed"],
        "round": np.full(len(asked), number),
        **{name: batch[name] for name in KEPT},
        "label": verdicts.label,
        "margin": verdicts.margin,
        "annotators": verdicts.annotators,
        "cost": verdicts.cost,
    }
    annotations = {a.id: a for some in verdicts.annotations for a in some}
    return table, list(annotations.values())
