"""Ways to fit: regret is against the best fixed precision of each label count, gain over the first choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError
from bgpm.stage import read_params
from bgpm.study import StudyPlan, read_plan
from bgpm.study.fits import markdown, rows, ways

# Accuracy of each fit at 8 and 16 labels: the best fixed precision is 10 at first and 1 later.
ACCURACY = {"heldout": (0.60, 0.71), "evidence": (0.58, 0.70), "1": (0.50, 0.70), "10": (0.62, 0.65), "gpm": (0.9, 0.7)}


def plan(**changes: object) -> StudyPlan:
    raw = read_params(ROOT / "study/params.yaml")
    fits = {
        "features": "rich", "choices": ["heldout", "evidence"], "fixed": [1, 10.0], "models": {"gpm": {"dim": 4}},
    } | changes  # fmt: skip
    sets = raw["feature_sets"] | {"pools": ["ukp"], "labels": [8, 16], "fits": fits}
    return read_plan(raw | {"feature_sets": sets, "resamples": 200})


def test_the_regret_is_against_the_best_fixed_precision_of_each_count(tmp_path: Path) -> None:
    assert ways(plan()) == {
        "heldout": ("bt", {}, "heldout"), "evidence": ("bt", {}, "evidence"), "1": ("bt", {}, 1.0),
        "10": ("bt", {}, 10.0), "gpm": ("gpm", {"dim": 4}, "heldout"),
    }  # fmt: skip
    parts = []
    for fit, by_count in ACCURACY.items():
        seed, at, prompt = (grid.ravel() for grid in np.indices((4, 2, 6)))
        right = 10 * (np.array(by_count)[at] + 0.01 * (seed - 1.5) + 0.02 * (prompt % 2) - 0.01)
        parts.append({"fit": np.full(48, fit, object), "seed": seed, "labels": np.array([8, 16])[at],
                      "prompt": prompt, "pairs": np.full(48, 10.0), "right": right})  # fmt: skip
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_table(tmp_path / "ukp/prompts.parquet", table)
    lines = list(rows(plan(), tmp_path))
    assert [tuple(line[name] for name in ("fit", "labels", "gain", "best_fixed", "regret")) for line in lines] == [
        ("heldout", 8, "0.0000", "10", "0.0200"), ("heldout", 16, "0.0000", "1", "-0.0100"),
        ("evidence", 8, "-0.0200", "10", "0.0400"), ("evidence", 16, "-0.0100", "1", "0.0000"),
        ("gpm", 8, "0.3000", "", ""), ("gpm", 16, "-0.0100", "", ""),
    ]  # fmt: skip
    assert [line["accuracy"] for line in lines] == ["0.6000", "0.7100", "0.5800", "0.7000", "0.9000", "0.7000"]
    assert (lines[0]["best_accuracy"], lines[0]["gain_low"]) == ("0.6200", "")
    page = "\n".join(markdown(plan(), lines))
    assert "| ukp | +2.0 (+2.0 to +2.0): 10 | -1.0 (-1.0 to -1.0): 1 |" in page
    assert "| ukp | 90.0% (+30.0: +30.0 to +30.0) | 70.0% (-1.0: -1.0 to -1.0) |" in page


def test_a_set_of_features_that_is_not_planned_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"feature_sets\.plans: nothing for 'guess'"):
        plan(features="guess")
