"""The evaluate stage on a small finished round: RewardBench 2's items in, curve, figures and results files out."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_pool, write_jsonl

from bgpm.data.tables import as_pairs, read_table, write_table
from bgpm.evaluation.labelled_pairs import read_split
from bgpm.loop import audits
from bgpm.loop.evaluate import measure
from bgpm.loop.pool import LabelledSplit
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace
from bgpm.types import Comparisons, Features, Pairs
from stages import baselines, evaluate, prepare

PARAMS = """
pool: {path: pool.jsonl, heldout: 0.3}
benchmark: {path: benchmark.jsonl, xstest_weights: code}
oracle: recorded
oracles: {human: {}}
"""


def records() -> list[dict[str, object]]:
    """Items of two subsets and of Ties."""
    rows: list[dict[str, object]] = [
        {"id": str(n), "prompt": f"item {n}", "subset": subset, "chosen": [f"{subset} {n} good clear"],
         "rejected": [f"{subset} {n} bad rude {k}" for k in range(3)]}
        for n in range(6) for subset in ("Math", "Focus")
    ]  # fmt: skip
    for n in range(3):
        for kind, right in (("ref", 1), ("tied", 3)):
            rows.append(
                {"id": f"{kind}:{n}", "prompt": f"name one, {kind} {n}", "subset": "Ties",
                 "chosen": [f"{kind} {n} useful {k}" for k in range(right)],
                 "rejected": [f"{kind} {n} wrong {k}" for k in range(4)]}
            )  # fmt: skip
    return rows


@pytest.fixture
def round_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared pool and benchmark, made-up features that know good answers, and model 0 of two seeds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    write_jsonl(tmp_path / "pool.jsonl", tiny_pool())
    write_jsonl(tmp_path / "benchmark.jsonl", records())
    prepare.main()
    rng = np.random.default_rng(0)
    for name in ("pool", "benchmark"):
        texts = read_table(tmp_path / f"data/{name}/responses.parquet", ["text"])["text"]
        features = rng.normal(0, 0.3, (len(texts), 8)).astype(np.float32)
        features[:, 0] += [sum(text.count(w) for w in ("good", "clear", "useful", "kind", "exact")) for text in texts]
        (tmp_path / f"data/features/{name}").mkdir(parents=True)
        np.save(tmp_path / f"data/features/{name}/responses.npy", features)
        np.save(tmp_path / f"data/features/{name}/prompts.npy", np.zeros((1, 8), np.float32))
    pool = read_split(tmp_path / "data/pool", tmp_path / "data/truth/pool.parquet")
    features = Features(*(np.load(tmp_path / f"data/features/pool/{n}.npy") for n in ("responses", "prompts")))
    for seed in (0, 1):
        rows = np.random.default_rng(seed).permutation(len(pool.label))[:40]
        model = Laplace(prior_precision=1.0).fit(
            Gpm(), features, Comparisons(pool.pairs.take(rows), pool.label[rows]), seed=seed
        )
        (tmp_path / "data/start/model").mkdir(parents=True, exist_ok=True)
        model.save(tmp_path / f"data/start/model/seed-{seed}")
    labels = {"seed": np.repeat([0, 1], 40), "pair": np.tile(pool.rows[:40], 2), "label": np.tile(pool.label[:40], 2)}
    write_table(tmp_path / "data/start/labels.parquet", labels)
    table = read_table(tmp_path / "data/pool/pairs.parquet")
    wanted = audits.due(table, labels, 30, lambda seed: np.random.default_rng([7, seed]), (0, 1))
    truth = dict(zip(pool.rows.tolist(), pool.label.tolist(), strict=True))
    told = {"label": np.array([truth[pair] for pair in wanted["pair"].tolist()])}
    write_table(tmp_path / "data/start/audits.parquet", wanted | told)
    return tmp_path


def test_a_round_leaves_curve_figures_and_results_by_the_rule_of_the_benchmark(round_zero: Path) -> None:
    evaluate.main("start")
    folder = round_zero / "data/start/evaluation"
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["seed"], r["split"], r["section"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}
    for seed in ("0", "1"):
        sections = [rows[seed, "benchmark", name, "accuracy"] for name in ("Math", "Focus", "Ties")]
        assert rows[seed, "benchmark", "all", "accuracy"] == pytest.approx(np.mean(sections))
        assert min(sections[:2]) > 0.5  # chance is a quarter
        assert rows[seed, "benchmark", "all", "missing_subsets"] == 3
        assert rows[seed, "heldout", "all", "transitive_triples"] > 0
        assert 0 <= rows[seed, "heldout", "all", "error_auroc_entropy"] <= 1
        published = json.loads((folder / f"rewardbench/seed-{seed}.json").read_text(encoding="utf-8"))
        assert published["model"] == f"bgpm/start-round-0-seed-{seed}"
        assert published["Math"] == sections[0]
        assert set(published) == {"model", "model_type", "chat_template", "Math", "Focus", "Ties"}
    with (folder / "figures.csv").open(encoding="utf-8", newline="") as file:
        figures = list(csv.DictReader(file))
    assert {(f["seed"], f["figure"]) for f in figures} >= {(s, n) for s in "01" for n in ("reliability", "coverage")}
    assert sum(int(f["count"]) for f in figures if f["seed"] == "0" and f["figure"] == "reliability") == len(
        read_table(round_zero / "data/truth/heldout.parquet")["label"]
    )
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    evaluate.main("start")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_a_round_leaves_the_label_of_every_pair_on_offer_and_how_many_are_right(round_zero: Path) -> None:
    evaluate.main("start")
    table = read_table(round_zero / "data/start/pool_labels.parquet")
    pairs = read_table(round_zero / "data/pool/pairs.parquet", ["pair_id", "split"])
    truth = read_table(round_zero / "data/truth/pool.parquet", ["pair_id", "label"])
    labels = read_table(round_zero / "data/start/labels.parquet")
    told = dict(zip(truth["pair_id"], truth["label"], strict=True))
    with (round_zero / "data/start/evaluation/curve.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["seed"], r["metric"]): float(r["value"]) for r in csv.DictReader(file) if r["split"] == "pool"}
    for seed in (0, 1):
        mine = {name: column[table["seed"] == seed] for name, column in table.items()}
        assert mine["pair_id"].tolist() == pairs["pair_id"][pairs["split"] == "pool"].tolist()
        given = np.isin(mine["pair"], labels["pair"][labels["seed"] == seed])
        assert (mine["source"] == "acquired").tolist() == given.tolist()
        assert (mine["source"] == "audit").sum() == (~np.isnan(mine["audit"])).sum() == 30
        right = mine["label"] == [told[name] for name in mine["pair_id"]]
        assert right[given].all()
        assert rows[str(seed), "right"] == pytest.approx(right.mean())
        assert 0.5 < rows[str(seed), "inferred_right"] < 1
        assert rows[str(seed), "audit_audited"] == 30
        # A sample of the inferred pairs: its share of wrong labels is theirs, within four standard errors.
        wrong = (~right)[~given].mean()
        assert abs(rows[str(seed), "audit_wrong"] / 30 - wrong) < 4 * np.sqrt(wrong * (1 - wrong) / 30)
        assert rows[str(seed), "audit_given"] + rows[str(seed), "audit_inferred"] == len(right)


@pytest.mark.parametrize("oracle", ["human", "judge"])
def test_where_people_or_judges_say_the_labels_the_pool_is_labelled_and_only_its_audits_measure_it(
    round_zero: Path, oracle: str
) -> None:
    path = round_zero / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("oracle: recorded", f"oracle: {oracle}"))
    evaluate.main("start")
    assert len(read_table(round_zero / "data/start/pool_labels.parquet")["label"])
    with (round_zero / "data/start/evaluation/curve.csv").open(encoding="utf-8", newline="") as file:
        found = {row["metric"] for row in csv.DictReader(file) if row["split"] == "pool"}
    audited = {f"audit_{name}" for name in ("pool", "given", "inferred", "audited", "wrong")} | {"expected"}
    assert found == audited
    write_table(round_zero / "data/start/audits.parquet", audits.none())
    evaluate.main("start")
    with (round_zero / "data/start/evaluation/curve.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["metric"]: float(row["value"]) for row in csv.DictReader(file) if row["split"] == "pool"}
    assert set(rows) == audited
    assert rows["audit_audited"] == rows["audit_wrong"] == 0
    assert rows["audit_given"] == 40


def test_baselines_are_scored_by_the_same_rule(round_zero: Path) -> None:
    baselines.main()
    rules = json.loads((round_zero / "data/baselines.json").read_text(encoding="utf-8"))["rules"]
    assert set(rules["words"]["benchmark"]) == {"all", "Math", "Focus", "Ties"}
    # Of tiny_pool's words the benchmark has good ones in right and bad ones in wrong answers.
    assert rules["words"]["benchmark"]["Math"] == rules["words"]["benchmark"]["Focus"] == 1.0


def test_three_thousand_pairs_are_evaluated_from_cached_features_in_seconds() -> None:
    rng = np.random.default_rng(0)
    features = Features(rng.normal(size=(4000, 256)).astype(np.float32), np.zeros((1, 1), np.float32))
    weight = rng.normal(size=256)

    def split(pairs: int, seed: int) -> LabelledSplit:
        response_a, response_b = np.random.default_rng(seed).integers(0, 4000, (2, pairs))
        label = (features.responses[response_a] @ weight > features.responses[response_b] @ weight).astype(float)
        names = np.array(["chat", "safety"] * (pairs // 2), dtype=object)
        prompt = np.arange(pairs) // 6
        return LabelledSplit(
            rows=np.arange(pairs), pairs=Pairs(response_a, response_b, prompt), section=names, subset=names,
            label=label, features=features,
        )  # fmt: skip

    train = split(300, 1)
    model = Laplace(prior_precision=1.0).fit(Gpm(), features, Comparisons(train.pairs, train.label), seed=0)
    began = time.process_time()
    measured = measure(model, split(3000, 2), split(3000, 3), xstest="code")
    assert time.process_time() - began < 5
    assert dict(row[2:] for row in measured.rows if row[:2] == ("benchmark", "all"))["accuracy"] > 0.6


def test_a_split_knows_its_items_only_where_there_are_any(round_zero: Path) -> None:
    pool = read_split(round_zero / "data/pool", round_zero / "data/truth/heldout.parquet")
    assert pool.items is None
    benchmark = read_split(round_zero / "data/benchmark", round_zero / "data/truth/benchmark.parquet")
    assert benchmark.items is not None
    assert benchmark.items.rule == "rewardbench2"
    table = read_table(round_zero / "data/benchmark/pairs.parquet")
    assert as_pairs(table).response_a.tolist() == benchmark.pairs.response_a.tolist()
    assert "label" not in read_table(round_zero / "data/benchmark/items.parquet")
