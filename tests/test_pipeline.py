"""The pipeline as its users run it: real DVC, real stages, a tiny pool and a tiny random backbone."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ONE_ROUND, QUALITIES, ROOT, TWO_ROUNDS, Project, ran, tiny_pool, with_changes
from oracles.chat_service import Request, Response, completion, serve
from tasks import files_of

from bgpm.config import check
from bgpm.data.tables import read_table
from bgpm.errors import BgpmError, ConfigError
from bgpm.stage import read_params
from stages import embed, evaluate, fork, label, report, score, select, train

RESULTS = ["reports/metrics.json", "reports/label_efficiency.csv", "reports/label_efficiency.json"]


@pytest.fixture
def project(finished_project: Project, tmp_path: Path) -> Project:
    return finished_project.clone(tmp_path / "project")


@pytest.mark.slow
def test_an_unchanged_repro_runs_nothing_and_the_curve_is_complete(project: Project) -> None:
    assert ran(project.dvc("repro").stdout) == []
    assert (project.folder / "reports/costs.html").is_file()
    assert "reports/costs.html" not in project.run("git", "ls-files").stdout.split()
    metrics = json.loads(project.read("reports/metrics.json"))
    assert {"label_savings", "labels_to_target", "target", "final_accuracy", "aulc", "ece"} <= set(metrics)
    curve = project.read("reports/label_efficiency.csv").decode().splitlines()
    assert curve[0] == "arm,seed,round,labels,split,section,metric,value"
    accuracy = [row.split(",") for row in curve if ",heldout,all,accuracy," in row]
    assert {(r[0], r[1], r[2], r[3]) for r in accuracy} == {
        (arm, seed, str(k), str(8 + 6 * k)) for arm in ("entropy", "random") for seed in "01" for k in range(2)
    }


ONE_BY_ONE = """
import importlib, sys, torch
for line in sys.stdin:
    module, *arguments = line.split()
    torch.set_num_threads(1)  # `embed` takes more, and sums come out otherwise
    importlib.import_module(module).main(*arguments)
