"""The loop in Python, and what the package exports."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import bgpm
from bgpm.acquisition.entropy import Entropy
from bgpm.errors import ConfigError, DataError
from bgpm.loop.loop import Loop
from bgpm.loop.pool import Pool
from bgpm.loop.score import score
from bgpm.loop.select import select
from bgpm.loop.start import start
from bgpm.loop.train import train
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from bgpm.selection import StartSettings
from bgpm.selection.top_k import TopK
from bgpm.stage import generator

FAST = Laplace(prior_precision=1.0)


@pytest.fixture
def pool(make_pool):
    drawn = make_pool(prompts=6)
    return Pool.of(drawn.features, drawn.pairs)


def better(pool: Pool) -> np.ndarray:
    reward = pool.features.responses[:, 0]
    return (reward[pool.pairs.response_a] > reward[pool.pairs.response_b]).astype(float)


def loop_on(pool: Pool, source, **settings) -> Loop:
    parts = {"acquisition": Entropy(), "posterior": FAST, "model": Bt(), "start": StartSettings(labels=4)}
    return Loop(pool, source, **{**parts, "batch_size": 5, **settings})


def test_the_loop_is_its_steps_one_after_the_other(pool):
    truth = better(pool)
    rounds = list(loop_on(pool, lambda rows: truth[rows], seed=3).rounds(budget=14))
    rows = start(StartSettings(labels=4), pool, generator=generator("start", 3))
    known = rows
    for k, done in enumerate(rounds):
        assert (done.number, done.rows.tolist()) == (k, rows.tolist())
        assert done.labels["pair"].tolist() == known.tolist()
        labels = {"pair": known, "label": truth[known], "margin": np.full(len(known), np.nan)}
        model = train(FAST, Bt(), pool, labels, seed=3)
        assert np.array_equal(
            model.moments(pool.features, pool.pairs).mean, done.model.moments(pool.features, pool.pairs).mean
        )
        scores = score(Entropy(), model, pool, known, generator=generator("score", "entropy", 3, k))
        picked = generator("select", "entropy", 3, k)
        rows = select(TopK(), pool, scores, lambda model=model: model, 5, generator=picked)["pair"]
        known = np.concatenate([known, rows])
    assert [len(done.labels["pair"]) for done in rounds] == [4, 9, 14]


def test_it_stops_before_the_budget_is_passed_and_at_the_end_of_the_pool(pool):
    truth = better(pool)
    assert [len(d.rows) for d in loop_on(pool, lambda rows: truth[rows]).rounds(budget=13)] == [4, 5]
    everything = list(loop_on(pool, lambda rows: truth[rows], batch_size=15).rounds(budget=1000))
    assert [len(d.rows) for d in everything] == [4, 15, 15, 2]
    assert sorted(everything[-1].labels["pair"].tolist()) == pool.open.tolist()


def test_a_pair_nobody_could_label_is_neither_learnt_nor_asked_for_again(pool):
    truth = better(pool)
    asked: list[int] = []

    def source(rows):
        asked.extend(rows.tolist())
        return np.where(rows % 3 == 0, np.nan, truth[rows])

    last = list(loop_on(pool, source, batch_size=8).rounds(budget=1000))[-1]
    assert sorted(asked) == pool.open.tolist()
    told = last.labels["pair"] % 3 != 0
    mine = {name: column[told] for name, column in last.labels.items()}
    alone = train(FAST, Bt(), pool, mine, seed=0).moments(pool.features, pool.pairs).mean
    assert np.array_equal(last.model.moments(pool.features, pool.pairs).mean, alone)


@pytest.mark.parametrize("given", [lambda rows: np.ones(len(rows) + 1), lambda rows: {"margin": np.ones(len(rows))}])
def test_a_source_that_gives_too_many_labels_or_none_is_refused(pool, given):
    with pytest.raises(DataError, match="expected 4 labels"):
        next(loop_on(pool, given).rounds(budget=20))


def test_labels_that_are_no_probabilities_and_empty_batches_are_refused(pool):
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        next(loop_on(pool, lambda rows: np.full(len(rows), -1.0)).rounds(budget=20))
    with pytest.raises(ConfigError, match="batch_size: expected at least 1, got 0"):
        loop_on(pool, lambda rows: rows, batch_size=0)


@pytest.mark.slow
def test_the_example_learns_what_its_annotator_likes():
    done = subprocess.run([sys.executable, "-m", "examples.loop"], cwd=ROOT, capture_output=True, text=True, check=True)
    accuracy = [float(found) for found in re.findall(r"accuracy ([0-9.]+)", done.stdout)]
    assert len(accuracy) == 6
    assert accuracy[-1] > max(0.9, accuracy[0])


def test_importing_the_package_imports_no_torch_and_every_export_is_there():
    code = "import sys, bgpm; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert all(getattr(bgpm, name).__name__ == name for name in bgpm.__all__)
    assert sorted(bgpm.__all__) == sorted(bgpm._HOMES)
    with pytest.raises(AttributeError, match="it exports Acquisition"):
        bgpm.Nothing  # noqa: B018


def test_a_batch_may_be_a_share_of_the_pool(pool):
    truth = better(pool)
    whole, share = (
        [done.rows.tolist() for done in loop_on(pool, lambda rows: truth[rows], batch_size=size).rounds(budget=20)]
        for size in (9, 0.25)
    )
    assert len(pool.open) == 36
    assert whole == share
    with pytest.raises(ConfigError, match=r"batch_size: expected at least 1, got 1\.5"):
        loop_on(pool, None, batch_size=1.5)
