"""Peers: every system has the same labels and held-out pairs, one function scores all, and a stopped run goes on."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from benchmarks import peers, peers_acquisition
from bgpm.errors import ConfigError, StateError
from bgpm.evaluation.labelled_pairs import Split
from bgpm.loop.pool import Pool
from bgpm.stage import read_params
from bgpm.study import StudyPlan, read_plan
from bgpm.types import Features, Pairs

STAND_IN = """
import numpy as np
from cell import Results, Task

task, results = Task.read(), Results()
for seed, pairs, label in task.draws():
    difference = task.differences(pairs)
    weight = difference.T @ (2 * label - 1)
    results.add(1 / (1 + np.exp(-task.differences(task["heldout"]) @ weight)))
    with open(task.settings["seen"], "a") as file:
        print(seed, len(label), len(task["labels"]), sorted(task.arrays), file=file)
results.write(task.folder)
"""


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return read_plan(read_params(peers.ROOT / peers.PARAMS))


@pytest.fixture
def data() -> peers.Data:
    """A pool of 60 pairs of 20 prompts and 40 held-out ones, labelled by one feature of two."""
    rng = np.random.default_rng(0)
    features = Features(rng.standard_normal((200, 2)).astype(np.float32), np.zeros((34, 2), np.float32))
    pairs = Pairs(np.arange(0, 200, 2), np.arange(1, 200, 2), np.arange(100) // 3)
    pool = Pool.of(features, pairs)
    pool.table["split"][60:] = "heldout"
    pool = Pool(pool.table, features)
    first = features.responses[pairs.response_a, 0] > features.responses[pairs.response_b, 0]
    label = np.where(np.arange(100) < 60, first, np.nan)
    names = pool.table["section"][60:]
    heldout = Split(pairs.take(np.arange(60, 100)), first[60:].astype(np.float64), names, names, np.arange(60, 100))
    texts = [(f"prompt {row // 6}", f"response\u2028{row}") for row in range(200)]
    kinds = dict.fromkeys(("states_statistics", "states_rich", "embeddings"), features)
    return peers.Data(pool, label, heldout, texts, kinds, "made here")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer of a few lines in the place of all scripts; the file in which it says what it saw."""
    scripts, seen = tmp_path / "scripts", tmp_path / "seen.txt"
    scripts.mkdir()
    (scripts / "cell.py").write_text((peers.SCRIPTS / "cell.py").read_text())
    (scripts / "stand_in.py").write_text(STAND_IN)
    (scripts / "stand_in.txt").write_text("numpy\n")
    environment = tmp_path / "environments" / "stand_in" / "bin"
    environment.mkdir(parents=True)
    python = environment / "python"  # a link would not find the packages of its environment
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(peers, "SCRIPTS", scripts)
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path / "environments")
    system = peers.System("stand_in", "states_statistics", {"seen": str(seen)})
    monkeypatch.setattr(peers, "SYSTEMS", {"bgpm": system, "other": system})
    monkeypatch.setattr(peers, "COUNTS", ("16", "all"))
    return seen


def test_a_peer_sees_the_labels_of_its_draw_and_is_scored_on_held_out_pairs(
    data: peers.Data, plan: StudyPlan, stand_in: Path, tmp_path: Path
) -> None:
    peers.run_cells("bgpm", "ukp", "16", [20, 21], plan, data, tmp_path)
    seen = ["heldout", "labels", "pairs", "prompts", "responses", "rows", "seeds"]
    told = len(np.union1d(data.drawn("16", 20), data.drawn("16", 21)))  # and no other label of the pool
    assert stand_in.read_text().splitlines() == [f"20 16 {told} {seen}", f"21 16 {told} {seen}"]
    for seed in (20, 21):
        rows = data.drawn("16", seed)
        assert (data.pool.table["split"][rows] == "pool").all()
        assert len(np.unique(rows)) == 16
        apart = data.features["embeddings"].responses[data.pool.pairs.response_a].astype(float)
        apart = apart - data.features["embeddings"].responses[data.pool.pairs.response_b]
        logit = apart[60:] @ (apart[rows].T @ (2 * data.label[rows] - 1))
        y = data.heldout.label
        cell = json.loads((tmp_path / f"cells/ukp/bgpm/16/{seed}.json").read_text())
        assert cell["accuracy"] == ((logit > 0) == y).mean()
        p = expit(logit).clip(1e-15, 1 - 1e-15)
        assert cell["nll"] == pytest.approx(-np.log(np.where(y == 1, p, 1 - p)).mean(), rel=1e-6)
        assert sum(cell["prompts"]["right"]) == cell["accuracy"] * 40
        assert cell["seconds"] >= 0
        assert cell["peak_mib"] > 5
    np.testing.assert_array_equal(data.drawn("all", 20)[:16], data.drawn("16", 20))