"""


def made_anew(fresh_project: Project, folder: Path, finished: Project, **changes: str) -> Project:
    """What every stage writes, without DVC and in another folder, by a process in an environment changed so."""
    project = fresh_project.clone(folder)
    commands = [stage["cmd"].split() for stage in locked(finished).values()]  # in the order in which they ran
    assert all(words[:3] == ["sh", "stages/python", "-m"] for words in commands)
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE], input="".join(" ".join(words[3:]) + "\n" for words in commands), text=True,
        cwd=folder, env=Project(folder, cold=True).env | changes, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return project


def locked(project: Project) -> dict[str, Any]:
    return yaml.safe_load(project.read("dvc.lock"))["stages"]


@pytest.mark.slow
def test_a_run_in_another_folder_gives_every_output_byte_for_byte(
    fresh_project: Project, finished_project: Project, tmp_path: Path
) -> None:
    again = made_anew(
        fresh_project, tmp_path / "elsewhere", finished_project, PYTHONHASHSEED="1"
    )  # nor the order of sets
    assert str(finished_project.folder) not in finished_project.read("dvc.lock").decode()
    outs = [out["path"] for stage in locked(finished_project).values() for out in stage["outs"]]
    assert len(outs) > 40
    for out in outs:
        one, other = (project.folder / out for project in (finished_project, again))
        assert one.is_dir() == other.is_dir()
        assert (files_of(one) if one.is_dir() else one.read_bytes()) == (
            files_of(other) if other.is_dir() else other.read_bytes()
        ), out


@pytest.mark.slow
def test_another_kind_of_processor_gives_the_same_committed_reports(
    fresh_project: Project, finished_project: Project, tmp_path: Path
) -> None:
    kind = {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott", "MKL_CBWR": "COMPATIBLE"}
    other = made_anew(fresh_project, tmp_path / "other", finished_project, **kind)
    inner = "data/entropy/round-0/scores.parquet"
    assert other.read(inner) != finished_project.read(inner)  # it did compute in another way
    names = [f"reports/{path.name}" for path in sorted((finished_project.folder / "reports").glob("[!.]*.*"))]
    kept = [name for name in names if name not in ("reports/index.html", "reports/costs.html")]
    assert len(kept) >= 8
    for name in kept:
        theirs, ours = other.read(name), finished_project.read(name)
        if name == "reports/label_efficiency.csv":
            theirs, ours = without_searches(theirs.decode(), ours.decode())
        assert theirs == ours, name


def without_searches(*tables: str) -> list[list[str]]:
    """Tables without what a model says of its own search, whose last digit may be another one at the edge of two."""
    kept = []
    for table in tables:
        rows = list(csv.reader(table.splitlines()))
        own = [row for row in rows if row[4] == "model"]
        assert own
        kept.append([",".join(row) for row in rows if row[4] != "model"])
    searched = [[float(r[-1]) for r in csv.reader(t.splitlines()) if r[4] == "model"] for t in tables]
    assert searched[0] == pytest.approx(searched[1], rel=1e-2)
    return kept


@pytest.mark.slow
def test_another_acquisition_reruns_its_own_arm_only_and_dvc_shows_what_it_gave(
    project: Project, tmp_path: Path
) -> None:
    before = project.read("data/random/round-1/evaluation/curve.csv")
    again = ran(project.dvc("exp", "run", "-S", "acquisition=ucb").stdout)
    loop = {f"{stage}@ucb-round0" for stage in ("score", "select", "label", "train", "evaluate")}
    assert set(again) == {"check", "fork@ucb", "report", *loop}
    assert project.read("data/random/round-1/evaluation/curve.csv") == before
    assert b"\nucb,0,1," in project.read("reports/label_efficiency.csv")
    assert "final_accuracy" in project.dvc("metrics", "diff", "HEAD", "--all").stdout
    shown = project.dvc("exp", "show", "--csv").stdout
    assert "ucb" in shown
    assert ",final_accuracy," in shown
    for command in ("show", "diff"):
        project.dvc("plots", command, "-o", str(tmp_path / command))
        page = (tmp_path / command / "index.html").read_text(encoding="utf-8")
        assert "accuracy" in page
    one_arm = ran(project.dvc("exp", "run", "-S", "acquisition=random").stdout)
    assert set(one_arm) == {"check", "report"}


@pytest.mark.slow
def test_one_more_round_runs_that_round_only(project: Project) -> None:
    project.params(baseline="entropy")
    rounds = project.run("python", "-m", "bgpm", "rounds", "2").stdout.strip()
    more = ran(project.dvc("exp", "run", "-S", f"rounds={rounds}").stdout)
    new = {f"{stage}@entropy-round1" for stage in ("score", "select", "label", "train", "evaluate")}
    assert set(more) == {"check", "plan", "report", *new}
    project.params(rounds=ONE_ROUND)
    assert set(ran(project.dvc("repro").stdout)) == {"check", "report"}


@pytest.mark.slow
def test_lost_outputs_come_back_from_the_cache_and_only_labels_are_given_anew(project: Project) -> None:
    before = {name: project.read(name) for name in RESULTS}
    for name in ("pool", "start", "entropy", "features"):
        shutil.rmtree(project.folder / "data" / name)
    # What a label rests on is no dependency, so no run cache answers for `label`: the same labels are given anew.
    assert {name.split("@")[0] for name in ran(project.dvc("repro").stdout)} == {"start-label", "label"}
    shutil.rmtree(project.folder / "data" / "entropy")
    project.dvc("checkout")
    assert (project.folder / "data/entropy/round-1/model/seed-0.safetensors").is_file()
    assert {name: project.read(name) for name in RESULTS} == before


@pytest.mark.slow
def test_every_round_can_be_pushed_and_pulled_by_someone_else(project: Project, tmp_path: Path) -> None:
    project.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    project.commit("remote")
    project.dvc("push")
    project.run("git", "clone", "-q", str(project.folder), str(tmp_path / "colleague"))
    colleague = Project(tmp_path / "colleague")
    colleague.dvc("pull", "train@entropy-round0")
    assert colleague.read("data/entropy/round-1/model/seed-1.safetensors") == project.read(
        "data/entropy/round-1/model/seed-1.safetensors"
    )
    assert not (colleague.folder / "data/random").exists()
    colleague.dvc("pull")
    assert ran(colleague.dvc("repro").stdout) == []


def never_ran(project: Project, stage: str) -> dict[str, bytes]:
    """Take a stage's outputs away, from the cache too, so that DVC has to compute them; returns their files."""
    entries = locked(project)
    outs = entries[stage]["outs"]
    # Two empty files are one in the cache: what another stage wrote too stays.
    shared = {out["md5"] for name, entry in entries.items() if name != stage for out in entry.get("outs", [])}
    shutil.rmtree(project.folder / ".dvc/cache/runs")
    found: dict[str, bytes] = {}
    for out in outs:
        path = project.folder / out["path"]
        if out["md5"] not in shared:
            (project.folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink(missing_ok=True)
        if path.is_dir():
            found |= {f"{out['path']}/{name}": content for name, content in files_of(path).items()}
            shutil.rmtree(path)
        else:
            found[out["path"]] = path.read_bytes()
            path.unlink()
    return found


def others_open(path: Path) -> bool:
    """Whether another process has this file open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while we look
            if process.name != str(os.getpid()):
                for link in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(link.readlink()) == str(path):
                            return True
    return False


# However slow we are to see a folder that a stage writes, the stage does not get to the end of it.
HOLD = """
import sys
if {"stages.embed", "stages.train"} & set(sys.orig_argv):
    import contextlib, time
    import bgpm.stage
    whole = bgpm.stage.whole_folder

    @contextlib.contextmanager
    def held(path):
        with whole(path) as part:
            yield part
            time.sleep(600)

    bgpm.stage.whole_folder = held
"""


def running(project: Project, stage: str) -> bool:
    """Whether a process of this stage runs in the project."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                f"stages.{stage}" in (process / "cmdline").read_text()
                and (process / "cwd").readlink() == project.folder
            ):
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see who writes")
@pytest.mark.parametrize(
    ("victim", "half", "signal_number"),
    [
        pytest.param("prepare", "data/truth/summary.json.part", signal.SIGKILL, marks=pytest.mark.repeat),
        pytest.param("embed@pool", "data/embeddings/pool.part", signal.SIGKILL, marks=pytest.mark.repeat),
        pytest.param("embed@pool", "data/embeddings/pool.part", signal.SIGINT, marks=pytest.mark.repeat),
        ("train@entropy-round0", "data/entropy/round-1/model.part", signal.SIGKILL),
        ("train@entropy-round0", "data/entropy/round-1/model.part", signal.SIGINT),
        # A small table is written too fast: as soon as the stage runs.
        pytest.param("label@random-round0", "", signal.SIGKILL, marks=pytest.mark.repeat),
        ("report", "reports/metrics.json.part", signal.SIGKILL),
    ],
)
def test_a_stage_cut_off_while_it_writes_leaves_no_trace_in_the_results(
    project: Project, victim: str, half: str, signal_number: signal.Signals
) -> None:
    project = Project(project.folder, cold=True)
    before = {name: project.read(name) for name in RESULTS}
    outputs = never_ran(project, victim)
    part = project.folder / half
    (project.folder / "sitecustomize.py").write_text(HOLD)
    full = None
    if half.endswith(".json.part"):  # small files are written fast, into a pipe that is full never
        part.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(part)
        full = os.open(part, os.O_RDWR | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full, bytes(4096))
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", victim],
        cwd=project.folder,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored in the background
    ) as process:
        deadline = time.monotonic() + 300
        while not (others_open(part) if full is not None else part.exists() if half else running(project, "label")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal_number)
    assert process.returncode != 0
    (project.folder / "sitecustomize.py").unlink()
    if full is not None:
        os.close(full)
        part.unlink()
        part.write_bytes(b"half of")
    project = Project(project.folder)
    again = ran(project.dvc("repro").stdout)
    assert victim in again
    assert {name: project.read(name) for name in outputs} == outputs
    assert set(again) <= {victim, "report"}  # what follows was made of the same bytes
    assert {name: project.read(name) for name in RESULTS} == before


