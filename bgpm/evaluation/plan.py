"""How many pairs are audited and how often one looks, before the first label."""

from __future__ import annotations

from collections.abc import Sequence

from bgpm.errors import ConfigError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.audit import level, smallest


def audits_of(audit: AuditSettings, goal: str, *, paid: bool) -> int:
    """Audits of each look: where labels cost somebody something, only for a pool that is to be certified."""
    return audit.size if goal == "pool" or not paid else 0


def looks_of(audit: AuditSettings, rounds: int, *, paid: bool) -> int | None:
    """Looks over which the error is spread; None for an open number, which costs more audits at later looks.

    Rounds are planned where labels are recorded. People and judges go on while there is money: their number is open,
    unless ``audit.looks`` plans it.
    """
    return audit.looks if audit.looks is not None or paid else rounds + 1


def check_enough(audit: AuditSettings, acquired: Sequence[int], pool: int, *, paid: bool) -> None:
    """Refuse audits that certify the target at no look, even if all of them and every acquired label are right.

    Args:
        acquired: Pairs that are acquired by each look, in the order of looks.
        pool: Pairs of the pool.

    Raises:
        ConfigError: With the number of audits that could.
    """
    looks = looks_of(audit, len(acquired) - 1, paid=paid)
    needed = [
        smallest(pool, min(labels, pool), audit.target, level(audit.alpha, look, looks))
        for look, labels in enumerate(acquired, 1)
    ]
    if audit.size < min(needed):
        raise ConfigError(
            f"params.yaml: audit.size: {audit.size} audits never certify {100 * audit.target:g}% right labels of "
            f"{pool:,} pairs within these {len(needed)} looks, even without one wrong label among them: set it to "
            f"{min(needed)} or more (to {needed[-1]} for the last look), or set a lower audit.target"
        )
