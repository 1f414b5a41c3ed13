"""Evaluation: accuracy, likelihood, calibration and benchmark rules, from score moments and labels; what labels cost.

Only settings are here, so that checking parameters stays light.
"""

from __future__ import annotations

from pydantic import Field

from bgpm.registry import Settings


class AuditSettings(Settings):
    """Section ``audit`` of params.yaml: what bounds the share of right labels from below (`bgpm.evaluation.audit`).

    Attributes:
        size: Inferred pairs that are audited after each round; 0 for no audits and no bound. People and judges are
            asked for them where the goal is the pool.
        target: Share of right labels that is to be certified.
        alpha: Chance that the bound of any round of a campaign is above the truth.
        looks: How many bounds are planned, further rounds included; null for all rounds of params.yaml where labels
            are recorded, and for an open number, which costs more audits, where people or a judge give them.
    """

    size: int = Field(default=150, ge=0)
    target: float = Field(default=0.95, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    looks: int | None = Field(default=None, ge=1)
