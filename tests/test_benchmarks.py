"""The benchmarks run and write their report; what they measure is left to a quiet machine."""

from __future__ import annotations

import datetime
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from conftest import Project, warm_server

from benchmarks import __main__ as command
from benchmarks import (
    _table,
    acquisition,
    effects,
    features,
    finetune,
    functional,
    laplace,
    mutate,
    selection,
    training,
)
from benchmarks.__main__ import report
from bgpm.fitting.tensors import labelled
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace
from stages import evaluate, offline, train

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_command_writes_its_table_with_date_cores_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made" / "benchmarks.md"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "laplace", "--scale", "0.02", "--output", str(output)])
    if warm.WORKS:
        monkeypatch.setattr(sys, "executable", warm_server().found_by(os.environ)["PYTHON_EXEC"])
    before = datetime.date.today()
    command.main()
    days = {str(day) for day in (before, datetime.date.today())}
    text = output.read_text(encoding="utf-8")
    assert any(f"`python -m benchmarks laplace --scale 0.02 --output {output}` on {day}" in text for day in days)
    assert re.search(r"\d+ cores, OMP_NUM_THREADS=", text)
    table = text[text.index("## benchmarks.laplace") :]
    assert table.strip() == capsys.readouterr().out.strip()
    header, rule, line = (row.strip("|").split("|") for row in table.strip().splitlines()[2:])
    assert len(header) == len(rule) == len(line) == 5
    assert re.fullmatch(r" \d+\.\d\d \(\d+\.\d\d\) ", line[1])
    assert float(line[4]) > 0


def test_the_report_has_a_section_for_each_module_in_order() -> None:
    text = report({"one": "| a |\n", "two": "| b |"}, datetime.date(2026, 1, 2), "python -m benchmarks")
    assert [line for line in text.splitlines() if line.startswith(("##", "|"))] == [
        "## benchmarks.one", "| a |", "## benchmarks.two", "| b |",
    ]  # fmt: skip
    assert "`python -m benchmarks` on 2026-01-02" in text


def test_each_table_is_in_the_report_before_the_next_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, first = tmp_path / "benchmarks.md", "print('| a |')"
    second = f"import sys; sys.exit('| a |' in open({str(output)!r}).read())"
    monkeypatch.setattr(
        command, "command_of", lambda module, _: [sys.executable, "-c", {"1": first, "2": second}[module]]
    )
    monkeypatch.setattr(sys, "argv", ["benchmarks", "1", "2", "--output", str(output)])
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        command.main()
    assert output.read_text(encoding="utf-8").endswith("## benchmarks.1\n\n| a |\n")


