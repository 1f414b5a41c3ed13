"""Features: from stored states and texts to the numbers that a preference model reads.

Features are made of blocks, one beside the other (`bgpm.features.blocks`, one file a kind), and fitted by
`bgpm.features.reduction`. This file imports neither: what embeds texts reads the settings and depends on no code that
makes features.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import Field, model_validator

from bgpm.registry import Settings

log = logging.getLogger("bgpm")

OLD = ("layers", "pca", "whiten", "text_statistics")  # keys of a section without blocks


class FeatureSettings(Settings):
    """Section ``features`` of params.yaml: which blocks there are, and the settings of each.

    In params.yaml the settings of a kind stand under its name beside ``blocks``; a kind that is not named there has its
    defaults::

        features:
          blocks: [states, rich]
          states: {pca: 64}

    A section of the older form (`OLD`) is read as the blocks that give the same features.

    Attributes:
        blocks: Kinds of blocks in the order of their columns; ``states``, if there, is the first.
        settings: Settings of kinds, by kind; of those that are not among the blocks too.
    """

    blocks: list[str] = Field(default=["states", "statistics"], min_length=1)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_both_forms(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        old = [key for key in OLD if key in given]
        if not old:
            named = {key: value for key, value in given.items() if key not in cls.model_fields and _is_settings(value)}
            rest = {key: value for key, value in given.items() if key not in named}
            return {**rest, "settings": {**given.get("settings", {}), **{k: v or {} for k, v in named.items()}}}
        if others := sorted(given.keys() - set(old)):
            raise ValueError(
                f"{', '.join(old)} are of the older form and {', '.join(others)} of the newer one; write "
                f"{', '.join('states.' + key for key in old if key != 'text_statistics') or 'blocks'}, and statistics "
                "among the blocks in place of text_statistics"
            )
        states = {"pca": 256} | {key: given[key] for key in old if key != "text_statistics"}
        counted = given.get("text_statistics", False)
        if not isinstance(counted, bool):
            raise ValueError(f"text_statistics: expected true or false, got {counted!r}")
        blocks = ["states", "statistics"] if counted else ["states"]
        log.info("features: %s are read as blocks %s with states %s", ", ".join(old), blocks, states)
        return {"blocks": blocks, "settings": {"states": states}}

    @model_validator(mode="after")
    def _states_come_first(self) -> FeatureSettings:
        if len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"blocks: expected each kind once, got {self.blocks}; remove the second")
        if "states" in self.blocks[1:]:
            raise ValueError(f"blocks: expected states first, got {self.blocks}; put it first")
        return self


def _is_settings(value: Any) -> bool:
    return value is None or isinstance(value, dict)
