"""Seeded splits that do not depend on the order of a file.

Each is a hash of seed and text, so that adding, removing or shuffling rows moves nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from bgpm.data.dedup import prompt_fingerprint
from bgpm.data.schema import Row, as_text
from bgpm.errors import DataError


def uniform(purpose: str, seed: int, key: str) -> float:
    """A number in [0, 1) that is a function of purpose, seed and key."""
    hashed = hashlib.blake2b(f"{purpose}:{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") / 2**64


def swap(seed: int, key: str) -> bool:
    """Whether the response that sorts second is shown first: even odds, by the pair's key."""
    return uniform("order", seed, key) < 0.5


def split_prompts(rows: Iterable[Row], heldout: float, seed: int) -> dict[str, str]:
    """Split (``pool`` or ``heldout``) by fingerprint of the prompt.

    A prompt whose rows name a split goes there; every other prompt goes by its hash.

    Raises:
        DataError: If a file puts one prompt into both splits, naming both places.
    """
    split: dict[str, str] = {}
    named: dict[str, Row] = {}
    for row in rows:
        name = prompt_fingerprint(row.prompt)
        if row.split:
            before = named.setdefault(name, row)
            if before.split != row.split:
                raise DataError(
                    f"{row.place}: this prompt is in split {row.split!r}, and at {before.place} in {before.split!r}: "
                    f"a held-out prompt must not be in the pool: {as_text(row.prompt)[:80]!r}"
                )
            split[name] = row.split
        elif name not in split:
            split[name] = "heldout" if uniform("split", seed, name) < heldout else "pool"
    return split
