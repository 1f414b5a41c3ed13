"""The acquisition function that a goal asks for, by name."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.errors import ConfigError
from bgpm.types import Candidates


class Auto(Acquisition):
    """Stands for another function, which `goal` in params.yaml chooses; its settings are that function's own.

    It has no values itself: `bgpm.config.acquisition_of` says for which one it stands.

    Attributes:
        model: Where the goal is a model that is right on unseen prompts.
        pool: Where it is a labelled pool. The margin removes the error of the pair that is acquired, whatever else the
            model has wrong.
    """

    kind: Literal["auto"] = "auto"
    model: str = "entropy"
    pool: str = "margin"

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        """Refuses: it is not known here which function it stands for."""
        raise ConfigError(
            f"acquisition auto stands for {self.model} (goal: model) or {self.pool} (goal: pool); build that one"
        )
