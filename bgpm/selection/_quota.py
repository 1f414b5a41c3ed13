"""The cap on pairs per prompt."""

from __future__ import annotations

import logging

import numpy as np

log = logging.getLogger("bgpm")


class Quota:
    """Which candidates may still be picked when a batch takes at most ``cap`` pairs of one prompt."""

    def __init__(self, prompt: np.ndarray, cap: int | None) -> None:
        self._cap = cap
        self._prompt = prompt
        self._taken = np.zeros(len(prompt), bool)
        self._open = np.ones(len(prompt), bool)

    def open(self) -> np.ndarray:
        """bool [N], where a candidate may be picked; lifts the cap, with a warning, when it leaves nothing."""
        if not self._open.any() and not self._taken.all():
            log.warning(
                "max_per_prompt=%d leaves only %d pairs for this batch: the cap is lifted for the rest",
                self._cap,
                self._taken.sum(),
            )
            self._cap = None
            self._open = ~self._taken
        return self._open

    def take(self, row: int) -> None:
        """Note a pick."""
        self._taken[row] = True
        self._open[row] = False
        if self._cap is not None:
            siblings = self._prompt == self._prompt[row]
            if self._taken[siblings].sum() >= self._cap:
                self._open[siblings] = False

    def first(self, ranked: np.ndarray, k: int) -> np.ndarray:
        """The first k of the ranked rows that the cap admits, int64 [k]; k is at most the number of rows."""
        if self._cap is None:
            return ranked[:k]
        chosen: list[int] = []
        while len(chosen) < k:
            for row in ranked[self.open()[ranked]].tolist():
                if self._open[row] and len(chosen) < k:
                    self.take(row)
                    chosen.append(row)
        return np.array(chosen, np.int64)
