"""From stored states of every layer to features: standardise, reduce, scale.

What is fitted is fitted on the answers of the unlabelled pool, never on held-out or benchmark texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bgpm.backbones import FeatureSettings
from bgpm.errors import NumericsError, StateError


class Reduction:
    """A fitted map from states [n, layers, width] and texts to features [n, p], float32.

    Attributes:
        mean, scale: float64 [layers * width], standardisation of the states.
        components: float64 [layers * width, p], what standardised states are multiplied by.
        statistics_mean, statistics_scale: The same for `text_statistics`; empty when they are off.
    """

    def __init__(self, settings: FeatureSettings, arrays: dict[str, np.ndarray]) -> None:
        self.settings = settings
        self.arrays = arrays

    @classmethod
    def fit(cls, settings: FeatureSettings, states: np.ndarray, texts: Sequence[str]) -> Reduction:
        """Fit on the pool's answers.

        Raises:
            NumericsError: If a state is not finite; names the row.
        """
        flat = _flat(settings, states)
        bad = np.flatnonzero(~np.isfinite(flat).all(1))
        if len(bad):
            raise NumericsError(f"embeddings: {len(bad)} texts have states that are not finite, the first is row {bad[0]}")
        mean = flat.mean(0, dtype=np.float64)
        deviation = flat.std(0, dtype=np.float64)
        scale = np.where(deviation > 1e-8 * max(deviation.max(initial=0.0), 1e-300), deviation, np.inf)
        standard = (flat - mean) / scale
        if settings.pca is None:
            components = np.eye(flat.shape[1])
        else:
            from sklearn.decomposition import PCA

            kept = min(settings.pca, *standard.shape)
            pca = PCA(kept, whiten=settings.whiten, random_state=0, svd_solver="auto").fit(standard)
            components = pca.components_.T
            if settings.whiten:
                components = components / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))
        spread = np.sqrt(np.mean((standard @ components) ** 2))
        components = components / max(float(spread), 1e-12)
        counts = text_statistics(texts) if settings.text_statistics else np.zeros((len(flat), 0))
        return cls(
            settings,
            {
                "mean": mean,
                "scale": scale,
                "components": components,
                "statistics_mean": counts.mean(0),
                "statistics_scale": np.maximum(counts.std(0), 1e-12),
            },
        )

    def __call__(self, states: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Features float32 [n, p] of any texts."""
        a = self.arrays
        features = ((_flat(self.settings, states) - a["mean"]) / a["scale"]) @ a["components"]
        if self.settings.text_statistics:
            features = np.hstack([features, (text_statistics(texts) - a["statistics_mean"]) / a["statistics_scale"]])
        return features.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the fitted arrays as ``.npz``."""
        np.savez(path, **self.arrays)

    @classmethod
    def load(cls, settings: FeatureSettings, path: Path) -> Reduction:
        """The inverse of `save`."""
        try:
            with np.load(path) as arrays:
                return cls(settings, dict(arrays))
        except (OSError, ValueError) as error:
            raise StateError(f"{path}: is not a fitted reduction ({error}); run `dvc repro reduce`") from error


def text_statistics(texts: Sequence[str]) -> np.ndarray:
    """Counts that people take for quality, [n, 7]: log words, log characters, lines, list items, code, headings, digits."""
    rows = [
        (
            np.log1p(len(t.split())),
            np.log1p(len(t)),
            np.log1p(t.count("\n")),
            np.log1p(len(re.findall(r"^\s*(?:[-*]|\d+[.)])\s", t, re.M))),
            np.log1p(t.count("`")),
            np.log1p(len(re.findall(r"^#+\s|\*\*", t, re.M))),
            np.log1p(sum(map(str.isdigit, t))),
        )
        for t in texts
    ]
    return np.array(rows, np.float64).reshape(len(texts), 7)


def _flat(settings: FeatureSettings, states: np.ndarray) -> np.ndarray:
    """[n, layers * width] of the layers asked for."""
    chosen = states if settings.layers == "all" else states[:, -1:]
    return np.ascontiguousarray(chosen, np.float64).reshape(len(states), -1)
