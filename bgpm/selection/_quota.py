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
        self._rows: list[int] = []
        self._taken = np.zeros(len(prompt), bool)
        self._open = np.ones(len(prompt), bool)

    @property
    def taken(self) -> list[int]:
        """Rows picked so far, in that order."""
        return self._rows

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
        self._rows.append(row)
        self._taken[row] = True
        self._open[row] = False
        if self._cap is not None:
            siblings = self._prompt == self._prompt[row]
            if self._taken[siblings].sum() >= self._cap:
                self._open[siblings] = False

    def first(self, ranked: np.ndarray, k: int) -> np.ndarray:
        """Take the first k of the ranked rows that are open, int64 [k]; at least k of them are not taken yet."""
        chosen: list[int] = []
        while len(chosen) < k:
            for row in ranked[self.open()[ranked]].tolist():
                if len(chosen) == k:
                    break
                if self._open[row]:
                    self.take(row)
                    chosen.append(row)
        return np.array(chosen, np.int64)