@pytest.mark.parametrize("module", command.MODULES)
def test_every_module_takes_the_arguments_that_the_command_gives_it(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python, option, name, *known = command.command_of(module, 0.5)
    assert (python, option) == (sys.executable, "-m")
    monkeypatch.setattr(sys, "argv", [name, *known, "--never-heard-of"])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --never-heard-of\n")
    assert ("--scale" in known) == (module in command.SCALED)


@pytest.mark.parametrize("module", [name for name in command.SCALED if name != "annotate"])
def test_a_module_runs_each_case_under_its_own_name(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`benchmarks._table.main` measures a case in a process of its own: ``python -m MODULE --only CASE``."""
    name = command.command_of(module, 0.5)[2]
    started = []
    monkeypatch.setattr(_table, "main", lambda module, _, cases: started.append((module, len(cases))))
    monkeypatch.delitem(sys.modules, name, raising=False)
    runpy.run_module(name, run_name="__main__")
    ((said, count),) = started
    assert said == name
    assert count


def test_the_features_stage_runs_on_the_benchmarks_tables() -> None:
    assert features.cpu(1000)[1] > 0


@pytest.mark.parametrize("pairs", [100, 1000])
def test_a_pool_of_any_size_has_pairs_acquired_before(pairs: int) -> None:
    acquired = acquisition.candidates(pairs).acquired
    assert acquired is not None
    assert len(acquired) == min(pairs, 256)


@pytest.mark.parametrize(("module", "old", "new"), mutate.MUTATIONS)
def test_every_deliberate_error_is_one_character_in_one_place(module: str, old: str, new: str) -> None:
    text = (ROOT / mutate.PACKAGE / module).read_text(encoding="utf-8")
    assert mutate.broken(text, old, new) != text


@pytest.mark.parametrize(
    ("own", "rest", "noticed"),
    [
        ("def test_sum(): assert 1 + 1 == 3", "def test_other(): pass", "test_sum"),
        ("def test_sum(): pass", "def test_other(): assert False", "test_other"),
        ("def test_sum(): pass", "def test_other(): pass", None),
        ("raise ValueError", "def test_other(): assert False", "test_other"),
        ("raise ValueError", "def test_other(): pass", mutate.NOT_IMPORTED),
        ("def test_sum(): pass", "raise ValueError", mutate.NOT_IMPORTED),
    ],
)
def test_an_error_is_noticed_by_a_test_that_fails_and_by_nothing_else(
    own, rest, noticed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # half of the time that a run takes
    tests = tmp_path / mutate.TESTS
    tests.mkdir(parents=True)
    (tests / "test_checks.py").write_text(own, encoding="utf-8")
    (tests / "test_other.py").write_text(rest, encoding="utf-8")
    assert mutate.first_failure(tmp_path, "_checks.py") == noticed


@pytest.mark.parametrize("case", sorted(functional.CASES))
def test_every_case_of_the_maths_runs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "P", 8)
    line = functional.CASES[case](0.005)
    assert min(line.cpu, line.reference_cpu, line.ratio, line.before) > 0
    assert line.peak >= line.before


@pytest.mark.parametrize("kind", sorted(selection.SIZES))
def test_every_selector_runs(kind: str) -> None:
    line = selection.measure(kind, 0.005)
    assert min(line.cpu, line.reference_cpu, line.ratio) > 0


@pytest.mark.parametrize("case", sorted(effects.CASES))
def test_every_case_of_response_effects_runs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "ROWS", 4)
    line = effects.CASES[case](0.01)
    assert min(line.cpu, line.reference_cpu, line.ratio) > 0


def test_the_reference_of_the_fit_with_effects_finds_the_same_weights_and_effects() -> None:
    features, _, data = effects.pool(100, 80, 4)
    model = Laplace(prior_precision=3.0, response_variance=0.7).fit(Bt(), features, data, seed=0)
    found = effects.sparse_fit(features, data, 3.0, 0.7)
    ours = dict(zip(model.effects.rows.tolist(), model.effects.mean.tolist(), strict=True))
    np.testing.assert_allclose(model.module.weight[0], found[:4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([ours[row] for row in sorted(ours)], found[4:], rtol=1e-5, atol=1e-6)


def test_the_reference_of_the_laplace_fit_finds_the_same_scores() -> None:
    features, comparisons = laplace.world(900, 8)
    model = Laplace().fit(Gpm(dim=6), features, comparisons, seed=0)
    summary = model.summary()
    assert summary["blocks_active"] == 1
    precision = [summary["prior_precision"], summary["block_precision"], summary["block_precision"]]
    data = labelled(features, comparisons, prompts=False, margins=False)
    weight, covariance = laplace.plain(data, torch.tensor(precision, dtype=torch.float64))
    assert covariance.shape == (24, 24)
    with torch.no_grad():
        ours = model.module(data.response_a, data.response_b)
        theirs = laplace.module_of(weight)(data.response_a, data.response_b)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.02)
    assert theirs.std() > 1


def test_the_frozen_row_of_the_fine_tuning_table_is_what_the_offline_pipeline_measures(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = finished_project.clone(tmp_path / "project")
    project.run("python", "-m", "benchmarks.finetune", "--seeds", "2", "--epochs", "1", "--mode", "full")
    text = project.read("reports/finetune.md").decode()
    assert "`OMP_NUM_THREADS=1 python -m benchmarks.finetune --seeds 2 --epochs 1 --mode full`" in text
    header, _, *rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|"))
    assert tuple(header) == finetune.COLUMNS
    frozen, full = (dict(zip(header, row, strict=True)) for row in rows)
    monkeypatch.chdir(project.folder)
    offline.main()
    train.main("offline")
    evaluate.main("offline")
    curve = [line.split(",") for line in project.read("data/offline/evaluation/curve.csv").decode().splitlines()]
    for metric, column in (("accuracy", "held-out accuracy"), ("nll", "NLL, nats"), ("ece", "ECE")):
        values = [float(value) for *_, value in (row for row in curve if row[3:6] == ["heldout", "all", metric])]
        assert len(values) == 2
        assert frozen[column] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert f"{curve[1][2]} labels a seed, of" in text
    assert frozen["updates (kept)"] == "none"
    assert int(full["updates (kept)"].partition(" ")[0]) > 0
    assert full["NLL, nats"] != frozen["NLL, nats"]


@pytest.mark.slow
def test_training_is_measured_on_the_same_gradients_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    load, read, what = training.CASES["decoder"]
    monkeypatch.setattr(training, "BATCH", 3)
    monkeypatch.setattr(training, "UPDATES", 1)
    monkeypatch.setitem(training.CASES, "decoder", (load, lambda: read()[:5], what))
    before = torch.get_num_threads()
    found = training.measure("decoder")
    torch.set_num_threads(before)
    assert 0 < found["difference"] < 1e-4
    assert found["rate"] > 0 < found["padded"]
    assert re.search(r"1 updates of 3 labels, \d", found["what"])