@pytest.mark.slow
def test_a_wrong_parameter_stops_dvc_before_any_work(fresh_project: Project, tmp_path: Path) -> None:
    project = fresh_project.clone(tmp_path / "project")
    done = project.dvc("exp", "run", "-S", "acquisition=ucbb", check=False)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "acquisition: unknown kind 'ucbb'; choose one of: " in output
    assert all(kind in output for kind in ("bald", "entropy", "random", "ucb"))
    assert ran(output) == ["check"]
    assert not (project.folder / "data/pool").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acquisitions__ucb": {"kapa": 1.0}}, "acquisitions.ucb.kapa: unknown key; known here: kappa"),
        ({"acquisitions__ucb": {"kappa": "one"}}, "acquisitions.ucb.kappa"),
        ({"batch_size": "32"}, "batch_size"),
        ({"batchsize": 32}, "batchsize: unknown key"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": [0, 0]}, "seeds: every seed must differ"),
        ({"rounds": [{"k": 1, "next": 2}]}, "rounds: expected k = 0, 1, 2"),
        ({"posterior": "laplase"}, "posterior: unknown kind 'laplase'; choose one of: "),
        ({"oracle": "human"}, "oracle: human pays for every label"),
        ({"oracle": "judge", "oracles__judge__model": "m"}, "oracle: judge pays for every label"),
        ({"oracle": "judge"}, "oracles.judge.model: missing"),
        ({"model": "bt", "posterior": "amortized"}, "amortized"),
        ({"acquisition": "bald", "posterior": "point"}, "bald needs a variance of scores, and posterior point"),
        ({"selection": "logdet", "posterior": "point"}, "logdet needs a kernel"),
    ],
)
def test_a_wrong_parameter_is_named(change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as refused:
        check(with_changes(read_params(), **change))
    assert message in str(refused.value)


def test_a_full_disk_is_one_clear_error_and_nothing_half_written(project: Project) -> None:
    target = project.folder / "data/entropy/round-1/labels.parquet"
    target.unlink()
    target.with_name("labels.parquet.part").symlink_to("/dev/full")  # every write answers "no space left"
    done = project.stage("label", "entropy", "0", check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not target.exists()


def run_loop(*arms: str, seed_set: bool) -> None:
    """The stages of two rounds of arms, from their seed labels or from model 0, in the folder where one is."""
    if seed_set:
        label.main("start")
        train.main("start")
        evaluate.main("start")
    for arm in arms:
        shutil.rmtree(Path("data", arm))
        fork.main(arm)
        for k in ("0", "1"):
            score.main(arm, k)
            select.main(arm, k)
            label.main(arm, k)
            train.main(arm, str(int(k) + 1))
            evaluate.main(arm, str(int(k) + 1))
    report.main()


@pytest.mark.slow
def test_a_pool_that_is_bought_up_ends_the_campaign_without_an_error(
    project: Project, inside: Callable[[Project], None]
) -> None:
    project.params(batch_size=500, baseline="entropy", rounds=TWO_ROUNDS)
    inside(project)
    run_loop("entropy", seed_set=False)
    pool = (read_table(Path("data/pool/pairs.parquet"))["split"] == "pool").sum()
    labels = read_table(Path("data/entropy/round-2/labels.parquet"))
    assert [int((labels["seed"] == seed).sum()) for seed in (0, 1)] == [pool, pool]
    assert len(read_table(Path("data/entropy/round-1/batch.parquet"))["pair"]) == 0


def test_a_batch_is_shown_with_its_texts_in_the_order_that_labels_refer_to(project: Project) -> None:
    truth = read_table(project.folder / "data/truth/pool.parquet")
    label = dict(zip(truth["pair_id"], truth["label"], strict=True))
    shown = project.run("python", "-m", "bgpm", "batch", "data/entropy/round-0/batch.parquet").stdout.splitlines()
    questions = [json.loads(line) for line in shown]
    assert len(questions) >= 6
    wins = {
        (
            row["prompt"],
            row["response_a" if row["label"] else "response_b"],
            row["response_b" if row["label"] else "response_a"],
        )
        for row in tiny_pool()
    }
    for q in questions:
        winner, loser = ("response_a", "response_b") if label[q["pair_id"]] == 1 else ("response_b", "response_a")
        assert (q["prompt"], q[winner], q[loser]) in wins


def test_wrong_weights_are_refused(project: Project, inside: Callable[[Project], None]) -> None:
    project.params(backbone__sha256="0" * 64)
    inside(project)
    with pytest.raises(BgpmError, match="wrong weights: expected SHA-256 0000"):
        embed.main("pool")


@pytest.mark.slow
def test_a_pair_that_nobody_could_judge_is_paid_for_once_and_never_trained_on(
    project: Project, inside: Callable[[Project], None]
) -> None:
    recorded = {"oracles__recorded__abstention": 0.3, "oracles__recorded__price": 0.5}
    project.params(baseline="entropy", rounds=TWO_ROUNDS, **recorded)
    inside(project)
    run_loop("entropy", seed_set=True)
    arm = Path("data/entropy")
    labels = read_table(arm / "round-2/labels.parquet")
    skipped = np.isnan(labels["label"])
    assert 0 < skipped.sum() < len(skipped) == 2 * (8 + 6 + 6)
    np.testing.assert_array_equal(labels["annotators"], ~skipped)
    np.testing.assert_array_equal(labels["cost"], 0.5 * ~skipped)
    for seed in (0, 1):
        mine = labels["seed"] == seed
        assert len(set(labels["pair"][mine])) == mine.sum() == 20
        for k in (0, 1):
            scores = read_table(arm / f"round-{k}/scores.parquet")
            acquired = labels["pair"][mine & (labels["round"] <= k)]
            assert not np.isin(acquired, scores["pair"][scores["seed"] == seed]).any()
        model = json.loads((arm / "round-2/model/summary.json").read_bytes())[f"seed-{seed}"]
        assert model["labels"] == (mine & ~skipped).sum()
    assert json.loads(project.read("reports/metrics.json"))["labels"] == 20  # asked for, and so paid for
    before = (arm / "round-2/labels.parquet").read_bytes()
    label.main("entropy", "1")
    assert (arm / "round-2/labels.parquet").read_bytes() == before


@pytest.mark.slow
def test_a_judges_replies_survive_dvc_and_are_no_dependency(project: Project) -> None:
    good = set(QUALITIES["good"].split())

    def by_good_words(_: int, request: Request) -> Response:
        text = request.body["messages"][0]["content"]
        a, b = re.findall(r"<answer_[ab]>(.*?)</answer_[ab]>", text, re.S)
        counts = [sum(word in good for word in annotation.split()) for annotation in (a, b)]
        return completion("A" if counts[0] > counts[1] else "B")

    project.env |= {"JUDGE_KEY": "sk-secret-9876543210", "NO_PROXY": "127.0.0.1"}
    with serve(by_good_words) as service:
        project.params(
            oracle="judge",
            seeds=[0],
            baseline="entropy",
            oracles__judge__model="m",
            oracles__judge__base_url=service.url,
            oracles__judge__api_key_env="JUDGE_KEY",
        )
        shown = project.dvc("repro", "start-label")
        assert "8 of 8 pairs have a label, position bias 0%" in shown.stdout + shown.stderr
        assert len(service.requests) == 16
        assert service.requests[0].headers["authorization"] == "Bearer sk-secret-9876543210"
        assert ran(project.dvc("repro", "start-label").stdout) == []
        before = project.read("data/start/labels.parquet")
        for name in ("labels.parquet", "audits.parquet", "annotations.jsonl"):
            (project.folder / "data/start" / name).unlink()
        project.dvc("repro", "--force", "--single-item", "start-label")
        assert project.read("data/start/labels.parquet") == before
        assert len(service.requests) == 16
    truth = read_table(project.folder / "data/truth/pool.parquet")
    labels = read_table(project.folder / "data/start/labels.parquet")
    recorded = dict(zip(truth["pair_id"], truth["label"], strict=True))
    assert labels["label"].tolist() == [recorded[pair_id] for pair_id in labels["pair_id"]]
    assert "data/annotations/judge-m.jsonl" in project.run("git", "status", "--short", "-uall").stdout
    project.run("git", "add", "-A")
    assert "sk-secret" not in project.run("git", "diff", "--cached").stdout + shown.stdout + shown.stderr


def test_select_and_label_import_no_torch(project: Project) -> None:
    project = Project(project.folder, cold=True)
    for arguments in (["stages.select", "random", "0"], ["stages.label", "random", "0"], ["stages.fork", "random"]):
        code = (
            "import runpy, sys; sys.argv = sys.argv[1:]\n"
            "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
            "assert not {'torch', 'transformers', 'sklearn', 'scipy'} & set(sys.modules)"
        )
        if arguments[0] == "stages.fork":
            shutil.rmtree(project.folder / "data/random/round-0/model")
            shutil.rmtree(project.folder / "data/random/round-0/evaluation")
        project.run("python", "-c", code, *arguments)
