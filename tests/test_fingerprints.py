"""A stage's fingerprint covers the code that it runs: found by reading the imports, checked by running it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
from conftest import Project

from bgpm.config import FAMILIES
from bgpm.fingerprints import WHOLE, code_fingerprint, reach

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "stages").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: which files there are is looked up once a folder. Who changes it takes the change back."""
    folder = tmp_path_factory.mktemp("code")
    for package in ("bgpm", "stages"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@cache
def of_this_code() -> dict[str, str]:
    return {script.stem: code_fingerprint(script, ROOT) for script in SCRIPTS}


def changed(copy: Path, path: str) -> set[str]:
    """Scripts whose fingerprint a new line at the end of a file changes."""
    before = of_this_code()  # names are relative: a copy's are the same
    file, code = copy / path, (copy / path).read_bytes()
    file.write_bytes(code + b"# changed\n")
    try:
        return {script.stem for script in SCRIPTS if code_fingerprint(script, copy) != before[script.stem]}
    finally:
        file.write_bytes(code)


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("stages/train.py", {"train"}),
        ("bgpm/reporting/page.py", {"report"}),
        ("bgpm/reporting/templates/pool.html.j2", {"report"}),
        ("bgpm/reporting/templates/style.css", {"report"}),
        ("bgpm/evaluation/savings.py", {"report"}),
        ("bgpm/acquisition/bald.py", {"score"}),
        ("bgpm/selection/logdet.py", {"plan", "select", "start"}),
        (
            "bgpm/oracles/recorded.py",
            {"label", "plan", "prepare", "report"},
        ),
        ("bgpm/annotations/store.py", {"label", "plan", "prepare", "report"}),
        ("bgpm/annotations/agreement.py", set()),
        ("bgpm/annotate/desk.py", set()),
        ("bgpm/annotate/overview.py", set()),
        ("bgpm/annotate/templates/campaign.html.j2", set()),
        ("bgpm/fitting/newton.py", {"plan", "train", "score", "select", "evaluate"}),
        ("bgpm/backbones/embedding.py", {"embed"}),
        ("bgpm/data/readers.py", {"prepare"}),
        ("stages/__init__.py", {script.stem for script in SCRIPTS}),
        ("bgpm/stage.py", {script.stem for script in SCRIPTS}),
        ("bgpm/rounds.py", set()),
    ],
)
def test_a_changed_file_changes_the_stages_that_run_it_and_no_other(copy: Path, path: str, stages: set[str]) -> None:
    # `check` imports the settings of everything; it runs whenever any of the code changes, so it does not count here.
    # The study has its own dvc.yaml: its loop runs what the loop's stages run.
    elsewhere = {"check", *(script.stem for script in SCRIPTS if script.stem.startswith("study_"))}
    assert changed(copy, path) - elsewhere == stages - elsewhere


@pytest.mark.parametrize(
    ("path", "runs"),
    [
        ("bgpm/acquisition/bald.py", True),
        ("bgpm/fitting/newton.py", True),
        ("bgpm/loop/select.py", True),
        ("bgpm/oracles/recorded.py", True),
        ("bgpm/reporting/page.py", False),
        ("bgpm/backbones/embedding.py", False),
    ],
)
def test_a_changed_step_of_the_loop_changes_the_loops_of_the_study(copy: Path, path: str, runs: bool) -> None:
    assert ("study_loop" in changed(copy, path)) == runs


@pytest.mark.parametrize("path", ["bgpm/loop/pool.py", "bgpm/evaluation/cyclic.py", "bgpm/features/reduction.py"])
def test_no_text_is_embedded_again_for_code_that_embeds_none(copy: Path, path: str) -> None:
    assert not {"embed", "study_embed"} & changed(copy, path)


def test_a_new_member_of_a_family_counts_though_nobody_imports_it(copy: Path) -> None:
    before = code_fingerprint(Path("stages/score.py"), copy)
    mine = copy / "bgpm/acquisition/mine.py"
    mine.touch()
    try:
        assert code_fingerprint(Path("stages/score.py"), copy) != before
    finally:
        mine.unlink()


def test_every_family_found_by_name_counts_whole() -> None:
    assert {base.__module__.removeprefix("bgpm.") for base, _ in FAMILIES.values()} <= set(WHOLE)
    assert "features/blocks" in WHOLE  # the family of blocks, whose settings stand in their own section


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["prepare", "embed pool", "features", "start", "label start", "train start", "evaluate start", "score random 0",
     "select random 0", "label random 0", "train random 1", "evaluate random 1", "baselines", "report"],
)  # fmt: skip
def test_a_stage_loads_no_code_outside_its_fingerprint(finished_project: Project, command: str) -> None:
    written = (finished_project.folder.parent / "loaded" / command).read_text(encoding="utf-8")
    loaded = {Path(line).relative_to(finished_project.folder) for line in written.splitlines()}
    assert Path("bgpm/stage.py") in loaded  # the script itself is called __main__
    assert loaded <= reach(Path("stages", f"{command.split()[0]}.py"), ROOT)
