"""The study: its plan, its pools, its loops (the same numbers as the pipeline's) and its tables."""

from __future__ import annotations

import csv
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, Project, tiny_benchmark, tiny_pool, write_jsonl

from bgpm.data.schema import NumberColumns
from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError, DataError
from bgpm.features import FeatureSettings
from bgpm.stage import STUDY, read_params
from bgpm.study import LABELLED, ArmPlan, PoolFile, PoolPlan, Redundancy, read_plan
from bgpm.study.arm import Components
from bgpm.study.pools import benchmark_numbers, features_of, fit_reduction, pool_numbers
from bgpm.study.records import study_records
from bgpm.study.savings_page import study_markdown
from bgpm.study.sources import fetch, files
from bgpm.study.table import outcomes, read_trials, shared
from stages import study_pool


def plan(**changes: Any) -> dict[str, Any]:
    """The shipped plan with other top-level values."""
    return read_params(ROOT / "study/params.yaml") | changes


def test_the_shipped_plan_is_sound_and_every_arm_can_be_built() -> None:
    shipped = read_plan(plan())
    for arm in [*shipped.arms, *shipped.extra_arms]:
        Components.of(shipped.arm_plans[arm])
    for pool in shipped.pools:
        assert "random" in shipped.arms_of(pool)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pools": ["ukp", "nowhere"]}, "pool_plans: nothing for 'nowhere'"),
        ({"arms": ["random", "guess"]}, "arm_plans: nothing for 'guess'"),
        (
            {"arms": ["entropy"], "extra_arms": [], "figures": {}},
            "'entropy' is compared with 'random', which is not run on",
        ),
        ({"extra_pools": ["nowhere"]}, "pools: nothing for 'nowhere'"),
        ({"extra_arms": ["guess"]}, "arm_plans: nothing for 'guess'"),
        ({"figures": {"curves": ["guess"]}}, "figures: nothing for 'guess'"),
        ({"extra_pools": ["ukp_fitted"]}, "makes recorded labels wrong, and those of 'ukp_fitted' are drawn"),
        ({"headline": 0.8}, "headline: 0.8 is not among shares"),
        ({"seeds": 1}, "seeds: Input should be greater than or equal to 2"),
        ({"colour": "blue"}, "colour: unknown key"),
    ],
)
def test_a_wrong_plan_is_refused_with_its_file_and_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"study/params\.yaml") as caught:
        read_plan(plan(**changes))
    assert words in str(caught.value)


