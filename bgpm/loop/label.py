"""The labels of a batch, as the oracle gives them."""

from __future__ import annotations

import numpy as np

from bgpm.loop.pool import Table
from bgpm.oracles import Oracle, OracleFiles, Question


def label(oracle: Oracle, batch: Table, files: OracleFiles, *, number: int) -> Table:
    """The batch with its labels: seed, round, pair, pair_id, value, mean, variance, label, margin, annotators, cost.

    A pair on which everybody abstained keeps its row, with label NaN, so that it is not acquired again.

    Args:
        batch: Columns seed, pair, pair_id, value, mean, variance.
        number: The round that the labels belong to; 0 for the seed labels.

    Raises:
        MissingLabelError: If a pair has no recorded label.
        LabelsPendingError: If people or a service have not answered yet.
    """
    asked = [Question(pair_id, seed) for pair_id, seed in zip(batch["pair_id"], batch["seed"].tolist(), strict=True)]
    verdicts = oracle(asked, files)
    return {
        "seed": batch["seed"],
        "round": np.full(len(asked), number),
        **{name: batch[name] for name in ("pair", "pair_id", "value", "mean", "variance")},
        "label": verdicts.label,
        "margin": verdicts.margin,
        "annotators": verdicts.annotators,
        "cost": verdicts.cost,
    }
