"""What selectors that spread a batch over the feature space measure distances between."""

from __future__ import annotations

import numpy as np

from bgpm.keys import require_finite
from bgpm.types import Candidates


def differences(candidates: Candidates) -> np.ndarray:
    """phi_a - phi_b of each pair and its own numbers, float32 [N, p + m]; a swap flips the sign.

    It is what a Bradley-Terry score is linear in. Where a prompt's responses are alike it is near zero, so prompts
    are told apart only by how their responses differ.

    Raises:
        NumericsError: If a feature is not finite; names the pair's key.
    """
    phi, pairs = candidates.features.responses, candidates.pairs
    apart = phi[pairs.response_a].astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):  # inf - inf is refused below, with a name
        apart -= phi[pairs.response_b]
    if pairs.numbers is not None:
        apart = np.hstack([apart, pairs.numbers.astype(np.float32)])
    require_finite("feature difference", apart, candidates.keys)
    return apart