def test_a_stopped_run_goes_on_and_another_script_runs_again(
    data: peers.Data, plan: StudyPlan, stand_in: Path, tmp_path: Path
) -> None:
    peers.run_cells("bgpm", "ukp", "16", [20], plan, data, tmp_path)
    peers.run_cells("bgpm", "ukp", "16", [20, 21], plan, data, tmp_path)
    peers.run_cells("bgpm", "ukp", "16", [20, 21], plan, data, tmp_path)
    assert [line.split()[0] for line in stand_in.read_text().splitlines()] == ["20", "21"]
    with (peers.SCRIPTS / "stand_in.py").open("a") as file:
        file.write("# another\n")
    peers.run_cells("bgpm", "ukp", "16", [20, 21], plan, data, tmp_path)
    assert [line.split()[0] for line in stand_in.read_text().splitlines()] == ["20", "21", "20", "21"]


def test_a_search_is_made_once_on_labels_of_a_seed_that_is_not_reported(
    data: peers.Data, plan: StudyPlan, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = peers.SCRIPTS / "stand_in.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "settings = json.loads((folder / 'settings.json').read_text())\n"
        "texts = (folder / 'texts.jsonl').read_text().count('\\n')\n"
        "import numpy as np\n"
        "seeds = np.load(folder / 'task.npz')['seeds'].tolist()\n"
        "with open(settings['seen'], 'a') as file: print(seeds, texts, settings.get('chosen'), file=file)\n"
        "if 'chosen' not in settings:\n"
        "    (folder / 'chosen.json').write_text(json.dumps({'rate': 3, 'losses': [1], 'seconds': 2.5}))\n"
        "    sys.exit()\n"
        "np.savez(folder / 'predictions.npz', probability=np.full((1, 40), 0.5), seconds=[1.0], peak_mib=9.0)\n"
    )
    settings = {"seen": str(stand_in)}
    monkeypatch.setitem(peers.SYSTEMS, "other", peers.System("stand_in", "texts", settings, searched=True))
    for seeds in ([20], [20, 21]):
        peers.run_cells("other", "ukp", "16", seeds, plan, data, tmp_path)
    before = plan.first_seed - 1
    assert stand_in.read_text().splitlines() == [f"[{before}] 200 None", "[20] 200 {'rate': 3}", "[21] 200 {'rate': 3}"]
    line = next(line for line in peers.rows(tmp_path) if line[:2] == ["ukp", "other"] and line[3])
    assert dict(zip(peers.COLUMNS, line, strict=True))["search_seconds"] == "2"
    cell = json.loads((tmp_path / "cells/ukp/other/16/20.json").read_text())
    assert cell["accuracy"] == 0.5  # of equal scores
    assert cell["nll"] == pytest.approx(np.log(2))


def test_a_peer_that_fails_is_one_sentence_with_its_last_line(
    data: peers.Data, plan: StudyPlan, stand_in: Path, tmp_path: Path
) -> None:
    (peers.SCRIPTS / "stand_in.py").write_text("raise SystemExit('no such thing')")
    with pytest.raises(StateError, match=r"stand_in.py ended with status 1: no such thing; all of it is in .*log.txt"):
        peers.run_cells("bgpm", "ukp", "16", [20], plan, data, tmp_path)
    assert all(line[4] == peers.NOT_RUN for line in peers.rows(tmp_path))
    (peers.ENVIRONMENTS / "stand_in" / "bin" / "python").unlink()
    with pytest.raises(StateError, match="make peers-environments"):
        peers.run_cells("bgpm", "ukp", "16", [20], plan, data, tmp_path)


@pytest.mark.parametrize("wrong", [np.full(39, 0.5), np.full(40, 1.5), np.full(40, np.nan)])
def test_what_is_no_probability_of_each_pair_is_refused(wrong: np.ndarray, data: peers.Data) -> None:
    with pytest.raises(StateError, match="expected 40 probabilities"):
        peers.score(wrong, data.heldout)


def test_more_labels_than_the_pool_has_are_refused(data: peers.Data) -> None:
    assert data.count("all") == 60
    with pytest.raises(ConfigError, match="the pool has 60 pairs"):
        data.count("640")


