"""The stage `score` on several processes gives what one gives, or nothing at all; a small pool is scored by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project

from bgpm.errors import ConfigError, LaunchError
from stages.score import main

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
SCORES = "data/entropy/round-0/scores.parquet"


@pytest.fixture
def project(finished_project: Project, tmp_path: Path) -> Project:
    """Pairs are scored sixteen at a time, so that two processes have something to share."""
    project = finished_project.clone(tmp_path / "project")
    (project.folder / "sitecustomize.py").write_text("import bgpm.fitting.tensors as d\nd.CHUNK = 16\n")
    (project.folder / SCORES).unlink()
    return project


def test_two_processes_write_the_bytes_of_one(project: Project) -> None:
    project.stage("score", "entropy", "0")
    alone = project.read(SCORES)
    (project.folder / SCORES).write_bytes(b"of an earlier run")
    project.params(launcher__kind="torchrun", launcher__processes=2, launcher__score_from=1)
    done = project.stage("score", "entropy", "0")
    assert project.read(SCORES) == alone
    assert done.stderr.count("Setting OMP_NUM_THREADS") == 0


@pytest.mark.repeat
def test_more_processes_than_some_have_chunks_for_write_the_bytes_of_one(project: Project) -> None:
    project.params(launcher__kind="torchrun", launcher__processes=3, launcher__score_from=1)
    project.stage("score", "random", "0")
    by_three = project.read("data/random/round-0/scores.parquet")
    project.params(launcher__kind="none")
    project.stage("score", "random", "0")
    assert project.read("data/random/round-0/scores.parquet") == by_three


def test_one_process_that_fails_ends_all_and_nothing_is_left(project: Project) -> None:
    with (project.folder / "sitecustomize.py").open("a") as file:  # the other waits for its moments
        file.write(
            "import os\nif os.environ.get('RANK') == '1':\n"
            "    def broken(*given, **named): raise OSError('the second disk is gone')\n"
            "    import bgpm.loop.pool\n    bgpm.loop.pool.read_features = broken\n"
        )
    project.params(launcher__kind="torchrun", launcher__processes=2, launcher__score_from=1)
    done = project.stage("score", "entropy", "0", check=False)
    assert done.returncode == 1
    assert done.stderr.count("error: the second disk is gone") == 1
    assert "error: launcher: stages.score failed on at least one of 2 processes started by torchrun" in done.stderr
    assert not (project.folder / SCORES).exists()


def test_a_small_pool_is_scored_before_a_launcher_would_have_started(
    project: Project, inside: Callable[[Project], None]
) -> None:
    inside(project)
    project.params(launcher__kind="deepspeed", launcher__hostfile="nowhere")  # it could not start
    main("entropy", "0")
    assert (project.folder / SCORES).exists()
    project.params(launcher__score_from=1)
    with pytest.raises(ConfigError, match=r"params\.yaml: launcher\.hostfile: nowhere cannot be read"):
        main("entropy", "0")


def test_a_stage_run_under_a_launcher_by_hand_says_how_it_is_done(
    finished_project: Project, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(finished_project)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="this stage starts its processes itself: run it alone"):
        main("entropy", "0")
