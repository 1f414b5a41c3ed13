"""Which responses are compared with which: sparse algebra on the responses of labelled pairs.

D [N, R] is the signed incidence of pairs and responses: row n is +1 at the pair's first response, -1 at its second, and
0 for a response against itself. D'LD, L diagonal, is a weighted graph Laplacian. It is block-diagonal, one block for
each *component*: responses that labels join directly or through others. Components lie within a prompt, so that they
are small; those of one size are worked on together.

Shapes: N labelled pairs, R distinct responses among them, K responses of a component.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bgpm.errors import DataError

MOST_RESPONSES = 2000  # of one component: its inverse takes K^3 / 3 multiplications a Newton step, and 32 MB


@dataclass(frozen=True)
class Incidence:
    """The responses of labelled pairs, ordered so that a component's are neighbours, small components first.

    Attributes:
        rows: int64 [R], rows of the table of responses.
        response_a, response_b: int64 [N], each pair's responses as positions in ``rows``.
        sizes: (K, number of components of that size), in the order of ``rows``.
    """

    rows: np.ndarray
    response_a: Tensor
    response_b: Tensor
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, response_a: np.ndarray, response_b: np.ndarray) -> Incidence:
        """From rows of the table of responses, int64 [N] each."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        names, place = np.unique(np.concatenate([response_a, response_b]), return_inverse=True)
        one, two = place[: len(response_a)], place[len(response_a) :]
        graph = coo_array((np.ones(len(one)), (one, two)), shape=(len(names),) * 2)
        member = connected_components(graph, directed=False)[1]
        size = np.bincount(member)[member]
        order = np.lexsort((np.arange(len(names)), member, size))
        position = np.empty(len(names), np.int64)
        position[order] = np.arange(len(names))
        counts = np.bincount(size, minlength=1)
        sizes = tuple((int(k), int(counts[k] // k)) for k in np.flatnonzero(counts) if k)
        return cls(names[order], torch.from_numpy(position[one]), torch.from_numpy(position[two]), sizes)

    def check(self, prompt: np.ndarray, setting: str) -> None:
        """Refuse a component with more than `MOST_RESPONSES` responses.

        Args:
            prompt: Row of each pair's prompt, [N].
            setting: Key that switches effects on, for the message.

        Raises:
            DataError: Naming the row of the prompt.
        """
        largest = max((k for k, _ in self.sizes), default=0)
        if largest > MOST_RESPONSES:
            last = self.response_a == len(self.rows) - 1
            last |= self.response_b == len(self.rows) - 1
            raise DataError(
                f"row {prompt[last.numpy()][0]} of the pool's prompts: labels join {largest} of its responses, and "
                f"response effects take at most {MOST_RESPONSES}, their cost grows with the cube; set {setting}: 0.0, "
                "or divide the prompt"
            )

    @property
    def recurs(self) -> bool:
        """Whether any response stands in two pairs; where none does, effects cannot be told from noise."""
        return any(k > 2 for k, _ in self.sizes) or self._repeated()

    def _repeated(self) -> bool:
        pair = torch.stack(
            [torch.minimum(self.response_a, self.response_b), torch.maximum(self.response_a, self.response_b)]
        )
        return torch.unique(pair, dim=1).shape[1] < len(self.response_a)

    def across(self, values: Tensor) -> Tensor:
        """D v: of each pair the first response's value minus the second's, [N] from [R], or [N, m] from [R, m]."""
        return values[self.response_a] - values[self.response_b]

    def back(self, values: Tensor) -> Tensor:
        """D' v, [R] from [N], or [R, m] from [N, m]."""
        out = values.new_zeros(len(self.rows), *values.shape[1:])
        return out.index_add_(0, self.response_a, values).index_add_(0, self.response_b, values, alpha=-1)

    def parts(self) -> Iterator[tuple[slice, int, int]]:
        """Of each size of component: its positions, K, and how many components there are."""
        at = 0
        for k, count in self.sizes:
            yield slice(at, at + k * count), k, count
            at += k * count

    def blocks(self, curvature: Tensor, variance: float) -> Blocks:
        """I + variance D' diag(curvature) D, factorised.

        Args:
            curvature: [N].
            variance: >= 0.
        """
        start, local, size = self.layout()
        weighted, total = variance * curvature, int((start + size * size).max()) if len(size) else 0
        flat = curvature.new_zeros(total)
        i, j = self.response_a, self.response_b
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            flat.index_add_(0, start[a] + local[a] * size[a] + local[b], weighted, alpha=sign)
        roots, at, failed = [], 0, False
        for k, count in self.sizes:
            block = flat[at : at + k * k * count].view(count, k, k)
            block.diagonal(dim1=1, dim2=2).add_(1.0)
            root, info = torch.linalg.cholesky_ex(block)
            failed = failed or bool(info.any())
            roots.append(root)
            at += k * k * count
        return Blocks(self, roots, failed)

    def layout(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where a response's component starts in a flat vector of all blocks, its place in it, and its K, [R] each."""
        start, local, size = [], [], []
        at = 0
        for _, k, count in self.parts():
            start.append((at + k * k * torch.arange(count)).repeat_interleave(k))
            local.append(torch.arange(k).repeat(count))
            size.append(torch.full((k * count,), k))
            at += k * k * count
        none = torch.empty(0, dtype=torch.int64)
        return torch.cat([none, *start]), torch.cat([none, *local]), torch.cat([none, *size])


@dataclass(frozen=True)
class Blocks:
    """A positive definite matrix [R, R] of one block a component, by its Cholesky factors.

    Attributes:
        incidence: The responses.
        roots: For each size lower triangular factors, [components, K, K].
        failed: True where some block is not positive definite; then nothing else may be asked.
    """

    incidence: Incidence
    roots: list[Tensor]
    failed: bool

    def half(self, values: Tensor) -> Tensor:
        """L^-1 v of every block, [R, m]: its square is v' C^-1 v."""
        return self._each(values, lambda root, v: torch.linalg.solve_triangular(root, v, upper=False))

    def solve(self, values: Tensor) -> Tensor:
        """C^-1 v, [R] or [R, m]."""
        if values.ndim == 1:
            return self.solve(values[:, None])[:, 0]
        return self._each(values, lambda root, v: torch.cholesky_solve(v, root))

    def half_log_det(self) -> float:
        """Half the log determinant."""
        return sum(root.diagonal(dim1=1, dim2=2).log().sum().item() for root in self.roots)

    def inverse(self) -> Tensor:
        """All inverse blocks, row by row, in one flat vector laid out as `Incidence.layout` says."""
        inverses = [torch.cholesky_inverse(root) for root in self.roots]
        none = torch.empty(0, dtype=torch.float64)
        return torch.cat([none, *(((m + m.mT) / 2).flatten() for m in inverses)])

    def _each(self, values: Tensor, of) -> Tensor:
        out = torch.empty_like(values)
        for (part, k, count), root in zip(self.incidence.parts(), self.roots, strict=True):
            out[part] = of(root, values[part].view(count, k, -1)).reshape(k * count, -1)
        return out
