"""Columns of the pool as features: from its file through prepare, features and a model to `score` and `rank`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, model_of_every_label, tiny_benchmark, tiny_pool, write_jsonl

from bgpm.cli import main
from bgpm.config import check
from bgpm.data.readers import response_numbers
from bgpm.data.response_columns import columns_table, read_numbers
from bgpm.data.schema import Row, SourceSettings, as_json
from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError, DataError
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.inference import PreferenceModel
from bgpm.stage import read_params

REWARD = SourceSettings(path="pool.jsonl", response_columns={"reward": ["left", "right"]})
PROMPT = (("user", "why"),)


def scored(rows: list[dict[str, Any]], pair: tuple[str, str], seed: int) -> list[dict[str, Any]]:
    """Rows with a number of each response: half its good words, half noise, always the same for one text."""
    rng, known = np.random.default_rng(seed), {}

    def number(text: str) -> float:
        good = sum(text.count(word) for word in ("clear", "useful", "kind", "exact"))
        return known.setdefault(text, round(good + 3.0 * rng.normal(), 3))

    return [row | {"left": number(row[pair[0]]), "right": number(row[pair[1]])} for row in rows]


def columns_of(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The table of the responses of these records, read as `REWARD` says."""
    rows = [
        Row(PROMPT, r["a"], r["b"], r.get("label", float("nan")), place=f"line {n}",
            numbers_a=numbers[0], numbers_b=numbers[1])
        for n, r in enumerate(records)
        for numbers in [response_numbers((f"line {n}", r), 2, REWARD)]
    ]  # fmt: skip
    from bgpm.data.dedup import digest

    ids = [digest(as_json(PROMPT), text) for text in ("x", "y", "z")]
    return columns_table(np.array(ids, object), rows, ["reward"])


def test_a_response_has_the_number_of_its_own_text_in_either_place() -> None:
    rows = [{"a": "x", "b": "y", "left": 1.5, "right": "-2"}, {"a": "z", "b": "x", "left": None, "right": 1.5}]
    np.testing.assert_array_equal(columns_of(rows)["reward"], [1.5, -2.0, np.nan])
    turned = [{"a": r["b"], "b": r["a"], "left": r["right"], "right": r["left"]} for r in reversed(rows)]
    np.testing.assert_array_equal(columns_of(turned)["reward"], [1.5, -2.0, np.nan])


def test_a_list_of_numbers_belongs_to_k_responses_in_their_order() -> None:
    settings = SourceSettings(path="f", response_columns={"reward": "values", "length": "sizes"})
    record = ("f:1", {"responses": ["x", "y", "z"], "values": [1, None, 3], "sizes": "[4, 5, 6]"})
    np.testing.assert_array_equal(response_numbers(record, 3, settings), [[1, 4], [np.nan, 5], [3, 6]])
    with pytest.raises(DataError, match=r"f:1: 4 responses and 3 numbers of response_columns\.reward; name two"):
        response_numbers(record, 4, settings)
    with pytest.raises(DataError, match="f:1: left: expected a number, got 'high'"):
        response_numbers(("f:1", {"left": "high", "right": 1}), 2, REWARD)


def test_two_numbers_of_one_response_are_refused_with_both_places() -> None:
    rows = [{"a": "x", "b": "y", "left": 1, "right": 2}, {"a": "y", "b": "z", "left": 3, "right": 4}]
    with pytest.raises(DataError, match=r"line 1: response_columns\.reward: a response has 3 here and 2 at line 0"):
        columns_of(rows)


def test_a_column_without_any_number_is_a_wrong_name() -> None:
    with pytest.raises(DataError, match=r"no number in the columns of response_columns\.reward; check their names"):
        columns_of([{"a": "x", "b": "y", "wrong": 1}])


