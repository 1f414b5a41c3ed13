"""Stage of the study: one arm on one whole pool, the loop for every seed, several seeds side by side."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from bgpm.data.tables import concatenate, write_table
from bgpm.loop.pool import read_pool
from bgpm.oracles.recorded import Recorded
from bgpm.stage import read_params, run, whole_folder, write_json
from bgpm.study import LABELLED, PARAMS, StudyPlan, labelled, read_plan
from bgpm.study.arm import Components, answers
from bgpm.study.labelled import WholeRun

COLUMNS = ("round", "labels", "split", "section", "metric", "value")


def main(name: str, arm: str) -> None:
    plan = read_plan(read_params(PARAMS))
    study = plan.labelled
    Components.of(study.arm_plans[arm])  # refuse wrong settings before any process starts
    seeds = range(study.first_seed, study.first_seed + study.seeds)
    with ProcessPoolExecutor(plan.processes, get_context("spawn")) as workers:
        jobs = workers.map(partial(one, plan, name, arm), seeds)
        runs = list(tqdm(jobs, total=len(seeds), desc=f"{name} {arm}", unit="seed", disable=None))
    with whole_folder(LABELLED / "loops" / name / arm) as folder:
        curve = [(seed, *row) for seed, done in zip(seeds, runs, strict=True) for row in done.curve]
        write_table(folder / "curve.parquet", dict(zip(("seed", *COLUMNS), zip(*curve, strict=True), strict=True)))
        bought = [
            {"seed": np.full(len(done.bought["pair"]), seed)} | done.bought
            for seed, done in zip(seeds, runs, strict=True)
        ]
        write_table(folder / "bought.parquet", concatenate(bought))
        write_json(folder / "summary.json", {"pairs": runs[0].pairs})


def one(plan: StudyPlan, name: str, arm: str, seed: int) -> WholeRun:
    """The loop for one seed; runs in a process of its own."""
    tables = LABELLED / "tables" / name
    pool = read_pool(tables, LABELLED / "features" / name / "pool")
    arm_plan = plan.labelled.arm_plans[arm]
    truth = answers(tables, pool, Recorded(noise=arm_plan.noise), seed)
    return labelled.run(plan.labelled, arm_plan, pool, truth, seed=seed)


if __name__ == "__main__":
    run(main)
