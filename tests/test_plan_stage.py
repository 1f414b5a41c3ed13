"""The stage `plan` foresees, before any label, a prompt with more responses than response effects take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Project


def test_a_seed_set_that_the_pool_has_not_is_refused_before_texts_are_embedded(project: Project) -> None:
    project.params(start__labels=100_000)
    said = project.stage("plan", check=False).stderr
    assert re.search(r"start\.labels: expected at most \d+, the pairs in the pool, got 100000", said)


WARNING = "training stops once as many are labelled: row "


@pytest.fixture
def project(finished_project: Project, tmp_path: Path) -> Project:
    project = finished_project.clone(tmp_path / "project")
    (project.folder / "sitecustomize.py").write_text("import bgpm.fitting.incidence as i\ni.MOST_RESPONSES = 3\n")
    return project


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"goal": "pool"}, True),
        ({"goal": "model", "posteriors__laplace__response_variance": "auto"}, True),
        ({"goal": "model"}, False),
        ({"goal": "pool", "posteriors__laplace__response_variance": 0.0}, False),
        ({"goal": "pool", "batch_size": 1, "start__labels": 1}, False),  # too few labels to join so many
    ],
)
def test_too_many_responses_of_a_prompt_are_foreseen_where_effects_are_asked_for(
    project: Project, changes: dict[str, object], warned: bool
) -> None:
    project.params(**changes)
    said = project.stage("plan").stderr
    assert (WARNING in said) == warned
    if warned:
        assert "set posteriors.laplace.response_variance: 0.0, or divide the prompt" in said
