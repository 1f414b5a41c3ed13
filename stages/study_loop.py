"""Stage of the study: one arm on one pool, the loop for every seed, several seeds side by side."""

from __future__ import annotations

from functools import partial

from bgpm.data.tables import write_table
from bgpm.loop.pool import read_labelled, read_pool
from bgpm.oracles.recorded import Recorded
from bgpm.stage import STUDY, generator, read_params, run, whole_folder
from bgpm.study import PARAMS, StudyPlan, fitted, read_plan
from bgpm.study.arm import Components, Run, oracle_labels
from bgpm.study.arm import run as loop
from bgpm.study.seeds import of_all, side_by_side, write_curve


def main(name: str, arm: str) -> None:
    plan = read_plan(read_params(PARAMS))
    Components.of(plan.arm_plans[arm])  # refuse wrong settings before any process starts
    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    runs = side_by_side(partial(one, plan, name, arm), seeds, plan.processes, f"{name} {arm}")
    with whole_folder(STUDY / "loops" / name / arm) as folder:
        write_curve(folder / "curve.parquet", seeds, [run.curve for run in runs])
        for table in ("prompts", "acquired"):
            write_table(folder / f"{table}.parquet", of_all(seeds, [getattr(run, table) for run in runs]))


def one(plan: StudyPlan, name: str, arm: str, seed: int) -> Run:
    """The loop for one seed; runs in a process of its own."""
    tables, features, benchmark = STUDY / "tables" / name, STUDY / "features" / name, STUDY / "benchmark"
    pool = read_pool(tables, features / "pool")
    heldout = read_labelled(tables, tables / "truth-heldout.parquet", features / "pool")
    measured = read_labelled(benchmark, benchmark / "truth-benchmark.parquet", features / "benchmark")
    arm_plan = plan.arm_plans[arm]
    truth = oracle_labels(tables, pool, Recorded(noise=arm_plan.noise), seed)
    if plan.pool_plans[name].labels == "fitted":
        world = fitted.fit(pool, truth)
        truth = fitted.drawn(world, pool, generator("fitted", seed))
        heldout = fitted.favoured(world, heldout)
    return loop(arm_plan, pool, truth, heldout, measured, seed=seed, start_labels=plan.start, budget=plan.budgets[name])


if __name__ == "__main__":
    run(main)
