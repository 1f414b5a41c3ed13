"""Reporting: what the learning curves say, with its uncertainty, as tables, figures and one page.

It draws and writes; the statistics are in `bgpm.evaluation` (`savings`, `result`, `arm`). Only the settings are here,
so that checking parameters stays light.
"""

from __future__ import annotations

from pydantic import Field

from bgpm.registry import Settings


class ReportSettings(Settings):
    """Section ``report`` of params.yaml.

    Attributes:
        target: Share of the baseline's gain in held-out accuracy, in (0, 1], that "labels to target" asks for.
        resamples: Bootstrap draws over seeds and held-out prompts behind every interval.
    """

    target: float = Field(default=0.9, gt=0, le=1)
    resamples: int = Field(default=2000, ge=100, le=100_000)
