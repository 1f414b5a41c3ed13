"""The pairs that model 0 is trained on, chosen before there is a model or a label."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bgpm import functional as F
from bgpm.errors import ConfigError, NumericsError
from bgpm.registry import Settings
from bgpm.sizes import Size, pairs_of
from bgpm.types import Features, Pairs


class StartSettings(Settings):
    """How the seed set is chosen.

    Attributes:
        labels: How many pairs, or which share of the pool.
        design: ``random``, a uniform draw, or ``doptimal``, the pairs whose labels would determine a linear score
            best: greedy D-optimal design on feature differences. The latter has no randomness but for ties, so every
            seed starts from the same pairs; it prefers large differences, outliers included.
    """

    labels: Size = 16
    design: Literal["random", "doptimal"] = "random"

    def number(self, pool: int) -> int:
        """How many pairs that is, of a pool of so many; ConfigError if it has fewer."""
        found = pairs_of(self.labels, pool)
        if found > pool:
            raise ConfigError(
                f"params.yaml: start.labels: expected at most {pool}, the pairs in the pool, got {found}; "
                "ask for fewer or enlarge the pool"
            )
        return found


def seed_set(
    settings: StartSettings, features: Features, pairs: Pairs, *, generator: np.random.Generator
) -> np.ndarray:
    """Rows of the pairs to label first, int64 [labels], all different; never looks at a label.

    Raises:
        ConfigError: If there are fewer pairs than labels wanted.
        NumericsError: If a feature is not finite (``doptimal`` only); names the response's row.
    """
    k = settings.number(len(pairs))
    if settings.design == "random":
        return generator.choice(len(pairs), k, replace=False)
    return _doptimal(features, pairs, k, generator)


def _doptimal(features: Features, pairs: Pairs, k: int, generator: np.random.Generator) -> np.ndarray:
    """Greedy D-optimal design for a Bradley-Terry score w . [phi_a - phi_b, z], w Gaussian around 0, z the pair's
    own numbers.

    At w = 0 a label's Fisher information is 1/4 whatever the pair. The prior's scale is such that the average score
    has variance 1.
    """
    import torch

    bad = np.flatnonzero(~np.isfinite(features.responses).all(axis=1))
    if len(bad):
        raise NumericsError(f"features of response row {bad[0]}: expected finite numbers ({len(bad)} rows are not)")
    phi = torch.tensor(features.responses, dtype=torch.float64)
    apart = phi[torch.tensor(pairs.response_a)] - phi[torch.tensor(pairs.response_b)]
    if pairs.numbers is not None:
        apart = torch.cat([apart, torch.tensor(pairs.numbers)], 1)
    variance = apart.square().sum(1)
    scale = variance.mean() if variance.any() else 1.0
    rows, _ = F.greedy_logdet(
        variance / scale,
        lambda j: apart @ apart[j] / scale,
        torch.full_like(variance, 0.25),
        k,
        torch.Generator().manual_seed(int(generator.integers(2**63))),
        block=lambda rows, columns: apart[rows] @ apart[columns].T / scale,
    )
    return rows.numpy()