@pytest.mark.parametrize("name", ["score_chosen", "Rating", "points"])
def test_a_column_that_makes_the_label_or_the_margin_is_refused_by_its_name(name: str) -> None:
    settings = SourceSettings(path="f", columns={"margin": "points"}, response_columns={"reward": [name, "other"]})
    with pytest.raises(ConfigError, match=f"column '{name}' says"):
        response_numbers(("f:1", {name: 1.0, "other": 2.0}), 2, settings)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_column_that_orders_every_pair_as_its_label_is_refused_whatever_its_name(tmp_path: Path, sign: float) -> None:
    def rows(count: int) -> list[Row]:
        return [
            Row(PROMPT, f"a{n}", f"b{n}", float(n % 2), numbers_a=(sign * (n % 2),), numbers_b=(sign * 0.5,))
            for n in range(count)
        ]

    from bgpm.data.response_columns import refuse_labels_in_disguise as refuse

    with pytest.raises(ConfigError, match=r"response_columns\.gold: it orders the responses of all 50 labelled pairs"):
        refuse(rows(50), ["gold"])
    refuse(rows(49), ["gold"])
    refuse([*rows(80), Row(PROMPT, "a", "b", 1.0, numbers_a=(-sign,), numbers_b=(sign,))], ["gold"])


def test_numbers_are_standardised_by_the_pool_and_a_missing_one_is_its_mean(tmp_path: Path) -> None:
    settings = FeatureSettings(blocks=["columns"], settings={"columns": {"use": ["r", "s"], "missing": "mean"}})
    numbers = np.array([[1.0, 7.0], [2.0, np.nan], [6.0, 7.0], [np.nan, 7.0], [900.0, -900.0]])
    states, texts = np.zeros((5, 1, 1), np.float32), [""] * 5
    fitted = Reduction.fit(settings, states, texts, np.arange(4), texts, {"columns": numbers})
    known = np.array([1.0, 2.0, 6.0])
    expected = (np.array([*known, known.mean(), 900.0]) - known.mean()) / known.std()
    got = fitted(states, texts, texts, {"columns": numbers})
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-6)
    assert not got[:, 1].any()  # it was constant in the pool
    one = fitted(states[:1], texts[:1], texts[:1], {"columns": numbers[2:3]})
    np.testing.assert_array_equal(one[0], got[2])  # whatever it is compared with
    assert not fitted(states, texts).any()  # prompts have no numbers
    with pytest.raises(ConfigError, match=r"columns reads r, s of each response; pass numbers of shape \[5, 2\]"):
        fitted(states, texts, texts)
    fitted.save(tmp_path / "r.safetensors")
    again = Reduction.load(settings, tmp_path / "r.safetensors")
    assert again(states, texts, texts, {"columns": numbers}).tobytes() == got.tobytes()


