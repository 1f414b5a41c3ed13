"""Evidence that counts against a claim on a chance, valid however often somebody looks at it.

A person who answers n questions is right s times. Against the claim "the chance of being right is at most p0, whatever
came before" the mixture likelihood ratio

    E = 1 / (1 - p0)  *  integral over q from p0 to 1 of  q^s (1 - q)^f / (p0^s (1 - p0)^f)  dq,    f = n - s,

is an e-process: a non-negative supermartingale under the claim that starts at 1 (each factor q / p0 or
(1 - q) / (1 - p0) has a mean of at most 1 where the chance is at most p0 and q above it). So the chance that E ever
reaches 1 / alpha is at most alpha (Ville, "Étude critique de la notion de collectif", 1939), whenever and however
often one looks. Robbins, "Statistical methods related to the law of the iterated logarithm", 1970, mixes so; Ramdas,
Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference", 2023, is the survey. A mean of
e-processes is one too, which is how several claims on one person are joined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import betainc, betaln


def log_evidence(hits: int, misses: int, most: float) -> float:
    """ln E against "the chance of a hit is at most ``most``"; 0 where nothing was counted, minus infinity at least.

    Args:
        hits, misses: Counts, >= 0.
        most: In (0, 1).
    """
    if not hits + misses:
        return 0.0
    tail = float(betainc(misses + 1, hits + 1, 1 - most))  # of Beta(hits + 1, misses + 1), above `most`
    if tail == 0.0:
        return -math.inf
    whole = float(betaln(hits + 1, misses + 1))
    return whole + math.log(tail) - math.log1p(-most) - hits * math.log(most) - misses * math.log1p(-most)


def log_ratio(hits: int, misses: int, most: float, chance: float) -> float:
    """ln of the likelihood ratio of one chance against "the chance of a hit is at most ``most``", an e-process too.

    Products of it over different answers of one person are e-processes against all their claims at once. 0 where
    ``chance`` is not above ``most``.
    """
    if chance <= most:
        return 0.0
    return hits * math.log(chance / most) + misses * math.log((1 - chance) / (1 - most))


def log_mean(logs: Sequence[float]) -> float:
    """ln of the mean of numbers that are given as logarithms, at least one of them finite."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs) / len(logs))


def wilson(hits: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a share, 95% by default (Wilson, "Probable inference", 1927); (0, 1) where nothing was counted."""
    if not total:
        return 0.0, 1.0
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
