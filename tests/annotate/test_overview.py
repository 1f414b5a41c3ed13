"""The campaign page's forecast."""

from __future__ import annotations

import numpy as np

from bgpm.annotate.overview import _forecast
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.savings import Trials


def arm(points: int) -> Arm:
    labels = 16 + 32 * np.arange(points)
    curve = (0.8 - 1.2 * labels**-0.6 + 0.002 * np.random.default_rng(0).normal(size=(2, points)))[:, :, None]
    values = {("heldout", "all", "accuracy"): curve[:, :, 0]}
    trials = Trials(labels.astype(float), curve, np.ones(1))
    return Arm("<b>mine</b>", np.arange(2), np.arange(points), labels, (), values, trials, {})


def test_a_young_campaign_says_what_a_forecast_needs_and_an_older_one_gives_it() -> None:
    assert "a forecast needs 4 points of the curve, here are 3" in _forecast(arm(3))
    page = _forecast(arm(8))
    assert "272 labels</th>" in page  # the next round is as large as the last: 240 + 32
    assert page.count("<tr>") == 2 + 4 + 3
    assert "&lt;b&gt;mine&lt;/b&gt;: the next rounds" in page
    assert "<b>mine" not in page
