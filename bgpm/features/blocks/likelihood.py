"""How likely the backbone, a decoder, finds a response: `bgpm.backbones.likelihood`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bgpm.features.blocks._standard import Given
from bgpm.types import LIKELIHOODS


class Likelihood(Given):
    """Log-probabilities of a response's tokens, each number standardised over the pool's responses.

    In nats: mean, sum, the first token's, the least, the last one's; mean entropy of the predictions; and the mean less
    that of the response without its prompt.
    """

    kind: Literal["likelihood"] = "likelihood"

    @property
    def given(self) -> Sequence[str]:
        return LIKELIHOODS
