"""Other values in the text of a YAML file, with every other character as it was.

What DVC's ``-S`` writes is the whole file anew: ``null`` becomes nothing, and lines are broken elsewhere. That is no
harm in a run, but a file that people are to edit keeps its layout here.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from bgpm.errors import ConfigError
from bgpm.values import parse_yaml


def with_settings(text: str, settings: Mapping[str, str], file: str = "params.yaml") -> str:
    """The text with other values.

    Args:
        text: A mapping in YAML.
        settings: By dotted key the new value, in YAML, on one line. A comment behind the old value keeps its column.
        file: Its name, for messages.

    Raises:
        ConfigError: If the file has no such key, or a value is not YAML on one line.
    """
    root = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    edits = []
    for key, value in settings.items():
        try:
            found = parse_yaml(f"[{value}]")
        except ValueError:
            found = None
        if "\n" in value or not isinstance(found, list) or len(found) != 1:
            raise ConfigError(f"{file}: {key}: expected a value in YAML, on one line, got {value!r}")
        name, node = _found(root, key, file)
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:  # DVC begins its lines below the key's
            value = " " * max(0, name.start_mark.column + 2 - node.start_mark.column) + value
        edits.append((node.start_mark.index, _end(node), value))
    for start, end, value in sorted(edits, reverse=True):
        text = text[:start] + value + _behind(text[end:], len(value) - (end - start))
    return text


def _found(root: yaml.Node, key: str, file: str) -> tuple[yaml.Node, yaml.Node]:
    """The last step of a dotted key, and its value."""
    name = node = root
    for depth, step in enumerate(steps := key.split(".")):
        known = {one.value: (one, value) for one, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        if step not in known:
            place = ".".join(steps[:depth])
            names = ", ".join(known) or f"no further keys: set {place} as a whole"
            raise ConfigError(f"{file}: {key}: there is no key {step!r} in {place or 'it'}, which has {names}")
        name, node = known[step]
    return name, node


def _end(node: yaml.Node) -> int:
    """Where a value ends; the end mark of one in block style lies where the next begins, behind comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def _behind(rest: str, longer: int) -> str:
    """What follows a value that is so much longer than the old one."""
    comment = rest.lstrip(" ")
    if not comment.startswith("#"):
        return rest
    return " " * max(1, len(rest) - len(comment) - longer) + comment
