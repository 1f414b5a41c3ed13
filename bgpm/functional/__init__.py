"""The maths: tensors in, tensors out, torch only.

Submodules are imported at the first use of one of their names, so that importing a component's
settings does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "preference_score": "skew",
    "score_moments": "skew",
    "joint_score_moments": "skew",
    "last_layer_score_variance": "skew",
    "pair_kernel": "kernel",
    "bernoulli_entropy": "quadrature",
    "expected_probability": "quadrature",
    "expected_entropy": "quadrature",
    "bald": "quadrature",
    "fisher_weight": "quadrature",
    "greedy_logdet": "information",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
