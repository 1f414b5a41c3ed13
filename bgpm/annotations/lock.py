"""A lock that one process holds at a time, on a file that names it. ``flock``: on a network folder it is as good as
that file system's."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_one(path: Path) -> Iterator[str | None]:
    """Hold a lock until the block ends, and give None; or give the process that holds it, and hold nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield os.read(lock, 64).decode(errors="replace").strip() or "unknown"
            return
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, only without a name
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        try:
            yield None
        finally:
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)
