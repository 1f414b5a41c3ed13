"""Candidates in another order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bgpm.types import Candidates, PairKernel

if TYPE_CHECKING:
    from torch import Tensor


def reordered(candidates: Candidates, order: np.ndarray) -> Candidates:
    """The same candidates with row ``order[n]`` as row n, kernel included."""
    return replace(
        candidates,
        pairs=candidates.pairs.take(order),
        mean=candidates.mean[order],
        variance=candidates.variance[order],
        keys=candidates.keys[order],
        kernel=lambda: _ReorderedKernel(candidates.kernel(), order),
    )


class _ReorderedKernel:
    def __init__(self, kernel: PairKernel, order: np.ndarray) -> None:
        self._kernel, self._order = kernel, order

    def diagonal(self) -> Tensor:
        return self._kernel.diagonal()[self._order]

    def row(self, j: int) -> Tensor:
        return self._kernel.row(int(self._order[j]))[self._order]

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        import torch

        order = torch.from_numpy(self._order)
        return self._kernel.block(order[rows], order[columns])
