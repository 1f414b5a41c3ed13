"""A pool's certificate: how many of its labels are right at least, after each round, and what is missing to a target.

The bounds are those of `bgpm.evaluation.audit`. A look is a round's model beside the audits of that round.

Legend: S seeds, T rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.audit import audits_missing, level, right_share
from bgpm.evaluation.plan import begin_of

AUDIT_COUNTS = ("given", "inferred", "audited", "wrong", "pool")


@dataclass(frozen=True)
class Certificate:
    """What audits say of one arm.

    Attributes:
        bound: Lower bound of the share of right labels, float64 [S, T]; with probability 1 - alpha all bounds of a
            seed hold together.
        audited, wrong: Audits behind each bound and those in which the model was wrong, int64 [S, T].
        spent: Labels and audits asked for until then, int64 [S, T].
        target: Share that is to be certified.
        alpha: Chance that any bound of a seed is above the truth.
        missing: Of each seed, how many more audits would certify the target after the next round if it were like the
            last: at least, and at today's error rate; None where no number would do.
        begin: Share of right labels that the model must expect before anything is audited.
        expected: What it expects, float64 [S, T]; None where it was not written down.
    """

    bound: np.ndarray
    audited: np.ndarray
    wrong: np.ndarray
    spent: np.ndarray
    target: float
    alpha: float
    missing: tuple[tuple[int | None, int | None], ...]
    begin: float
    expected: np.ndarray | None

    @property
    def reached(self) -> np.ndarray:
        """Whether the target is certified at a round or was before, bool [S, T]: who stops there is right to."""
        return np.maximum.accumulate(self.bound >= self.target, axis=1)

    @property
    def labels_certified(self) -> float:
        """Labels until the target is certified, audits counted, mean over seeds; inf where some seed is not there."""
        reached = self.bound >= self.target
        spent = np.take_along_axis(self.spent, reached.argmax(1)[:, None], 1)[:, 0]
        return float(np.where(reached.any(1), spent, np.inf).mean())


def look_numbers(audited: np.ndarray) -> np.ndarray:
    """Number of each round's look, from 1, [..., T]: rounds before the first audits use up no error."""
    return np.maximum(np.cumsum(np.maximum.accumulate(audited > 0, axis=-1), axis=-1), 1)


def bounds(counts: Sequence[np.ndarray], alpha: float, looks: int | None = None) -> np.ndarray:
    """Lower bounds of the share of right labels, [..., T].

    Args:
        counts: By `AUDIT_COUNTS`, int64 [..., T] each.
        alpha, looks: Of `bgpm.evaluation.audit.level`.
    """
    given, inferred, audited, wrong, pool = counts
    numbers = look_numbers(audited)
    levels = np.array([level(alpha, number, looks) for number in numbers.ravel().tolist()]).reshape(numbers.shape)
    return right_share(given, inferred, audited, wrong, pool, levels)


def certificate(arm: Arm, audit: AuditSettings, looks: int | None) -> Certificate | None:
    """What the audits of an arm say, also before the first of them; None where nothing was measured.

    Args:
        looks: Of `bgpm.evaluation.plan.looks_of`.
    """
    counts = [arm.curve("pool", "all", f"audit_{name}") for name in AUDIT_COUNTS]
    known = [c.astype(np.int64) for c in counts if c is not None]
    if len(known) < len(counts):
        return None
    audited, wrong = known[2:4]
    bound = bounds(known, audit.alpha, looks)
    looked = np.maximum.accumulate(audited > 0, axis=1).sum(1).tolist()
    coming = [level(audit.alpha, number + 1 if looks is None else 1, looks) for number in looked]  # planned: all alike
    ends = (np.stack(known)[:, :, -1]).T.tolist()
    missing = tuple(
        audits_missing(*end, target=audit.target, alpha=alpha) for end, alpha in zip(ends, coming, strict=True)
    )
    spent, expected = arm.labels + audited, arm.curve("pool", "all", "expected")
    begin = begin_of(audit)
    return Certificate(bound, audited, wrong, spent, audit.target, audit.alpha, missing, begin, expected)
