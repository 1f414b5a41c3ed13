"""Columns of the pool: numbers that its file has of each response, such as a reward model's scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from bgpm.features.blocks._standard import Given


class PoolColumns(Given):
    """Numbers that `bgpm.data.response_columns` read, each standardised over the pool's responses.

    A response has its own numbers, whatever it is compared with: they change places with A and B. A prompt has none.

    Attributes:
        use: Of ``pool.response_columns``, in the order of the features.
        missing: ``refuse`` a response without a number, or take the pool's ``mean`` for it.
    """

    kind: Literal["columns"] = "columns"
    use: list[str] = Field(default_factory=list)
    missing: Literal["refuse", "mean"] = "refuse"

    @field_validator("use")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("expected each name once; remove the second")
        return names

    @property
    def given(self) -> list[str]:
        return self.use
