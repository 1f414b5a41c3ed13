"""Stage of the study: features of one pool and of the benchmark, by a map fitted on the pool's unlabelled texts.

With a second argument ``whole``: of a pool without held-out prompts, and of no benchmark.
"""

from __future__ import annotations

from bgpm.data.tables import read_table
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import LABELLED, PARAMS, read_plan
from bgpm.study.pools import (
    benchmark_numbers,
    features_of,
    fit_reduction,
    pool_numbers,
    states_of,
    write_features,
)


def main(name: str, which: str = "split") -> None:
    plan = read_plan(read_params(PARAMS))
    home = LABELLED if which == "whole" else STUDY
    sets = {"pool": home / "tables" / name} | ({} if which == "whole" else {"benchmark": STUDY / "benchmark"})
    tables = {
        which: {kind: read_table(folder / f"{kind}.parquet") for kind in ("responses", "prompts")}
        for which, folder in sets.items()
    }
    states = {which: states_of(STUDY / "embeddings", folder) for which, folder in sets.items()}
    settings = plan.labelled.features if which == "whole" else plan.features
    numbers = {"pool": pool_numbers(settings, home / "columns" / f"{name}.parquet")}
    if "benchmark" in sets:
        numbers["benchmark"] = benchmark_numbers(settings, len(states["benchmark"]["responses"]))
    reduction = fit_reduction(settings, tables["pool"], states["pool"], numbers["pool"])
    with whole_folder(home / "features" / name) as folder:
        for which in sets:
            write_features(folder / which, features_of(reduction, tables[which], states[which], numbers[which]))


if __name__ == "__main__":
    run(main)
