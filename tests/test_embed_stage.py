"""The stage `embed` on several processes gives what one gives, or nothing at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Project
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from bgpm.errors import LaunchError
from stages.embed import main

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
WRITTEN = ["prompts.npy", "responses.npy", "summary.json"]


@pytest.fixture(scope="module")
def prepared(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = fresh_project.clone(tmp_path_factory.mktemp("prepared") / "project")
    project.stage("check")
    project.stage("prepare")
    return project


def written(project: Project) -> dict[str, bytes]:
    folder = project.folder / "data/embeddings/pool"
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN
    assert [path.name for path in folder.parent.iterdir()] == ["pool"]
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def on_two(prepared: Project, folder: Path) -> Project:
    """Two processes with one thread each."""
    project = prepared.clone(folder / "project")
    (project.folder / "sitecustomize.py").write_text("import os\nos.sched_getaffinity = lambda pid: {0, 1}\n")
    project.params(launcher__kind="torchrun", launcher__processes=2)
    return project


def test_two_processes_write_the_bytes_of_one(
    prepared: Project, tmp_path: Path, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = on_two(prepared, tmp_path)
    project.stage("embed", "pool")
    by_two = written(project)
    cost = json.loads(project.read(".timings/embed-pool.json"))
    assert cost["cpu_seconds"] > 1  # the stage itself only waits: what its processes used counts
    inside(project)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    project.params(launcher__kind="none")
    main("pool")
    assert written(project) == by_two


def test_one_process_that_fails_ends_all_and_nothing_is_left(prepared: Project, tmp_path: Path) -> None:
    project = on_two(prepared, tmp_path)
    weights = project.folder / "tiny/backbone/model.safetensors"
    state = load_file(weights)
    word = AutoTokenizer.from_pretrained(weights.parent).convert_tokens_to_ids("number23")  # of one prompt
    state["embeddings.word_embeddings.weight"][word] = torch.nan
    save_file(state, weights, metadata={"format": "pt"})
    done = project.stage("embed", "pool", check=False)
    assert done.returncode == 1
    assert "states of text" in done.stderr
    assert "error: launcher: stages.embed failed on at least one of 2 processes started by torchrun" in done.stderr
    assert not list((project.folder / "data/embeddings").iterdir())


def test_a_stage_run_under_a_launcher_by_hand_says_how_it_is_done(
    prepared: Project, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(prepared)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="this stage starts its processes itself: run it alone"):
        main("pool")
