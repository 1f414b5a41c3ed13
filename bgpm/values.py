"""Text to values: JSON and YAML that anybody may have written or damaged.

Python's readers recurse, and a text of brackets alone ends them with a RecursionError, libyaml's composer with the
process; that of JSON also takes the last of two equal keys without a word. Here both are a `ValueError`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError

from bgpm.errors import StateError

DEEPEST = 100  # levels of nesting; what people and programs write has fewer than ten


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`.

    Raises:
        ValueError: If it is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(text: str | bytes) -> Any:
    """YAML 1.2 as plain values, by the reader that DVC has: ``1e-5`` is a number, ``yes`` a word.

    Raises:
        ValueError: If it is not YAML, is nested more than `DEEPEST` levels, or a mapping has a key twice; says where.
    """
    try:
        _check_depth(text)
        return YAML(typ="safe").load(text)
    except DuplicateKeyError as error:  # its whole text tells how to have no such check
        what, _, _ = error.problem.partition(" with value")
        raise ValueError(f"{what}, at line {error.problem_mark.line + 1}") from None
    except (yaml.YAMLError, YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_json(path: Path, fix: str = "run `dvc repro` or `dvc checkout`") -> dict[str, Any]:
    """A JSON object that an earlier step wrote.

    Raises:
        StateError: If the file is absent, damaged or no object.
    """
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"{path}: cannot be read ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise StateError(f"{path}: expected a JSON object, got {type(value).__name__}; {fix}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _check_depth(text: str | bytes) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels, at line {event.start_mark.line + 1}")
