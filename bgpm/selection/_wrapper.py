"""Selectors that leave the choice to another one, after a change of their own."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from bgpm.registry import build
from bgpm.selection import Selection
from bgpm.types import Uncertainty


class Wrapper(Selection):
    """Base of the selectors around a selector; the cap per prompt is the outer one's.

    Attributes:
        inner: Kind of the selector that chooses.
        settings: Its settings, where they are not the defaults.
    """

    inner: str = "top_k"
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def needs(self) -> Uncertainty:
        """What the inner selector needs."""
        return self.selector.needs

    @property
    def reads_values(self) -> bool:
        """Whether the inner selector does."""
        return self.selector.reads_values

    @property
    def draws(self) -> bool:
        """Whether the inner selector does."""
        return self.selector.draws

    @property
    def selector(self) -> Selection:
        """The inner selector."""
        return build(Selection, self.inner, self.settings, f"selections.{self.kind}.settings")

    @model_validator(mode="after")
    def _the_inner_selector_can_be_built(self) -> Wrapper:
        if self.selector.max_per_prompt is not None:
            raise ValueError(
                f"settings.max_per_prompt: the cap is that of {self.kind} itself; set max_per_prompt there"
            )
        return self
