"""bgpm: the Bayesian General Preference Model and active learning for preference models.

What users build on is exported here and imported on first use: ``import bgpm`` alone is fast and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgpm.acquisition import Acquisition
    from bgpm.inference import PreferenceModel
    from bgpm.loop.loop import Loop, Round
    from bgpm.loop.pool import Pool
    from bgpm.models import Model
    from bgpm.oracles import Oracle
    from bgpm.posteriors import Fitted, Posterior
    from bgpm.registry import build, kinds
    from bgpm.selection import Selection, StartSettings
    from bgpm.types import Comparisons, Features, Pairs

_HOMES = {
    "Acquisition": "bgpm.acquisition",
    "Comparisons": "bgpm.types",
    "Features": "bgpm.types",
    "Fitted": "bgpm.posteriors",
    "Loop": "bgpm.loop.loop",
    "Model": "bgpm.models",
    "Oracle": "bgpm.oracles",
    "Pairs": "bgpm.types",
    "Pool": "bgpm.loop.pool",
    "Posterior": "bgpm.posteriors",
    "PreferenceModel": "bgpm.inference",
    "Round": "bgpm.loop.loop",
    "Selection": "bgpm.selection",
    "StartSettings": "bgpm.selection",
    "build": "bgpm.registry",
    "kinds": "bgpm.registry",
}

__all__ = [
    "Acquisition",
    "Comparisons",
    "Features",
    "Fitted",
    "Loop",
    "Model",
    "Oracle",
    "Pairs",
    "Pool",
    "Posterior",
    "PreferenceModel",
    "Round",
    "Selection",
    "StartSettings",
    "build",
    "kinds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bgpm' has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
