"""Stage of the study: features of one pool and of the benchmark, by a map fitted on the pool's unlabelled texts."""

from __future__ import annotations

from bgpm.data.tables import read_table
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import PARAMS, read_plan
from bgpm.study.pools import fit_reduction, states_of, write_features


def main(name: str) -> None:
    plan = read_plan(read_params(PARAMS))
    sets = {"pool": STUDY / "tables" / name, "benchmark": STUDY / "benchmark"}
    tables = {
        which: {kind: read_table(folder / f"{kind}.parquet") for kind in ("responses", "prompts")}
        for which, folder in sets.items()
    }
    states = {which: states_of(STUDY / "embeddings", folder) for which, folder in sets.items()}
    reduction = fit_reduction(plan.features, tables["pool"], states["pool"])
    with whole_folder(STUDY / "features" / name) as folder:
        for which in sets:
            write_features(folder / which, reduction, tables[which], states[which])


if __name__ == "__main__":
    run(main)
