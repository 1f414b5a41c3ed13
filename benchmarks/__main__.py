"""Every benchmark, one after another: ``python -m benchmarks`` writes reports/benchmarks.md.

A quiet machine is needed for the seconds; ratios of CPU seconds stand a little noise.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

MODULES = (
    "functional", "laplace", "effects", "acquisition", "selection", "embedding", "features", "training",
    "annotate", "pipeline",
)  # fmt: skip
SCALED = (
    "functional",
    "laplace",
    "effects",
    "acquisition",
    "selection",
    "annotate",
    "features",
)  # the others have one size
REPORT = Path("reports") / "benchmarks.md"


def report(tables: Mapping[str, str], when: datetime.date, command: str) -> str:
    """The tables of all modules, with how and where they were made."""
    lines = [
        "# Speed and memory",
        "",
        f"Made by `{command}` on {when.isoformat()}: {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, {platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}. CPU seconds are those of all threads; "
        '"times faster" is a ratio of them. What each reference is stands at the top of its module.',
    ]
    for module, table in tables.items():
        lines += ["", f"## benchmarks.{module}", "", table.strip()]
    return "\n".join(lines) + "\n"


def command_of(module: str, scale: float) -> list[str]:
    """What runs one module."""
    return [sys.executable, "-m", f"benchmarks.{module}", *(["--scale", str(scale)] if module in SCALED else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, help=f"which of {', '.join(MODULES)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes; less than 1 to try the command out")
    parser.add_argument("--output", type=Path, default=REPORT)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    said = " ".join(["python -m benchmarks", *sys.argv[1:]])
    tables: dict[str, str] = {}
    for module in options.modules:
        command = command_of(module, options.scale)
        tables[module] = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(f"\n## benchmarks.{module}\n\n{tables[module]}", flush=True)
        # After each, so that one that fails takes nothing with it.
        options.output.write_text(report(tables, datetime.date.today(), said), encoding="utf-8")


if __name__ == "__main__":
    main()
