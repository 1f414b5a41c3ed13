"""Features: from stored states and texts to the numbers that a preference model reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bgpm.registry import Settings


class FeatureSettings(Settings):
    """Section ``features`` of params.yaml: how stored states become features.

    Attributes:
        layers: ``all`` concatenates every layer, embeddings to last; ``last`` takes the last only.
        pca: Dimensions kept of the standardised states; None keeps them all.
        whiten: Give every kept dimension unit variance; otherwise one scale for all.
        text_statistics: Append standardised length and markup counts of the answer.
    """

    layers: Literal["all", "last"] = "all"
    pca: int | None = Field(default=256, ge=1)
    whiten: bool = False
    text_statistics: bool = False
