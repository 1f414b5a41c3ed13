"""Data types that all packages share, as frozen dataclasses of arrays.

Shapes: R responses, Q prompts, N pairs, p features, m numbers of a pair. Arrays on disk and at the
borders between families are numpy; inside the maths they are torch tensors in float64. This module
imports numpy only, so that a stage without maths starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from bgpm.errors import NumericsError, ShapeError
from bgpm.keys import require_numbers

if TYPE_CHECKING:
    from torch import Tensor

# Numbers of a response under a decoder, in nats, in the order of their columns: see `bgpm.backbones.likelihood`.
LIKELIHOODS = ("mean", "sum", "first", "least", "last", "entropy", "gain")

# What a posterior knows of scores: their mean alone, each one's variance too, or covariances between pairs as well.
Uncertainty = Literal["mean", "variance", "kernel"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of responses to one prompt each, as rows of a table of responses.

    Attributes:
        response_a, response_b: int64 [N], rows of the response table. Which response is first was decided by a
            seeded shuffle when the pool was made and carries no information.
        prompt: int64 [N], rows of the prompt table.
        numbers: float64 [N, m], of each pair, positive where they favour response_a, 0 where they say nothing; or None.
            Features that are no difference of its responses' features, such as a judge's verdicts: a swap changes
            their sign.

    Raises:
        ShapeError: If the vectors are not of one length, or numbers are not one row a pair.
        NumericsError: If a number of a pair is not finite.
    """

    response_a: np.ndarray
    response_b: np.ndarray
    prompt: np.ndarray
    numbers: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.response_a.shape == self.response_b.shape == self.prompt.shape or self.response_a.ndim != 1:
            raise ShapeError(
                "pairs need three vectors of one length, "
                f"got {self.response_a.shape}, {self.response_b.shape}, {self.prompt.shape}"
            )
        if self.numbers is not None:
            if self.numbers.ndim != 2 or len(self.numbers) != len(self):
                raise ShapeError(
                    f"numbers of {len(self)} pairs: expected one row for each, got shape {self.numbers.shape}"
                )
            if not np.isfinite(self.numbers).all():
                row = int(np.flatnonzero(~np.isfinite(self.numbers).all(1))[0])
                raise NumericsError(f"numbers of pair {row}: expected finite numbers; 0 says nothing")

    def __len__(self) -> int:
        return len(self.response_a)

    def take(self, rows: np.ndarray) -> Pairs:
        """The pairs at these rows (or where a boolean mask holds), in that order."""
        numbers = None if self.numbers is None else self.numbers[rows]
        return Pairs(self.response_a[rows], self.response_b[rows], self.prompt[rows], numbers)

    def swapped(self) -> Pairs:
        """The same pairs with the responses in the other order."""
        return Pairs(self.response_b, self.response_a, self.prompt, None if self.numbers is None else -self.numbers)

    def turned(self, flipped: np.ndarray) -> Pairs:
        """The same pairs, those where a boolean mask [N] holds with the responses in the other order."""
        response_a = np.where(flipped, self.response_b, self.response_a)
        response_b = np.where(flipped, self.response_a, self.response_b)
        numbers = None if self.numbers is None else np.where(flipped[:, None], -self.numbers, self.numbers)
        return Pairs(response_a, response_b, self.prompt, numbers)


@dataclass(frozen=True)
class FeatureBlock:
    """Neighbouring columns of a table of features that come from one place.

    Attributes:
        name: What they are, such as ``states`` or ``statistics``.
        start, stop: The columns ``start <= c < stop``.
    """

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Features:
    """What is known of each text, in numbers.

    Attributes:
        responses: float32 [R, p], one row for each (prompt, response).
        prompts: float32 [Q, p] for the prompt alone; read by prompt gates and by `balpm`.
        blocks: What the columns of ``responses`` are, from the first to the last; () where nobody says.

    Raises:
        ShapeError: If the blocks do not follow each other from column 0 to p, one is empty, or two share a name.
    """

    responses: np.ndarray
    prompts: np.ndarray
    blocks: tuple[FeatureBlock, ...] = ()

    def __post_init__(self) -> None:
        if not self.blocks:
            return
        names = [block.name for block in self.blocks]
        if len(set(names)) < len(names):
            raise ShapeError(f"features: expected blocks with names of their own, got {', '.join(names)}; rename one")
        at = 0
        for block in self.blocks:
            if block.start != at or block.stop <= at:
                raise ShapeError(
                    f"features: block {block.name}: expected columns from {at}, at least one, got {block.start} to "
                    f"{block.stop}; blocks follow each other without gaps"
                )
            at = block.stop
        if at != self.dim:
            raise ShapeError(f"features: the blocks end at column {at}, expected {self.dim}, the number of features")

    @property
    def dim(self) -> int:
        """p, the number of features."""
        return self.responses.shape[1]


