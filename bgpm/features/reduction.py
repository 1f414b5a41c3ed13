"""From stored states of every layer to features: standardise, reduce, scale.

What is fitted is fitted on the answers of the unlabelled pool, never on held-out or benchmark texts. Every layer of a
large model's states is more than memory holds: of many texts a sample is fitted on, and chunks are reduced in turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bgpm.errors import NumericsError, StateError
from bgpm.features import FeatureSettings

# In float64 numbers. 200,000 answers in the layers of a small encoder, or 4,000 in those of a decoder of eight billion
# weights: many times the dimensions that PCA keeps.
FITTED = 2**29  # that a map is fitted on, 4 GiB; takes about three times that
CHUNK = 2**26  # that are reduced at a time


class Reduction:
    """A fitted map from states [n, layers, width] and texts to features [n, p], float32.

    Attributes:
        mean, scale: float64 [layers * width], standardisation of the states; a constant has the scale inf.
        components: float64 [layers * width, p], what standardised states are multiplied by; without PCA
            float64 [], one factor for all.
        statistics_mean, statistics_scale: The same for `text_statistics`; empty when they are off.
    """

    def __init__(self, settings: FeatureSettings, arrays: dict[str, np.ndarray]) -> None:
        self.settings = settings
        self.arrays = arrays

    @classmethod
    def fit(
        cls, settings: FeatureSettings, states: np.ndarray, texts: Sequence[str], rows: np.ndarray | None = None
    ) -> Reduction:
        """Fit on the pool's answers.

        Args:
            states: [n, layers, width]; of a memory map nothing is read but what is fitted on.
            texts: The n answers.
            rows: Those to fit on; None for all. Where their states are more than `FITTED` numbers, a sample of them
                is taken, the same each time; `text_statistics` take all.

        Raises:
            NumericsError: If a state is not finite; names the row.
        """
        rows = np.arange(len(states)) if rows is None else rows
        most = max(1, FITTED // _width(settings, states))
        taken = rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        standard = _flat(settings, states, taken)
        _refuse(taken[~np.isfinite(standard).all(1)])
        mean, scale = _standardisation(standard)
        standard -= mean
        standard /= scale
        components = np.ones(()) if settings.pca is None else _principal(standard, settings.pca, settings.whiten)
        spread = np.sqrt(np.mean(_project(standard, components) ** 2))
        components = components / max(float(spread), 1e-12)
        del standard
        spoken = [texts[row] for row in rows]
        counts = text_statistics(spoken) if settings.text_statistics else np.zeros((len(spoken), 0))
        statistics_mean, statistics_scale = _standardisation(counts)
        return cls(
            settings,
            {
                "mean": mean,
                "scale": scale,
                "components": components,
                "statistics_mean": statistics_mean,
                "statistics_scale": statistics_scale,
            },
        )

    @property
    def dim(self) -> int:
        """p, the number of features."""
        kept = self.arrays["components"].shape[-1] if self.arrays["components"].ndim else len(self.arrays["mean"])
        return kept + len(self.arrays["statistics_mean"])

    def __call__(self, states: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Features float32 [n, p] of any texts.

        Raises:
            NumericsError: If a state is not finite; names the row.
        """
        a, rows, bad = self.arrays, max(1, CHUNK // _width(self.settings, states)), []
        out = np.empty((len(states), self.dim), np.float32)
        for start in range(0, len(states), rows):
            chunk = slice(start, start + rows)
            flat = _flat(self.settings, states, chunk)
            broken = np.flatnonzero(~np.isfinite(flat).all(1))
            flat[broken] = 0.0  # all of them are refused at the end
            bad.append(start + broken)
            flat -= a["mean"]
            flat /= a["scale"]
            features = _project(flat, a["components"])
            out[chunk, : features.shape[1]] = features
        _refuse(np.concatenate([np.empty(0, int), *bad]))
        if self.settings.text_statistics:
            counts = (text_statistics(texts) - a["statistics_mean"]) / a["statistics_scale"]
            out[:, self.dim - counts.shape[1] :] = counts
        return out

    def save(self, path: Path) -> None:
        """Write the fitted arrays as safetensors: the same bytes for the same arrays, whatever wrote them."""
        save_file({name: np.asarray(array, order="C") for name, array in self.arrays.items()}, path)

    @classmethod
    def load(cls, settings: FeatureSettings, path: Path) -> Reduction:
        """The inverse of `save`."""
        try:
            arrays = load_file(path)
            if lacking := {"mean", "scale", "components", "statistics_mean", "statistics_scale"} - arrays.keys():
                raise KeyError(f"without {', '.join(sorted(lacking))}")
            # As `fit` holds them: products of the other order round differently.
            arrays["components"] = np.asarray(arrays["components"], order="F")
            return cls(settings, arrays)
        except (OSError, KeyError, SafetensorError) as error:
            raise StateError(f"{path}: is not a fitted reduction ({error}); run `dvc repro features`") from error


# White space in front of a list item, but no line end: a pattern that runs over blank lines is tried from each of them
# to the last, so that its time grows with the square of their number.
ITEM = re.compile(r"^[^\S\n]*(?:[-*]|\d+[.)])\s", re.M)
MARK = re.compile(r"^#+\s|\*\*", re.M)


def text_statistics(texts: Sequence[str]) -> np.ndarray:
    """Counts that people take for quality, [n, 7], each as log(1 + count).

    Words, characters, line ends, list items, backticks, headings with bold marks, digits. Takes time in proportion to
    a text's length, whatever it holds.
    """
    rows = [
        (
            np.log1p(len(t.split())),
            np.log1p(len(t)),
            np.log1p(t.count("\n")),
            np.log1p(len(ITEM.findall(t))),
            np.log1p(t.count("`")),
            np.log1p(len(MARK.findall(t))),
            np.log1p(sum(map(str.isdigit, t))),
        )
        for t in texts
    ]
    return np.array(rows, np.float64).reshape(len(texts), 7)


def _width(settings: FeatureSettings, states: np.ndarray) -> int:
    """Numbers of a text that count."""
    return states.shape[2] * (states.shape[1] if settings.layers == "all" else 1)


def _flat(settings: FeatureSettings, states: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """Of these rows the layers asked for, float64 [n, layers * width], a copy."""
    chosen = states[rows] if settings.layers == "all" else states[rows, -1]
    return np.array(chosen, np.float64, order="C").reshape(len(chosen), _width(settings, states))


def _refuse(bad: np.ndarray) -> None:
    if len(bad):
        raise NumericsError(f"embeddings: {len(bad)} texts have states that are not finite, the first is row {bad[0]}")


def _standardisation(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of columns; inf for a constant one, so that what differs later does not explode."""
    mean, deviation = columns.mean(0), columns.std(0)
    rounding = 1e-8 * np.maximum(deviation.max(initial=0.0), np.abs(mean))
    return mean, np.where(deviation > rounding, deviation, np.inf)


def _principal(standard: np.ndarray, kept: int, whiten: bool) -> np.ndarray:
    """Principal directions as columns [layers * width, p]; those in which the fitted rows do not differ are dropped."""
    from sklearn.decomposition import PCA

    if not standard.any():  # every row is the same
        return np.zeros((standard.shape[1], 1))
    pca = PCA(min(kept, *standard.shape), random_state=0).fit(standard)
    spread = np.sqrt(pca.explained_variance_)
    real = spread > 1e-6 * spread[0]
    directions = pca.components_[real].T
    return directions / spread[real] if whiten else directions


def _project(standard: np.ndarray, components: np.ndarray) -> np.ndarray:
    """[n, p]; one factor instead of components leaves the columns as they are."""
    return standard @ components if components.ndim else standard * components
