"""Every part of a file damaged in every way: what readers have to refuse, or read as if nothing had happened."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

DEEP = b"[" * 100_000


def values(whole: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """A JSON or YAML value with each part of it, in turn, taken out, or something else in its place."""
    parts = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    for key, part in parts:
        here = (*path, key)
        name = ".".join(map(str, here))
        less = copy.deepcopy(whole)
        del less[key]
        yield f"{name} deleted", less
        for other in (None, "x", -3, 10**12, 0.5, float("nan"), True, [], {}, [[part]]):
            if type(other) is type(part) and (other == part or (isinstance(part, dict | list) and not part)):
                continue
            changed = copy.deepcopy(whole)
            changed[key] = other
            yield f"{name} is {other!r}", changed
        for what, inner in values(part, here):
            changed = copy.deepcopy(whole)
            changed[key] = inner
            yield what, changed


def arrays(whole: Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Named arrays with each of them, in turn, taken out, renamed, or of another shape, type or content."""
    for name, array in whole.items():
        rest = {other: a for other, a in whole.items() if other != name}
        yield f"{name} deleted", rest
        yield f"{name} renamed", {**rest, "stranger": array}
        yield f"{name} without its group", {**rest, name.rpartition(".")[2] + "x": array}
        forms = {
            "empty": array[:0] if array.ndim else np.empty(0, array.dtype),
            "one dimension more": array[None],
            "flat": array.ravel() if array.ndim != 1 else array[:, None],
            "float32": array.astype(np.float32),
            "int32": np.zeros(array.shape, np.int32),
        }
        if array.ndim and array.shape[-1] > 1:
            forms["without its last column"] = array[..., :-1]
            forms["doubled"] = np.concatenate([array, array], -1)
        if array.size and array.dtype.kind == "f":
            for number in (np.nan, np.inf, -1e300):
                changed = array.copy()
                changed.flat[-1] = number
                forms[f"with {number}"] = changed
        for what, form in forms.items():
            if form.shape != array.shape or form.dtype != array.dtype or form.tobytes() != array.tobytes():
                yield f"{name} {what}", {**whole, name: np.ascontiguousarray(form)}


def contents(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file cut off, emptied, doubled, changed, or replaced."""
    yield "empty", b""
    for share in (0.1, 0.5, 0.99):
        yield f"{share} of it", whole[: int(share * len(whole))]
    yield "twice", whole + whole
    yield "nested", DEEP
    yield "not UTF-8", b"\xff\xfe\x00" + whole
    for at in (0, len(whole) // 3, len(whole) - 2):
        yield f"another byte at {at}", whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :]


def refusal(attempt: Callable[[], object], kind: type[Exception]) -> str | None:
    """What an attempt is refused with; None where it goes through. Any other error is one of the test."""
    try:
        attempt()
    except kind as error:
        return str(error)
    return None
