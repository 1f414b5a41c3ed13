"""Numbers of pairs as features: from the pool's file through prepare, features and a model to `score` and `rank`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project, model_of_every_label, tiny_pool, write_jsonl

from bgpm.cli import main
from bgpm.config import check
from bgpm.data.dedup import Tally, merge_duplicates
from bgpm.data.pair_columns import read_pair_columns, refuse_label_copies
from bgpm.data.prepare import prepare as prepare_tables
from bgpm.data.readers import pair_numbers
from bgpm.data.schema import PairColumn, PoolSettings, Row, SourceSettings
from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError, DataError, ShapeError
from bgpm.inference import PreferenceModel
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors import Posterior
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.selection import StartSettings, seed_set
from bgpm.stage import read_params
from bgpm.types import Comparisons, FeatureBlock, Features, Pairs
from stages import prepare

PROMPT = (("user", "why"),)


def problem(n: int = 60) -> tuple[Features, Features, Pairs, Pairs, np.ndarray]:
    """Features with one more column and pairs without numbers; the same without it, its differences the pairs' own."""
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(24, 5)).astype(np.float32)
    whole[:, 4] = np.round(whole[:, 4] * 8) / 8  # differences and their halves are exact
    prompt = rng.integers(6, size=n)
    a = 4 * prompt + rng.integers(4, size=n)
    b = 4 * prompt + (a % 4 + rng.integers(1, 4, size=n)) % 4
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(whole[b].sum(1) - whole[a].sum(1)))).astype(np.float64)
    blocks = (FeatureBlock("states", 0, 4), FeatureBlock("pair_columns", 4, 5))
    prompts = np.zeros((6, 5), np.float32)
    of_pairs = (whole[a, 4:] - whole[b, 4:]).astype(np.float64)
    return (
        Features(whole, prompts, blocks),
        Features(whole[:, :4], prompts[:, :4], blocks[:1]),
        Pairs(a, b, prompt),
        Pairs(a, b, prompt, of_pairs),
        label,
    )


