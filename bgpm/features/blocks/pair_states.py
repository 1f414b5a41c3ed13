"""States of a pair: both responses read by the backbone in one context, as the difference of the two orders.

h(i, j) is the pooled state of a text with the prompt, response i and response j (`bgpm.backbones.pairs`), and
z_ij = (h(i, j) - h(j, i)) / 2, so that z_ij = -z_ji. The map to features keeps that: columns are divided by their root
mean square and never centred, and reduced to principal directions of the differences themselves. PairPM
(https://arxiv.org/abs/2405.07863) reads pairs so; here a score is linear in what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.features import PairReading
from bgpm.features.blocks import Arrays, Block, Inputs
from bgpm.features.blocks.states import refuse


class PairStates(PairReading, Block):
    """Principal directions of states of pairs, and the difference of two letters' logits where a decoder is asked.

    Its `Inputs` are of pairs: states [n, layers, width] are the z_ij, and numbers [n, 1] the letters', likewise
    antisymmetric.

    Fitted arrays: scale, float64 [layers * width], root mean squares; a column of zeros has the scale inf. components,
    float64 [layers * width, p], or [] without PCA, as of `bgpm.features.blocks.states`. letter_scale, float64 [1], or
    [0] without letters.

    Attributes:
        layers: ``all`` concatenates every layer; ``last`` takes the last only.
        pca: Dimensions kept; None keeps them all.
        template, letters, max_pairs: As in `PairReading`.
    """

    kind: Literal["pair_states"] = "pair_states"
    of_pairs: ClassVar[bool] = True
    reads_prompt: ClassVar[bool] = True
    names: ClassVar[tuple[str, ...]] = ("scale", "components", "letter_scale")
    layers: Literal["all", "last"] = "all"
    pca: int | None = Field(default=32, ge=1)

    @property
    def given(self) -> Sequence[str]:
        return ("letters",) if self.letters else ()

    def width(self, states: np.ndarray) -> int:
        """Numbers of a pair that count."""
        return states.shape[2] * (states.shape[1] if self.layers == "all" else 1)

    def fit(self, inputs: Inputs) -> Arrays:
        standard = self._flat(inputs.states)
        refuse(inputs.rows[~np.isfinite(standard).all(1)])
        scale = root_mean_square(standard)
        standard /= scale
        components = np.ones(()) if self.pca is None else _uncentred(standard, self.pca)
        spread = np.sqrt(np.mean(_project(standard, components) ** 2))
        letters = root_mean_square(inputs.numbers[self.kind]) if self.letters else np.empty(0)
        return {"scale": scale, "components": components / max(float(spread), 1e-12), "letter_scale": letters}

    def check(self, arrays: Arrays) -> None:
        scale, components, letters = (arrays[name] for name in self.names)
        for name, array in (("scale", scale), ("letter_scale", letters)):
            if array.dtype != np.float64 or array.ndim != 1 or not (array > 0).all():
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected float64 above 0, one a column")
        if len(letters) != len(self.given) or not len(scale):
            raise ValueError(f"there are {len(letters)} scales of letters, expected {len(self.given)}")
        shapes = [()] if self.pca is None else [(len(scale), kept) for kept in range(1, self.pca + 1)]
        if components.dtype != np.float64 or components.shape not in shapes or not np.isfinite(components).all():
            wanted = "one number" if self.pca is None else f"[{len(scale)}, 1 to {self.pca}]"
            raise ValueError(f"components are {components.dtype} {list(components.shape)}, expected finite, {wanted}")

    def dim(self, arrays: Arrays) -> int:
        kept = arrays["components"].shape[-1] if arrays["components"].ndim else len(arrays["scale"])
        return kept + len(arrays["letter_scale"])

    def __call__(self, inputs: Inputs, arrays: Arrays) -> np.ndarray:
        flat = self._flat(inputs.states)
        refuse(inputs.rows[~np.isfinite(flat).all(1)])
        found = [_project(flat / arrays["scale"], arrays["components"])]
        if self.letters:
            found.append(inputs.numbers[self.kind] / arrays["letter_scale"])
        return np.hstack(found)

    def _flat(self, states: np.ndarray) -> np.ndarray:
        """The layers asked for, float64 [n, layers * width], a copy."""
        chosen = states if self.layers == "all" else states[:, -1]
        return np.array(chosen, np.float64, order="C").reshape(len(chosen), self.width(states))


def root_mean_square(columns: np.ndarray) -> np.ndarray:
    """Of each column; inf for one of zeros, so that what differs later does not explode."""
    found = np.sqrt(np.mean(np.square(columns, dtype=np.float64), 0))
    return np.where(found > 1e-8 * found.max(initial=0.0), found, np.inf)


def _uncentred(standard: np.ndarray, kept: int) -> np.ndarray:
    """Principal directions of the rows and their negatives as columns [layers * width, p]; empty ones are dropped."""
    from sklearn.decomposition import TruncatedSVD

    if not standard.any():  # every pair reads the same in both orders
        return np.zeros((standard.shape[1], 1))
    svd = TruncatedSVD(min(kept, *standard.shape), random_state=0).fit(standard)
    spread = np.asarray(svd.singular_values_)
    return np.asarray(svd.components_)[spread > 1e-6 * spread[0]].T


def _project(standard: np.ndarray, components: np.ndarray) -> np.ndarray:
    return standard @ components if components.ndim else standard * components
