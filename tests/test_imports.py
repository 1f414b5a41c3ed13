"""Who may import whom, beyond the layers that import-linter holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT) for package in ("bgpm", "stages") for path in (ROOT / package).rglob("*.py"))


def imported(source: str) -> Iterator[tuple[str, ...]]:
    """Every dotted name of ours that code imports, for type checking too, as its parts."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (tuple(name.split(".")) for name in names if name.split(".")[0] in ("bgpm", "stages"))


def foreign(path: Path, source: str) -> list[str]:
    """Private names of other packages that a file imports."""
    return [
        ".".join(name)
        for name in imported(source)
        for depth, part in enumerate(name)
        if part.startswith("_") and not part.startswith("__") and path.parts[:depth] != name[:depth]
    ]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_imports_what_is_private_to_another_package(path: Path) -> None:
    assert foreign(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_a_private_import_from_elsewhere_is_seen_and_one_from_home_is_allowed() -> None:
    source = "from bgpm.selection._quota import Quota\nfrom bgpm.selection import _quota\n"
    assert foreign(Path("bgpm/loop/select.py"), source) == ["bgpm.selection._quota.Quota", "bgpm.selection._quota"]
    assert foreign(Path("bgpm/selection/logdet.py"), source) == []
