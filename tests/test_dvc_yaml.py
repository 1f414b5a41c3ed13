"""dvc.yaml against the code it runs: what a stage can reach is a dependency, or results go stale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.api import params_show
from dvc.repo import Repo

from bgpm.config import FAMILIES
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[1]
FAMILY_FOLDERS = {Path(*base.__module__.split(".")) for base, _ in FAMILIES.values()}


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    """Every stage with matrix and interpolation resolved, by name."""
    with Repo(str(ROOT)) as repo:
        return {stage.name: stage for stage in repo.index.stages if getattr(stage, "name", None)}


def modules_of(path: Path) -> Iterator[str]:
    """Names of our own modules that a file imports, at any depth of its code, except for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in ("bgpm", "stages"))


def file_of(module: str) -> Path | None:
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


def reach(start: Path) -> set[Path]:
    """Files of ours that running ``start`` can execute; a family of components counts whole."""
    seen: set[Path] = set()
    queue = [start]
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        queue += [found for name in modules_of(ROOT / path) if (found := file_of(name))]
        queue += [p.relative_to(ROOT) for p in (ROOT / path.parent).glob("*.py") if path.parent in FAMILY_FOLDERS]
        if path == Path("bgpm/functional/__init__.py"):
            queue += [p.relative_to(ROOT) for p in (ROOT / path.parent).glob("*.py")]
    return {
        path
        for path in seen
        if (ROOT / path).name != "__init__.py" or path.parent not in (Path("bgpm"), Path("stages"))
    }


def script_of(stage: Any) -> Path:
    words = stage.cmd.split()
    assert words[:2] == ["python", "-m"], stage.cmd
    return Path(*words[2].split(".")).with_suffix(".py")


def relative(items: Any) -> set[Path]:
    return {Path(item.fs_path).relative_to(ROOT) for item in items if Path(item.fs_path).is_relative_to(ROOT)}


def test_every_file_a_stage_can_reach_is_one_of_its_dependencies(stages: dict[str, Any]) -> None:
    lacking = {}
    for name, stage in stages.items():
        deps = relative(stage.deps)
        lost = {p for p in reach(script_of(stage)) if not any(p == d or p.is_relative_to(d) for d in deps)}
        if lost:
            lacking[name] = sorted(map(str, lost))
    assert not lacking


def test_a_stage_depends_on_no_code_it_cannot_reach(stages: dict[str, Any]) -> None:
    spare = {}
    for name, stage in stages.items():
        if name == "check":  # depends on the whole package: it imports every component to check its settings
            continue
        reached = reach(script_of(stage))
        code = {d for d in relative(stage.deps) if d.parts[0] in ("bgpm", "stages")}
        useless = {d for d in code if not any(p == d or p.is_relative_to(d) for p in reached)}
        if useless:
            spare[name] = sorted(map(str, useless))
    assert not spare


def test_stage_scripts_params_and_paths_exist(stages: dict[str, Any]) -> None:
    for stage in stages.values():
        assert (ROOT / script_of(stage)).is_file()


def test_the_index_of_a_round_in_a_stage_name_is_its_number(stages: dict[str, Any]) -> None:
    names = [name for name in stages if name.startswith("score@")]
    assert names
    for name in names:
        arm, _, number = name.removeprefix("score@").rpartition("-round")
        assert stages[name].cmd == f"python -m stages.score {arm} {number}"


def test_labels_of_the_pool_reach_only_the_oracle_and_the_baselines(stages: dict[str, Any]) -> None:
    readers = {n.split("@")[0] for n, s in stages.items() if Path("data/truth/pool.parquet") in relative(s.deps)}
    assert readers == {"label", "start-label", "baselines"}
    heldout = {n.split("@")[0] for n, s in stages.items() if Path("data/truth/heldout.parquet") in relative(s.deps)}
    assert heldout == {"evaluate", "start-evaluate", "baselines"}


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
