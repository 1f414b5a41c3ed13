"""From tables to float64 tensors: features are checked, and each pair gets one direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bgpm.errors import DataError, NumericsError, ShapeError
from bgpm.types import Comparisons, FeatureBlock, Features, Pairs

CHUNK = 4096  # pairs at a time: bounds memory, and is small enough for the gradient of a chunk to stay in cache


@dataclass(frozen=True)
class LabelledTensors:
    """Labelled pairs as tensors.

    Attributes:
        response_a, response_b: float64 [N, p], features of the responses.
        prompt: float64 [N, p'] features of the prompts, or None where the model does not read them.
        label: float64 [N] in [0, 1].
        margin: float64 [N] >= 0, or None.
        group: int64 [N], the prompt's row: folds never divide a prompt.
        weight: float64 [N] >= 0, how often each label counts, or None: once.
        rows: int64 [2, N], rows of the first and of the second responses, or None where nobody asks for them.
        exponent: Of the importance weights inside ``weight`` (`bgpm.fitting.importance`), or None where there are none.
    """

    response_a: Tensor
    response_b: Tensor
    prompt: Tensor | None
    label: Tensor
    margin: Tensor | None
    group: np.ndarray
    weight: Tensor | None = None
    rows: np.ndarray | None = None
    exponent: float | None = None

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Tensor) -> LabelledTensors:
        """The comparisons at these rows."""
        return LabelledTensors(
            self.response_a[rows],
            self.response_b[rows],
            None if self.prompt is None else self.prompt[rows],
            self.label[rows],
            None if self.margin is None else self.margin[rows],
            self.group[rows.numpy()],
            None if self.weight is None else self.weight[rows],
            None if self.rows is None else self.rows[:, rows.numpy()],
            self.exponent,
        )


def labelled(features: Features, data: Comparisons, *, prompts: bool, margins: bool) -> LabelledTensors:
    """Labelled pairs as tensors, each in the direction of its rows, so that swapping responses changes nothing.

    Args:
        prompts: Read the prompts' features too.
        margins: Read the margins; every one must be known.

    Raises:
        DataError: If there is no label at all, or a margin is asked for and not known.
        NumericsError: If a feature is NaN or infinite; names the row.
    """
    if not len(data):
        raise DataError("cannot train on no labels: every pair so far was skipped; raise start.labels")
    margin = None
    if margins:
        if data.margin is None or not np.isfinite(data.margin).all() or (data.margin < 0).any():
            known = 0 if data.margin is None else int((np.isfinite(data.margin) & (data.margin >= 0)).sum())
            raise DataError(
                f"margin was asked for, but only {known} of {len(data)} labels have one that is >= 0; "
                "set margin: false, or use data with a margin column"
            )
        margin = torch.from_numpy(np.asarray(data.margin, np.float64))
    flipped = data.pairs.response_a > data.pairs.response_b
    pairs = data.pairs.turned(flipped)
    response_a, response_b, prompt = _rows(features, pairs, prompts)
    label = np.where(flipped, 1.0 - data.label, data.label)
    weight = None
    if data.weight is not None:
        weight = torch.from_numpy(np.asarray(data.weight, np.float64))
        if not weight.any():
            raise DataError("cannot train on labels that all have weight 0: give one a weight > 0")
    rows = np.stack([pairs.response_a, pairs.response_b])
    return LabelledTensors(
        response_a, response_b, prompt, torch.from_numpy(label), margin, data.pairs.prompt, weight, rows
    )


def each_pair(
    features: Features,
    pairs: Pairs,
    *,
    prompts: bool,
    of: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """Quantities of every pair, [N] each, computed chunk by chunk on pairs in the direction of their rows.

    Args:
        of: From features of first and second responses and prompts to quantities whose *first* flips its
            sign with the pair and whose others do not; a last dimension runs over pairs.
    """

    def of_sides(_: Pairs, *sides: Any) -> tuple[Tensor, ...]:
        return of(*sides)

    return each_chunk(features, pairs, prompts=prompts, of=of_sides)


def each_chunk(
    features: Features,
    pairs: Pairs,
    *,
    prompts: bool,
    of: Callable[[Pairs, Tensor, Tensor, Tensor | None], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """`each_pair` for quantities that need to know which pairs they are of: those come first, then their features."""
    flipped = pairs.response_a > pairs.response_b
    directed = pairs.turned(flipped)
    starts = range(0, max(len(pairs), 1), CHUNK)  # one empty chunk where there is no pair
    chunks = [directed.take(np.arange(at, min(at + CHUNK, len(pairs)))) for at in starts]
    parts = [of(chunk, *_rows(features, chunk, prompts)) for chunk in chunks]
    odd, *even = (torch.cat(column, -1) for column in zip(*parts, strict=True))
    return torch.where(torch.from_numpy(flipped), -odd, odd), *even


def pair_features(features: Features, pairs: Pairs, *, prompts: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Features of all pairs in the direction of their rows, and the sign [N] that undoes the direction."""
    flipped = pairs.response_a > pairs.response_b
    sign = torch.from_numpy(np.where(flipped, -1.0, 1.0))
    return *_rows(features, pairs.turned(flipped), prompts), sign


def in_row_order(pairs: Pairs) -> Pairs:
    """The pairs in the direction of their rows, as `pair_features` turns them."""
    return pairs.turned(pairs.response_a > pairs.response_b)


def width(features: Features, pairs: Pairs) -> int:
    """How many numbers a model of these pairs reads of each side: features, and the pairs' own numbers."""
    return features.dim + (0 if pairs.numbers is None else pairs.numbers.shape[1])


def blocks_of(features: Features, pairs: Pairs) -> tuple[FeatureBlock, ...]:
    """What those numbers are: the features' blocks, and one of the pairs' numbers; () where the features do not say."""
    end = width(features, pairs)
    numbers = (FeatureBlock("pair_columns", features.dim, end),) if features.blocks and end > features.dim else ()
    return features.blocks + numbers


def response_features(features: Features, rows: np.ndarray) -> Tensor:
    """Features of responses, float64 [N, p]; NumericsError names a row that is not finite."""
    return _finite(features.responses, rows, "response")


def prompt_features(features: Features, rows: np.ndarray) -> Tensor:
    """Features of prompts, likewise."""
    return _finite(features.prompts, rows, "prompt")


def folds(group: np.ndarray, n: int, *, generator: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    """Rows of (training, held-out) for n folds that keep a prompt whole; fewer folds where prompts are few.

    One prompt alone cannot be divided by prompt: then pairs are.
    """
    names, member = np.unique(group, return_inverse=True)
    if len(names) == 1:
        names, member = np.arange(len(group)), np.arange(len(group))
    n = min(n, len(names))
    fold = (generator.permutation(len(names)) % max(n, 1))[member]
    rows = [torch.from_numpy(np.flatnonzero(fold == k)) for k in range(n)]
    rest = [torch.from_numpy(np.flatnonzero(fold != k)) for k in range(n)]
    return [(train, held) for train, held in zip(rest, rows, strict=True) if len(train) and len(held)]


def _rows(features: Features, pairs: Pairs, prompts: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features of both responses and of prompts.

    A pair's own numbers z are split into z/2 beside the first response and -z/2 beside the second, exactly: whatever
    is linear in the difference of the two then has [phi_a - phi_b, z] and needs to know no more.
    """
    response_a, response_b = (
        response_features(features, pairs.response_a),
        response_features(features, pairs.response_b),
    )
    if pairs.numbers is not None:
        half = torch.from_numpy(pairs.numbers.astype(np.float64)) / 2
        response_a, response_b = torch.cat([response_a, half], 1), torch.cat([response_b, -half], 1)
    return response_a, response_b, prompt_features(features, pairs.prompt) if prompts else None


def _finite(table: np.ndarray, rows: np.ndarray, what: str) -> Tensor:
    if table.ndim != 2:
        raise ShapeError(f"{what} features must be a matrix [rows, features], got shape {table.shape}")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(table)):
        raise ShapeError(f"a pair points at {what} row {rows.max()}, but there are features for {len(table)} rows")
    # into the allocator's memory: products of tensors with another alignment round differently
    chosen = torch.from_numpy(table[rows]).to(torch.float64, copy=True)
    if not torch.isfinite(chosen).all():
        bad, column = torch.nonzero(~torch.isfinite(chosen))[0].tolist()
        raise NumericsError(
            f"{what} row {rows[bad]}: feature {column} is {chosen[bad, column].item()}, expected finite numbers; "
            "embed this text again or drop it"
        )
    return chosen
