"""How many pairs are audited and how often one looks, before the first label."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bgpm.errors import ConfigError
from bgpm.evaluation import AUTO, DOUBT, AuditSettings
from bgpm.evaluation.audit import level, smallest
from bgpm.sizes import Size, pairs_of


def audits_of(audit: AuditSettings, pool: int) -> int:
    """Audits of each look of a pool of so many pairs."""
    if audit.size == "auto":
        return round(AUTO * math.sqrt(pool))
    return pairs_of(audit.size, pool) if audit.size else 0


def begin_of(audit: AuditSettings) -> float:
    """The share of right labels that the model must expect before anything is audited.

    By default `DOUBT` times as many wrong labels as the target allows: margin acquires what a model is least sure of,
    and of the rest it is less sure than it need be.
    """
    return max(0.0, 1 - DOUBT * (1 - audit.target)) if audit.begin is None else audit.begin


def are_audited(audit: AuditSettings, goal: str, *, paid: bool) -> bool:
    """Whether there are audits: where labels cost somebody something, only for a pool that is to be certified."""
    return audit.size != 0 and (goal == "pool" or not paid)


def looks_of(audit: AuditSettings, rounds: int, *, paid: bool) -> int | None:
    """Looks over which the error is spread; None for an open number, which costs more audits at later looks.

    Rounds are planned where labels are recorded. People and judges go on while there is money: their number is open,
    unless ``audit.looks`` plans it.
    """
    return audit.looks if audit.looks is not None or paid else rounds + 1


def acquired_by(start: Size, batch_size: Size, rounds: int, pool: int) -> list[int]:
    """Pairs of a pool of so many that are acquired by the seed set, and by each round."""
    first, batch = pairs_of(start, pool), pairs_of(batch_size, pool)
    return [first + batch * k for k in range(rounds + 1)]


def check_enough(audit: AuditSettings, acquired: Sequence[int], pool: int, *, paid: bool) -> None:
    """Refuse audits that certify the target at no look, even if all of them and every acquired label are right.

    Args:
        acquired: Pairs that are acquired by each round. Where audits begin later than the first, any may be look 1.
        pool: Pairs of the pool.

    Raises:
        ConfigError: With the number of audits that could.
    """
    looks = looks_of(audit, len(acquired) - 1, paid=paid)
    needed = [
        smallest(pool, min(labels, pool), audit.target, level(audit.alpha, look if begin_of(audit) == 0 else 1, looks))
        for look, labels in enumerate(acquired, 1)
    ]
    size = audits_of(audit, pool)
    if size < min(needed):
        last = f" ({needed[-1]} for the last look)" if needed[-1] != min(needed) else ""
        raise ConfigError(
            f"params.yaml: audit.size: {size} audits never certify {100 * audit.target:g}% right labels of "
            f"{pool:,} pairs within these {len(needed)} looks, even without one wrong label among them: set it to "
            f"{min(needed)} or more{last}, or set a lower audit.target"
        )
