"""dvc.yaml against the code it runs: what a stage can reach is a dependency, or results go stale."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.api import params_show
from dvc.dependency.param import ParamsDependency
from dvc.dvcfile import ProjectFile
from dvc.repo import Repo

from bgpm.annotate.rounds import plan
from bgpm.registry import Component
from bgpm.sections import Sections
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    """Every stage of every pipeline with matrix and interpolation resolved, by name."""
    found: dict[str, Any] = {}
    with Repo(str(ROOT)) as repo:
        for prefix, file in {
            "": "dvc.yaml",
            "offline:": "offline/pipeline.yaml",
            "study:": "study/pipeline.yaml",
        }.items():
            found |= {prefix + name: s for name, s in ProjectFile(repo, str(ROOT / file), verify=False).stages.items()}
    return found


def script_of(stage: Any) -> Path:
    words = stage.cmd.split()
    assert words[:3] == ["sh", "stages/python", "-m"], stage.cmd
    return Path(*words[3].split(".")).with_suffix(".py")


def relative(items: Any) -> set[Path]:
    return {Path(item.fs_path).relative_to(ROOT) for item in items if Path(item.fs_path).is_relative_to(ROOT)}


def test_every_stage_depends_on_the_fingerprint_of_its_own_code_and_on_no_code_besides(stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        code = {d for d in relative(stage.deps) if d.parts[0] in ("bgpm", "stages") or d.parts[:2] == ("data", "code")}
        if name == "check":
            assert code == {Path("bgpm"), Path("stages")}
        else:
            assert code == {Path("data/code", script_of(stage).stem)}, name


# What a stage reads of params.yaml without a dependency on it: where work is done, limits, and what comes to it
# by another way (data/training.json, data/likelihood.json, its arguments).
READS_BESIDES = {
    "embed": {"launcher", "features"},
    "score": {"launcher"},
    "train": {"training", "backbone", "features", "launcher", "rounds"},
    "offline:offline-train": {"goal"},
}


def keys_of(script: Path, params: dict[str, Any]) -> set[str]:
    """Keys of params.yaml that a stage reads: of a family the choice, and the section that it names."""
    module = importlib.import_module(".".join(script.with_suffix("").parts))
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    found: set[str] = set()
    for key, kind in (item for v in own if issubclass(v, Sections) for item in v.keys().items()):
        found.add(key)
        if isinstance(kind, type) and issubclass(kind, Component) and "." not in key:
            found.add(f"{key}s.{params[key]}")
    return found


def overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_every_stage_reads_the_sections_that_it_declares_and_no_others(stages: dict[str, Any]) -> None:
    params = read_params(ROOT / "params.yaml")
    seen = 0
    for name, stage in stages.items():
        if name.startswith("study:") or script_of(stage).stem in ("check", "report"):  # they depend on the whole file
            continue
        declared = {key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params}
        read = keys_of(script_of(stage), params)
        besides = READS_BESIDES.get(name, set()) | READS_BESIDES.get(script_of(stage).stem, set())
        assert not [key for key in declared if not any(overlap(key, own) for own in read)], name
        assert {key for key in read if not any(overlap(key, own) for own in declared)} == besides, name
        seen += bool(read)
    assert seen > 10


def test_stage_scripts_params_and_paths_exist(stages: dict[str, Any]) -> None:
    for stage in stages.values():
        assert (ROOT / script_of(stage)).is_file()


def test_the_index_of_a_round_in_a_stage_name_is_its_number(stages: dict[str, Any]) -> None:
    names = [name for name in stages if name.startswith("score@")]
    assert names
    for name in names:
        arm, _, number = name.removeprefix("score@").rpartition("-round")
        assert stages[name].cmd == f"sh stages/python -m stages.score {arm} {number}"


def test_the_page_names_the_stages_as_dvc_does_and_cuts_them_before_each_batch(stages: dict[str, Any]) -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    params = read_params(ROOT / "params.yaml")
    parts, one, other = plan(pipeline, params), params["acquisition"], params["baseline"]
    names = [[step.name for step in part] for part in parts]
    assert sorted(name for part in names for name in part) == sorted(name for name in stages if ":" not in name)
    assert names[0][0] == "check"
    assert names[1][:2] == ["start-label", "start-train"]
    assert names[2][:3] == [f"label@{one}-round0", f"label@{other}-round0", f"train@{one}-round0"]
    assert names[2][-4:] == [
        f"score@{one}-round1",
        f"score@{other}-round1",
        f"select@{one}-round1",
        f"select@{other}-round1",
    ]
    assert names[-1][-2:] == ["baselines", "report"]


def test_labels_of_the_pool_reach_only_the_oracle_and_what_measures(stages: dict[str, Any]) -> None:
    readers = {n.split("@")[0] for n, s in stages.items() if Path("data/truth/pool.parquet") in relative(s.deps)}
    measure = {"baselines", "start-evaluate", "evaluate"}
    assert readers == {"label", "start-label", "offline:offline-label"} | measure  # offline stands outside the loop
    heldout = {n.split("@")[0] for n, s in stages.items() if Path("data/truth/heldout.parquet") in relative(s.deps)}
    assert heldout == {"evaluate", "start-evaluate", "baselines", "offline:offline-evaluate"}


def test_what_was_measured_reaches_no_stage_that_acquires_or_trains(stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        if name.split("@")[0] in ("score", "select", "label", "train", "start", "start-label", "start-train"):
            measured = {d for d in relative(stage.deps) if d.name in ("evaluation", "pool_labels.parquet")}
            assert not measured, name


def test_acquisition_and_training_are_blind_to_audits(stages: dict[str, Any]) -> None:
    readers = {n.split("@")[0] for n, s in stages.items() if any(d.name == "audits.parquet" for d in relative(s.deps))}
    assert readers == {"start-evaluate", "fork", "label", "evaluate"}  # `label` keeps those made before


def test_the_same_acquisition_twice_is_one_arm(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"acquisition": "random", "baseline": "random"}))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        names = [s.name for s in repo.index.stages]
    assert len(names) == len(set(names))
    assert {n.split("@")[1].split("-")[0] for n in names if n.startswith("train@")} == {"random"}


def test_our_reading_of_params_yaml_is_dvcs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert read_params() == params_show(stages=[], deps=False) or read_params() == params_show("params.yaml")
    odd = (
        "a: 1e-5\nb: 1.0e3\nc: .5\nd: 1_0\ne: 0x10\nf: 012\ng: 5\nh: 1.\ni: -2e+3\nj: yes\nk: '1e-5'\nl: 2026-01-01x\n"
    )
    (tmp_path / "params.yaml").write_text(odd)
    with Repo.init(str(tmp_path), no_scm=True):
        monkeypatch.chdir(tmp_path)
        theirs = params_show("params.yaml")
    ours = read_params(tmp_path / "params.yaml")
    assert {k: ours[k] for k in "abchikl"} == {k: theirs[k] for k in "abchikl"}
