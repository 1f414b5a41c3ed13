"""A pool whose scores are linear in the features, with Gaussian weights: every covariance is one dense product."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from bgpm.types import Candidates, Features, Pairs


@dataclass(frozen=True)
class DenseKernel:
    """A covariance that is there as a whole."""

    covariance: torch.Tensor

    def diagonal(self) -> torch.Tensor:
        return self.covariance.diagonal().clone()

    def row(self, j: int) -> torch.Tensor:
        return self.covariance[j].clone()

    def block(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return self.covariance[rows][:, columns]


@dataclass(frozen=True)
class Pool:
    """Candidates of a linear-Gaussian model: s = w . (phi_a - phi_b), w ~ N(mean, covariance)."""

    features: Features
    pairs: Pairs
    keys: np.ndarray
    weight_mean: np.ndarray
    weight_covariance: np.ndarray
    tau: float
    error_rate: float = 0.0

    def candidates(self) -> Candidates:
        phi = self.features.responses.astype(np.float64)
        apart = phi[self.pairs.response_a] - phi[self.pairs.response_b]
        covariance = apart @ self.weight_covariance @ apart.T
        return Candidates(
            self.pairs,
            apart @ self.weight_mean,
            np.diag(covariance).copy(),
            self.tau,
            self.features,
            self.keys,
            lambda: DenseKernel(torch.from_numpy(covariance)),
            self.error_rate,
        )

    def swapped(self, mask: np.ndarray) -> Pool:
        """The same pairs, the answers in the other order where the mask holds."""
        response_a, response_b = self.pairs.response_a, self.pairs.response_b
        turned = Pairs(
            np.where(mask, response_b, response_a), np.where(mask, response_a, response_b), self.pairs.prompt
        )
        return replace(self, pairs=turned)

    def permuted(self, order: np.ndarray) -> Pool:
        """The same pairs in another order of rows."""
        return replace(self, pairs=self.pairs.take(order), keys=self.keys[order])


@pytest.fixture
def make_pool() -> Callable[..., Pool]:
    """A pool of all pairs of the answers to each prompt; ``spread`` is the standard deviation of a typical score."""

    def make(prompts: int = 12, responses: int = 4, dim: int = 6, spread: float = 1.0, seed: int = 0) -> Pool:
        rng = np.random.default_rng(seed)
        duels = list(itertools.combinations(range(responses), 2))
        response_a, response_b, prompt = np.array(
            [(q * responses + a, q * responses + b, q) for q in range(prompts) for a, b in duels], np.int64
        ).T
        root = rng.normal(size=(dim, dim))
        return Pool(
            Features(
                rng.normal(size=(prompts * responses, dim)).astype(np.float32),
                rng.normal(size=(prompts, dim)).astype(np.float32),
            ),
            Pairs(response_a, response_b, prompt),
            np.array(
                [f"prompt {q}: {i} and {j}" for i, j, q in zip(response_a, response_b, prompt, strict=True)], object
            ),
            rng.normal(size=dim),
            spread**2 * root @ root.T / (2 * dim * dim),
            0.7,
        )

    return make
