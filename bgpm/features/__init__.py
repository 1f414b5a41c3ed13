"""Features: from stored states and texts to the numbers that a preference model reads.

Features are made of blocks, one beside the other (`bgpm.features.blocks`, one file a kind), and fitted by
`bgpm.features.reduction`. This file imports neither: what embeds texts reads the settings and depends on no code that
makes features.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import Field, model_validator

from bgpm.backbones import PAIR_TEMPLATE, PairTemplate
from bgpm.registry import Settings

log = logging.getLogger("bgpm")

OLD = ("layers", "pca", "whiten", "text_statistics")  # keys of a section without blocks


class PairReading(Settings):
    """How a backbone reads both responses of a pair in one context.

    Attributes:
        template: The text, with {prompt}, {response_a} and {response_b} once each. Another one embeds pairs anew.
        letters: Of a decoder: add the difference of the logits of "A" and "B" as the next token.
        max_pairs: More pairs than this in a pool, benchmark or file are refused: each is read twice.
    """

    template: PairTemplate = PAIR_TEMPLATE
    letters: bool = False
    max_pairs: int = Field(default=20_000, ge=1)


class FeatureSettings(Settings):
    """Section ``features`` of params.yaml: which blocks there are, and the settings of each.

    In params.yaml the settings of a kind stand under its name beside ``blocks``; a kind that is not named there has its
    defaults::

        features:
          blocks: [states, rich]
          states: {pca: 64}

    ``pair_states`` maps pairs and no single texts; see `bgpm.features.blocks.pair_states`.

    A section of the older form (`OLD`) is read as the blocks that give the same features.

    Attributes:
        blocks: Kinds of blocks in the order of their columns; ``states``, if there, is the first.
        settings: Settings of kinds, by kind; of those that are not among the blocks too.
    """

    blocks: list[str] = Field(default=["states", "rich"], min_length=1)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def pair_reading(self) -> PairReading | None:
        """How pairs are read, where ``pair_states`` is among the blocks."""
        if "pair_states" not in self.blocks:
            return None
        own = self.settings.get("pair_states", {})
        return PairReading(**{key: value for key, value in own.items() if key in PairReading.model_fields})

    def reading(self) -> list[list[Any]]:
        """The blocks in their order, each with its settings: what a fitted map depends on."""
        from bgpm.features.blocks import built

        limits = {"max_pairs"}  # another limit on the work is no other map
        return [[kind, block.model_dump(mode="json", exclude=limits)] for kind, block in built(self).items()]

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
        if self.blocks == ["pair_states"]:
            raise ValueError("blocks: pair_states stands beside features of responses; add states or statistics")
        if "states" in self.blocks[1:]:
            raise ValueError(f"blocks: expected states first, got {self.blocks}; put it first")
        return self


def _is_settings(value: Any) -> bool:
    return value is None or isinstance(value, dict)
