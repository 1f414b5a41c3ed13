"""Which of our source files a stage can run, and one fingerprint of them.

Code is a dependency of a stage like data is. Listing a dozen files for each of a hundred stages is easily wrong
and makes DVC slow (it writes its lock anew after every stage), so the stage `check` writes one fingerprint a
script to ``data/code/``, and every stage depends on its own.

The files are those that the script imports, directly or through others, at any depth of the code; an import for
type checking only does not count. A family of components counts whole, since its members are found by name at run
time, and so does `bgpm.functional`, whose submodules are imported on first use. Templates and style sheets count with
the package that they lie in.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

WHOLE = ("acquisition", "features/blocks", "fitting", "functional", "models", "oracles", "posteriors", "selection")


LAYOUT = (".css", ".j2")  # source files that are no Python


def reach(script: Path, root: Path) -> set[Path]:
    """Source files that running ``script`` can execute or fill in, itself included, relative to ``root``."""
    seen: set[Path] = set()
    named: set[str] = set()
    queue = list(_files(".".join(script.with_suffix("").parts), root))
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        names = set(_imports((root / path).read_text(encoding="utf-8"))) - named
        named |= names
        queue += [found for name in names for found in _files(name, root)]
        if path.parent in [Path("bgpm", family) for family in WHOLE]:
            queue += [found.relative_to(root) for found in (root / path.parent).glob("*.py")]
    packages = [path.parent for path in seen if path.name == "__init__.py"]
    return seen | {f.relative_to(root) for p in packages for f in (root / p).iterdir() if f.suffix in LAYOUT}


def code_fingerprint(script: Path, root: Path) -> str:
    """SHA-256 over names and contents of all files of `reach`."""
    digest = hashlib.sha256()
    for path in sorted(reach(script, root)):
        content = (root / path).read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@cache
def _imports(source: str) -> tuple[str, ...]:
    """Dotted names that code imports from us; ``from a import b`` gives ``a`` and ``a.b``: either may be a module."""
    return tuple(_imported(ast.parse(source)))


def _imported(block: ast.AST) -> Iterator[str]:
    """Names imported by the statements of a block and of the blocks inside; expressions, most of a tree, hold none."""
    names: list[str] = []
    if isinstance(block, ast.ImportFrom) and block.module:
        names = [block.module, *(f"{block.module}.{alias.name}" for alias in block.names)]
    elif isinstance(block, ast.Import):
        names = [alias.name for alias in block.names]
    yield from (name for name in names if name.split(".")[0] in ("bgpm", "stages"))
    never = isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
    for part in ("body", "handlers", "cases", "orelse", "finalbody"):
        if not (never and part == "body"):
            for inner in getattr(block, part, ()):
                yield from _imported(inner)


@cache
def _files(module: str, root: Path) -> tuple[Path, ...]:
    """The file of a module and of every package above it, as far as they existed when it was first asked for."""
    parts = module.split(".")
    above = [Path(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    candidates = [candidate for path in above for candidate in (path.with_suffix(".py"), path / "__init__.py")]
    return tuple(candidate for candidate in candidates if (root / candidate).is_file())