def keep(work: Path, system: str, labels: str, accuracies: list[float], pool: str = "ukp") -> None:
    """Results of seeds 20, 21, ... with these accuracies on 50 prompts of 20 pairs."""
    folder = peers.cell_folder(work, pool, system, labels)
    folder.mkdir(parents=True)
    for seed, accuracy in enumerate(accuracies, 20):
        right = [20 * accuracy + (prompt % 2) - 0.5 for prompt in range(50)]
        prompts = {"prompt": list(range(50)), "pairs": [20.0] * 50, "right": right}
        costs = {"nll": 0.5, "ece": 0.1, "seconds": 2.0, "peak_mib": 100.0}
        cell = {"key": "k", "accuracy": accuracy, "prompts": prompts, **costs}
        (folder / f"{seed}.json").write_text(json.dumps(cell))


def test_tables_have_means_paired_gains_and_labels_to_what_the_reference_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for labels, accuracy in (("64", 0.6), ("128", 0.7), ("320", 0.75)):
        keep(tmp_path, "bgpm", labels, [accuracy, accuracy + 0.02])
    keep(tmp_path, "logistic", "128", [0.62, 0.64])
    keep(tmp_path, "logistic", "320", [0.74, 0.76])
    keep(tmp_path, "laplace_torch", "128", [0.72])
    keep(tmp_path, "trl_full", "128", [0.6])
    keep(tmp_path, "trl_lora", "128", [0.6], pool="hh_harmless")
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    (tmp_path / "reports").mkdir()
    peers.write_reports(tmp_path)
    table = list(csv.DictReader((tmp_path / "reports/peers.csv").read_text().splitlines()))
    assert len(table) == len(peers.POOLS) * len(peers.SYSTEMS) * len(peers.COUNTS)
    found = {(row["pool"], row["system"], row["labels"]): row for row in table}
    row = found["ukp", "logistic", "128"]
    assert [row[name] for name in ("seeds", "accuracy", "nll", "seconds", "peak_mib")] == [
        "2", "0.6300", "0.5000", "2.00", "100",
    ]  # fmt: skip
    assert float(row["gain"]) == pytest.approx(-0.08)
    assert float(row["gain_low"]) <= -0.08 <= float(row["gain_high"])
    assert found["ukp", "laplace_torch", "128"]["gain"] == "0.0200"  # against the one seed that both have
    assert found["ukp", "bgpm", "128"]["gain"] == ""
    assert found["ukp", "logistic", "64"]["accuracy"] == peers.NOT_RUN
    ratios = list(csv.DictReader((tmp_path / "reports/peers_ratio.csv").read_text().splitlines()))
    ratio = {(row["pool"], row["system"]): row for row in ratios}
    assert ratio["ukp", "bgpm"]["labels_ratio"] == "1.00"
    # 0.63 with 128 labels and 0.75 with 320: 0.71 with 256
    assert [ratio["ukp", "logistic"][name] for name in ("target", "labels", "labels_ratio", "most_labels")] == [
        "0.7100", "256", "2.00", "320",
    ]  # fmt: skip
    assert ratio["ukp", "laplace_torch"]["labels_ratio"] == "at most 1.00"
    assert [ratio["ukp", "trl_full"][name] for name in ("labels_ratio", "most_labels")] == ["not reached", "128"]
    assert ratio["hh_harmless", "trl_lora"]["labels_ratio"] == peers.NOT_RUN  # the reference was not run there