def test_an_arm_of_an_unknown_kind_or_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"study/params.yaml: acquisition: unknown kind 'magic'; choose one of: "):
        Components.of(ArmPlan(acquisition="magic"))
    with pytest.raises(ConfigError, match=r"selection\.top_k\.cap: unknown key"):
        Components.of(ArmPlan(acquisition="random", settings={"selection": {"cap": 2}}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "east.jsonl", tiny_pool(20, 3))
    write_jsonl(tmp_path / "west.jsonl", tiny_pool(30, 3, seed=1))
    return tmp_path


def test_sources_split_by_prompt_over_their_union_and_keep_their_name(folder: Path) -> None:
    shape = PoolPlan(sources=[PoolFile(file="east.jsonl"), PoolFile(file="west.jsonl")], heldout=0.4)
    rows = study_records(shape, folder, seed=0)
    side: dict[str, set[str]] = {}
    for row in rows:
        side.setdefault(json.dumps(row["prompt"]), set()).add(row["split"])
    assert {len(splits) for splits in side.values()} == {1}  # the files share 20 prompts
    assert {row["section"] for row in rows} == {"east", "west"}
    assert len(rows) == len(tiny_pool(20, 3)) + len(tiny_pool(30, 3, seed=1))


def test_a_source_is_cut_to_its_pairs_by_whole_prompts_and_held_out_pairs_stay(folder: Path) -> None:
    whole = study_records(PoolPlan(sources=[PoolFile(file="west.jsonl")], heldout=0.4), folder, seed=0)
    cut = study_records(PoolPlan(sources=[PoolFile(file="west.jsonl", pairs=20)], heldout=0.4), folder, seed=0)
    assert [r for r in cut if r["split"] == "heldout"] == [r for r in whole if r["split"] == "heldout"]
    pool = [r for r in cut if r["split"] == "pool"]
    assert len(pool) == 20
    full = {json.dumps(r["prompt"]): 0 for r in whole}
    for row in whole:
        full[json.dumps(row["prompt"])] += row["split"] == "pool"
    partial = [
        p for p in {json.dumps(r["prompt"]) for r in pool} if sum(json.dumps(r["prompt"]) == p for r in pool) < full[p]
    ]
    assert len(partial) <= 1


SIDES = (("l", "response_a"), ("r", "response_b"))


def with_rewards(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a number of each response, always the same for one text."""
    return [row | {side: zlib.crc32(row[text].encode()) / 2**32 for side, text in SIDES} for row in rows]


def test_columns_of_a_source_are_features_of_the_pool_whatever_else_is_in_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "data/study/sources"
    rows = {name: tiny_pool(20, 3, seed=seed) for name, seed in (("east", 0), ("west", 1))}
    write_jsonl(files / "east.jsonl", with_rewards(rows["east"]))
    write_jsonl(files / "west.jsonl", rows["west"])
    write_jsonl(files / "benchmark.jsonl", tiny_benchmark())
    east = {"file": "east.jsonl", "response_columns": {"reward": ["l", "r"]}}
    shape = tiny_plan()
    shape["pool_plans"]["tiny"]["sources"] = [east, {"file": "west.jsonl"}]
    shape["labelled"]["sources"]["tiny"] = [east]
    (tmp_path / "study").mkdir()
    (tmp_path / "study/params.yaml").write_text(yaml.safe_dump(shape), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    told = {text: 0.0 for row in rows["west"] for text in (row["response_a"], row["response_b"])}
    told |= {row[text]: row[side] for row in with_rewards(rows["east"]) for side, text in SIDES}

    def settings(missing: str) -> FeatureSettings:
        return FeatureSettings(blocks=["columns"], settings={"columns": {"use": ["reward"], "missing": missing}})

    for which, home in (("split", STUDY), ("whole", LABELLED)):
        study_pool.main("tiny", which)
        tables = {kind: read_table(home / f"tables/tiny/{kind}.parquet") for kind in ("responses", "prompts")}
        states = {kind: np.zeros((len(table["text"]), 1, 1)) for kind, table in tables.items()}
        numbers = pool_numbers(settings("mean"), home / "columns/tiny.parquet")
        reduction = fit_reduction(settings("mean"), tables, states, numbers)
        got = features_of(reduction, tables, states, numbers).responses[:, 0]
        known = ~np.isnan(numbers["columns"][:, 0])
        assert known.all() == (which == "whole")
        given = np.array([told[text] for text in tables["responses"]["text"]])
        assert known[given != 0].all()
        fitted_on = tables["prompts"]["split"][tables["responses"]["prompt"]] == "pool"
        mean, deviation = (f(given[known & fitted_on]) for f in (np.mean, np.std))
        np.testing.assert_allclose(got, np.where(known, (given - mean) / deviation, 0.0), rtol=1e-5, atol=1e-6)
    pool_numbers(settings("refuse"), LABELLED / "columns/tiny.parquet")
    tables = {path.name: path.read_bytes() for path in (LABELLED / "tables/tiny").iterdir()}
    shape["labelled"]["sources"]["tiny"] = [{"file": "east.jsonl"}]
    (tmp_path / "study/params.yaml").write_text(yaml.safe_dump(shape), encoding="utf-8")
    study_pool.main("tiny", "whole")
    assert {path.name: path.read_bytes() for path in (LABELLED / "tables/tiny").iterdir()} == tables  # embeds nothing
    with pytest.raises(DataError, match=r"columns/tiny\.parquet: \d+ of \d+ responses have no reward"):
        pool_numbers(settings("refuse"), STUDY / "columns/tiny.parquet")


def test_columns_that_the_study_cannot_read_are_refused(folder: Path) -> None:
    write_table(folder / "ukp.parquet", {"response_id": np.array(["p"], object), "reward": np.array([1.0])})

    def settings(**changes: Any) -> FeatureSettings:
        return FeatureSettings(blocks=["columns"], settings={"columns": {"use": ["reward"]} | changes})

    with pytest.raises(ConfigError, match=r"study/params\.yaml: .*'vote' is none of response_columns of the sources of "
                       r"ukp \(reward\)"):  # fmt: skip
        pool_numbers(settings(use=["vote"]), folder / "ukp.parquet")
    with pytest.raises(ConfigError, match="missing: refuse, but the study's benchmark has no numbers"):
        benchmark_numbers(settings(), 3)
    assert np.isnan(benchmark_numbers(settings(missing="mean"), 3)["columns"]).all()
    with pytest.raises(ConfigError, match="likelihood reads numbers that the study does not make"):
        pool_numbers(FeatureSettings(blocks=["likelihood"]), folder / "ukp.parquet")


def test_a_column_that_made_one_sources_labels_is_refused_beside_other_sources(folder: Path) -> None:
    made = [row | {"l": row["label"], "r": 1 - row["label"]} for row in tiny_pool(30, 3)]
    write_jsonl(folder / "east.jsonl", made)
    write_jsonl(folder / "west.jsonl", with_rewards(tiny_pool(30, 3, seed=1)))
    named: NumberColumns = {"reward": ["l", "r"]}
    sources = [PoolFile(file=f"{name}.jsonl", response_columns=named) for name in ("west", "east")]
    with pytest.raises(
        ConfigError, match=r"response_columns\.reward: it orders the responses of all \d+ labelled pairs"
    ):
        study_records(PoolPlan(sources=sources, heldout=0.4), folder, seed=0)


def test_copies_are_made_of_easy_pairs_only_and_keep_their_label(folder: Path) -> None:
    easy = {
        "prompt": "why?",
        "response_a": "one two three four five six seven eight",
        "response_b": "no no no no",
        "label": 1,
    }
    hard = {
        "prompt": "why not?",
        "response_a": "one two three four",
        "response_b": "five six seven eight nine",
        "label": 1,
    }
    rest = tiny_pool(20, 3)
    write_jsonl(folder / "some.jsonl", [easy, hard, *rest])
    shape = PoolPlan(sources=[PoolFile(file="some.jsonl")], heldout=0.01, redundancy=Redundancy(copies=2))
    rows = [r for r in study_records(shape, folder, seed=0) if r["prompt"][0]["content"] in ("why?", "why not?")]
    assert [r["response_a"] for r in rows if r["prompt"][0]["content"] == "why?"] == [
        "one two three four five six seven eight",
        "one two three four five six seven",
    ]  # copy 2 would leave half of the loser: not made
    assert sum(r["prompt"][0]["content"] == "why not?" for r in rows) == 1
    assert {r["label"] for r in rows} == {1.0}


def test_a_missing_file_is_named_before_anything_is_copied(tmp_path: Path) -> None:
    shipped = read_plan(plan())
    (tmp_path / files(shipped)[0]).write_bytes(b"")
    with pytest.raises(DataError, match=r"no .*human_hh_harmless_test\.jsonl\.gz"):
        fetch(shipped, tmp_path, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_mean_over_sources_weighs_each_source_alike(tmp_path: Path) -> None:
    # prompt 0 of a large source: 8 of 10 right; prompts 1 and 2 of a small one: 1 of 4 right
    responses = {"prompt": [0, 1, 2], "pairs": [10.0, 2.0, 2.0], "right": [8.0, 1.0, 0.0]}
    table = {name: np.tile(values, 2) for name, values in responses.items()}
    write_table(tmp_path / "prompts.parquet", {"seed": np.zeros(6, int), "round": np.repeat([0, 1], 3), **table})
    write_table(tmp_path / "curve.parquet", {"round": [0, 1], "labels": [4, 8]})
    assert read_trials(tmp_path).curves == pytest.approx(np.full((1, 2), 9 / 14))
    by_source = read_trials(tmp_path, {0: "large", 1: "small", 2: "small"})
    assert by_source.curves == pytest.approx(np.full((1, 2), (8 / 10 + 1 / 4) / 2))


def test_arms_with_other_batch_sizes_are_compared_where_both_have_points(tmp_path: Path) -> None:
    def trials(labels: list[int]):
        folder = tmp_path / str(len(labels))
        n = len(labels)
        zero, k = np.zeros(n, int), np.arange(n)
        responses = {"seed": zero, "round": k, "prompt": zero, "pairs": np.ones(n), "right": k / n}
        write_table(folder / "prompts.parquet", responses)
        write_table(folder / "curve.parquet", {"round": range(n), "labels": labels})
        return read_trials(folder)

    arm, baseline = shared(trials([8, 24, 40]), trials([8, 16, 24, 32, 40]))
    assert arm.labels.tolist() == baseline.labels.tolist() == [8, 24, 40]
    assert baseline.right[0, :, 0] == pytest.approx([0, 0.4, 0.8])


def test_the_page_corrects_p_values_for_the_pools_of_recorded_labels(tmp_path: Path) -> None:
    """On one pool an arm is ahead under every seed, on another it is a copy, on two labels are simulated."""
    ahead = {"tiny": 0.2, "second": 0.0, "world": -0.2, "other": 0.1}
    for pool, step in ahead.items():
        for arm, gain in (("random", 0.0), ("entropy", step)):
            seed, k, prompt = (grid.ravel() for grid in np.indices((4, 3, 2)))
            right = np.clip(0.5 + 0.1 * k + gain, 0, 1) * 10
            responses = {"seed": seed, "round": k, "prompt": prompt, "pairs": np.full(len(k), 10.0), "right": right}
            write_table(tmp_path / f"loops/{pool}/{arm}/prompts.parquet", responses)
            write_table(tmp_path / f"loops/{pool}/{arm}/curve.parquet", {"round": [0, 1, 2], "labels": [8, 14, 20]})
    pool_plans = {pool: {"sources": [{"file": "pool.jsonl"}], "heldout": 0.3} for pool in ahead}
    pool_plans["world"]["labels"] = pool_plans["other"]["labels"] = "fitted"
    shape = tiny_plan() | {"pools": list(ahead), "pool_plans": pool_plans, "budgets": dict.fromkeys(ahead, 20)}
    three = read_plan(shape)
    page = study_markdown(three, list(outcomes(three, tmp_path)))
    recorded, fitted = page.split("## All pools of ")[1:]
    assert recorded.startswith("recorded labels")
    assert "| arm | tiny | second |" in recorded
    # 200 draws, none of them equal or behind: p = 2 / 201, times two pools
    assert "| **entropy** | +20.0 (p 0.02) | +0.0 (p 1.00) |" in recorded
    assert fitted.startswith("simulated labels")
    assert "| arm | world | other |" in fitted
    assert "| **entropy** | -20.0 (-20.0 to -20.0) | +10.0 (+10.0 to +10.0) |" in fitted
    alone = read_plan(shape | {"pools": ["tiny", "world"]})
    assert "All pools" not in study_markdown(alone, list(outcomes(alone, tmp_path)))


def tiny_plan() -> dict[str, Any]:
    """A plan over the tiny pool that repeats what the tiny project's pipeline does."""
    settings = {"model": yaml.safe_load((ROOT / "params.yaml").read_text())["models"]["gpm"]}
    return plan(
        pools=["tiny"],
        arms=["random", "entropy"],
        extra_pools=[],
        figures={name: ["random", "entropy"] for name in plan()["figures"]},  # outputs of the pipeline, by name
        extra_arms=[],
        pool_plans={"tiny": {"sources": [{"file": "pool.jsonl"}], "heldout": 0.3}},
        arm_plans={
            arm: {"acquisition": arm, "batch_size": 6, "settings": settings, "default": arm == "entropy"}
            for arm in ("random", "entropy")
        },
        budgets={"tiny": 14},
        seeds=2,
        first_seed=0,
        start=8,
        resamples=200,
        benchmark="benchmark.jsonl",
        backbone={"path": "tiny/backbone", "sha256": None},
        features={"pca": 16},
        processes=1,
        feature_sets=plan()["feature_sets"]
        | {
            "pools": ["tiny"],
            "sets": ["states", "states_rich"],
            "labels": [8, 14],
            "fits": {"features": "states", "choices": ["heldout"], "fixed": [10.0], "models": {"gpm": {"dim": 2}}},
        },
        labelled=plan()["labelled"]
        | {
            "pools": ["tiny"],
            "arms": ["random", "margin"],
            "beside": "random",
            "sources": {"tiny": [{"file": "pool.jsonl"}]},
            "arm_plans": {arm: {"acquisition": arm, "batch_size": 0.2, "model": "bt"} for arm in ("random", "margin")},
            "seeds": 2,
            "start": 0.2,
        },
    )


@pytest.mark.slow
def test_a_study_gives_the_numbers_of_the_pipeline_and_writes_its_tables(
    finished_project: Project, tmp_path: Path
) -> None:
    project = finished_project.clone(tmp_path / "project")
    (project.folder / "study/params.yaml").write_text(yaml.safe_dump(tiny_plan()), encoding="utf-8")
    write_jsonl(tmp_path / "files/pool.jsonl", tiny_pool())
    write_jsonl(tmp_path / "files/benchmark.jsonl", tiny_benchmark())
    project.run("python", "-m", "bgpm", "study", str(tmp_path / "files"))
    project.run("make", "study/dvc.yaml")
    project.dvc("repro", "study/dvc.yaml")
    for arm in ("random", "entropy"):
        with (project.folder / f"data/{arm}/round-1/evaluation/curve.csv").open(encoding="utf-8") as file:
            pipeline = {
                (int(r["seed"]), int(r["round"]), int(r["labels"]), r["split"], r["section"], r["metric"]): float(
                    r["value"]
                )
                for r in csv.DictReader(file)
                if r["metric"] != "length_rule" and r["section"] == "all" and r["split"] not in ("pool", "estimated")
            }
        table = read_table(project.folder / f"data/study/loops/tiny/{arm}/curve.parquet")
        keys = ("seed", "round", "labels", "split", "section", "metric")
        study = dict(zip(zip(*(table[k].tolist() for k in keys), strict=True), table["value"].tolist(), strict=True))
        assert pipeline
        assert {key: study[key] for key in pipeline} == pipeline
    with (project.folder / "reports/study/savings.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == ["0.5", "0.75", "0.9", "1.0"]
    assert {(row["arm"], row["seeds"], row["default"]) for row in rows} == {("entropy", "2", "True")}
    page = (project.folder / "reports/study/index.md").read_text(encoding="utf-8")
    assert "2 seeds are indicative only" in page
    assert "| **entropy** |" in page
    with (project.folder / "reports/study/pool_labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["baseline"], row["target"]) for row in rows] == [
        ("margin", "random", target) for target in ("0.9", "0.95", "0.98")
    ]
    assert {row["pairs"] for row in rows} == {str(len({r["response_a"] + r["response_b"] for r in tiny_pool()}))}
    with (project.folder / "reports/study/features.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["features"], row["labels"]) for row in rows] == [
        (name, labels) for name in ("states", "states_rich") for labels in ("8", "14")
    ]
    # another target re-runs the report alone, another arm its own loop
    changed = tiny_plan()
    changed["arms"].append("margin")
    changed["arm_plans"]["margin"] = changed["arm_plans"]["random"] | {"acquisition": "margin"}
    (project.folder / "study/params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    again = project.dvc("repro", "--dry", "study/dvc.yaml").stdout
    assert "Running stage 'study/dvc.yaml:loop@tiny-margin'" in again
    assert "Stage 'study/dvc.yaml:loop@tiny-random' didn't change" in again
