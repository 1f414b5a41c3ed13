"""Stage of the study: one arm on one pool, the loop for every seed, several seeds side by side."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from bgpm.data.tables import concatenate, write_table
from bgpm.loop.pool import read_labelled, read_pool
from bgpm.oracles.recorded import Recorded
from bgpm.stage import STUDY, generator, read_params, run, whole_folder
from bgpm.study import PARAMS, StudyPlan, fitted, read_plan
from bgpm.study.arm import Components, Run, answers
from bgpm.study.arm import run as loop

COLUMNS = ("round", "labels", "split", "section", "metric", "value")


def main(name: str, arm: str) -> None:
    plan = read_plan(read_params(PARAMS))
    Components.of(plan.arm_plans[arm])  # refuse wrong settings before any process starts
    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    with ProcessPoolExecutor(plan.processes, get_context("spawn")) as workers:
        jobs = workers.map(partial(one, plan, name, arm), seeds)
        runs = list(tqdm(jobs, total=len(seeds), desc=f"{name} {arm}", unit="seed", disable=None))
    with whole_folder(STUDY / "loops" / name / arm) as folder:
        curve = [(seed, *row) for seed, run in zip(seeds, runs, strict=True) for row in run.curve]
        write_table(folder / "curve.parquet", dict(zip(("seed", *COLUMNS), zip(*curve, strict=True), strict=True)))
        for table in ("prompts", "bought"):
            parts = [getattr(run, table) for run in runs]
            marked = [
                {"seed": np.full(len(part["round"]), seed), **part} for seed, part in zip(seeds, parts, strict=True)
            ]
            write_table(folder / f"{table}.parquet", concatenate(marked))


def one(plan: StudyPlan, name: str, arm: str, seed: int) -> Run:
    """The loop for one seed; runs in a process of its own."""
    tables, features, benchmark = STUDY / "tables" / name, STUDY / "features" / name, STUDY / "benchmark"
    pool = read_pool(tables, features / "pool")
    heldout = read_labelled(tables, tables / "truth-heldout.parquet", features / "pool")
    measured = read_labelled(benchmark, benchmark / "truth-benchmark.parquet", features / "benchmark")
    arm_plan = plan.arm_plans[arm]
    truth = answers(tables, pool, Recorded(noise=arm_plan.noise), seed)
    if plan.pool_plans[name].labels == "fitted":
        world = fitted.fit(pool, truth)
        truth = fitted.drawn(world, pool, generator("fitted", seed))
        heldout = fitted.favoured(world, heldout)
    return loop(arm_plan, pool, truth, heldout, measured, seed=seed, start_labels=plan.start, budget=plan.budgets[name])


if __name__ == "__main__":
    run(main)
