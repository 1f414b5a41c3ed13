"""Stage of the study: accuracy on held-out prompts by how the same labels are fitted, for every seed of one pool."""

from __future__ import annotations

import numpy as np

from bgpm.data.tables import concatenate, write_table
from bgpm.models import Model
from bgpm.posteriors import Posterior
from bgpm.registry import build
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import PARAMS, read_plan
from bgpm.study.feature_sets import all_seeds, read_set
from bgpm.study.fits import ways


def main(name: str) -> None:
    plan = read_plan(read_params(PARAMS))
    study = plan.feature_sets
    pool, heldout = read_set(name, study.plans[study.fits.features])
    found = []
    for fit, (kind, settings, precision) in ways(plan).items():
        model = build(Model, kind, settings, "model", str(PARAMS))
        given = (study.settings.get("posterior") or {}) | {"prior_precision": precision}
        posterior = build(Posterior, study.posterior, given, "posterior", str(PARAMS))
        table = all_seeds(plan, name, model, posterior, pool, heldout)
        found.append({"fit": np.full(len(table["seed"]), fit, object)} | table)
    with whole_folder(STUDY / "fits" / name) as out:
        write_table(out / "prompts.parquet", concatenate(found))


if __name__ == "__main__":
    run(main)
