"""Evaluation: accuracy, likelihood, calibration and benchmark rules, from score moments and labels; what labels cost.

Only settings are here, so that checking parameters stays light.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bgpm.registry import Settings

DOUBT = 3  # wrong labels that a model expects for each that is wrong, when audits begin
AUTO = 2.5  # audits for the square root of a pool's pairs; chosen on labelled pools of 463 to 11,443 pairs


class AuditSettings(Settings):
    """Section ``audit`` of params.yaml: what bounds the share of right labels from below (`bgpm.evaluation.audit`).

    Attributes:
        size: Inferred pairs that are audited after each round, a number or a share of the pool; auto: `AUTO` times the
            square root of the pool's pairs; 0 for no audits and no bound. People and judges are asked for them where
            the goal is the pool.
        begin: Audits begin with the first batch before which the model expects this share of the pool's labels to be
            right; null: `DOUBT` times as many wrong ones as the target has; 0: with the seed labels. A bound that comes
            too early uses up error for nothing.
        target: Share of right labels that is to be certified.
        alpha: Chance that the bound of any round of a campaign is above the truth.
        looks: How many bounds are planned, further rounds included; null for all rounds of params.yaml where labels
            are recorded, and for an open number, which costs more audits, where people or a judge give them.
    """

    size: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    begin: float | None = Field(default=None, ge=0, lt=1)
    target: float = Field(default=0.95, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    looks: int | None = Field(default=None, ge=1)
