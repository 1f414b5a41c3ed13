"""One arm on one pool: the loop of `bgpm.loop.loop` for one seed, measured after every round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.data.tables import concatenate
from bgpm.loop.evaluate import evaluate
from bgpm.loop.loop import Loop
from bgpm.loop.pool import LabelledSplit, Pool, Table
from bgpm.models import Model
from bgpm.oracles import Oracle, OracleFiles, Query
from bgpm.posteriors import Posterior
from bgpm.registry import C, build
from bgpm.selection import Selection, StartSettings
from bgpm.study import PARAMS, ArmPlan


@dataclass(frozen=True)
class Components:
    """An arm's plan, built."""

    acquisition: Acquisition
    selection: Selection
    posterior: Posterior
    model: Model

    @classmethod
    def of(cls, plan: ArmPlan) -> Components:
        """Refuses an unknown kind or setting; names it."""

        def made(base: type[C], choice: str) -> C:
            return build(base, getattr(plan, choice), plan.settings.get(choice), choice, str(PARAMS))

        return cls(
            made(Acquisition, "acquisition"),
            made(Selection, "selection"),
            made(Posterior, "posterior"),
            made(Model, "model"),
        )


@dataclass(frozen=True)
class Run:
    """What one loop gives.

    Attributes:
        curve: Rows (round, labels, split, section, metric, value).
        prompts: Right responses by held-out prompt: round, prompt, pairs, right.
        acquired: Pairs in the order of acquisition: round, pair, label.
    """

    curve: list[tuple[int, int, str, str, str, float]]
    prompts: Table
    acquired: Table


def run(
    plan: ArmPlan,
    pool: Pool,
    truth: Table,
    heldout: LabelledSplit,
    benchmark: LabelledSplit,
    *,
    seed: int,
    start_labels: int,
    budget: int,
    xstest: str = "code",
) -> Run:
    """The loop from the seed labels to the budget, or to the end of the pool.

    Args:
        truth: Recorded labels, label and margin of every row of the pool's table (NaN where unknown).
        start_labels: Seed labels, the same for every arm whose plan has the same `start`.
        budget: Labels in all; the last round stays at or below it.
    """
    parts = Components.of(plan)
    loop = Loop(
        pool,
        lambda rows: {name: truth[name][rows] for name in ("label", "margin")},
        **vars(parts),
        start=StartSettings(labels=start_labels, design=plan.start),
        batch_size=plan.batch_size,
        seed=seed,
        name=plan.acquisition,
    )
    curve: list[tuple[int, int, str, str, str, float]] = []
    prompts, acquired = [], []
    for done in loop.rounds(budget):
        k, rows = done.number, done.rows
        acquired.append({"round": np.full(len(rows), k), "pair": rows, "label": truth["label"][rows]})
        measured, by_prompt = evaluate(done.model, heldout, benchmark, xstest=xstest)
        curve += [(k, len(done.labels["pair"]), *row) for row in measured]
        prompts.append({"round": np.full(len(by_prompt["prompt"]), k)} | by_prompt)
    return Run(curve, concatenate(prompts), concatenate(acquired))


def oracle_labels(folder: Path, pool: Pool, oracle: Oracle, seed: int) -> dict[str, np.ndarray]:
    """Labels of an oracle for every pair that may be acquired: label and margin by row, NaN for the other rows."""
    asked = [Query(name, seed) for name in pool.table["pair_id"][pool.open].tolist()]
    verdicts = oracle(asked, OracleFiles(folder / "truth-pool.parquet", folder, folder / "pairs.parquet", folder))
    out = {name: np.full(len(pool.pairs), np.nan) for name in ("label", "margin")}
    out["label"][pool.open], out["margin"][pool.open] = verdicts.label, verdicts.margin
    return out
