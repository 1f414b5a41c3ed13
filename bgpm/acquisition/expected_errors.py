r"""Expected drop of the errors among a pool's inferred labels, within the prompt of the acquired pair.

A pair j that is not acquired gets the likelier label. Its error is 1[p_j < 1/2] against a label that is 1 with
probability p_j = E sigmoid(x_j), so it is measured by e_j = p_j (1 - p_j), half the chance that two labels drawn from
p_j differ: min(p_j, 1 - p_j) itself does not change, in expectation, unless one label can turn the sign of j.

Let y be the label acquired for pair i, 1 with probability q, and C_ij = Cov(y, y_j), y_j being which response of j is
better. Two binary variables have one covariance, so

    E[y_j | y = 1] = p_j + C_ij / q,    E[y_j | y = 0] = p_j - C_ij / (1 - q),

and, with p_j' what p_j is after the label, E p_j' = p_j and

    e_j - E[p_j' (1 - p_j')] = Var p_j' = C_ij^2 / (q (1 - q)).

The value of i is the sum over the pairs of its prompt, itself included. Where annotators do not err C_ii = q (1 - q),
and its own term is the whole of e_i: an acquired label is right. With an error rate e, q = e + (1 - 2 e) p_i and
C_ij = (1 - 2 e) Cov(y_i, y_j), also for j = i. For scores that are jointly Gaussian nothing else is approximated but
the covariance of two labels, to the digits that `_labels` states.

What is left out: pairs of other prompts, which share the weights but no response, and labels that come later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.acquisition import Acquisition
from bgpm.acquisition._labels import Labels
from bgpm.keys import uniform_by_key
from bgpm.types import Candidates, Uncertainty

if TYPE_CHECKING:
    from torch import Tensor

_TOGETHER = 256  # pairs of prompts of one size whose covariances are asked for at once
_ROWS = 1024  # pairs of one prompt at once: 4 MiB a temporary with 512 targets


class ExpectedErrors(Acquisition):
    """Sum over the pairs j of the prompt of Cov(y, y_j)^2 / Var y, without unit, > 0.

    Time is O(N min(n, targets)) for prompts of n pairs on offer, memory O(N) numbers and a few MiB.

    Needs covariances between pairs: ConfigError for a posterior without them.

    Attributes:
        targets: How many pairs of a prompt stand for it, drawn by a seeded hash of their keys, where it has more: then
            their sum is scaled up. A prompt of 32 responses has 496 pairs.
    """

    kind: Literal["expected_errors"] = "expected_errors"
    needs: ClassVar[Uncertainty] = "kernel"
    targets: int = Field(default=512, ge=2)

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        import torch

        kernel = candidates.kernel()
        labels = Labels.of(candidates, kernel)
        own = labels.probability * (1 - labels.probability)  # Var y_i
        order = np.lexsort((uniform_by_key(candidates.keys, generator), candidates.pairs.prompt))
        total = own.square()
        for prompts in _of_one_size(candidates.pairs.prompt, order):
            size = prompts.shape[1]
            targets = prompts[:, : self.targets]
            for rows in prompts.split(_ROWS, dim=1):
                scores = _within(kernel.block(rows.flatten(), targets.flatten()), *rows.shape)
                one, other = rows[:, :, None], targets[:, None, :]
                squares = labels.covariance(scores, one, other).square() * (one != other)
                others = (one != other).sum(-1)
                total[rows] += squares.sum(-1) * ((size - 1) / others)
        spread = labels.said * (1 - labels.said)
        return (labels.certain**2 * total / spread.clamp(min=torch.finfo(total.dtype).tiny)).numpy()


def _of_one_size(prompt: np.ndarray, order: np.ndarray) -> Iterator[Tensor]:
    """Rows of the pairs of some prompts of one size, int64 [prompts, pairs]; prompts of one pair are left out.

    Args:
        prompt: Of each pair, [N].
        order: Of the pairs, by prompt.
    """
    import torch

    _, first, count = np.unique(prompt[order], return_index=True, return_counts=True)
    for size in np.unique(count[count > 1]).tolist():
        table = torch.from_numpy(order[first[count == size][:, None] + np.arange(size)])
        yield from table.split(max(1, _TOGETHER // size))


def _within(covariance: Tensor, prompts: int, pairs: int) -> Tensor:
    """Of a covariance of several prompts' pairs [prompts pairs, prompts targets], the blocks on the diagonal."""
    blocks = covariance.view(prompts, pairs, prompts, -1)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
