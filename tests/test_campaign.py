"""`bgpm init`: a campaign outside the repository, made by the repository's code or by the built wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import warm
import yaml
from conftest import QUALITIES, ROOT, ran, tiny_pool, write_jsonl, write_tiny_bert
from dvc.repo import Repo

from benchmarks.pipeline import copy_tracked
from bgpm import campaign, installed
from bgpm.cli import main
from bgpm.config import Params
from bgpm.data.tables import read_table
from bgpm.errors import StateError
from bgpm.installed import default_params
from bgpm.registry import parse
from bgpm.rounds import rounds
from bgpm.stage import read_params


def init(*words: str | Path) -> None:
    main(["init", *map(str, words)])


def refused(*words: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        init(*words)
    return str(ended.value.code)


def pairs(folder: Path, rows: int | None = None) -> Path:
    return write_jsonl(folder / "pairs.jsonl", tiny_pool()[:rows])


@pytest.fixture(autouse=True)
def _no_repository_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def test_a_campaign_has_the_stages_of_the_repository_and_none_of_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "mine", "--pool", pairs(tmp_path), "-S", "batch_size=5", "-S", "acquisition=bald")
    said = capsys.readouterr().out
    assert f"cd {tmp_path / 'mine'} && dvc repro" in said
    assert "bgpm annotate --run" in said
    params = read_params(tmp_path / "mine/params.yaml")
    assert (params["batch_size"], params["oracle"], params["seeds"]) == (5, "human", [0])
    assert params["acquisition"] == params["baseline"] == "bald"
    with Repo(str(tmp_path / "mine")) as repo:
        ours = {stage.name: stage for stage in repo.index.stages}
    plain = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {name.split("@")[0] for name in ours} == {*plain, "package"}
    for stage in ours.values():
        assert stage.cmd.startswith("sh .bgpm/python -P -m bgpm.stages.")
        assert all(str(dep).split("/")[0] in ("data", "params.yaml", "reports") for dep in stage.deps)
    assert {str(dep) for dep in ours["check"].deps} == {"params.yaml", "data/package.json"}
    assert (tmp_path / "mine/data/source/pairs.jsonl").read_bytes() == (tmp_path / "pairs.jsonl").read_bytes()
    kept = subprocess.run(
        ["git", "ls-files", "--others", "--cached", "--exclude-standard"],
        cwd=tmp_path / "mine", capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert {"data/source/pairs.jsonl", "data/benchmark.jsonl", "data/annotations/judge.txt", ".bgpm/python"} <= {*kept}
    assert len((tmp_path / "mine/README.md").read_text(encoding="utf-8").splitlines()) == 2


def test_a_goal_pool_needs_no_held_out_pairs_and_recorded_labels_keep_a_baseline(tmp_path: Path) -> None:
    init(tmp_path / "mine", "--pool", pairs(tmp_path), "--goal", "pool", "--oracle", "recorded")
    params = read_params(tmp_path / "mine/params.yaml")
    assert (params["pool"]["heldout"], params["acquisition"], params["baseline"]) == (0.0, "auto", "random")
    assert len(params["seeds"]) > 1


def test_a_campaign_begins_with_the_settings_that_ship_whatever_an_experiment_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("goal: model\n", encoding="utf-8")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    file.write_text("goal: pool\n", encoding="utf-8")  # as `dvc exp run -S goal=pool` leaves it
    monkeypatch.setattr("bgpm.installed.ROOT", tmp_path)
    assert default_params() == "goal: model\n"


def test_a_campaign_begins_with_a_commit_and_says_whose_labels_nobody_will_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "mine", "--pool", pairs(tmp_path), "-S", f"rounds={rounds(2)}")
    git = ("git", "-C", str(tmp_path / "mine"))
    assert subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True).stdout == b""
    assert subprocess.run([*git, "log", "--oneline"], check=True, capture_output=True).stdout.count(b"\n") == 1
    own = read_params(tmp_path / "mine/params.yaml")
    pool = int(re.search(r"(\d+) pairs may be acquired", said := capsys.readouterr().out)[1])
    assert own["start"]["labels"] + 2 * own["batch_size"] <= max(pool // 2, 6) < pool  # though rounds were given
    assert "have a label in the file, which --oracle human does not read" in said


def test_a_campaign_without_pairs_says_where_they_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path / "mine")
    assert f"put your pairs into {tmp_path / 'mine/data/source/pairs.jsonl'}" in capsys.readouterr().out


@pytest.mark.parametrize("size", [2, 3, 5, 11, 40, 96, 300, 527, 5000])
def test_a_small_pool_gets_a_budget_that_it_has(size: int) -> None:
    own = read_params(ROOT / "params.yaml")
    sizes = campaign._sizes({"goal": "model"}, parse(Params, own, ""), size)
    found = {key: yaml.safe_load(value) for key, value in sizes.items()}
    number = len(found.get("rounds", own["rounds"]))
    planned = found["start.labels"] + found["batch_size"] * number
    assert 2 <= planned <= max(size // 2, 6) or size < 11
    assert planned <= size
    assert found["start.labels"] >= min(2, size - 1)  # one may be skipped
    if size == 5000:
        defaults = (own["start"]["labels"], own["batch_size"], len(own["rounds"]))
        assert (found["start.labels"], found["batch_size"], number) == defaults


def test_a_campaign_within_another_repository_is_a_part_of_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    Repo.init(str(tmp_path)).close()
    init(tmp_path / "work/mine", "--pool", pairs(tmp_path))
    assert not (tmp_path / "work/mine/.git").exists()
    with Repo(str(tmp_path / "work/mine")) as mine, Repo(str(tmp_path)) as above:
        assert Path(mine.root_dir) == tmp_path / "work/mine"
        assert (len(mine.index.stages) > 20, above.index.stages) == (True, [])


def test_what_is_in_the_way_stays_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/params.yaml").write_text("mine: true\n")
    said = refused(tmp_path / "mine", "--pool", pairs(tmp_path))
    assert said.startswith(
        f"error: {tmp_path / 'mine/params.yaml'}: is there already and would be overwritten; name a "
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["params.yaml"]
    assert "pairs.jsonl: is there already" in refused(tmp_path / "pairs.jsonl")
    init(tmp_path / "other")
    assert f"is a campaign already; `bgpm init --update {tmp_path / 'other'}`" in refused(tmp_path / "other")


def test_a_folder_that_git_ignores_is_refused(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("/scratch/\n")
    said = refused(tmp_path / "scratch/mine")
    assert f"git ignores it in the repository at {tmp_path}, and nothing would be kept" in said
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("row", "words", "said"),
    [
        ({"prompt": "p", "response_a": "a"}, [], "pairs.jsonl:101: "),
        (
            {"prompt": "p", "response_a": "a", "response_b": "b"},
            ["--goal", "pool", "--oracle", "recorded"],
            "pairs.jsonl:101: no label",
        ),
        (
            None,
            ["-S", "acquisition=bold"],
            "margin, mv, random, ucb. Here a key of params.yaml is given as -S KEY=VALUE",
        ),
        (None, ["--pool", "nothing.jsonl"], "--pool nothing.jsonl: no such file or folder"),
        (None, ["-S", "pool.colums={}"], "params.yaml: pool.colums: there is no key 'colums' in pool"),
        (None, ["-S", "pool.heldout"], "-S pool.heldout: expected KEY=VALUE"),
        (None, ["-S", "batch_size=none"], "params.yaml: batch_size: Value error, expected a number of pairs"),
        (None, ["--oracle", "judge"], "params.yaml: oracles.judge.model: missing; name a model"),
        (None, ["--goal", "pool", "-S", "audit.size=3"], "params.yaml: audit.size: 3 audits never certify 95% right"),
    ],
)
def test_what_the_stages_would_refuse_is_refused_before_anything_is_written(
    tmp_path: Path, row: dict[str, str] | None, words: list[str], said: str
) -> None:
    rows = tiny_pool()[:100] + ([row] if row else [])
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)  # type: ignore[arg-type]
    assert said in refused(tmp_path / "mine", "--pool", path, *words)
    assert not (tmp_path / "mine").exists()


def test_a_campaign_of_another_pipeline_says_so_until_it_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    init(mine)
    installed.check_pipeline(mine / "dvc.yaml")
    newer = tmp_path / "newer"
    newer.mkdir()
    dvc, params = (ROOT / name for name in ("dvc.yaml", "params.yaml"))
    (newer / "dvc.yaml").write_text(dvc.read_text(encoding="utf-8") + "# newer\n")
    (newer / "params.yaml").write_text(params.read_text(encoding="utf-8").replace("audit:", "audit:\n  colour: blue"))
    for module in (campaign, installed):
        monkeypatch.setattr(module, "pipeline_file", newer.joinpath)
    with pytest.raises(StateError, match=r"its first line names pipeline \w+, and that of the installed bgpm"):
        installed.check_pipeline(mine / "dvc.yaml")
    before = (mine / "params.yaml").read_bytes()
    capsys.readouterr()
    init("--update", mine)
    installed.check_pipeline(mine / "dvc.yaml")
    assert f'{mine / "params.yaml"} lacks audit.colour: add it, the default is "blue"' in capsys.readouterr().out
    assert (mine / "params.yaml").read_bytes() == before
    assert "holds no campaign" in refused("--update", tmp_path)


def python_sources() -> set[str]:
    """Every module of the repository under the name that it is installed under."""
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bgpm").rglob("*.py")}
    return ours | {f"bgpm/stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the built wheel and the libraries of this one, where this repository cannot be imported."""
    folder = tmp_path_factory.mktemp("environment")
    copy_tracked(folder / "source", ("tests/", "reports/"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheel"), str(folder / "source")]
    subprocess.run([*pip, *wheel], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (built,) = (folder / "wheel").glob("*.whl")
    subprocess.run(
        [*pip, "--python", str(folder / "venv/bin/python"), "install", "--no-deps", "--no-index", str(built)],
        check=True,
    )
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"bgpm"}
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files count for nothing
    return folder


@pytest.mark.slow
def test_the_wheel_has_every_module_and_file_under_bgpm_and_nothing_beside_it(environment: Path) -> None:
    (built,) = (environment / "wheel").glob("*.whl")
    with ZipFile(built) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        told = [name for name in wheel.namelist() if name.endswith("dist-info/licenses/LICENSE")]
    assert {name for name in names if name.endswith(".py")} == python_sources()
    folders = [ROOT / "bgpm" / name for name in ("annotate/page", "annotate/templates", "reporting/templates")]
    pages = [path for folder in folders for path in folder.iterdir()]
    page = {path.relative_to(ROOT).as_posix() for path in pages if path.is_file() and path.suffix != ".py"}
    pipeline = {f"bgpm/pipeline/{name}" for name in ("dvc.yaml", "params.yaml", *campaign.COPIED)}
    assert names - python_sources() == page | pipeline | {"bgpm/py.typed", "bgpm/stages/python"}
    assert len(told) == 1


@pytest.mark.slow
def test_a_whole_campaign_runs_from_the_wheel_alone(
    environment: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each batch waits for a person's annotations in a file, and no later one makes a round stale; then an upgrade
    re-runs what it changed and nothing else."""
    mine = tmp_path / "mine"
    cold = {
        "PATH": os.pathsep.join(["/usr/bin", "/bin", str(Path(shutil.which("git") or "git").parent)]),
        "HOME": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "GIT_CONFIG_GLOBAL": os.devnull,
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    python = str(environment / "venv/bin/python")
    if warm.WORKS:
        server = warm.Server(Path(tempfile.mkdtemp(prefix="warm-")) / "bin", cold, python)
        request.addfinalizer(server.end)
        python = str(server.folder / "python")
    env = server.found_by(cold) if warm.WORKS else cold

    def run(*words: str | Path, folder: Path = mine, code: int = 0) -> str:
        done = subprocess.run(
            [python, *map(str, words)], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    where = run("-c", "import bgpm, bgpm.stages.check as check; print(bgpm.__file__, check.__file__)", folder=tmp_path)
    assert all(Path(word).is_relative_to(environment / "venv") for word in where.split())
    backbone = write_tiny_bert(tmp_path / "backbone")
    settings = {
        "backbone.path": backbone, "backbone.sha256": "null", "features.states.pca": 8, "report.resamples": 200,
        "start.labels": 12, "batch_size": 6, "rounds": "[{k: 0, next: 1}]",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("-S", f"{key}={value}")]
    run("-m", "bgpm", "init", "mine", "--pool", pairs(tmp_path), *words, folder=tmp_path)

    def annotate(pairs: Callable[[dict[str, np.ndarray]], np.ndarray], who: str = "ada", wrong: bool = False) -> None:
        """The pairs in these rows, as a person who counts good words."""
        table, texts = read_table(mine / "data/pool/pairs.parquet"), read_table(mine / "data/pool/responses.parquet")
        good = [sum(text.count(word) for word in QUALITIES["good"].split()) for text in texts["text"]]
        rows = [
            {
                "pair_id": table["pair_id"][row],
                "label": int((good[table["response_a"][row]] > good[table["response_b"][row]]) != wrong),
                "annotator": who,
            }
            for row in pairs(table)
        ]
        write_jsonl(mine / f"data/annotations/{who}.jsonl", rows)

    def seed_set(_: object) -> np.ndarray:
        return read_table(mine / "data/start/batch.parquet", ["pair"])["pair"]

    first = run("-m", "dvc", "repro", code=255)
    assert "12 of 12 pairs of data/start/batch.parquet wait for a label" in first
    assert ran(first)[:3] == ["package", "check", "prepare"]
    annotate(seed_set)
    second = run("-m", "dvc", "repro", code=255)
    arm = read_params(mine / "params.yaml")["acquisition"]
    assert f"6 of 6 pairs of data/{arm}/round-0/batch.parquet wait for a label" in second
    assert {"start-evaluate", f"select@{arm}-round0"} <= set(ran(second))
    assert f"evaluate@{arm}-round0" not in ran(second)
    annotate(lambda table: np.flatnonzero(table["split"] == "pool"))
    last = run("-m", "dvc", "repro")
    assert ran(last)[-1] == "report"
    metrics = json.loads((mine / "reports/metrics.json").read_text(encoding="utf-8"))
    assert metrics["labels"] == 18
    assert metrics["final_accuracy"] > 0.7  # of 41 held-out pairs; 0.5 by chance
    assert metrics["benchmark_accuracy"] is None
    assert (mine / "reports/index.html").is_file()

    annotate(seed_set, "eve", wrong=True)  # every round has its own frozen annotations
    assert ran(run("-m", "dvc", "repro")) == ["package"]
    page = environment / "venv/lib" / Path(where.split()[0]).relative_to(environment / "venv/lib").parent
    with (page / "reporting/page.py").open("a", encoding="utf-8") as file:
        file.write("# of a newer version\n")
    assert ran(run("-m", "dvc", "repro")) == ["package", "check", "report"]
