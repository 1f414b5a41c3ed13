"""What each stage cost: the side files that stages leave behind, grouped by stage."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bgpm.values import parse_json

log = logging.getLogger("bgpm")

_SHARED = ("start", "pool", "benchmark")  # first arguments that are not an arm


@dataclass(frozen=True)
class Cost:
    """Time and memory of one stage, over all of its runs.

    Attributes:
        stage: Name of the stage.
        runs: How many runs were measured.
        seconds, cpu_seconds: Sums over runs.
        peak_mib: Largest resident memory of any run.
    """

    stage: str
    runs: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


def read_costs(folder: Path, arms: Iterable[str], rounds: int) -> list[Cost]:
    """Costs by stage, the most CPU time first; empty where nothing was measured in this checkout.

    Files of other arms or of later rounds are left over from another run and do not count.
    """
    known = {*arms, *_SHARED}
    runs: dict[str, list[dict[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        stage, *arguments = path.stem.split("-")
        if arguments and (arguments[0] not in known or any(a.isdigit() and int(a) > rounds for a in arguments[1:])):
            continue
        try:
            cost = parse_json(path.read_text(encoding="utf-8"))
            runs.setdefault(stage, []).append({k: float(cost[k]) for k in ("seconds", "cpu_seconds", "peak_mib")})
        except (OSError, ValueError, KeyError, TypeError) as error:  # a side file: worth a line, not a failed report
            log.warning("%s: not a record of time and memory, left out (%s)", path, error)
    costs = [
        Cost(
            stage,
            len(some),
            sum(c["seconds"] for c in some),
            sum(c["cpu_seconds"] for c in some),
            max(c["peak_mib"] for c in some),
        )
        for stage, some in runs.items()
    ]
    return sorted(costs, key=lambda c: (-c.cpu_seconds, c.stage))
