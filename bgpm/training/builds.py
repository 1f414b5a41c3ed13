"""Operators that DeepSpeed has built when they are first needed, and what a killed build leaves.

torch builds each in a folder of its own, ``TORCH_EXTENSIONS_DIR/OPERATOR`` or ``~/.cache/torch_extensions/*/OPERATOR``,
and has a file ``lock`` there open meanwhile. Who finds one waits until it is gone. A process that is killed leaves its
lock, and every later one would wait without end.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from bgpm.errors import LaunchError

LOOK_AGAIN = 1.0  # seconds; who ends a build closes its lock first and removes it then


def refuse_stale_locks() -> None:
    """Refuse to train where a build's lock lies that no process of this machine has open.

    It is not removed: another machine that shares the folder may be building.

    Raises:
        LaunchError: Naming the lock, its age and the command that removes it.
    """
    before = {path: _identity(path) for path in _locks()}
    if not (before and _unheld(before)):
        return
    time.sleep(LOOK_AGAIN)
    stale = _unheld({path: known for path, known in before.items() if known and _identity(path) == known})
    if stale:
        age = max(0.0, time.time() - stale[0].stat().st_mtime)
        raise LaunchError(
            f"{stale[0]}: the lock of an operator's build, {_duration(age)} old, and no process of this machine has it "
            "open: a run that was killed while it built left it, and DeepSpeed would wait for it without end; run "
            f"`rm {stale[0]}`, unless another machine that shares this folder is building"
        )


def _locks() -> list[Path]:
    """Locks of all operators' folders, sorted."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    if named is not None:
        return sorted(Path(named).glob("*/lock"))
    from torch.utils.cpp_extension import get_default_build_root

    return sorted(Path(get_default_build_root()).glob("*/*/lock"))


def _identity(path: Path) -> tuple[int, ...] | None:
    """Which file lies there; None where there is none any more."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _unheld(locks: dict[Path, tuple[int, ...] | None]) -> list[Path]:
    """Those that no process has open, of the processes that may be looked at."""
    held = set()
    for process in psutil.process_iter():
        try:
            held |= {Path(file.path).resolve() for file in process.open_files()}
        except (psutil.Error, OSError):  # it has ended, or is somebody else's
            continue
    return [path for path in locks if path.resolve() not in held]


def _duration(seconds: float) -> str:
    """As people say it."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
