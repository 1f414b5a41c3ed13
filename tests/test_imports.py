"""Who may import whom, beyond the layers that import-linter holds."""

from __future__ import annotations

import ast
import subprocess
import sys
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


@pytest.mark.slow
def test_only_the_stages_that_compute_with_tensors_or_draw_import_torch_or_matplotlib() -> None:
    """Each is a process of its own and a run of the loop starts a hundred: torch is three seconds, matplotlib one."""
    heavy = {"torch": ["score"], "matplotlib": ["report"]}
    stages = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py") if not path.stem.startswith("study_"))
    light = [name for name in stages if name not in {stage for named in heavy.values() for stage in named}]
    code = (
        "import importlib, sys\n"
        "def grows(names):\n"
        "    for name in names:\n"
        "        importlib.import_module(f'stages.{name}')\n"
        "        yield name, sorted({'torch', 'transformers', 'datasets', 'pandas', 'sklearn', 'scipy', 'matplotlib',\n"
        "                            'peft', 'httpx2'} & set(sys.modules))\n"
        f"for name, found in grows({light}): assert not found, f'{{name}}: {{found}}'\n"
        f"for name, found in grows({heavy['matplotlib']}): assert 'torch' not in found, f'{{name}}: {{found}}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
