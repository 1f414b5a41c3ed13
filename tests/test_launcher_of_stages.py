"""Stages find the project's Python in shells where its environment is not active."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

TOOLS = ("sh", "ps", "tr")
SHOW = ["-c", "import sys; print(sys.executable)"]


def found(folder: Path, *commands: Path) -> subprocess.CompletedProcess[str]:
    """What the launcher says in ``folder``, in a shell that has these commands beside a few plain tools."""
    tools = folder / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(
            next(p / name for p in map(Path, os.environ["PATH"].split(":")) if (p / name).exists())
        )
    for command in commands:
        (tools / command.name).symlink_to(command)
    # A shell above that is none of DVC's.
    return subprocess.run(
        ["/bin/sh", str(ROOT / "stages/python"), *SHOW],
        cwd=folder,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


def wrong_python(folder: Path) -> Path:
    path = folder / "wrong/python"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def make_environment(folder: Path) -> Path:
    """``.venv/bin/python`` that is the Python of these tests."""
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_a_shell_without_python_uses_the_environment_of_the_folder(tmp_path: Path) -> None:
    make_environment(tmp_path)
    done = found(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable), done.stderr


def test_an_experiment_in_a_folder_below_finds_the_environment_above(tmp_path: Path) -> None:
    make_environment(tmp_path)
    below = tmp_path / ".dvc/tmp/exps/one"
    below.mkdir(parents=True)
    assert found(below).stdout.strip() == sys.executable


def test_a_python_without_the_libraries_is_passed_over(tmp_path: Path) -> None:
    make_environment(tmp_path)
    assert found(tmp_path, wrong_python(tmp_path)).stdout.strip() == sys.executable


def test_where_none_is_found_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = found(tmp_path, wrong_python(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Python with bgpm and its libraries was found: activate the environment")
    assert done.stderr.count("\n") == 1
