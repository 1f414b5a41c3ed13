"""Whether this Python is the project's: a shell where its environment is not active has another one."""

from __future__ import annotations

import sys
from importlib.util import find_spec

LIBRARIES = ("numpy", "pydantic", "torch")  # that no command does without, and no Python of a system has them all


def require_libraries() -> None:
    """Exit with one line that says what to do, where a library that is always needed is absent."""
    lacking = [name for name in LIBRARIES if find_spec(name) is None]
    if lacking:
        sys.exit(
            f"error: {sys.executable or 'this Python'} lacks {', '.join(lacking)}: run `make install`, then "
            "`. .venv/bin/activate`"
        )