@dataclass(frozen=True)
class Comparisons:
    """Labelled pairs.

    Attributes:
        pairs: The pairs, [N].
        label: float64 [N] in [0, 1], probability that response_a is better; 0.5 is a tie.
        margin: float64 [N] or None, how much better the winner is, >= 0, in units of the score.
        weight: float64 [N] or None, how often each label counts in a fit, >= 0; None counts each once.
        importance: float64 [N] or None, importance weights of labels that were drawn, >= 0; a fit multiplies them, or a
            power of them, with ``weight`` (`bgpm.fitting.importance`).
    """

    pairs: Pairs
    label: np.ndarray
    margin: np.ndarray | None = None
    weight: np.ndarray | None = None
    importance: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.pairs) != len(self.label):
            raise ShapeError(f"{len(self.pairs)} pairs but {len(self.label)} labels")
        if self.margin is not None and len(self.pairs) != len(self.margin):
            raise ShapeError(f"{len(self.pairs)} pairs but {len(self.margin)} margins")
        for weight in (self.weight, self.importance):
            if weight is None:
                continue
            if len(self.pairs) != len(weight):
                raise ShapeError(f"{len(self.pairs)} pairs but {len(weight)} weights")
            if len(weight) and not (np.isfinite(weight).all() and weight.min() >= 0):
                raise ShapeError("weights say how often labels count: every one must be finite and >= 0")
        if np.isnan(self.label).any():
            raise ShapeError("a missing label cannot be trained on: drop the pair or label it")
        if len(self.label) and not (self.label.min() >= 0 and self.label.max() <= 1):
            raise ShapeError("labels are probabilities: every one must be in [0, 1]")

    def __len__(self) -> int:
        return len(self.label)

    def swapped(self) -> Comparisons:
        """The same facts with the responses of every pair in the other order."""
        return replace(self, pairs=self.pairs.swapped(), label=1.0 - self.label)

    @property
    def weighed(self) -> bool:
        """Whether some labels may count more often than others."""
        return self.weight is not None or self.importance is not None


@dataclass(frozen=True)
class ScoreMoments:
    """Posterior mean and variance of scores s, **before** division by the temperature.

    Attributes:
        mean: float64 [N], logits times tau.
        variance: float64 [N], its square units, >= 0.
        tau: Temperature of the likelihood P(a better) = sigmoid(s / tau).
        error_rate: e, the share of labels that the model takes to be wrong: P(label says a) = e + (1 - 2 e)
            P(a better). Predictions are of which response *is* better: evaluation does not read it, so that a
            model is measured by the same rule whatever it thinks of its annotators.
    """

    mean: Tensor
    variance: Tensor
    tau: float
    error_rate: float = 0.0


class PairKernel(Protocol):
    """Posterior covariance between the scores of pairs, rows and blocks on demand."""

    def diagonal(self) -> Tensor:
        """Variance of each pair's score, [N]."""
        ...

    def row(self, j: int) -> Tensor:
        """Covariance of pair ``j`` with every pair, [N]."""
        ...

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Covariance of the pairs at ``rows`` with those at ``columns``, both int64, [len(rows), len(columns)]."""
        ...


@dataclass(frozen=True)
class Candidates:
    """What an acquisition function or a selector may see: never a label, never a posterior.

    Attributes:
        pairs: The unlabelled pairs on offer, [N].
        mean: float64 [N], posterior mean of each pair's score, before division by ``tau``.
        variance: float64 [N], posterior variance of the score, before division by ``tau`` squared.
        tau: Temperature of the likelihood.
        features: Features of the pool's texts.
        keys: str [N], a stable name for each pair that does not depend on the order of its responses:
            ties are broken by a seeded hash of it.
        kernel: Call it for covariance rows; raises ConfigError where the posterior has none.
        error_rate: e, the share of wrong labels: what a label can teach is that of a label with errors.
        acquired: Pairs acquired so far, without their labels; given to acquisition functions, not to selectors.

    Raises:
        ArgumentError: If moments are not arrays of numbers.
        ShapeError: If there is not one mean, variance and key a pair, or a pair's texts have no features.
        NumericsError: If tau is not finite and positive or the error rate not in [0, 0.5).
    """

    pairs: Pairs
    mean: np.ndarray
    variance: np.ndarray
    tau: float
    features: Features
    keys: np.ndarray
    kernel: Callable[[], PairKernel]
    error_rate: float = 0.0
    acquired: Pairs = field(default_factory=lambda: Pairs(*(np.empty(0, np.int64) for _ in range(3))))

    def __post_init__(self) -> None:
        n = len(self.pairs)
        require_numbers("candidates.mean", self.mean, n)
        require_numbers("candidates.variance", self.variance, n)
        if self.keys.shape != (n,):
            raise ShapeError(f"candidates.keys: expected shape ({n},), got {self.keys.shape}; pass one a pair")
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise NumericsError(f"candidates.tau: expected finite and > 0, got {self.tau}; pass the model's")
        if not 0 <= self.error_rate < 0.5:
            raise NumericsError(
                f"candidates.error_rate: expected in [0, 0.5), got {self.error_rate}; a share of labels"
            )
        for side in ("response_a", "response_b", "prompt"):
            rows = np.concatenate([getattr(self.pairs, side), getattr(self.acquired, side)])
            count = len(self.features.prompts if side == "prompt" else self.features.responses)
            if len(rows) and not (rows.min() >= 0 and rows.max() < count):
                raise ShapeError(
                    f"candidates: expected {side} in 0..{count - 1}, the rows of the features, got {rows.min()} to "
                    f"{rows.max()}; pairs and features are of different pools"
                )

    def __len__(self) -> int:
        return len(self.pairs)