def test_an_unknown_pool_or_system_is_refused_with_the_list() -> None:
    assert peers.chosen(None, ["a", "b"], "--pools") == ["a", "b"]
    with pytest.raises(ConfigError, match="--pools: nothing is called 'c'; there are a, b"):
        peers.chosen(["c"], ["a", "b"], "--pools")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A peer's script as a module, with libraries of this environment."""
    monkeypatch.syspath_prepend(str(peers.SCRIPTS))
    names = ("cell", "logistic", "ours")
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["logistic", "ours"])
def test_scripts_learn_the_rule_and_give_a_swapped_pair_the_other_probability(
    name: str, script, data: peers.Data, plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = next(system for system in peers.SYSTEMS.values() if system.script == name)
    peers.write_task(tmp_path, system, peers.settings_of(system, plan), data, "all", [20, 21])
    with np.load(tmp_path / "task.npz") as file:
        arrays = dict(file)
    turned = arrays["heldout"][:, [1, 0, 2]]
    np.savez(tmp_path / "task.npz", **{**arrays, "heldout": np.concatenate([arrays["heldout"], turned])})
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    module = script(name)
    if name == "logistic":
        monkeypatch.setattr(module, "C", module.C[6::3])  # few of its values, for the sake of time
    module.main()
    with np.load(tmp_path / "predictions.npz") as found:
        probability, seconds = found["probability"], found["seconds"]
    assert seconds.shape == (2,)
    np.testing.assert_allclose(probability[:, :40] + probability[:, 40:], 1, atol=1e-6)
    assert ((probability[:, :40] > 0.5) == data.heldout.label).mean() > 0.9


# Acquisition beside other libraries.

IN_ORDER = """
import numpy as np
from cell import Task

task = Task.read()
budget, size = task.settings["budget"], len(task["pairs"])
assert not np.isnan(task["labels"]).any()
order = [[*rows, *[row for row in range(size) if row not in set(rows)]][:budget] for rows in task["rows"].tolist()]
np.savez(task.folder / "picks.npz", picks=np.array([order]), seconds=np.ones((1, len(order))), peak_mib=np.array(1.0))
"""


@pytest.fixture
def small(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Loops of 24 labels, and a peer that takes pairs in the order of the table."""
    for name, value in (("START", 8), ("BATCH", 8), ("BUDGET", 24)):
        monkeypatch.setattr(peers_acquisition, name, value)
    (peers.SCRIPTS / "stand_in.py").rename(peers.SCRIPTS / "activeml.py")
    (peers.SCRIPTS / "activeml.py").write_text(IN_ORDER)
    for name in ("activeml.txt", "logistic.py"):
        (peers.SCRIPTS / name).write_text("none\n")
    (peers.ENVIRONMENTS / "stand_in").rename(peers.ENVIRONMENTS / "activeml")
    return stand_in


def test_theirs_and_ours_begin_with_the_same_labels_and_ask_for_pairs_of_the_pool_once(
    small: Path, data: peers.Data, tmp_path: Path
) -> None:
    theirs, seconds = peers_acquisition.their_picks("entropy", data, [3, 4], tmp_path)
    assert seconds.tolist() == [1.0, 1.0]
    for row, seed in enumerate((3, 4)):
        ours, spent = peers_acquisition.our_picks("margin", data, seed)
        assert theirs[row, :8].tolist() == ours[:8].tolist()
        rest = sorted(set(data.pool.open.tolist()) - set(theirs[row, :8].tolist()))
        assert theirs[row, 8:].tolist() == rest[:16]
        assert len(set(ours.tolist())) == len(ours) == 24
        assert set(ours.tolist()) <= set(data.pool.open.tolist())
        assert spent > 0


def test_a_line_says_what_a_strategy_gains_over_uniform_draws_and_uniform_draws_gain_nothing(
    small: Path, data: peers.Data, tmp_path: Path
) -> None:
    run = peers_acquisition.run_strategy
    base = run("bgpm", "random", "ukp", data, [0, 1], tmp_path)
    theirs = run("scikit-activeml", "entropy", "ukp", data, [0, 1], tmp_path)
    lines = peers_acquisition.lines_of("ukp", "scikit-activeml", "entropy", theirs, base)
    assert [line[3] for line in lines] == [8, 16, 24, "mean"]
    assert lines[0][6] == "0.0000"  # the seed labels are the same
    assert all(len(line) == len(peers_acquisition.COLUMNS) for line in lines)
    accuracy = np.mean([float(str(line[5])) for line in lines[:3]])
    assert float(str(lines[3][5])) == pytest.approx(accuracy, abs=1e-4)
    assert float(str(lines[3][7])) <= float(str(lines[3][6])) <= float(str(lines[3][8]))
    own = peers_acquisition.lines_of("ukp", "bgpm", "random", base, base)
    assert {line[6] for line in own} == {"0.0000"}


def test_what_was_run_is_kept_until_a_strategys_source_changes(small: Path, data: peers.Data, tmp_path: Path) -> None:
    run = peers_acquisition.run_strategy
    first = run("scikit-activeml", "entropy", "ukp", data, [0], tmp_path)
    (peers.ENVIRONMENTS / "activeml" / "bin" / "python").unlink()
    assert run("scikit-activeml", "entropy", "ukp", data, [0], tmp_path) == first
    with pytest.raises(StateError, match="make peers-environments"):
        run("scikit-activeml", "entropy", "ukp", data, [0, 1], tmp_path)
    (peers.SCRIPTS / "activeml.py").write_text(IN_ORDER + "\n")
    with pytest.raises(StateError, match="make peers-environments"):
        run("scikit-activeml", "entropy", "ukp", data, [0], tmp_path)


def test_one_choice_of_ours_is_timed_on_pairs_of_whole_prompts() -> None:
    arrays = peers_acquisition.made_up(1000)
    assert (~np.isnan(arrays["labels"])).sum() == peers_acquisition.LABELLED
    assert (arrays["pairs"][:, :2] // 4 == arrays["pairs"][:, 2:]).all()
    seconds, peak = map(float, peers_acquisition.our_time("margin", 1000).split())
    assert seconds >= 0
    assert peak > 10
