"""States of the backbone: every layer's or the last one's, standardised, reduced by PCA, on one scale.

A state is what `backbone.pooling` makes of a text's tokens: the mean over the response's own tokens, read in the
context of its prompt, or the last token's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.errors import NumericsError
from bgpm.features.blocks import Arrays, Block, Inputs
from bgpm.features.blocks._standard import check_standardisation, standardisation


class States(Block):
    """Principal directions of standardised states.

    Fitted arrays: mean, scale, float64 [layers * width], standardisation; a constant has the scale inf. components,
    float64 [layers * width, p], what standardised states are multiplied by; without PCA float64 [], one factor for all.

    Attributes:
        layers: ``all`` concatenates every layer, embeddings to last; ``last`` takes the last only.
        pca: Dimensions kept of the standardised states; None keeps them all.
        whiten: Give every kept dimension unit variance; otherwise one scale for all.
    """

    kind: Literal["states"] = "states"
    names: ClassVar[tuple[str, ...]] = ("mean", "scale", "components")
    layers: Literal["all", "last"] = "all"
    pca: int | None = Field(default=64, ge=1)
    whiten: bool = False

    def width(self, states: np.ndarray) -> int:
        """Numbers of a text that count."""
        return states.shape[2] * (states.shape[1] if self.layers == "all" else 1)

    def fit(self, inputs: Inputs) -> Arrays:
        standard = self._flat(inputs.states)
        bad = inputs.rows[~np.isfinite(standard).all(1)]
        refuse(bad)
        mean, scale = standardisation(standard)
        standard -= mean
        standard /= scale
        components = np.ones(()) if self.pca is None else _principal(standard, self.pca, self.whiten)
        spread = np.sqrt(np.mean(_project(standard, components) ** 2))
        return {"mean": mean, "scale": scale, "components": components / max(float(spread), 1e-12)}

    def check(self, arrays: Arrays) -> None:
        check_standardisation(arrays)
        components, width = arrays["components"], len(arrays["mean"])
        shapes = [()] if self.pca is None else [(width, kept) for kept in range(1, self.pca + 1)]
        if components.dtype != np.float64 or components.shape not in shapes:
            wanted = "one number" if self.pca is None else f"[{width}, 1 to {self.pca}]"
            raise ValueError(f"components are {components.dtype} {list(components.shape)}, expected float64, {wanted}")
        if not np.isfinite(components).all():
            raise ValueError("components are not all finite")

    def dim(self, arrays: Arrays) -> int:
        return arrays["components"].shape[-1] if arrays["components"].ndim else len(arrays["mean"])

    def __call__(self, inputs: Inputs, arrays: Arrays) -> np.ndarray:
        flat = self._flat(inputs.states)
        broken = ~np.isfinite(flat).all(1)
        flat[broken] = 0.0
        flat -= arrays["mean"]
        flat /= arrays["scale"]
        features = _project(flat, arrays["components"])
        features[broken] = np.nan
        return features

    def _flat(self, states: np.ndarray) -> np.ndarray:
        """The layers asked for, float64 [n, layers * width], a copy."""
        chosen = states if self.layers == "all" else states[:, -1]
        return np.array(chosen, np.float64, order="C").reshape(len(chosen), self.width(states))


def refuse(bad: np.ndarray) -> None:
    """NumericsError that counts these rows, if there are any."""
    if len(bad):
        raise NumericsError(f"embeddings: {len(bad)} texts have states that are not finite, the first is row {bad[0]}")


def _principal(standard: np.ndarray, kept: int, whiten: bool) -> np.ndarray:
    """Principal directions as columns [layers * width, p]; those in which the fitted rows do not differ are dropped."""
    from sklearn.decomposition import PCA

    if not standard.any():  # every row is the same
        return np.zeros((standard.shape[1], 1))
    pca = PCA(min(kept, *standard.shape), random_state=0).fit(standard)
    spread = np.sqrt(pca.explained_variance_)
    real = spread > 1e-6 * spread[0]
    directions = np.asarray(pca.components_)[real].T
    return directions / spread[real] if whiten else directions


def _project(standard: np.ndarray, components: np.ndarray) -> np.ndarray:
    """[n, p]; one factor instead of components leaves the columns as they are."""
    return standard @ components if components.ndim else standard * components
