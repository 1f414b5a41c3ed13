"""One word a thing: no two public classes of the library share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "bgpm").rglob("*.py"))
COMMANDS = {"add_arguments", "main", "run"}  # each command and worker has its own


def defined(path: Path) -> list[str]:
    """Public classes, and public names of types, at the top of a module."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found += [name] if name[0].isupper() and name != name.upper() else []
    return [name for name in found if not name.startswith("_")]


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for path in LIBRARY:
        for name in defined(path):
            places[name].append(path.relative_to(ROOT).as_posix())
    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
