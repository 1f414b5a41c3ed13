"""Stage of the study: one arm on one whole pool, the loop for every seed, several seeds side by side."""

from __future__ import annotations

from functools import partial

from bgpm.data.tables import write_table
from bgpm.loop.pool import read_pool
from bgpm.oracles.recorded import Recorded
from bgpm.stage import read_params, run, whole_folder, write_json
from bgpm.study import LABELLED, PARAMS, StudyPlan, labelled, read_plan
from bgpm.study.arm import Components, oracle_labels
from bgpm.study.labelled import WholeRun
from bgpm.study.seeds import of_all, side_by_side, write_curve


def main(name: str, arm: str) -> None:
    plan = read_plan(read_params(PARAMS))
    study = plan.labelled
    Components.of(study.arm_plans[arm])  # refuse wrong settings before any process starts
    seeds = range(study.first_seed, study.first_seed + study.seeds)
    runs = side_by_side(partial(one, plan, name, arm), seeds, plan.processes, f"{name} {arm}")
    with whole_folder(LABELLED / "loops" / name / arm) as folder:
        write_curve(folder / "curve.parquet", seeds, [run.curve for run in runs])
        write_table(folder / "acquired.parquet", of_all(seeds, [run.acquired for run in runs]))
        write_json(folder / "summary.json", {"pairs": runs[0].pairs})


def one(plan: StudyPlan, name: str, arm: str, seed: int) -> WholeRun:
    """The loop for one seed; runs in a process of its own."""
    tables = LABELLED / "tables" / name
    pool = read_pool(tables, LABELLED / "features" / name / "pool")
    arm_plan = plan.labelled.arm_plans[arm]
    truth = oracle_labels(tables, pool, Recorded(noise=arm_plan.noise), seed)
    return labelled.run(plan.labelled, arm_plan, pool, truth, seed=seed)


if __name__ == "__main__":
    run(main)