def test_a_missing_number_is_refused_with_its_count_unless_the_mean_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.parquet"
    write_table(path, {"response_id": np.array(["p", "q", "r"], object), "reward": np.array([1.0, np.nan, np.nan])})
    with pytest.raises(DataError, match=r"benchmark\.parquet: 2 of 3 responses have no reward, the first is .* q"):
        read_numbers(path, ["reward"], "refuse")
    with pytest.raises(ConfigError, match=r"'votes' is none of benchmark\.response_columns \(reward\)"):
        read_numbers(path, ["votes"], "refuse")
    np.testing.assert_array_equal(read_numbers(path, ["reward"], "mean")[:, 0], [1, np.nan, np.nan])
    assert np.isnan(read_numbers(path, ["votes"], "mean")).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use": []}, r"features\.columns\.use: empty"),
        ({"use": ["vote"]}, r"'vote' is none of pool\.response_columns \(reward\)"),
        ({"use": ["reward", "reward"]}, r"features\.columns\.use: .*each name once"),
        ({"mode": "lora"}, r"columns has numbers from elsewhere, and training\.mode: lora"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(changes: dict[str, Any], message: str) -> None:
    params = read_params(Path(__file__).resolve().parents[1] / "params.yaml")
    params["pool"]["response_columns"] = {"reward": ["left", "right"]}
    params["features"] |= {"blocks": ["states", "columns"], "columns": {"use": changes.get("use", ["reward"])}}
    params["training"]["mode"] = changes.get("mode", "frozen")
    with pytest.raises(ConfigError, match=message):
        check(params)
    params["features"]["columns"]["use"], params["training"]["mode"] = ["reward"], "frozen"
    check(params)


@pytest.fixture(scope="module")
def project(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Prepared, embedded and reduced with a column of rewards, and one model of every label in ``model``."""
    found = fresh_project.clone(tmp_path_factory.mktemp("columns") / "project")
    write_jsonl(found.folder / "tiny/pool.jsonl", scored(tiny_pool(), ("response_a", "response_b"), 0))
    write_jsonl(found.folder / "tiny/benchmark.jsonl", scored(tiny_benchmark(), ("chosen", "rejected"), 1))
    named = {"reward": ["left", "right"]}
    found.params(
        pool__response_columns=named, benchmark__response_columns=named,
        features__blocks=["states", "columns"], features__columns={"use": ["reward"], "missing": "refuse"},
    )  # fmt: skip
    model_of_every_label(found)
    return found


def test_each_response_of_the_pool_and_the_benchmark_has_its_files_number(project: Project) -> None:
    for which, pair in (("pool", ("response_a", "response_b")), ("benchmark", ("chosen", "rejected"))):
        rows = [json.loads(line) for line in (project.folder / f"tiny/{which}.jsonl").read_text().splitlines()]
        told = {row[text]: row[number] for row in rows for text, number in zip(pair, ("left", "right"), strict=True)}
        responses = read_table(project.folder / f"data/{which}/responses.parquet")
        columns = read_table(project.folder / f"data/columns/{which}.parquet")
        assert list(columns["response_id"]) == list(responses["response_id"])
        assert [told[text] for text in responses["text"]] == list(columns["reward"])
        got = np.load(project.folder / f"data/features/{which}/responses.npy")[:, -1].astype(np.float64)
        if which == "pool":
            split = read_table(project.folder / "data/pool/prompts.parquet")["split"][responses["prompt"]]
            mean, deviation = (f(columns["reward"][split == "pool"]) for f in (np.mean, np.std))
        np.testing.assert_allclose(got, (columns["reward"] - mean) / deviation, rtol=1e-5, atol=1e-6)
    blocks = json.loads((project.folder / "data/features/pool/blocks.json").read_text())
    assert [block["name"] for block in blocks] == ["states", "columns"]


def test_score_and_rank_read_the_columns_and_say_where_one_is_missing(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], inside: Callable[[Project], None]
) -> None:
    rows = [json.loads(line) for line in (project.folder / "tiny/pool.jsonl").read_text().splitlines()][:6]
    rows.append(rows[0] | {"left": rows[0]["left"] + 10})
    listed = [{"prompt": r["prompt"], "responses": [r["response_a"], r["response_b"]],
               "both": [r["left"], r["right"]]} for r in rows[:6]]  # fmt: skip
    inside(project)
    model = PreferenceModel.load("model")
    for row in rows[:6]:
        texts = [row["response_a"], row["response_b"]]
        row["mean"] = model.matrix(row["prompt"], texts, {"reward": [row["left"], row["right"]]}).mean[0, 1]
    given = ["--model", "model", "--out", str(tmp_path / "out.jsonl")]
    assert main(["score", str(write_jsonl(tmp_path / "in.jsonl", rows[:6])), *given]) in (0, None)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["score_mean"] for row in found], [row["mean"] for row in rows[:6]], atol=1e-5)
    file = str(write_jsonl(tmp_path / "list.jsonl", listed))
    main(["rank", file, *given, "--response-columns", "{reward: both}"])
    found = [json.loads(line)["order"][0] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [int(row["mean"] < 0) for row in rows[:6]]
    once = {name: value for name, value in rows[0].items() if name != "right"}  # the row before gives it
    main(["score", str(write_jsonl(tmp_path / "in.jsonl", [rows[0], once])), *given])
    first, second = [json.loads(line)["score_mean"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first == pytest.approx(second)
    capsys.readouterr()
    for some, message in (
        ([rows[0], {k: v for k, v in rows[1].items() if k != "right"}],
         "in.jsonl:2: 1 of 2 responses have no reward, the first is number 2; give each of them a number"),
        ([rows[0], rows[-1]], "as reward, and the same text elsewhere"),
    ):  # fmt: skip
        with pytest.raises((SystemExit, DataError)) as error:
            main(["score", str(write_jsonl(tmp_path / "in.jsonl", some)), *given])
        assert message in f"{error.value}{capsys.readouterr().err}"
    with pytest.raises(DataError, match="responses: 2 of 2 responses have no reward"):
        model.matrix("why", ["x", "y"])
    raised = model.matrix(rows[0]["prompt"], ["x", "x y"], {"reward": [9.0, 1.0]}).mean[0, 1]
    lowered = model.matrix(rows[0]["prompt"], ["x", "x y"], {"reward": [1.0, 9.0]}).mean[0, 1]
    assert raised > lowered + 0.1  # a higher reward counts for a response, in its own place
