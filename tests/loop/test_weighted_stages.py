"""Draws through the stages: the same pairs, probabilities, weights and model as by the loop in memory."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import tiny_benchmark, tiny_pool, with_changes, write_jsonl

from bgpm.acquisition.bald import Bald
from bgpm.annotations.store import Annotation, LabelStore
from bgpm.data.tables import read_table, where
from bgpm.errors import LabelsPendingError
from bgpm.loop.loop import Loop
from bgpm.loop.pool import read_pool
from bgpm.models.bt import Bt
from bgpm.posteriors import load
from bgpm.posteriors.laplace import Laplace
from bgpm.selection import StartSettings
from bgpm.selection.weighted import Weighted
from bgpm.stage import read_params
from stages import check, evaluate, fork, label, plan, prepare, score, select, start, train

SEEDS = [0, 3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared pool with made-up features that know good answers, and parameters of a weighted arm."""
    params = with_changes(
        read_params(), acquisition="bald", baseline="bald", selection="weighted", model="bt", seeds=SEEDS, batch_size=9,
        start__labels=8, audit__size=0, pool__path="pool.jsonl", pool__hub=None, benchmark__path="benchmark.jsonl",
    )  # fmt: skip
    params["rounds"] = [{"k": 0, "next": 1}, {"k": 1, "next": 2}]
    params["posteriors"]["laplace"]["prior_precision"] = 1.0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write_jsonl(tmp_path / "pool.jsonl", tiny_pool())
    write_jsonl(tmp_path / "benchmark.jsonl", tiny_benchmark())
    prepare.main()
    plan.main()
    (tmp_path / "stages").mkdir()
    check.main()
    rng = np.random.default_rng(0)
    for name in ("pool", "benchmark"):
        texts = read_table(tmp_path / f"data/{name}/responses.parquet", ["text"])["text"]
        features = rng.normal(0, 0.5, (len(texts), 4)).astype(np.float32)
        features[:, 0] += [sum(text.count(w) for w in ("good", "clear", "useful")) for text in texts]
        (tmp_path / f"data/features/{name}").mkdir(parents=True)
        np.save(tmp_path / f"data/features/{name}/responses.npy", features)
        prompts = len(read_table(tmp_path / f"data/{name}/prompts.parquet", ["text"])["text"])
        np.save(tmp_path / f"data/features/{name}/prompts.npy", np.zeros((prompts, 4), np.float32))
        (tmp_path / f"data/features/{name}/reads.json").write_text("{}", encoding="utf-8")
    return tmp_path


def run_stages() -> None:
    start.main()
    label.main("start")
    train.main("start")
    evaluate.main("start")
    fork.main("bald")
    for k in ("0", "1"):
        score.main("bald", k)
        select.main("bald", k)
        label.main("bald", k)
        train.main("bald", str(int(k) + 1))
        evaluate.main("bald", str(int(k) + 1))


def test_stages_and_the_loop_in_memory_draw_weigh_and_estimate_the_same(project: Path) -> None:
    run_stages()
    table = read_table(project / "data/bald/round-2/labels.parquet")
    pool = read_pool(project / "data/pool", project / "data/features/pool")
    truth = read_table(project / "data/truth/pool.parquet")
    known = dict(zip(truth["pair_id"], truth["label"].tolist(), strict=True))
    with (project / "data/bald/round-2/evaluation/curve.csv").open(encoding="utf-8", newline="") as file:
        curve = {(r["seed"], r["round"], r["labels"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)
                 if r["split"] == "estimated"}  # fmt: skip
    for seed in SEEDS:
        loop = Loop(
            pool, lambda rows: np.array([known[name] for name in pool.table["pair_id"][rows]]), Bald(), Weighted(),
            Laplace(prior_precision=1.0), Bt(), StartSettings(labels=8), batch_size=9, seed=seed,
        )  # fmt: skip
        rounds = list(loop.rounds(budget=26))
        mine = where(table, table["seed"] == seed)
        for name in ("round", "pair", "label", "draw", "q", "pool_size", "mean", "variance", "tau"):
            np.testing.assert_array_equal(mine[name], rounds[-1].labels[name], err_msg=name)
        stored = load(project / f"data/bald/round-2/model/seed-{seed}")
        moments = [m.moments(pool.features, pool.pairs) for m in (stored, rounds[-1].model)]
        np.testing.assert_array_equal(moments[0].mean, moments[1].mean)
        for done in rounds[1:]:
            at = str(seed), str(done.number - 1), str(8 + 9 * (done.number - 1))
            for name, estimate in done.estimates().items():
                assert curve[*at, name] == pytest.approx(estimate.value)
                assert curve[*at, f"{name}_error"] == pytest.approx(estimate.error)
                assert curve[*at, f"{name}_labels"] == 9


def test_people_who_answer_in_two_goes_leave_draws_as_they_were(project: Path) -> None:
    """The stage label waits, runs again, and every label has the draw of its batch."""
    params = read_params()
    params["oracle"], params["seeds"] = "human", [3]
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    start.main()
    batch = read_table(project / "data/start/batch.parquet")
    store = LabelStore(project / "data/annotations/ada.jsonl")

    def response(rows: slice) -> None:
        with store.writer():
            store.extend(
                Annotation(name, 1.0, "ada", "2026-01-01T00:00:00+00:00") for name in batch["pair_id"][rows].tolist()
            )

    response(slice(0, 3))
    with pytest.raises(LabelsPendingError):
        label.main("start")
    response(slice(3, None))
    label.main("start")
    labels = read_table(project / "data/start/labels.parquet")
    for name in ("draw", "q", "pool_size"):
        np.testing.assert_array_equal(labels[name], batch[name])
    assert labels["draw"].tolist() == list(range(1, 9))
    np.testing.assert_allclose(labels["q"], 1 / (labels["pool_size"] - np.arange(8)))
