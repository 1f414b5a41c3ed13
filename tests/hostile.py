"""What a page says with a hostile text in place of each of its texts: a template has to escape all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from markupsafe import Markup

HOSTILE = "<i title='a' class=\"b\">&amp;"


def hostile(value: Any, texts: list[str]) -> Any:
    """The same data with a text that none other has in place of each text that is no chart.

    Args:
        texts: Gets what was put in.
    """
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        texts.append(f"{HOSTILE}{len(texts)};")
        return texts[-1]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: hostile(getattr(value, f.name), texts) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, dict):
        return {name: hostile(part, texts) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [hostile(part, texts) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
