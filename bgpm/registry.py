"""Components are typed configs found by their ``kind``.

A family (``bgpm.acquisition``, ``bgpm.posteriors``, ...) is a package whose ``__init__`` defines
one base class, a subclass of `Component`. A member is one module, named like its kind, holding
one subclass of that base: the frozen settings *are* the strategy. To add a member, add a file.

Members are imported only when asked for, so that a stage pays for what it uses.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bgpm.errors import ConfigError


class Settings(BaseModel):
    """Frozen, strict, closed settings: an unknown key or a wrong type is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Component(Settings):
    """Base of every family's base class; ``kind`` is the name of the module that defines it."""

    kind: str


C = TypeVar("C", bound=Component)
S = TypeVar("S", bound=Settings)


def kinds(base: type[Component]) -> list[str]:
    """Names of the members of a family, sorted; nothing is imported."""
    package = importlib.import_module(base.__module__)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def member(base: type[C], kind: str, where: str = "kind") -> type[C]:
    """The class of a family that is called ``kind``.

    Args:
        base: The family's base class, defined in the family's package.
        kind: Name of the member, which is the name of its module.
        where: What to call the setting in an error, for example ``acquisition``.

    Raises:
        ConfigError: If there is no such member; the message lists the members.
    """
    known = kinds(base)
    if kind not in known:
        raise ConfigError(f"params.yaml: {where}: unknown kind {kind!r}; choose one of: {', '.join(known)}")
    module = importlib.import_module(f"{base.__module__}.{kind}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__:
            if value.model_fields["kind"].default == kind:
                return value
    raise ConfigError(f"{module.__name__} defines no subclass of {base.__name__} with kind {kind!r}")


def build(base: type[C], kind: str, settings: Mapping[str, Any] | None, where: str = "kind") -> C:
    """A member of a family from its settings, refused with the key when one is wrong."""
    return parse(member(base, kind, where), settings or {}, f"{where}.{kind}")


def parse(model: type[S], settings: Mapping[str, Any], where: str) -> S:
    """Settings as a typed, frozen object.

    Raises:
        ConfigError: Naming every key that is unknown, missing or of the wrong type.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"params.yaml: {where}: expected a mapping of settings, got {settings!r}")
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, error.errors(), where))) from None


def _explain(model: type[BaseModel], problems: Iterable[Any], where: str) -> Iterable[str]:
    for problem in problems:
        key = ".".join([where, *map(str, problem["loc"])]).strip(".")
        if problem["type"] == "extra_forbidden":
            known = ", ".join(_fields_at(model, problem["loc"][:-1])) or "none"
            yield f"params.yaml: {key}: unknown key; known here: {known}"
        else:
            value = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
            yield f"params.yaml: {key}: {problem['msg']}{value}"


def _fields_at(model: Any, path: tuple[Any, ...]) -> list[str]:
    for step in path:
        field = getattr(model, "model_fields", {}).get(step)
        model = field.annotation if field else None
    return [name for name in getattr(model, "model_fields", {}) if name != "kind"]
