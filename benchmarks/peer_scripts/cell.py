"""First and last step of every peer: read its task, write what it predicts and what that took.

A peer runs in an environment of its own and imports nothing of the project, but for `ours`. Its task is a folder:

    task.npz       pairs [N, 3] and heldout [M, 3]: rows of both responses and of the prompt; labels [N], 1 where the
                   first response is better; seeds [S] and rows [S, n], the labelled pairs of each seed; responses
                   [R, p] and prompts [Q, p] where the peer reads numbers
    texts.jsonl    where it reads text: prompt and response of each of the R responses
    settings.json  its settings
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        folder: Where it lies.
        arrays: Those of task.npz.
        settings: The peer's settings.
    """

    folder: Path
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]

    @classmethod
    def read(cls) -> Task:
        """The task in the folder that the command line names."""
        folder = Path(sys.argv[1])
        with np.load(folder / "task.npz") as file:
            arrays = dict(file)
        return cls(folder, arrays, json.loads((folder / "settings.json").read_text(encoding="utf-8")))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def texts(self) -> list[tuple[str, str]]:
        """Prompt and response of each response."""
        lines = (self.folder / "texts.jsonl").read_text(encoding="utf-8").split("\n")
        return [(row["prompt"], row["response"]) for row in map(json.loads, filter(None, lines))]

    def draws(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each seed with its labelled pairs [n, 3] and their labels [n]."""
        for seed, rows in zip(self["seeds"].tolist(), self["rows"], strict=True):
            yield seed, self["pairs"][rows], self["labels"][rows]

    def differences(self, pairs: np.ndarray) -> np.ndarray:
        """What a pair's responses differ by, first minus second, float64 [len(pairs), p]."""
        numbers = self["responses"].astype(np.float64)
        return numbers[pairs[:, 0]] - numbers[pairs[:, 1]]


class Results:
    """Predictions of each seed; CPU seconds count from one `add` to the next, so without imports and reading."""

    def __init__(self) -> None:
        self.probability: list[np.ndarray] = []
        self.seconds: list[float] = []
        self._began = time.process_time()

    def add(self, probability: np.ndarray) -> None:
        """P(first response better) of each held-out pair, [M], under the next seed."""
        self.seconds.append(self.spent())
        self.probability.append(np.asarray(probability, np.float64))
        self._began = time.process_time()

    def spent(self) -> float:
        """CPU seconds of all threads since the last `add`."""
        return time.process_time() - self._began

    def write(self, folder: Path) -> None:
        """Where the parent looks for them."""
        np.savez(
            folder / "predictions.npz",
            probability=np.array(self.probability),
            seconds=np.array(self.seconds),
            peak_mib=np.array(peak_mib()),
        )


def peak_mib() -> float:
    """The most memory this process has had; on Linux without what the process that started it had."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