@pytest.mark.parametrize(
    "posterior",
    [
        Point(prior_precision=2.0),
        Laplace(prior_precision="evidence", structure="full"),
        Laplace(prior_precision="heldout", structure="low_rank"),
        Laplace(prior_precision=2.0, structure="kronecker"),
        Laplace(precision_by_block=True, prior_precision="evidence"),
        Laplace(prior_precision=2.0, response_variance=0.5),
        Ensemble(prior_precision=2.0, members=4),
    ],
    ids=lambda p: f"{p.kind}-{getattr(p, 'structure', '')}-{p.precision_by_block}-{p.response_variance}",
)
def test_numbers_that_are_differences_of_a_feature_are_that_feature(posterior: Posterior) -> None:
    with_column, without, plain, numbered, label = problem()
    seen = np.arange(40)
    expected = posterior.fit(Bt(), with_column, Comparisons(plain.take(seen), label[seen]), seed=3)
    got = posterior.fit(Bt(), without, Comparisons(numbered.take(seen), label[seen]), seed=3)

    def close(one: torch.Tensor, other: torch.Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    wanted, found = expected.moments(with_column, plain), got.moments(without, numbered)
    blind = posterior.fit(Bt(), without, Comparisons(plain.take(seen), label[seen]), seed=3)
    assert not torch.allclose(found.mean, blind.moments(without, plain).mean)
    close(found.mean, wanted.mean)
    close(found.variance, wanted.variance)
    turned = got.moments(without, numbered.swapped())
    assert torch.equal(turned.mean, -found.mean)
    assert torch.equal(turned.variance, found.variance)
    draws = [m.sample(f, p, 3, generator=torch.Generator().manual_seed(1))
             for m, f, p in ((got, without, numbered), (expected, with_column, plain))]  # fmt: skip
    close(*draws)
    if posterior.kind != "point":
        close(got.kernel(without, numbered).row(2), expected.kernel(with_column, plain).row(2))
    with pytest.raises(ShapeError, match="made for 5 features, got 4"):
        got.moments(without, plain)


def test_a_seed_set_that_spreads_over_features_spreads_over_numbers_too() -> None:
    with_column, without, plain, numbered, _ = problem()
    settings = StartSettings(labels=9, design="doptimal")
    drawn = [seed_set(settings, f, p, generator=np.random.default_rng(5))
             for f, p in ((without, numbered), (with_column, plain), (without, plain))]  # fmt: skip
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert set(drawn[0]) != set(drawn[2])


def test_a_model_that_is_not_linear_in_differences_refuses_numbers_of_pairs() -> None:
    _, without, _, numbered, label = problem()
    with pytest.raises(ConfigError, match="numbers of pairs are read by Bradley-Terry only, got model gpm"):
        Laplace().fit(Gpm(), without, Comparisons(numbered, label), seed=0)


@pytest.mark.parametrize(
    ("coding", "cells"),
    [
        ({"coding": "signed"}, {0: 0.0, "-1": -1.0, 0.5: 0.5}),
        ({"coding": "probability"}, {0: -1.0, "0.5": 0.0, 1: 1.0}),
        ({"coding": "words", "words": {"a": ["left"], "b": [2], "tie": ["="]}}, {"left": 1.0, "2.0": -1.0, "=": 0.0}),
    ],
)
def test_a_cell_is_read_by_the_coding_that_is_given(coding: dict[str, Any], cells: dict[Any, float]) -> None:
    settings = SourceSettings(path="f", pair_columns={"gpt4": PairColumn(column="said", **coding)})
    for cell, value in cells.items():
        assert pair_numbers(("f:1", {"said": cell}), 2, settings) == (value,)
    for empty in (None, "", float("nan")):
        assert math.isnan(pair_numbers(("f:1", {"said": empty}), 2, settings)[0])
    for wrong in (1.5, "right"):
        with pytest.raises(DataError, match=r"f:1: said:? .*(expected|none of its words)"):
            pair_numbers(("f:1", {"said": wrong}), 2, settings)
    with pytest.raises(DataError, match=r"f:1: 3 responses, and pair_columns\.gpt4 has one number of a pair"):
        pair_numbers(("f:1", {"said": None}), 3, settings)


def test_a_column_that_may_have_made_the_label_is_refused_by_its_name() -> None:
    settings = SourceSettings(path="f", pair_columns={"gpt4": PairColumn(column="rating", coding="signed")})
    with pytest.raises(ConfigError, match="pair_columns: f: column 'rating' says"):
        pair_numbers(("f:1", {"rating": 1}), 2, settings)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_column_that_agrees_with_every_label_is_refused_though_it_sometimes_says_nothing(sign: float) -> None:
    rows = [Row(PROMPT, f"a{n}", f"b{n}", float(n % 2), numbers=(sign * (2 * (n % 2) - 1),)) for n in range(50)]
    silent = [Row(PROMPT, "x", "y", 1.0, numbers=(0.0,)), Row(PROMPT, "x", "z", 1.0, numbers=(math.nan,))]
    with pytest.raises(ConfigError, match=r"pair_columns\.copy: it says of all 50 labelled pairs what their"):
        refuse_label_copies([*rows, *silent], ["copy"])
    refuse_label_copies(rows[1:] + silent, ["copy"])
    refuse_label_copies([*rows, Row(PROMPT, "x", "y", 1.0, numbers=(-sign,))], ["copy"])


def test_numbers_of_duplicates_are_averaged_as_the_kept_row_stands() -> None:
    rows = [Row(PROMPT, "x", "y", 1.0, numbers=(1.0, 0.5)), Row(PROMPT, "y", "X", 0.0, numbers=(0.5, math.nan))]
    for some in (rows, rows[::-1]):
        (merged,) = merge_duplicates(some, Tally(), Tally())
        sign = 1 if merged.label == 1 else -1
        assert merged.numbers == (sign * 0.25, sign * 0.5)


def test_a_pool_whose_rows_have_no_columns_is_refused_like_a_wrong_name() -> None:
    corpus = Path(__file__).resolve().parents[1] / "data/corpus"
    said = {"gpt4": PairColumn(column="said", coding="signed")}
    settings = PoolSettings(path=str(corpus), heldout=0.3, limit=20, pair_columns=said)
    with pytest.raises(DataError, match=r"corpus: no row has anything in the column of pair_columns\.gpt4"):
        prepare_tables(settings, None)


def test_a_set_without_a_column_has_no_opinion_there(tmp_path: Path) -> None:
    ids = np.array(["p", "q"], object)
    assert read_pair_columns(tmp_path / "pool.parquet", tmp_path / "benchmark.parquet", 2) is None
    write_table(tmp_path / "pool.parquet", {"pair_id": ids, "one": np.array([1.0, np.nan]), "two": np.ones(2)})
    write_table(tmp_path / "benchmark.parquet", {"pair_id": ids, "two": np.array([-1.0, 0.5])})
    read = {name: read_pair_columns(tmp_path / "pool.parquet", tmp_path / f"{name}.parquet", 2)
            for name in ("pool", "benchmark", "none")}  # fmt: skip
    np.testing.assert_array_equal(read["pool"], [[1, 1], [0, 1]])
    np.testing.assert_array_equal(read["benchmark"], [[0, -1], [0, 0.5]])
    np.testing.assert_array_equal(read["none"], np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "gpm"}, r"model: gpm cannot read pool\.pair_columns \(gpt4\); set model: bt"),
        ({"mode": "lora"}, r"training\.mode: lora cannot read pool\.pair_columns"),
        ({"benchmark": "other"}, r"benchmark\.pair_columns: 'other' is none of pool\.pair_columns"),
        ({"coding": "words"}, r"pool\.pair_columns\.gpt4.*coding: words needs words"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(changes: dict[str, str], message: str) -> None:
    params = read_params(Path(__file__).resolve().parents[1] / "params.yaml")

    def given(changes: dict[str, str]) -> None:
        params["model"], params["training"]["mode"] = changes.get("model", "bt"), changes.get("mode", "frozen")
        params["pool"]["pair_columns"] = {"gpt4": {"column": "said", "coding": changes.get("coding", "signed")}}
        of_benchmark = {changes.get("benchmark", "gpt4"): {"column": "said", "coding": "signed"}}
        params["benchmark"]["pair_columns"] = of_benchmark

    given(changes)
    with pytest.raises(ConfigError, match=message):
        check(params)
    given({})
    check(params)


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a judge's verdict, right in four of five; every seventh has none."""
    rng = np.random.default_rng(2)
    said = [row["label"] if rng.uniform() < 0.8 else 1 - row["label"] for row in rows]
    return [row | {"said": None if n % 7 == 6 else p} for n, (row, p) in enumerate(zip(rows, said, strict=True))]


@pytest.fixture(scope="module")
def project(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Prepared, embedded and reduced with a judge's verdicts, and one model of every label in ``model``."""
    found = fresh_project.clone(tmp_path_factory.mktemp("pairs") / "project")
    found.params(model="bt", pool__pair_columns={"gpt4": {"column": "said", "coding": "probability"}})
    write_jsonl(found.folder / "tiny/pool.jsonl", judged(tiny_pool()))
    model_of_every_label(found)
    return found


def test_each_pair_has_its_files_verdict_whichever_response_is_first(
    project: Project, inside: Callable[[Project], None]
) -> None:
    inside(project)
    rows = judged(tiny_pool())
    told = {(row["response_a"], row["response_b"]): row["said"] for row in rows}
    told |= {(b, a): None if said is None else 1 - said for (a, b), said in told.items()}
    text = read_table(Path("data/pool/responses.parquet"))["text"]
    pairs, columns = read_table(Path("data/pool/pairs.parquet")), read_table(Path("data/columns/pool-pairs.parquet"))
    assert list(columns["pair_id"]) == list(pairs["pair_id"])
    said = [told[text[a], text[b]] for a, b in zip(pairs["response_a"], pairs["response_b"], strict=True)]
    expected = np.array([0.0 if p is None else 2 * p - 1 for p in said])
    assert {-1.0, 0.0, 1.0} == set(expected)
    np.testing.assert_array_equal(np.load("data/features/pool/pair_columns.npy")[:, 0], expected)
    assert not np.load("data/features/benchmark/pair_columns.npy").any()
    summary = json.loads(Path("data/truth/summary.json").read_text())["pool"]["pair columns"]
    assert summary == {"gpt4": {"pairs": len(pairs["pair_id"]), "missing": said.count(None)}}


def test_a_file_turned_row_by_row_gives_the_same_numbers(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = project.clone(tmp_path / "turned")
    monkeypatch.chdir(own.folder)
    before = read_table(Path("data/columns/pool-pairs.parquet"))
    turned = [
        row | {"response_a": row["response_b"], "response_b": row["response_a"], "label": 1 - row["label"]}
        | {"said": None if row["said"] is None else 1 - row["said"]}
        for row in judged(tiny_pool())
    ]  # fmt: skip
    write_jsonl(Path("tiny/pool.jsonl"), turned[::-1])
    prepare.main()
    after = read_table(Path("data/columns/pool-pairs.parquet"))
    assert list(after["pair_id"]) == list(before["pair_id"])
    np.testing.assert_array_equal(after["gpt4"], before["gpt4"])


def test_score_reads_the_verdicts_and_rank_takes_none(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], inside: Callable[[Project], None]
) -> None:
    inside(project)
    row = judged(tiny_pool())[0]
    rows = [row | {"said": said} for said in (1, 0, 0.5, None)]
    given = ["--model", "model", "--out", str(tmp_path / "out.jsonl")]
    main(["score", str(write_jsonl(tmp_path / "in.jsonl", rows)), *given])
    assert "pair without a number of pair_columns.gpt4, taken as 0: 1, first at" in capsys.readouterr().err
    mean = [json.loads(line)["score_mean"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    model = PreferenceModel.load("model")
    assert mean[0] > mean[2] > mean[1]
    assert mean[0] - mean[2] == pytest.approx(mean[2] - mean[1])
    assert mean[3] == mean[2]
    texts = [row["response_a"], row["response_b"]]
    assert model.matrix(row["prompt"], texts).mean[0, 1] == pytest.approx(mean[2], abs=1e-5)
    again = [r | {"in_words": ["yes", "no"][n]} for n, r in enumerate(rows[:2])]
    words = "{gpt4: {column: in_words, coding: words, words: {a: ['yes'], b: ['no']}}}"
    main(["score", str(write_jsonl(tmp_path / "in.jsonl", again)), *given, "--pair-columns", words])
    found = [json.loads(line)["score_mean"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == pytest.approx(mean[:2], abs=1e-5)
    with pytest.raises(SystemExit, match="--pair-columns: is not YAML"):
        main(["score", str(tmp_path / "in.jsonl"), *given, "--pair-columns", "{gpt4: {column: in_words"])
