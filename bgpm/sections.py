"""Sections of params.yaml as typed settings, each read by whoever asks for it.

A stage names what it reads in one class, so that it depends on these sections and on nothing else of the file::

    class Select(Sections):
        selection: Selection
        batch_size: Size

    settings = Select.read()

`bgpm.config` has the whole file in one class; it imports every family, and so may `check` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field

from bgpm.registry import Component, Settings, member, parse
from bgpm.stage import read_params, setting

S = TypeVar("S", bound=Settings)


def section(params: Mapping[str, Any], key: str, kind: type[S]) -> S:
    """One section as its settings.

    Args:
        params: The whole file, see `bgpm.stage.read_params`.
        key: Where it stands, such as ``training`` or ``oracles.human``.
        kind: Its class. Of the base class of a family, the member that ``key`` names, with its settings under the
            plural of ``key``: `Model` at ``model`` is built from ``models.gpm`` where ``model`` is ``gpm``.

    Raises:
        ConfigError: If the section is missing or wrong; names each key.
    """
    value = setting(params, key)
    if issubclass(kind, Component):
        if kind.model_fields["kind"].is_required():  # a family's base
            kind = member(kind, value, key)
            key = f"{key}s.{value}"
            value = setting(params, key)
        value = value or {}
    return parse(kind, value, key)


class RoundSettings(Settings):
    """One acquisition round.

    Attributes:
        k: The model whose scores choose the batch, from 0.
        next: The model that learns from it, k + 1.
    """

    k: int = Field(ge=0)
    next: int = Field(ge=1)


class Sections(Settings):
    """What a stage reads of params.yaml: a field a section or a single setting; an alias is a key with dots in it."""

    @classmethod
    def keys(cls) -> dict[str, Any]:
        """The type of each key that is read."""
        return {field.alias or name: field.annotation for name, field in cls.model_fields.items()}

    @classmethod
    def read(cls, file: Path = Path("params.yaml")) -> Self:
        """These sections of a file.

        Raises:
            ConfigError: If the file cannot be read, or one of these sections is missing or wrong.
        """
        return cls.of(read_params(file))

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """These sections of the whole file, where that is read already; raises as `read`."""
        values = {
            key: section(params, key, kind) if isinstance(kind, type) and issubclass(kind, Settings)
            else setting(params, key)
            for key, kind in cls.keys().items()
        }  # fmt: skip
        return parse(cls, values, "")
