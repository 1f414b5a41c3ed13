"""Stage of the study: one set of features on one pool, accuracy on held-out prompts by labels, for every seed."""

from __future__ import annotations

from bgpm.data.tables import write_table
from bgpm.models import Model
from bgpm.posteriors import Posterior
from bgpm.registry import build
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import PARAMS, read_plan
from bgpm.study.feature_sets import all_seeds, read_set


def main(name: str, which: str) -> None:
    plan = read_plan(read_params(PARAMS))
    study = plan.feature_sets
    model = build(Model, study.model, study.settings.get("model"), "model", str(PARAMS))
    posterior = build(Posterior, study.posterior, study.settings.get("posterior"), "posterior", str(PARAMS))
    found = all_seeds(plan, name, model, posterior, *read_set(name, study.plans[which]))
    with whole_folder(STUDY / "feature_sets" / name / which) as out:
        write_table(out / "prompts.parquet", found)


if __name__ == "__main__":
    run(main)
