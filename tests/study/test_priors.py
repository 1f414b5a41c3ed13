"""The regret of a chosen prior precision: against the best fixed one of each label count, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError
from bgpm.stage import read_params
from bgpm.study import StudyPlan, read_plan
from bgpm.study.priors import choices, markdown, rows

# Accuracy of each choice at 8 and 16 labels: the best fixed precision is 10 at first and 1 later.
ACCURACY = {"heldout": (0.60, 0.71), "evidence": (0.58, 0.70), "1": (0.50, 0.70), "10": (0.62, 0.65)}


def plan(**changes: object) -> StudyPlan:
    raw = read_params(ROOT / "study/params.yaml")
    priors = {"features": "rich", "choices": ["heldout", "evidence"], "fixed": [1, 10.0]} | changes
    sets = raw["feature_sets"] | {"pools": ["ukp"], "labels": [8, 16], "priors": priors}
    return read_plan(raw | {"feature_sets": sets, "resamples": 200})


def test_the_regret_is_against_the_best_fixed_precision_of_each_count(tmp_path: Path) -> None:
    assert choices(plan()) == {"heldout": "heldout", "evidence": "evidence", "1": 1.0, "10": 10.0}
    parts = []
    for choice, by_count in ACCURACY.items():
        seed, at, prompt = (grid.ravel() for grid in np.indices((4, 2, 6)))
        right = 10 * (np.array(by_count)[at] + 0.01 * (seed - 1.5) + 0.02 * (prompt % 2) - 0.01)
        parts.append({"choice": np.full(48, choice, object), "seed": seed, "labels": np.array([8, 16])[at],
                      "prompt": prompt, "pairs": np.full(48, 10.0), "right": right})  # fmt: skip
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_table(tmp_path / "ukp/prompts.parquet", table)
    lines = list(rows(plan(), tmp_path))
    assert [(line["choice"], line["labels"], line["best_fixed"], line["regret"]) for line in lines] == [
        ("heldout", 8, "10", "0.0200"), ("heldout", 16, "1", "-0.0100"),
        ("evidence", 8, "10", "0.0400"), ("evidence", 16, "1", "0.0000"),
    ]  # fmt: skip
    assert [line["accuracy"] for line in lines] == ["0.6000", "0.7100", "0.5800", "0.7000"]
    assert lines[0]["best_accuracy"] == "0.6200"
    page = "\n".join(markdown(lines))
    assert "| ukp | +2.0 (+2.0 to +2.0): 10 | -1.0 (-1.0 to -1.0): 1 |" in page.replace("−", "-")


def test_a_set_of_features_that_is_not_planned_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"feature_sets\.plans: nothing for 'guess'"):
        plan(features="guess")
