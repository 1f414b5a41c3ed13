"""How long the default pipeline takes, in a copy of this working tree with an empty cache.

``python -m benchmarks.pipeline`` prints one line a command: a cold `dvc repro`, an unchanged one, and one with another
acquisition function. The reference of each line is the cold run. Wall time depends on what else the machine does,
so CPU seconds of all processes stand beside it; memory is the largest stage's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "cold dvc repro": ["repro"],
    "unchanged dvc repro": ["repro"],
    "dvc exp run -S acquisition=ucb": ["exp", "run", "-S", "acquisition=ucb"],
}


def copy_tracked(folder: Path, without: tuple[str, ...] = ()) -> None:
    """Files that git tracks or would track; none whose path begins so."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(without):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def copy_of_the_tree(folder: Path) -> None:
    """`copy_tracked`, without what the pipeline made, as a repository with one commit."""
    copy_tracked(folder, ("dvc.lock",))
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@bench.invalid"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "bench"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
    }
    print("| command | stages run | wall s | CPU s | against cold | largest stage MiB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_tree(folder)
        environment["PYTHONPATH"] = str(folder)
        cold = 0.0
        for title, arguments in COMMANDS.items():
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode:
                sys.exit(f"{title} failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            cold = cold or cpu
            peaks = [
                json.loads(p.read_text(encoding="utf-8"))["peak_mib"] for p in (folder / ".timings").glob("*.json")
            ]
            stages = len(re.findall(r"^Running stage", done.stdout, re.M))
            print(f"| {title} | {stages} | {wall:.0f} | {cpu:.0f} | {cpu / cold:.2f} | {max(peaks):.0f} |", flush=True)


if __name__ == "__main__":
    main()
