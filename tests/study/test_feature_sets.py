"""Accuracy by features: the same draws for every set, and a table with intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError
from bgpm.loop.pool import LabelledSplit, Pool
from bgpm.loop.start import start
from bgpm.loop.train import train
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from bgpm.selection import StartSettings
from bgpm.stage import generator, read_params
from bgpm.study import StudyPlan, read_plan
from bgpm.study.feature_sets import accuracies, markdown, read_accuracies, rows
from bgpm.types import Features, Pairs


def plan(**changes: object) -> StudyPlan:
    raw = read_params(ROOT / "study/params.yaml")
    sets = raw["feature_sets"] | {"pools": ["ukp"], "sets": ["states", "rich"], "labels": [8, 16]} | changes
    return read_plan(raw | {"feature_sets": sets, "resamples": 200})


def test_each_count_is_a_fit_of_the_first_labels_of_one_uniform_draw() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3)).astype(np.float32)
    response_a, response_b = np.arange(0, 120, 2), np.arange(1, 120, 2)
    pairs = Pairs(response_a, response_b, response_a // 4)
    pool = Pool.of(Features(x, np.zeros((30, 3), np.float32)), pairs)
    label = (x[response_a, 0] > x[response_b, 0]).astype(np.float64)
    truth = {"label": label, "margin": np.full(60, np.nan)}
    heldout = LabelledSplit(
        features=pool.features,
        pairs=pairs,
        label=label,
        section=pool.table["section"],
        subset=pool.table["section"],
        rows=np.arange(60),
    )
    found = accuracies(Bt(), Laplace(), pool, truth, heldout, [8, 16, 99], seed=3)
    assert np.unique(found["labels"]).tolist() == [8, 16]
    drawn = start(StartSettings(labels=16), pool, generator=generator("start", 3))
    for n in (8, 16):
        labels = {"pair": drawn[:n], "label": label[drawn[:n]], "margin": np.full(n, np.nan)}
        mean = train(Laplace(), Bt(), pool, labels, seed=3).moments(pool.features, pairs).mean.numpy()
        assert found["right"][found["labels"] == n].sum() == ((mean > 0) == (label > 0.5)).sum()


def test_the_table_has_the_gain_over_the_first_set_with_an_interval(tmp_path: Path) -> None:
    for name, gain in (("states", 0.0), ("rich", 0.1)):
        seed, at, prompt = (grid.ravel() for grid in np.indices((4, 2, 6)))
        right = (0.5 + 0.1 * at + gain + 0.01 * seed + 0.02 * (prompt % 2)) * 10
        table = {"seed": seed, "labels": np.array([8, 16])[at], "prompt": prompt, "pairs": np.full(48, 10.0)}
        write_table(tmp_path / "ukp" / name / "prompts.parquet", table | {"right": right})
    trials = read_accuracies(tmp_path / "ukp/states/prompts.parquet")
    assert trials.right.shape == (4, 2, 6)
    assert trials.curves.mean(0) == pytest.approx([0.525, 0.625])
    lines = list(rows(plan(), tmp_path))
    assert [(line["features"], line["labels"], line["accuracy"]) for line in lines] == [
        ("states", 8, "0.5250"), ("states", 16, "0.6250"), ("rich", 8, "0.6250"), ("rich", 16, "0.7250"),
    ]  # fmt: skip
    assert [line["gain"] for line in lines] == ["0.0000", "0.0000", "0.1000", "0.1000"]
    assert float(str(lines[2]["low"])) < 0.625 < float(str(lines[2]["high"]))
    assert lines[0]["gain_low"] == ""
    page = "\n".join(markdown(plan(), lines))
    assert "| rich | 62.5% (+10.0: +10.0 to +10.0) | 72.5% (+10.0: +10.0 to +10.0) |" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sets": ["guess"]}, "feature_sets.plans: nothing for 'guess'"),
        ({"labels": [16, 8]}, "feature_sets.labels: expected increasing numbers"),
        ({"pools": ["nowhere"]}, "pools: nothing for 'nowhere'"),
    ],
)
def test_a_wrong_plan_of_features_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(**changes)
    assert words in str(caught.value)
