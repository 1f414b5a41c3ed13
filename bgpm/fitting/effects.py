"""Effects of responses in a fitted model: what labels say of a response that its features do not.

A score is s_ij = f(phi_i, phi_j) + u_i - u_j with u_r ~ N(0, sigma^2) for each response. Labels tell of the effects of
the responses they compare; of every other response only the prior is known. With g a pair's gradient in the weights,
d its incidence, and the linearised posterior of `bgpm.fitting.mixed`, J the gradients of the labelled scores:

    Cov(s_n, s_m) = e_n' Sigma e_m + sigma^2 d_n' C^-1 d_m,    e_n = g_n - T'd_n,    T = sigma^2 C^-1 D'LJ,
    Sigma^-1 = A + J'LJ - sigma^2 J'LD C^-1 D'LJ,    C = I + sigma^2 D'LD,

where C^-1 is the identity and T is 0 for responses without labels. So weights and effects need nothing but a shift of
the gradient, and blocks.

**Which responses are meant.** Effects belong to rows of one table, the pool's. Every effect carries the row it is of
and a fingerprint of that row's features, and a table is taken for the pool's where all of them agree; there effects
count. In any other table, such as a benchmark's or new texts, every response is one without labels: it adds its prior
variance and no mean. A table where most fingerprints agree and some do not is the pool's after a change: refused.

Coarse features, a few numbers of each response, agree by chance: fingerprints tell only where most effects have one
that no other effect has. Elsewhere a table is the pool's where it begins with all of the pool's rows, by a hash of
their features.

Shapes: N pairs, R responses with labels, q weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bgpm.errors import StateError
from bgpm.fitting.incidence import Incidence
from bgpm.fitting.tensors import CHUNK
from bgpm.networks import Design, ScoreModule
from bgpm.types import Features, Pairs


@dataclass(frozen=True)
class ResponseEffects:
    """What is known of effects.

    Attributes:
        variance: sigma^2, float64 [].
        table: int64 [2], rows of the pool's table and the hash of their features, `table_hash`.
        rows: int64 [R], rows of the pool's responses.
        prints: int64 [R], fingerprints of their features.
        sizes: int64 [S, 2], sizes of components and how many of each, as in `Incidence`.
        mean: float64 [R], posterior mean of u.
        shift: T, float64 [R, q]; [R, 0] for a model without uncertainty.
        inverse: C^-1, its blocks in one flat vector; empty for a model without uncertainty.
    """

    variance: Tensor
    table: Tensor
    rows: Tensor
    prints: Tensor
    sizes: Tensor
    mean: Tensor
    shift: Tensor
    inverse: Tensor

    @classmethod
    def known(cls, features: Features, incidence: Incidence, effect: Tensor, variance: float) -> ResponseEffects:
        """Their mean alone."""
        none = torch.empty(0, dtype=torch.float64)
        return cls(
            torch.tensor(variance, dtype=torch.float64),
            torch.tensor([len(features.responses), table_hash(features.responses)], dtype=torch.int64),
            torch.from_numpy(incidence.rows),
            torch.from_numpy(fingerprints(features.responses[incidence.rows])),
            torch.tensor(incidence.sizes, dtype=torch.int64).view(-1, 2),
            effect.contiguous(),
            effect.new_empty(len(effect), 0),
            none,
        )

    @classmethod
    def restored(cls, stem: Path, saved: Mapping[str, Tensor]) -> ResponseEffects:
        """From the tensors of a saved model.

        Raises:
            StateError: If an earlier version wrote them, without the pool's table.
        """
        if "table" not in saved:
            raise StateError(
                f"{stem}: its response effects do not say what table they belong to, as those of this version do; "
                "train the model again"
            )
        return cls(**saved)

    def settled(self) -> ResponseEffects:
        """The same with no variance of their own for responses that have labels: others say what is open there."""
        return replace(self, inverse=torch.zeros(int((self.sizes[:, 0].square() * self.sizes[:, 1]).sum())).double())

    def within(self, features: Features) -> Places:
        """Where each response of a table stands among those with effects; nowhere, unless the table is the pool's.

        Raises:
            StateError: If the table is the pool's, changed since; names a row.
        """
        rows, prints, count = self.rows.numpy(), self.prints.numpy(), len(features.responses)
        place = np.full(count, -1, np.int64)
        if len(rows) and rows.max() < count:
            same = fingerprints(features.responses[rows]) == prints
            _, first, times = np.unique(prints, return_index=True, return_counts=True)
            telling = 2 * same[first[times == 1]].sum() > len(rows)
            if same.all() and (telling or self._begins(features.responses)):
                place[rows] = np.arange(len(rows))
            elif telling:
                raise StateError(
                    f"response row {rows[~same][0]}: its features differ from those the model learnt its effect with, "
                    f"and those of {same.sum()} other rows do not; train the model again on this pool"
                )
        empty = torch.empty(0, dtype=torch.int64)
        sizes = tuple((int(k), int(n)) for k, n in self.sizes.tolist())
        return Places(self, torch.from_numpy(place), *Incidence(rows, empty, empty, sizes).layout())

    def _begins(self, table: np.ndarray) -> bool:
        """Whether a table of features begins with all of the pool's."""
        size, known = self.table.tolist()
        return len(table) >= size and table_hash(table[:size]) == known


