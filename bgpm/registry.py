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
from reprlib import Repr
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from bgpm.errors import ConfigError


class Settings(BaseModel):
    """Frozen, strict, closed settings: an unknown key or a wrong type is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Component(Settings):
    """Base of every family's base class; ``kind`` is the name of the module that defines it."""

    kind: str


_SHORT = Repr()  # YAML's aliases can make a value that fills the memory when it is written out
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlist = _SHORT.maxdict = 20
_SHORT.maxlevel = 3

C = TypeVar("C", bound=Component)
S = TypeVar("S", bound=Settings)


def kinds(base: type[Component]) -> list[str]:
    """Names of the members of a family, sorted; nothing is imported."""
    package = importlib.import_module(base.__module__)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def member(base: type[C], kind: str, where: str = "kind", file: str = "params.yaml") -> type[C]:
    """The class of a family that is called ``kind``.

    Args:
        base: The family's base class, defined in the family's package.
        kind: Name of the member, which is the name of its module.
        where: What to call the setting in an error, for example ``acquisition``.
        file: The file it stands in.

    Raises:
        ConfigError: If there is no such member; the message lists the members.
    """
    known = kinds(base)
    if kind not in known:
        raise ConfigError(f"{file}: {where}: unknown kind {kind!r}; choose one of: {', '.join(known)}")
    module = importlib.import_module(f"{base.__module__}.{kind}")
    for value in vars(module).values():
        if not (isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__):
            continue
        if value.model_fields["kind"].default == kind:
            return value
    raise ConfigError(f"{module.__name__} defines no subclass of {base.__name__} with kind {kind!r}")


def build(
    base: type[C], kind: str, settings: Mapping[str, Any] | None, where: str = "kind", file: str = "params.yaml"
) -> C:
    """A member of a family from its settings, refused with the key when one is wrong."""
    return parse(member(base, kind, where, file), settings or {}, f"{where}.{kind}", file)


def parse(model: type[S], settings: Mapping[str, Any], where: str, file: str = "params.yaml") -> S:
    """Settings as a typed, frozen object; ``where`` and ``file`` say in a message what was wrong.

    Raises:
        ConfigError: Naming every key that is unknown, missing or of the wrong type.
    """
    if not isinstance(settings, Mapping):
        place = ": ".join(part for part in (file, where) if part)
        raise ConfigError(f"{place}: expected a mapping of settings, got {_SHORT.repr(settings)[:1000]}")
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, error.errors(), where, file))) from None


def _explain(model: type[BaseModel], problems: Iterable[Any], where: str, file: str) -> Iterable[str]:
    for problem in problems:
        key = ".".join([where, *map(str, problem["loc"])]).strip(".")
        if problem["type"] == "extra_forbidden":
            known = ", ".join(_fields_at(model, problem["loc"][:-1])) or "none"
            yield f"{file}: {key}: unknown key; known here: {known}"
        else:
            value = "" if problem["type"] == "missing" else f", got {_SHORT.repr(problem['input'])[:1000]}"
            yield f"{file}: {key}: {problem['msg']}{value}"


def _fields_at(annotation: Any, path: tuple[Any, ...]) -> list[str]:
    for step in path:
        fields = getattr(annotation, "model_fields", None)
        if fields is None:  # a list's items or a dict's values
            annotation = next(reversed(get_args(annotation)), None)
        else:
            annotation = fields[step].annotation if step in fields else None
    return [name for name in getattr(annotation, "model_fields", {}) if name != "kind"]
