"""The README's commands mean something: every `-S` of it is accepted by DVC and passes the check of parameters."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from bgpm.config import check
from bgpm.rounds import rounds
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S)).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in text.splitlines() if line.startswith("dvc exp run")]
    return [re.sub(r"\$\(python -m bgpm.rounds (\d+)\)", lambda m: rounds(int(m[1])), line) for line in lines]


def test_the_readme_shows_commands() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_is_accepted(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    overrides = [words[n + 1] for n, word in enumerate(words) if word == "-S"]
    assert overrides
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    before = read_params(tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", overrides)
    after = read_params(tmp_path / "params.yaml")
    assert after != before
    check(after)


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_kind_in_the_readme_is_one_and_none_is_left_out() -> None:
    from bgpm.config import FAMILIES
    from bgpm.registry import kinds

    for base, choices in FAMILIES.values():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{choices[0]}`"))
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(kinds(base))
