"""One arm on one whole pool: the loop for one seed, until nearly every label of the pool is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bgpm.data.tables import concatenate
from bgpm.evaluation.audit import priorities
from bgpm.evaluation.plan import audits_of, begin_of
from bgpm.evaluation.pool_labels import audit_rows, left_out, pool_rows
from bgpm.loop.evaluate import label_pool, model_rows
from bgpm.loop.loop import Loop
from bgpm.loop.pool import Pool, Table
from bgpm.loop.train import train
from bgpm.selection import StartSettings
from bgpm.sizes import pairs_of
from bgpm.stage import generator
from bgpm.study import ArmPlan, LabelledPools
from bgpm.study.arm import Components


@dataclass(frozen=True)
class WholeRun:
    """What one loop over a whole pool gives.

    Attributes:
        curve: Rows (round, labels, split, section, metric, value), see `bgpm.evaluation.pool_labels`, and what the
            model says of itself.
        acquired: Pairs in the order of acquisition: round, pair, label.
        pairs: How many the pool has.
    """

    curve: list[tuple[int, int, str, str, str, float]]
    acquired: Table
    pairs: int


def run(study: LabelledPools, plan: ArmPlan, pool: Pool, truth: Table, *, seed: int) -> WholeRun:
    """The loop from the seed labels until a share ``study.until`` of the pool's labels is right.

    Args:
        truth: Labels that the oracle gives, label and margin of every row of the pool's table; they are also what is
            right.
    """
    if plan.hindsight:
        return _hindsight(plan, pool, truth, seed)
    pairs = len(pool.open)
    loop = Loop(
        pool,
        lambda rows: {name: truth[name][rows] for name in ("label", "margin")},
        **vars(Components.of(plan)),
        start=StartSettings(labels=study.start, design=plan.start),
        batch_size=plan.batch_size,
        seed=seed,
        name=plan.acquisition,
    )
    record = truth["label"][pool.open]
    priority = priorities(pool.table["key"][pool.open], generator("audit", seed))
    curve: list[tuple[int, int, str, str, str, float]] = []
    acquired, expected = [], 0.0
    for done in loop.rounds(pairs):
        k, rows = done.number, done.rows
        acquired.append({"round": np.full(len(rows), k), "pair": rows, "label": truth["label"][rows]})
        labels = label_pool(done.model, pool, done.labels)
        audited = audits_of(study.audit, pairs) if expected >= begin_of(study.audit) else 0
        measured = [*pool_rows(labels, record), *audit_rows(labels, record, priority, audited)]
        expected = max(expected, labels.expected)  # by the model that chooses the next batch, as in the pipeline
        curve += [(k, len(done.labels["pair"]), *row) for row in [*measured, *model_rows(done.model)]]
        if measured[0][3] >= study.until:
            break
    return WholeRun(curve, concatenate(acquired), pairs)


def _hindsight(plan: ArmPlan, pool: Pool, truth: Table, seed: int) -> WholeRun:
    """One model of all labels; a pair that is not acquired gets the label that all other labels say."""
    parts, rows, pairs = Components.of(plan), pool.open, len(pool.open)
    labels = {"pair": rows} | {name: truth[name][rows] for name in ("label", "margin")}
    model = train(parts.posterior, parts.model, pool, labels, seed=seed)
    mean, _ = left_out(model.moments(pool.features, pool.pairs.take(rows)), labels["label"])
    order = np.argsort(np.abs(mean), kind="stable")
    decided = labels["label"] != 0.5
    wrong = (decided & ((mean > 0) != (labels["label"] > 0.5)))[order].astype(np.float64)
    left = np.append(wrong[::-1].cumsum()[::-1], 0.0)  # wrong labels among those not acquired, by how many were
    size = pairs_of(plan.batch_size, pairs)
    counts = [*range(size, pairs, size), pairs]
    curve = [
        (k, n, "pool", "all", metric, value)
        for k, n in enumerate(counts)
        for metric, value in (("right", 1 - float(left[n]) / decided.sum()), ("pairs", float(decided.sum())))
    ]
    acquired = {"round": np.zeros(pairs, np.int64), "pair": rows[order], "label": labels["label"][order]}
    return WholeRun(curve, acquired, pairs)
