"""Stage of the study: one set of features on one pool, accuracy on held-out prompts by labels, for every seed."""

from __future__ import annotations

from tqdm import tqdm

from bgpm.data.tables import read_table, write_table
from bgpm.evaluation.labelled_pairs import read_split
from bgpm.loop.pool import Pool, with_features
from bgpm.models import Model
from bgpm.oracles.recorded import Recorded
from bgpm.posteriors import Posterior
from bgpm.registry import build
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import PARAMS, read_plan
from bgpm.study.arm import oracle_labels
from bgpm.study.feature_sets import accuracies
from bgpm.study.pools import features_of, fit_reduction, pool_numbers, states_of
from bgpm.study.seeds import of_all


def main(name: str, which: str) -> None:
    plan = read_plan(read_params(PARAMS))
    study = plan.feature_sets
    model = build(Model, study.model, study.settings.get("model"), "model", str(PARAMS))
    posterior = build(Posterior, study.posterior, study.settings.get("posterior"), "posterior", str(PARAMS))
    folder = STUDY / "tables" / name
    tables = {kind: read_table(folder / f"{kind}.parquet") for kind in ("responses", "prompts")}
    states = states_of(STUDY / "embeddings", folder)
    numbers = pool_numbers(study.plans[which], STUDY / "columns" / f"{name}.parquet")
    features = features_of(fit_reduction(study.plans[which], tables, states, numbers), tables, states, numbers)
    pool = Pool(read_table(folder / "pairs.parquet"), features)
    heldout = with_features(read_split(folder, folder / "truth-heldout.parquet"), features)
    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    found = [
        accuracies(
            model, posterior, pool, oracle_labels(folder, pool, Recorded(), seed), heldout, study.labels, seed=seed
        )
        for seed in tqdm(seeds, f"{name} {which}", unit="seed", disable=None)
    ]
    with whole_folder(STUDY / "feature_sets" / name / which) as out:
        write_table(out / "prompts.parquet", of_all(seeds, found))


if __name__ == "__main__":
    run(main)
