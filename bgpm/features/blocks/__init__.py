"""Blocks of features: neighbouring columns that come from one place, each fitted for itself.

One file a kind, found by its name (see `bgpm.registry`). A block is fitted on responses of the unlabelled pool and is
then a fixed map: what it says of a response depends on that response and its prompt alone, never on a label, on the
other response of a pair or on what else is in the table. Shapes: n texts, p columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from bgpm.errors import ConfigError
from bgpm.features import FeatureSettings
from bgpm.registry import Component, build, kinds

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """Inputs of a block, for n texts.

    Attributes:
        states: [n, layers, width], the backbone's.
        texts: The texts.
        prompts: Of a response the text of its prompt; of a prompt, which answers nothing, "".
        rows: int64 [n], how messages number the texts.
        numbers: float64 [n, columns] by the kind of the block that reads them, NaN where one is missing; {} for
            prompts, which have none.
    """

    states: np.ndarray
    texts: Sequence[str]
    prompts: Sequence[str]
    rows: np.ndarray
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)


class Block(Component):
    """Base of every kind of block.

    Class attributes:
        reads_prompt: Whether features of a response depend on its prompt's text.
        of_pairs: Whether it maps pairs, whose features turn their sign with the pair, and not single texts.
        names: Of the arrays that `fit` gives.
    """

    reads_prompt: ClassVar[bool] = False
    of_pairs: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]]

    @property
    def given(self) -> Sequence[str]:
        """Names of the numbers in `Inputs` that it reads."""
        return ()

    def fit(self, inputs: Inputs) -> Arrays:
        """Fit the map on responses of the unlabelled pool.

        Raises:
            NumericsError: If a state is not finite; names the row.
        """
        raise NotImplementedError

    def check(self, arrays: Arrays) -> None:
        """Refuse arrays that `fit` cannot have given.

        Raises:
            ValueError: Saying what is wrong with which.
        """
        raise NotImplementedError

    def dim(self, arrays: Arrays) -> int:
        """p, the number of columns."""
        raise NotImplementedError

    def __call__(self, inputs: Inputs, arrays: Arrays) -> np.ndarray:
        """Features [n, p]; a row of NaN where a text's states are not finite."""
        raise NotImplementedError


def built(settings: FeatureSettings, file: str = "params.yaml") -> dict[str, Block]:
    """The blocks by kind, in the order of their columns.

    Raises:
        ConfigError: For an unknown kind, or a setting that a kind does not have; of kinds that are not used too.
    """
    known = kinds(Block)
    for kind in [*settings.blocks, *settings.settings]:
        if kind not in known:
            raise ConfigError(f"{file}: features: unknown kind {kind!r}; choose blocks among: {', '.join(known)}")
    made = {
        kind: build(Block, kind, settings.settings.get(kind), "features", file)
        for kind in dict.fromkeys([*settings.blocks, *settings.settings])
    }
    return {kind: made[kind] for kind in settings.blocks}