def table_hash(table: np.ndarray) -> int:
    """64 bits of a hash of a table of features [R, p]: the same for equal values, in float32 as in float64."""
    digest = hashlib.blake2b(digest_size=8)
    for start in range(0, len(table), CHUNK):
        with np.errstate(over="ignore"):
            rows = table[start : start + CHUNK].astype("<f4") + np.float32(0)  # -0 becomes 0
        digest.update(rows.tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def fingerprints(table: np.ndarray) -> np.ndarray:
    """A number for each row of features [R, p], int64 [R]: equal for equal values, in float32 as in float64."""
    bits = np.ascontiguousarray(table, np.float64) + 0.0  # -0 becomes 0
    odd = np.random.default_rng(0).integers(2**63, size=table.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    with np.errstate(over="ignore"):
        mixed = bits.view(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * odd
        return (mixed ^ (mixed >> np.uint64(32))).sum(1, dtype=np.uint64).view(np.int64)


@dataclass(frozen=True)
class Places:
    """Effects, seen from one table of responses.

    Attributes:
        effects: What is known.
        place: int64 [responses of the table], position of each in ``effects.rows``; -1 for those without an effect.
        start, local, size: int64 [R], the layout of ``effects.inverse``, as `Incidence.layout` says.
    """

    effects: ResponseEffects
    place: Tensor
    start: Tensor
    local: Tensor
    size: Tensor

    def mean(self, pairs: Pairs) -> Tensor:
        """E[u_i - u_j], [N]; its sign flips with the pair, exactly."""
        return self.across(self.effects.mean, pairs)

    def shifted(self, gradient: Tensor, pairs: Pairs) -> Tensor:
        """e = g - T'd, [N, q]."""
        return gradient - self.across(self.effects.shift, pairs)

    def across(self, values: Tensor, pairs: Pairs) -> Tensor:
        """Of each pair the difference of its responses' values, [N, ...], from [R, ...]; 0 for those without."""
        padded = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
        return padded[self._at(pairs.response_a)] - padded[self._at(pairs.response_b)]

    def variance(self, pairs: Pairs) -> Tensor:
        """sigma^2 d' C^-1 d, [N]; 0 for a response against itself."""
        i, j = (torch.from_numpy(side) for side in (pairs.response_a, pairs.response_b))
        return self._covariance(i, i) + self._covariance(j, j) - 2 * self._covariance(i, j)

    def covariance(self, i: Tensor, j: Tensor, k: Tensor, l: Tensor) -> Tensor:
        """sigma^2 d' C^-1 d of the pairs (i, j) and (k, l), rows of the table, broadcast against each other."""
        return self._covariance(i, k) + self._covariance(j, l) - self._covariance(i, l) - self._covariance(j, k)

    def index(self, pairs: Pairs) -> Index:
        """For covariances of a pair with many others."""
        return Index.of(self, pairs)

    def component(self, rows: Tensor) -> Tensor:
        """A number for the component of each response, int64: its own where it has no label."""
        place = self.place[rows]
        return torch.where(place >= 0, -1 - self.start[place], rows) if len(self.start) else rows

    def draw(self, pairs: Pairs, n: int, *, generator: torch.Generator) -> Tensor:
        """n draws of sigma C^-1/2 of the effects, differences of each pair, [n, N]; without what weights add."""
        names, back = np.unique(np.concatenate([pairs.response_a, pairs.response_b]), return_inverse=True)
        rows = torch.from_numpy(names)
        place = self.place[rows]
        drawn = self.effects.variance.sqrt() * torch.randn(n, len(rows), generator=generator, dtype=torch.float64)
        known = torch.nonzero(place >= 0)[:, 0]
        component = self.component(rows[known])
        for one in torch.unique(component).tolist():
            here = known[component == one]
            covariance = self._covariance(rows[here][:, None], rows[here])
            if covariance.any():
                covariance = torch.linalg.cholesky(covariance) / self.effects.variance.sqrt()
            drawn[:, here] = drawn[:, here] @ covariance.T
        back = torch.from_numpy(back)
        return drawn[:, back[: len(pairs)]] - drawn[:, back[len(pairs) :]]

    def _at(self, rows: np.ndarray) -> Tensor:
        return self.place[torch.from_numpy(rows)]  # -1 is the row of zeros at the end

    def _covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """sigma^2 (C^-1)_ab of responses by rows of the table, broadcast."""
        a, b = torch.broadcast_tensors(a, b)
        out = torch.where(a == b, self.effects.variance, torch.zeros((), dtype=torch.float64))
        if not len(self.start):
            return out
        one, two = self.place[a], self.place[b]
        # -1 reads the last response: whatever it finds is not taken
        same = (one >= 0) & (two >= 0) & (self.start[one] == self.start[two])
        at = torch.where(same, self.start[one] + self.local[one] * self.size[one] + self.local[two], 0)
        return torch.where(same, self.effects.variance * self.effects.inverse[at], out)


@dataclass(frozen=True)
class Index:
    """Pairs sorted by the components of their responses, so that one pair's covariances cost its neighbours only.

    Attributes:
        places: The effects.
        response_a, response_b: int64 [N], rows of the table.
        components: int64 [2, N], of first and second responses.
        order: int64 [2 N], both sides sorted by component; side N + n is the second response of pair n.
        sorted: int64 [2 N], the components in that order.
    """

    places: Places
    response_a: Tensor
    response_b: Tensor
    components: Tensor
    order: Tensor
    sorted: Tensor

    @classmethod
    def of(cls, places: Places, pairs: Pairs) -> Index:
        response_a, response_b = torch.from_numpy(pairs.response_a), torch.from_numpy(pairs.response_b)
        components = torch.stack([places.component(response_a), places.component(response_b)])
        found = torch.sort(components.flatten(), stable=True)
        return cls(places, response_a, response_b, components, found.indices, found.values)

    def column(self, response_a: Tensor, response_b: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs that covary with the pair (response_a, response_b), rows of the table [], and their covariances."""
        near = []
        for component in torch.unique(self.places.component(torch.stack([response_a, response_b]))):
            low, high = torch.searchsorted(self.sorted, torch.stack([component, component + 1])).tolist()
            near.append(self.order[low:high] % len(self.response_a))
        neighbours = torch.unique(torch.cat(near))
        sides = self.response_a[neighbours], self.response_b[neighbours], response_a, response_b
        return neighbours, self.places.covariance(*sides)

    def diagonal(self) -> Tensor:
        """Variance of each pair, [N]."""
        return self.places.variance(
            Pairs(*(side.numpy() for side in (self.response_a, self.response_b, self.response_a)))
        )

    def add(self, covariance: Tensor, columns: Tensor, rows: Tensor | None = None) -> Tensor:
        """Add the effects' to a covariance [rows, columns] of pairs, in place; all rows by default."""
        index = self
        if rows is not None and len(rows) <= _FEW:
            i, j = self.response_a[rows, None], self.response_b[rows, None]
            return covariance.add_(self.places.covariance(i, j, self.response_a[columns], self.response_b[columns]))
        if rows is not None:
            one, two = (side[rows].numpy() for side in (self.response_a, self.response_b))
            index = Index.of(self.places, Pairs(one, two, one))
        for at, column in enumerate(columns.tolist()):
            near, found = index.column(self.response_a[column], self.response_b[column])
            covariance[near, at] += found
        return covariance


def gaussian(
    known: ResponseEffects, incidence: Incidence, gradient: Tensor, curvature: Tensor, precision: Tensor
) -> tuple[ResponseEffects, Tensor]:
    """The Laplace posterior: effects with their shift and blocks, and the covariance Sigma of the weights, [q, q].

    Args:
        known: The effects' mean and variance.
        incidence: Of the labelled pairs.
        gradient: J, of each labelled score in the weights, [N, q].
        curvature: L, [N], >= 0.
        precision: Prior precision of each weight, [q].
    """
    variance = known.variance.item()
    weighted = curvature[:, None] * gradient
    matrix = gradient.T @ weighted
    matrix.diagonal().add_(precision)
    blocks, coupling = incidence.blocks(curvature, variance), incidence.back(weighted)
    half = blocks.half(coupling)
    matrix -= variance * (half.T @ half)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    learnt = replace(known, shift=(variance * blocks.solve(coupling)).contiguous(), inverse=blocks.inverse())
    return learnt, ((covariance + covariance.T) / 2).contiguous()


class EffectsKernel:
    """Covariance between the scores of pairs under weights and effects; the weights' Gaussian has any covariance.

    Args:
        design: Gradients of the pairs' scores in the weights.
        covariance: Sigma, [q, q].
        places: The effects.
        pairs: The pairs.
    """

    def __init__(self, design: Design, covariance: Tensor, places: Places, pairs: Pairs) -> None:
        self.design, self.covariance, self.places, self.pairs = design, covariance, places, pairs
        self.index = Index.of(places, pairs)
        self.chunks = torch.arange(len(pairs)).split(max(1, _CHUNK // len(covariance)))  # one empty where there is none

    @cached_property
    def dense(self) -> Tensor | None:
        """Every pair's e where the weights have one row and it is no larger than its factors, [q, N]; else None.

        A column a pair: products with one vector read that three times faster than a row a pair.
        """
        if self.design.a.shape[1] > 1:
            return None
        whole = torch.empty(len(self.covariance), len(self.pairs), dtype=torch.float64)
        for part in self.chunks if len(self.pairs) else ():
            whole[:, part[0] : part[-1] + 1] = self._made(part).T
        return whole

    def diagonal(self) -> Tensor:
        """Variance of each pair's score, [N]."""
        weights = [((e @ self.covariance) * e).sum(-1) for e in map(self._made, self.chunks)]
        return torch.cat(weights) + self.places.variance(self.pairs)

    def row(self, j: int) -> Tensor:
        """Covariance of pair ``j`` with every pair, [N]."""
        column = torch.tensor([j])
        return self.index.add(self._times(None, self._gradient(column) @ self.covariance), column)[:, 0]

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Covariance of pairs with other pairs, [rows, columns]."""
        return self.index.add(self._times(rows, self._gradient(columns) @ self.covariance), columns, rows)

    def _gradient(self, rows: Tensor) -> Tensor:
        """e of some pairs, [rows, q]."""
        return self._made(rows) if self.dense is None else self.dense[:, rows].T

    def _made(self, rows: Tensor) -> Tensor:
        d = self.design
        part = Design(d.a[rows], d.x[rows], d.b[rows], d.y[rows])
        return self.places.shifted(part.gradients(), self.pairs.take(rows.numpy()))

    def _times(self, rows: Tensor | None, against: Tensor) -> Tensor:
        """e' m of some pairs, or of all, and every m of [columns, q], [rows, columns]."""
        if self.dense is not None:
            return (against @ (self.dense if rows is None else self.dense[:, rows])).T
        parts = self.chunks if rows is None else rows.split(max(1, _CHUNK // len(self.covariance)))
        return torch.cat([self._gradient(part) @ against.T for part in parts])


_CHUNK = 1 << 22  # entries of a temporary: 32 MiB
_FEW = 1024  # rows for which it is quicker to compute every entry than to find, column by column, those that are not 0


class WithEffects(ScoreModule):
    """A module and the effects of the labelled pairs it is fitted to, as parameters of one problem.

    Only for the data that ``incidence`` was made of, all of it: a forward reads pairs by their position.

    Args:
        module: Scores from features; it is trained too.
        incidence: Of the labelled pairs.
        effect: Where the search begins, [R].
        variance: sigma^2, may be 0.
    """

    def __init__(self, module: ScoreModule, incidence: Incidence, effect: Tensor, variance: float) -> None:
        super().__init__()
        self.module, self.incidence, self.sigma = module, incidence, variance**0.5
        self.scaled = nn.Parameter(effect / self.sigma) if variance else None

    @property
    def reads_prompt(self) -> bool:
        return self.module.reads_prompt

    def forward(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Tensor:
        score = self.module(response_a, response_b, prompt)
        return score if self.scaled is None else score + self.sigma * self.incidence.across(self.scaled)

    def design(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Design:
        return self.module.design(response_a, response_b, prompt)

    def priors(self, of_module: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Prior precision of every parameter, from the module's."""
        return {f"module.{name}": value for name, value in of_module.items()} | {
            "scaled": torch.ones(1, dtype=torch.float64)
        }

    def effect(self) -> Tensor:
        """u, [R]."""
        if self.scaled is None:
            return torch.zeros(len(self.incidence.rows), dtype=torch.float64)
        return self.sigma * self.scaled.detach()
