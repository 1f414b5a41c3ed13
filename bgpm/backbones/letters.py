"""A decoder asked for the better of two responses by its logits of two letters, from settings to log odds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import is_causal, load_backbone, open_source
from bgpm.backbones.pairs import PairText, letter_odds
from bgpm.errors import BgpmError, ConfigError


def require_letters(settings: BackboneSettings, asks: str) -> None:
    """Refuse a backbone that has no word on pairs, before its weights are read.

    Args:
        settings: Where it comes from.
        asks: The section of params.yaml that names it, for messages.

    Raises:
        ConfigError: If it is no decoder, or as `open_source`.
        WeightsError: As `open_source`.
    """
    try:
        source = open_source(settings)
    except BgpmError as error:
        why = str(error).removeprefix("params.yaml: ").replace("backbone.", f"{asks}.")
        raise type(error)(f"params.yaml: {why}") from error
    if not is_causal(source):
        raise ConfigError(
            f"params.yaml: {asks}.path: {settings.path!r} is an encoder, which does not say what comes next; set it to "
            "a decoder"
        )


def odds(settings: BackboneSettings, pairs: Sequence[PairText], template: str, asks: str) -> np.ndarray:
    """`bgpm.backbones.pairs.letter_odds` of a decoder that is loaded for it.

    Raises:
        ConfigError: As `letter_odds`, `require_letters` and `load_backbone`.
        WeightsError: As `load_backbone`.
    """
    require_letters(settings, asks)
    return letter_odds(load_backbone(settings, letters=True, asks=asks), pairs, template, asks=asks, title="letters")
