"""Order-independent pair keys, for seeded ties and error messages."""

from __future__ import annotations

import hashlib

import numpy as np

from bgpm.errors import ArgumentError, NumericsError, ShapeError


def uniform_by_key(keys: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One uniform number a key: a function of the key and of 16 bytes drawn from the generator.

    Because the number belongs to the key and not to the row, sorting by it gives an order that neither the
    order of rows nor the order of a pair's responses can change.

    Args:
        keys: str [N], different for different pairs; equal keys get equal numbers.
        generator: Advanced by the same amount whatever N is.

    Returns:
        float64 [N] in the open interval (0, 1), with 52 random bits.
    """
    salted = hashlib.blake2b(key=generator.bytes(16), digest_size=8)

    def number(key: object) -> int:
        digest = salted.copy()
        digest.update(str(key).encode())
        return int.from_bytes(digest.digest(), "little")

    drawn = np.fromiter(map(number, keys), np.uint64, len(keys))
    return ((drawn >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def require_finite(what: str, values: np.ndarray, keys: np.ndarray) -> None:
    """Refuse a vector or a table with one row a pair that holds NaN or infinity.

    Args:
        what: What the numbers are, for the message.
        values: float [N] or [N, p].
        keys: str [N].

    Raises:
        NumericsError: With the key of the first bad pair, its number, and how many pairs are bad.
    """
    bad = ~np.isfinite(values)
    rows = np.flatnonzero(bad if bad.ndim == 1 else bad.any(axis=1))
    if len(rows):
        first = rows[0]
        found = np.atleast_1d(values[first][bad[first]])[0]
        raise NumericsError(
            f"{what} of pair {keys[first]!r}: expected a finite number, got {found} "
            f"({len(rows)} of {len(values)} pairs are like this); look at the features and the model they come from"
        )


def require_moments(mean: np.ndarray, variance: np.ndarray, keys: np.ndarray) -> None:
    """Refuse moments of scores that no posterior has.

    Raises:
        NumericsError: If one is not finite or a variance is negative; names the pair's key.
    """
    require_finite("posterior mean", mean, keys)
    require_finite("posterior variance", variance, keys)
    negative = np.flatnonzero(variance < 0)
    if len(negative):
        raise NumericsError(
            f"posterior variance of pair {keys[negative[0]]!r}: expected >= 0, got {variance[negative[0]]}; "
            "pass variances, not their logarithms"
        )


def require_numbers(what: str, values: np.ndarray, count: int) -> None:
    """Refuse what is not an array of one real number a pair.

    Raises:
        ArgumentError: If it is not a numpy array of numbers.
        ShapeError: If there is not one a pair.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        found = f"{values.dtype} array" if isinstance(values, np.ndarray) else type(values).__name__
        raise ArgumentError(f"{what}: expected a numpy array of numbers, got {found}; use np.asarray(..., np.float64)")
    if values.shape != (count,):
        raise ShapeError(f"{what}: expected shape ({count},), got {values.shape}; pass one a pair")


def require_generator(what: str, generator: np.random.Generator) -> None:
    """Refuse a seed or a generator of another library in place of numpy's generator.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(generator, np.random.Generator):
        raise ArgumentError(
            f"{what}: expected generator to be a numpy Generator, got {type(generator).__name__}; "
            "use np.random.default_rng(seed)"
        )
