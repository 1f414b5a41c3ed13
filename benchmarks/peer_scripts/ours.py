"""A model of the study's own arms on the same task; the only script here that imports the project."""

from __future__ import annotations

from cell import Results, Task

from bgpm.evaluation.curve import probabilities
from bgpm.registry import parse
from bgpm.study import ArmPlan
from bgpm.study.arm import Components
from bgpm.types import Comparisons, Features, Pairs


def main() -> None:
    task = Task.read()
    parts = Components.of(parse(ArmPlan, task.settings["arm"], "arm", "settings.json"))
    features = Features(task["responses"], task["prompts"])
    heldout, results = Pairs(*task["heldout"].T), Results()
    for seed, pairs, label in task.draws():
        fitted = parts.posterior.fit(parts.model, features, Comparisons(Pairs(*pairs.T), label), seed=seed)
        results.add(probabilities(fitted.moments(features, heldout)))
    results.write(task.folder)


if __name__ == "__main__":
    main()
