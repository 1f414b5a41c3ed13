"""A run that was killed while DVC wrote its own files goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Project, ran

from bgpm.errors import StateError
from bgpm.recovery import repair

LOCK = "schema: '2.0'\nstages:\n  a:\n    cmd: run a\n    outs:\n    - path: x\n      md5: 0a23\n      size: 3\n"
MARKS = ".dvc/tmp/rwlock"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/.gitignore").write_text("/tmp\n")
    (tmp_path / "dvc.lock").write_text(LOCK)
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "-qm", "a lock"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_nothing_is_touched_where_nothing_is_damaged(repository: Path) -> None:
    (repository / MARKS).write_text('{"read": {}, "write": {}}')
    newer = LOCK.replace("run a", "run b")
    (repository / "dvc.lock").write_text(newer)
    assert repair(repository) == []
    assert (repository / "dvc.lock").read_text() == newer
    assert (repository / MARKS).exists()


@pytest.mark.parametrize("cut", [0, 5, 12, 20, 35, 50, 64, 75, 90])
def test_a_lock_that_is_cut_off_comes_back_from_git(cut: int, repository: Path) -> None:
    (repository / "dvc.lock").write_text(LOCK[:cut])
    (said,) = repair(repository)
    assert said.startswith("dvc.lock: was cut off")
    assert (repository / "dvc.lock").read_text() == LOCK


def test_a_lock_that_was_never_committed_is_removed_also_beside_another_pipeline(repository: Path) -> None:
    (repository / "study").mkdir()
    (repository / "study/dvc.lock").write_bytes(b"\x00\xff")
    (said,) = repair(repository)
    assert said.startswith("study/dvc.lock: ")
    assert not (repository / "study/dvc.lock").exists()
    assert (repository / "dvc.lock").read_text() == LOCK


@pytest.mark.parametrize("content", ["", "{", "[]", '{"read": {"x": 3}}'])
def test_marks_that_cannot_be_read_are_removed(content: str, repository: Path) -> None:
    (repository / MARKS).write_text(content)
    (said,) = repair(repository)
    assert said.startswith(MARKS)
    assert not (repository / MARKS).exists()


@pytest.mark.parametrize(("words", "at_work"), [(["repro"], True), (["daemon", "updater"], False)])
def test_nothing_is_mended_while_dvc_is_at_work_there_but_its_daemon_does_not_count(
    words: list[str], at_work: bool, repository: Path
) -> None:
    (repository / MARKS).write_text("")
    (repository / "dvc").write_text("import sys; print(flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, str(repository / "dvc"), *words],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if at_work:
            with pytest.raises(StateError, match=rf"rwlock: .*DVC is at work here \(process {process.pid}\)"):
                repair(repository)
        else:
            assert len(repair(repository)) == 1
    assert len(repair(repository)) == int(at_work)


def test_a_folder_without_dvc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"holds no folder \.dvc"):
        repair(tmp_path)


def test_make_repairs_before_it_runs_dvc() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    runs = [n for n, line in enumerate(lines) if line.startswith("\tdvc repro")]
    assert len(runs) == 3
    assert [lines[n - 1] for n in runs] == ["\tbgpm repair"] * 3


# Killed at the worst moment: the file is open for writing, and holds a part of what it should.
STRIKE = """
import os, signal, sys

def strike(event, arguments):
    if event == "open" and str(arguments[0]).endswith({name!r}) and "w" in str(arguments[1]):
        sys.stdout.flush()
        with os.fdopen(os.open(arguments[0], os.O_RDWR), "rb+") as file:
            file.truncate({left})
        os.kill(os.getpid(), signal.SIGKILL)

if "dvc" in " ".join(sys.orig_argv):
    sys.addaudithook(strike)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left"),
    [
        pytest.param("dvc.lock", 0, marks=pytest.mark.repeat),
        ("dvc.lock", 9),
        (MARKS, 0),
        pytest.param(MARKS, 7, marks=pytest.mark.repeat),
    ],
)
def test_a_run_killed_inside_a_rewrite_of_dvcs_own_files_goes_on_after_repair(
    name: str, left: int, finished_project: Project, tmp_path: Path
) -> None:
    project = finished_project.clone(tmp_path / "project", cold=True)
    project.params(report__resamples=210)
    site = project.folder / "sitecustomize.py"
    site.write_text(STRIKE.format(name=name, left=left))
    assert project.dvc("repro", check=False).returncode == -signal.SIGKILL
    site.unlink()
    project = Project(project.folder)
    assert len(project.read(name)) == left
    refused = project.dvc("repro", check=False)
    assert refused.returncode != 0, "DVC has become able to go on by itself"
    assert name in project.run("python", "-m", "bgpm", "repair").stdout
    assert set(ran(project.dvc("repro").stdout)) <= {"check", "report"}  # nothing is computed twice
