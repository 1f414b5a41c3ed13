"""The maths: tensors in, tensors out, torch only.

Works batched, on any device, in any floating dtype; a promise on precision holds for float64. Submodules are
imported at the first use of one of their names, so that importing a component's settings does not import torch.

| module | what it holds |
|---|---|
| `skew` | the score of a pair and its moments |
| `kernel` | covariance between the scores of pairs under a posterior over weights |
| `quadrature` | what a label is worth: entropies, mutual information, Fisher weight |
| `information` | greedy choice of a batch by its joint information |
| `likelihood` | the loss of labelled pairs |
| `divergence` | Kullback-Leibler divergence of embeddings from their prior |
| `calibration` | whether stated probabilities are kept |
| `drawing` | what pairs drawn with known probabilities say of the whole pool |

It needs nothing else of this package. A batch of eight, from mean embeddings, features and a posterior over weights::

    kernel = pair_kernel(mean_i, mean_j, phi_i, phi_j, KroneckerPosterior(output_cov, input_cov))
    variance, mean = kernel.diagonal(), preference_score(mean_i, mean_j)
    rows, gains = greedy_logdet(variance, kernel.row, fisher_weight(mean, variance), 8)

What cannot be right is refused with an error of `bgpm.errors` that names the argument.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "apply_skew": "skew",
    "preference_score": "skew",
    "score_moments": "skew",
    "joint_score_moments": "skew",
    "last_layer_score_variance": "skew",
    "pair_kernel": "kernel",
    "indexed_pair_kernel": "kernel",
    "FullPosterior": "kernel",
    "KroneckerPosterior": "kernel",
    "LowRankPosterior": "kernel",
    "LinearisedKernel": "kernel",
    "bernoulli_entropy": "quadrature",
    "outcome_divergence": "quadrature",
    "expected_probability": "quadrature",
    "expected_entropy": "quadrature",
    "predictive_entropy": "quadrature",
    "predictive_logit": "quadrature",
    "bald": "quadrature",
    "fisher_weight": "quadrature",
    "greedy_logdet": "information",
    "greedy_conditional": "information",
    "pairwise_loss": "likelihood",
    "fisher_curvature": "likelihood",
    "variance_kl": "divergence",
    "ece": "calibration",
    "expected_calibration_error": "calibration",
    "brier": "calibration",
    "negative_log_likelihood": "calibration",
    "importance_weights": "drawing",
    "mean_from_draws": "drawing",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
