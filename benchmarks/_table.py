"""One line of a table a case, each measured in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Line:
    """What was measured.

    Attributes:
        what: The work and its size.
        wall, cpu: Seconds on the clock, and of all threads.
        before, peak: MiB of the process before the work, and at most.
        reference: What it is compared with.
        reference_cpu: CPU seconds of the reference.
        ratio: How many times the work's CPU seconds a reference of the work's own size takes.
    """

    what: str
    wall: float
    cpu: float
    before: float
    peak: float
    reference: str
    reference_cpu: float
    ratio: float


Case = Callable[[float], Line]  # from a scale of its size, 1 for the real one


def seconds(work: Callable[[], object], repeats: int = 1) -> tuple[float, float]:
    """Wall-clock and CPU seconds: the repeat with the median of the latter, which other processes disturb less."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter(), time.process_time()
        work()
        times.append((time.process_time() - began[1], time.perf_counter() - began[0]))
    cpu, wall = sorted(times)[len(times) // 2]
    return wall, cpu


def peak_mib() -> float:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(module: str, doc: str | None, cases: Mapping[str, Case]) -> None:
    """Print a table of all cases, or one case as JSON."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(cases), help="measure one case in this process, as JSON")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes; less than 1 to try a benchmark out")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(asdict(cases[options.only](options.scale))))
        return
    print("| what | seconds (CPU) | peak MiB (before) | reference, CPU seconds | times faster |\n|---|---|---|---|---|")
    for case in cases:
        command = [sys.executable, "-m", module, "--only", case, "--scale", str(options.scale)]
        m = Line(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(
            f"| {m.what} | {m.wall:.2f} ({m.cpu:.2f}) | {m.peak:.0f} ({m.before:.0f}) | {m.reference}, "
            f"{m.reference_cpu:.1f} | {m.ratio:.1f} |",
            flush=True,
        )
