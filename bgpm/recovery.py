"""Mend what a killed ``dvc repro`` can leave behind: a lock file that is cut off, and marks that cannot be read.

DVC empties dvc.lock and .dvc/tmp/rwlock before it writes them anew. Killed in between, it refuses every later run.
Nothing is lost: outputs are in the cache, and what each finished stage made of which inputs is in DVC's run cache. So
the last committed dvc.lock is put back (or, where none is committed, the damaged one is removed), and the next
``dvc repro`` takes finished stages from the run cache. The marks of who reads and writes what are removed, which is
right only while no process of DVC runs here: that is looked for first.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import psutil

from bgpm.errors import StateError
from bgpm.values import parse_json, parse_yaml

MARKS = Path(".dvc/tmp/rwlock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``bgpm repair`` has no options."""


def run(given: argparse.Namespace) -> None:
    """Mend the repository in this folder and say what was done; silent where nothing was damaged."""
    for line in repair(Path()):
        print(line)


def repair(root: Path) -> list[str]:
    """Mend the lock files and marks of a repository.

    Args:
        root: Its folder, the one that holds .dvc.

    Returns:
        A sentence for each file that was mended.

    Raises:
        StateError: If ``root`` holds no .dvc, or something is damaged while a process of DVC runs here: then it may
            just be writing.
    """
    if not (root / ".dvc").is_dir():
        raise StateError(f"{root.resolve()}: holds no folder .dvc; run `bgpm repair` in the repository's root")
    locks = [path for path in _locks(root) if not _lock_is_whole(path)]
    marks = [path for path in [root / MARKS] if path.exists() and not _marks_are_whole(path)]
    if not locks and not marks:
        return []
    busy = _dvc_processes(root)
    if busy:
        raise StateError(
            f"{(locks + marks)[0]}: cannot be read, but DVC is at work here (process {', '.join(map(str, busy))}); "
            "wait for it or end it, then run `bgpm repair` again"
        )
    return [_mend_lock(root, path) for path in locks] + [_mend_marks(path) for path in marks]


def _locks(root: Path) -> list[Path]:
    """dvc.lock of the main pipeline and of those in folders beside it."""
    return sorted(path for pattern in ("dvc.lock", "*/dvc.lock") for path in root.glob(pattern))


def _lock_is_whole(path: Path) -> bool:
    """Whether DVC will take the lock file."""
    content = _loaded(path)
    if not isinstance(content, dict):
        return False
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(content)
    except Invalid:
        return False
    return True


def _loaded(path: Path) -> Any:
    try:
        return parse_yaml(path.read_bytes())
    except ValueError:
        return None


def _marks_are_whole(path: Path) -> bool:
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    try:
        SCHEMA(parse_json(path.read_bytes()))
    except (ValueError, Invalid):
        return False
    return True


def _dvc_processes(root: Path) -> list[int]:
    """Processes of DVC whose working folder is in the repository, but for experiments in copies of their own."""
    root = root.resolve()
    found = []
    for process in psutil.process_iter():
        try:
            words, folder = process.cmdline(), Path(process.cwd())
            runs = any(Path(word).name == "dvc" for word in words[:3])
            if not runs or not folder.is_relative_to(root) or folder.is_relative_to(root / ".dvc" / "tmp"):
                continue
            # `dvc daemon` sends statistics and looks for news after a command, for minutes where there is no network.
            # It touches no lock, and nor does the fork that waits for it, whose words are still those of the command.
            family = [words, *(child.cmdline() for child in process.children())]
        except (psutil.Error, OSError):  # it has ended, or is someone else's
            continue
        if not any("daemon" in some for some in family):
            found.append(process.pid)
    return found


def _mend_lock(root: Path, path: Path) -> str:
    name = path.relative_to(root)
    shown = subprocess.run(
        ["git", "show", f"HEAD:./{name.as_posix()}"], cwd=root, capture_output=True, check=False
    )  # ./: of this folder, which need not be the top of the repository of git
    part = path.with_name(path.name + ".part")
    part.write_bytes(shown.stdout)
    if shown.returncode == 0 and _lock_is_whole(part):
        part.replace(path)
        done = "the last committed one is back"
    else:
        part.unlink()
        path.unlink()
        done = "none is committed, so it was removed"
    return f"{name}: was cut off while DVC wrote it; {done}, and `dvc repro` takes finished stages from its run cache"


def _mend_marks(path: Path) -> str:
    path.unlink()
    return f"{MARKS}: was cut off while DVC wrote it; removed, no process of DVC runs here"
