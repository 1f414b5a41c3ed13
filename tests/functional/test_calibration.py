"""Calibration measures against hand-made numbers and a loop."""

from __future__ import annotations

import math

import pytest
import torch

from bgpm import functional as F
from bgpm.errors import NumericsError, ShapeError


def t64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_case(n: int = 5000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=generator, dtype=torch.float64)
    return p, torch.bernoulli(p, generator=generator)


def test_values_of_a_case_done_by_hand() -> None:
    p, y = t64(0.8, 0.3, 0.5), t64(1, 1, 0)
    assert F.brier(p, y).item() == pytest.approx((0.04 + 0.49 + 0.25) / 3)
    assert F.negative_log_likelihood(p, y).item() == pytest.approx(-(math.log(0.8) + math.log(0.3) + math.log(0.5)) / 3)
    # confidence .8 right, .7 wrong, .5 undecided (counts one half, so no gap)
    assert F.ece(p, y).item() == pytest.approx((0.2 + 0.7 + 0) / 3)


def test_two_pairs_of_one_bin_are_averaged_before_the_distance_is_taken() -> None:
    p, y = t64(0.76, 0.78), t64(1, 0)
    assert F.ece(p, y, bins=10).item() == pytest.approx(abs(0.5 - 0.77))
    assert F.ece(p, y, bins=50).item() == pytest.approx((0.24 + 0.78) / 2)


def test_the_calibration_error_is_that_of_a_loop_over_bins() -> None:
    p, y = random_case(500)
    for bins in (1, 7, 10):
        expected = 0.0
        for b in range(bins):
            low, high = 0.5 + 0.5 * b / bins, 0.5 + 0.5 * (b + 1) / bins
            inside = [
                (max(q, 1 - q), label if q > 0.5 else 1 - label)
                for q, label in zip(p.tolist(), y.tolist(), strict=True)
                if low <= max(q, 1 - q) < high
            ]
            expected += abs(sum(right - confidence for confidence, right in inside)) / len(p)
        assert F.ece(p, y, bins=bins).item() == pytest.approx(expected, rel=1e-10)


def test_labels_drawn_from_the_probabilities_look_calibrated_and_sharpened_ones_do_not() -> None:
    p, y = random_case(20_000)
    # a bin of n pairs is off by about sqrt(.2 / n), averaged over ten bins of 2,000
    assert F.ece(p, y).item() < 0.015
    sharp = (3 * p.logit()).sigmoid()
    assert F.ece(sharp, y).item() > 0.1
    assert F.negative_log_likelihood(sharp, y) > F.negative_log_likelihood(p, y) + 0.1
    assert F.brier(sharp, y) > F.brier(p, y) + 0.01


def test_measures_do_not_depend_on_which_answer_is_first() -> None:
    p, y = random_case(1000)
    y[:100] = 0.3
    p[100:110] = 0.5
    swap = torch.arange(1000) % 2 == 0
    q, z = torch.where(swap, 1 - p, p), torch.where(swap, 1 - y, y)
    for measure in (F.ece, F.brier, F.negative_log_likelihood):
        assert measure(q, z).item() == pytest.approx(measure(p, y).item(), rel=1e-12)


def test_certainty_that_is_right_costs_nothing_and_has_a_bin() -> None:
    p, y = t64(1.0, 0.0), t64(1, 0)
    assert F.ece(p, y).item() == F.brier(p, y).item() == F.negative_log_likelihood(p, y).item() == 0.0


def test_certainty_that_is_wrong_is_refused_with_the_way_out() -> None:
    with pytest.raises(NumericsError, match=r"probability 1.0 at \[1\] is contradicted by label 0.0.*predictive_logit"):
        F.negative_log_likelihood(t64(0.5, 1.0), t64(1, 0))
    logit = F.predictive_logit(t64(0.0, 50.0), t64(0.0, 0.0))
    assert F.pairwise_loss(logit, t64(1, 0), tau=1.0).mean().item() == pytest.approx((math.log(2) + 50) / 2)


@pytest.mark.parametrize("measure", [F.ece, F.brier, F.negative_log_likelihood])
def test_an_argument_that_cannot_be_right_is_refused_by_name(measure) -> None:
    for p, y, error, says in (
        (t64(0.5, 0.5), t64(1), ShapeError, r"probability \[2\], label \[1\]"),
        (t64(), t64(), ShapeError, "at least one pair"),
        (t64(0.5, math.nan), t64(1, 1), NumericsError, r"probability must be finite, got nan at \[1\]"),
        (t64(0.5, 1.5), t64(1, 1), NumericsError, r"probabilities in \[0, 1\], got 1.5 at \[1\]"),
        (t64(0.5, 0.5), t64(1, -1), NumericsError, r"labels are probabilities in \[0, 1\], got -1.0 at \[1\]"),
        (t64(0.5), t64(math.nan), NumericsError, "label must be finite"),
    ):
        with pytest.raises(error, match=says):
            measure(p, y)
    with pytest.raises(ShapeError, match="at least one bin, got 0"):
        F.ece(t64(0.5), t64(1), bins=0)
