"""Posteriors: how sure the model is of each score.

One file a posterior, found by its name (see `bgpm.registry`). `Posterior.fit` turns a model, features
and labels into a `Fitted`, which gives moments, samples and a pair kernel, and is saved as safetensors
plus JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bgpm.errors import StateError
from bgpm.fitting import Fitted
from bgpm.registry import Component, member
from bgpm.types import Comparisons, Features, Uncertainty

if TYPE_CHECKING:
    from bgpm.models import Model


class Posterior(Component):
    """Base of every posterior's settings.

    Class attributes:
        gives: What its fitted models know of scores.
    """

    gives: ClassVar[Uncertainty] = "kernel"

    def check(self, model: Model) -> None:
        """Refuse a model that this posterior cannot be put on, before any work; `fit` does so too.

        Raises:
            ConfigError: Naming a choice that makes sense.
        """

    def check_trained(self) -> None:
        """Refuse a backbone that is trained (training.mode other than frozen), before any work.

        Raises:
            ConfigError: Naming the setting that belongs to a frozen one.
        """

    def fit(self, model: Model, features: Features, data: Comparisons, *, seed: int) -> Fitted:
        """Train from scratch on all labels; deterministic given ``seed``."""
        raise NotImplementedError

    @classmethod
    def fitted_class(cls) -> type[Fitted]:
        """The `Fitted` that this posterior makes, for loading."""
        raise NotImplementedError


def load(stem: Path) -> Fitted:
    """A fitted model from ``stem.safetensors`` and ``stem.json``.

    Raises:
        StateError: If a file is missing or damaged.
    """
    path = stem.with_name(stem.name + ".json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        kind = description["posterior"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise StateError(f"{path}: cannot be read as a model's description ({error!r}); train it again") from error
    return member(Posterior, kind, str(path)).fitted_class().restore(stem, description)
