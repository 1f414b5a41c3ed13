"""Labelled pools in the study: the loop over a whole pool, hindsight, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, write_jsonl

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError, DataError
from bgpm.evaluation.pool_labels import left_out
from bgpm.loop.pool import Pool
from bgpm.loop.train import train
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from bgpm.sizes import pairs_of
from bgpm.stage import read_params, write_json
from bgpm.study import ArmPlan, LabelledPools, PoolFile, read_plan
from bgpm.study.labelled import run
from bgpm.study.labelled_page import draw_shares, draw_whole, whole_markdown
from bgpm.study.labelled_table import read_curves, rows, whole_outcomes
from bgpm.study.records import whole_records
from bgpm.types import Features, Pairs, ScoreMoments

RESPONSES = 5


def study(**changes: Any) -> LabelledPools:
    """The shipped section with other values."""
    return LabelledPools.model_validate(read_params(ROOT / "study/params.yaml")["labelled"] | changes)


def make_pool(prompts: int) -> tuple[Pool, dict[str, np.ndarray]]:
    """All pairs of 5 responses to each prompt, labelled by a linear reward with noise of its own a response."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((prompts * RESPONSES, 4)).astype(np.float32)
    reward = x @ np.array([2.0, -1.0, 0.5, 0.0]) + rng.standard_normal(len(x))
    response_a, response_b = (
        np.concatenate([p * RESPONSES + side for p in range(prompts)]) for side in np.triu_indices(RESPONSES, 1)
    )
    pairs = Pairs(response_a, response_b, response_a // RESPONSES)
    made = Pool.of(Features(x, np.zeros((prompts, 4), np.float32)), pairs)
    label = (reward[response_a] > reward[response_b]).astype(np.float64)
    return made, {"label": label, "margin": np.full(len(label), np.nan)}


@pytest.fixture(scope="module")
def pool() -> tuple[Pool, dict[str, np.ndarray]]:
    return make_pool(prompts=12)


def test_margin_stops_when_enough_labels_are_right_and_every_round_adds_a_share(pool: Any) -> None:
    made, truth = pool
    plan = ArmPlan(acquisition="margin", model="bt", batch_size=0.1)
    done = run(study(start=0.05, until=0.9), plan, made, truth, seed=0)
    right = {k: value for k, _, _, _, metric, value in done.curve if metric == "right"}
    labels = {k: n for k, n, *_ in done.curve}
    assert done.pairs == 120
    assert labels == {k: 6 + 12 * k for k in range(len(labels))}
    assert all(value < 0.9 for k, value in right.items() if k < max(right))
    assert right[max(right)] >= 0.9
    assert len(np.unique(done.acquired["pair"])) == len(done.acquired["pair"]) == labels[max(labels)] < 120


def test_hindsight_is_the_model_without_each_label() -> None:
    made, truth = make_pool(prompts=6)
    settings = {"posterior": {"prior_precision": 1.0, "response_variance": 1.0}}
    plan = ArmPlan(acquisition="margin", model="bt", batch_size=12, hindsight=True, settings=settings)
    done = run(study(), plan, made, truth, seed=0)
    posterior = Laplace(prior_precision=1.0, response_variance=1.0)
    mean = []
    for row in range(60):
        others = np.setdiff1d(np.arange(60), row)
        labels = {"pair": others} | {name: values[others] for name, values in truth.items()}
        model = train(posterior, Bt(), made, labels, seed=0)
        mean.append(model.moments(made.features, made.pairs.take(np.array([row]))).mean.item())
    exact = (np.array(mean) > 0) == (truth["label"] > 0.5)
    right = {n: value for _, n, _, _, metric, value in done.curve if metric == "right"}
    assert list(right) == [12, 24, 36, 48, 60]
    assert right[60] == 1.0
    order = np.argsort(np.abs(mean))
    # leaving a label out by one Newton step against a fit without it: a pair near 0 may change sides
    for n in (12, 24, 36):
        assert right[n] == pytest.approx(1 - (~exact[order][n:]).sum() / 60, abs=2.5 / 60)
    assert right[12] > 0.8


def test_a_score_whose_probability_rounds_to_one_can_be_left_out() -> None:
    moments = ScoreMoments(torch.tensor([800.0, -800.0, 2.0], dtype=torch.float64), torch.full((3,), 4.0).double(), 1.0)
    mean, variance = left_out(moments, np.array([0.0, 0.0, 1.0]))
    p = 1 / (1 + np.exp(-2.0))
    without = 4 / (1 - 4 * p * (1 - p))
    assert mean == pytest.approx([804.0, -800.0, 2 - without * (1 - p)])
    assert variance == pytest.approx([4.0, 4.0, without])


def write_curve(folder: Path, labels: list[int], right: np.ndarray, pairs: int) -> None:
    """Curves [S, T] as the stage writes them, without audits."""
    seed, at = (grid.ravel() for grid in np.indices(right.shape))
    write_table(
        folder / "curve.parquet",
        {
            "seed": seed,
            "round": at,
            "labels": np.array(labels)[at],
            "split": np.full(len(at), "pool", object),
            "section": np.full(len(at), "all", object),
            "metric": np.full(len(at), "right", object),
            "value": right.ravel(),
        },
    )
    write_json(folder / "summary.json", {"pairs": pairs})


def test_savings_are_read_off_mean_curves_and_a_curve_runs_on_to_the_whole_pool(tmp_path: Path) -> None:
    plan = study(
        pools=["p"],
        arms=["random", "margin"],
        beside="random",
        sources={"p": [{"file": "p.jsonl"}]},
        arm_plans={arm: {"acquisition": arm} for arm in ("random", "margin")},
        targets=[0.9],
        headline=0.9,
        until=0.95,
    )
    write_curve(tmp_path / "loops/p/random", [20, 60], np.tile([0.5, 0.7], (3, 1)), 100)
    write_curve(tmp_path / "loops/p/margin", [20, 40], np.tile([0.5, 0.9], (3, 1)), 100)
    random = read_curves(tmp_path / "loops/p/random", plan)
    assert random.labels.tolist() == [20, 60, 100]
    assert random.right.tolist() == [[0.5, 0.7, 1.0]] * 3
    found = list(whole_outcomes(plan, tmp_path, 100))
    (line,) = (line for outcome in found for line in rows(outcome))
    assert float(str(line["share_baseline"])) == pytest.approx(60 / 100 + 0.4 * 0.2 / 0.3, abs=1e-4)
    assert float(str(line["share_arm"])) == pytest.approx(0.4)
    assert float(str(line["saving"])) == pytest.approx(1 - 40 / (60 + 40 * 2 / 3), abs=1e-4)
    assert line["certified_arm"] == ""
    assert "| p | margin | random | 40.0% / 86.7% | 54% |" in "\n".join(whole_markdown(plan, found))
    draw_whole(plan, found, tmp_path / "figure")
    draw_shares(plan, found, tmp_path / "shares")
    assert "saves 54%" in (tmp_path / "shares.svg").read_text(encoding="utf-8")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_whole_pool_keeps_the_pairs_of_one_subset_that_have_a_winner(tmp_path: Path) -> None:
    pair = {"prompt": "why?", "response_a": "so", "response_b": "no", "label": 1, "subset": "judge=human"}
    write_jsonl(
        tmp_path / "votes.jsonl",
        [pair, pair | {"response_a": "oh", "label": 0.5}, pair | {"response_a": "ah", "subset": "judge=model"}],
    )
    (row,) = whole_records([PoolFile(file="votes.jsonl", subset="judge=human")], tmp_path)
    assert (row["response_a"], row["label"], row["split"], row["section"]) == ("so", 1.0, "pool", "votes")
    with pytest.raises(DataError, match=r"votes\.jsonl: no pair is of subset 'judge=nobody'"):
        whole_records([PoolFile(file="votes.jsonl", subset="judge=nobody")], tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pools": ["nowhere"]}, "labelled.sources: nothing for 'nowhere'"),
        ({"arms": ["guess"]}, "labelled.arm_plans: nothing for 'guess'"),
        ({"beside": "guess"}, "labelled.arms: nothing for 'guess'"),
        ({"headline": 0.5}, "labelled.headline: 0.5 is not among targets"),
        ({"until": 0.9}, "labelled.until: 0.9 is below the highest target"),
    ],
)
def test_a_wrong_plan_of_labelled_pools_is_refused(changes: dict[str, Any], words: str) -> None:
    raw = read_params(ROOT / "study/params.yaml")
    with pytest.raises(ConfigError, match=r"study/params\.yaml") as caught:
        read_plan(raw | {"labelled": raw["labelled"] | changes})
    assert words in str(caught.value)


def test_a_batch_is_a_number_or_a_share_of_the_pool() -> None:
    assert [pairs_of(size, 250) for size in (32, 0.02, 0.001, 1)] == [32, 5, 1, 1]
