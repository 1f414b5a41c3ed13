"""Losses of labelled pairs against their definitions in probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from bgpm import functional as F
from bgpm.errors import ConfigError, NumericsError, ShapeError

SCORE = torch.tensor([-2.0, -0.3, 0.0, 0.4, 1.7, 2.9], dtype=torch.float64)
SOFT = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0, 1.0], dtype=torch.float64)
MARGIN = torch.tensor([0.5, 0.1, 0.0, 1.0, 2.0, 0.0], dtype=torch.float64)
KINDS = [("logistic", {}), ("logistic", {"margin": MARGIN}), ("regression", {"margin": MARGIN}),
         ("rao_kupper", {"tie_width": 0.3})]  # fmt: skip


def test_the_logistic_loss_is_the_cross_entropy_with_soft_labels() -> None:
    p = (SCORE / 0.7).sigmoid()
    expected = -SOFT * p.log() - (1 - SOFT) * (1 - p).log()
    torch.testing.assert_close(F.pairwise_loss(SCORE, SOFT, tau=0.7), expected, rtol=1e-12, atol=0)
    assert F.pairwise_loss(SCORE[2:3], SOFT[2:3], tau=0.1).item() == pytest.approx(math.log(2))


def test_the_logistic_loss_keeps_its_precision_where_the_probability_rounds() -> None:
    score, label = torch.tensor([50.0, -50.0, 800.0], dtype=torch.float64), torch.tensor([1.0, 1.0, 0.0]).double()
    loss = F.pairwise_loss(score, label, tau=1.0)
    assert loss.tolist() == pytest.approx([math.exp(-50), 50.0, 800.0], rel=1e-12, abs=0)


def test_a_margin_has_to_be_led_by_whoever_wins() -> None:
    loss = F.pairwise_loss(SCORE, SOFT.round(), tau=0.7, margin=MARGIN)
    for n, (s, m) in enumerate(zip(SCORE.tolist(), MARGIN.tolist(), strict=True)):
        lead = (s if SOFT[n].round() == 1 else -s) - m
        assert loss[n].item() == pytest.approx(math.log1p(math.exp(-lead / 0.7)), rel=1e-12)


def test_regression_draws_the_score_to_the_signed_margin_and_a_tie_to_zero() -> None:
    label = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    margin = torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64)
    at = torch.tensor([2.0, -2.0, 0.0], dtype=torch.float64)
    assert F.pairwise_loss(at, label, tau=0.5, margin=margin, kind="regression").tolist() == [0, 0, 0]
    off = F.pairwise_loss(at + 0.5, label, tau=0.5, margin=margin, kind="regression")
    assert off.tolist() == [1, 1, 1]


def test_the_three_outcomes_with_ties_have_probabilities_that_sum_to_one() -> None:
    total = torch.zeros_like(SCORE)
    outcomes = {}
    for label in (0.0, 0.5, 1.0):
        loss = F.pairwise_loss(SCORE, torch.full_like(SCORE, label), tau=0.7, kind="rao_kupper", tie_width=0.3)
        outcomes[label] = (-loss).exp()
        total = total + outcomes[label]
    torch.testing.assert_close(total, torch.ones_like(SCORE), rtol=1e-12, atol=0)
    torch.testing.assert_close(outcomes[1.0], ((SCORE - 0.3) / 0.7).sigmoid(), rtol=1e-12, atol=0)
    torch.testing.assert_close(outcomes[0.0], ((-SCORE - 0.3) / 0.7).sigmoid(), rtol=1e-12, atol=0)


def test_a_label_between_a_tie_and_a_win_shares_its_weight() -> None:
    def loss(label: float) -> float:
        return F.pairwise_loss(
            SCORE[:1], torch.tensor([label]).double(), tau=0.7, kind="rao_kupper", tie_width=0.3
        ).item()

    assert loss(0.8) == pytest.approx(0.6 * loss(1.0) + 0.4 * loss(0.5))
    assert loss(0.1) == pytest.approx(0.8 * loss(0.0) + 0.2 * loss(0.5))


def test_a_very_wide_or_narrow_tie_band_does_not_overflow() -> None:
    tie = torch.tensor([0.5], dtype=torch.float64)
    for width in (1e-9, 1e4):
        loss = F.pairwise_loss(SCORE[3:4], tie, tau=0.1, kind="rao_kupper", tie_width=width)
        assert loss.isfinite().all()
    assert loss.item() == pytest.approx(0, abs=1e-9)  # in a band that wide every answer ties


def test_with_errors_the_loss_is_the_cross_entropy_of_the_label_as_it_is_given() -> None:
    q = 0.2 + 0.6 * (SCORE / 0.7).sigmoid()
    expected = -SOFT * q.log() - (1 - SOFT) * (1 - q).log()
    torch.testing.assert_close(F.pairwise_loss(SCORE, SOFT, tau=0.7, error_rate=0.2), expected, rtol=1e-12, atol=0)
    far = F.pairwise_loss(torch.tensor([900.0]).double(), torch.zeros(1).double(), tau=1.0, error_rate=1e-3)
    assert far.item() == pytest.approx(-math.log(1e-3))
    for kind, extra in KINDS:
        plain = F.pairwise_loss(SCORE, SOFT, tau=0.7, kind=kind, **extra)
        assert torch.equal(F.pairwise_loss(SCORE, SOFT, tau=0.7, kind=kind, error_rate=0.0, **extra), plain)


def test_with_errors_ties_keep_their_probability_and_wins_are_mixed() -> None:
    def outcomes(e: float) -> list[torch.Tensor]:
        options = {"tau": 0.7, "kind": "rao_kupper", "tie_width": 0.3, "error_rate": e}
        return [(-F.pairwise_loss(SCORE, torch.full_like(SCORE, y), **options)).exp() for y in (0.0, 0.5, 1.0)]

    (lose, tie, win), (said_lose, said_tie, said_win) = outcomes(0.0), outcomes(0.1)
    torch.testing.assert_close(said_tie, tie, rtol=1e-13, atol=0)
    torch.testing.assert_close(said_win, 0.9 * win + 0.1 * lose, rtol=1e-12, atol=0)
    torch.testing.assert_close(said_lose, 0.9 * lose + 0.1 * win, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{}, {"error_rate": 0.2}, {"kind": "rao_kupper", "tie_width": 0.3}])
def test_the_fisher_curvature_is_the_mean_second_derivative_over_labels_drawn_from_the_model(options) -> None:
    score = SCORE.clone().requires_grad_()
    mean = torch.zeros_like(SCORE)
    for label in (0.0, 0.5, 1.0) if "kind" in options else (0.0, 1.0):
        loss = F.pairwise_loss(score, torch.full_like(SCORE, label), tau=0.7, **options)
        (slope,) = torch.autograd.grad(loss.sum(), score, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), score)
        mean += (-loss.detach()).exp() * bend
    got = F.fisher_curvature(SCORE, tau=0.7, **options)
    torch.testing.assert_close(got, mean, rtol=1e-10, atol=1e-14)
    if "kind" not in options:
        e = options.get("error_rate", 0.0)
        torch.testing.assert_close(got, F.fisher_weight(SCORE, torch.zeros_like(SCORE), 0.7, error_rate=e))


def test_with_errors_the_likelihood_is_not_log_concave_and_its_fisher_curvature_stays_positive() -> None:
    score = torch.tensor([-6.0], dtype=torch.float64, requires_grad=True)
    loss = F.pairwise_loss(score, torch.ones(1).double(), tau=1.0, error_rate=0.1)
    (slope,) = torch.autograd.grad(loss.sum(), score, create_graph=True)
    assert torch.autograd.grad(slope.sum(), score)[0] < -1e-3
    assert F.fisher_curvature(score, tau=1.0, error_rate=0.1) > 0


@pytest.mark.parametrize("far", [-1e5, -900.0, 900.0, 1e5])
def test_with_errors_a_score_however_far_out_has_a_slope_and_a_curvature(far) -> None:
    score = torch.tensor([far], dtype=torch.float64, requires_grad=True)
    loss = F.pairwise_loss(score, torch.ones(1).double(), tau=1.0, error_rate=0.1)
    (slope,) = torch.autograd.grad(loss.sum(), score, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), score)
    assert loss.item() == pytest.approx(-math.log(0.9 if far > 0 else 0.1), rel=1e-8)
    assert slope.item() == bend.item() == 0


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_swapping_the_answers_keeps_the_loss(kind, extra) -> None:
    one = F.pairwise_loss(SCORE, SOFT, tau=0.7, kind=kind, **extra)
    two = F.pairwise_loss(-SCORE, 1 - SOFT, tau=0.7, kind=kind, **extra)
    torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-16)
    hard = SOFT.round()
    assert torch.equal(
        F.pairwise_loss(SCORE, hard, tau=0.7, kind=kind, **extra),
        F.pairwise_loss(-SCORE, 1 - hard, tau=0.7, kind=kind, **extra),
    )


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_score_and_temperature_can_be_learnt(kind, extra) -> None:
    score = SCORE.clone().requires_grad_()
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: F.pairwise_loss(s, SOFT, tau=t, kind=kind, **extra), (score, tau))


def test_a_scale_of_score_margin_and_temperature_together_changes_nothing() -> None:
    for kind, extra in KINDS:
        scaled = {name: 10 * value for name, value in extra.items()}
        torch.testing.assert_close(
            F.pairwise_loss(10 * SCORE, SOFT, tau=7.0, kind=kind, **scaled),
            F.pairwise_loss(SCORE, SOFT, tau=0.7, kind=kind, **extra),
        )


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": "hinge"}, ConfigError, "unknown kind 'hinge'; choose one of: logistic, rao_kupper, regression"),
        ({"kind": "regression"}, ConfigError, "needs a margin"),
        ({"kind": "rao_kupper"}, ConfigError, "tie_width goes with"),
        ({"tie_width": 0.1}, ConfigError, "tie_width goes with"),
        ({"kind": "rao_kupper", "tie_width": 0.1, "margin": MARGIN}, ConfigError, "takes no margin"),
        ({"kind": "rao_kupper", "tie_width": 0.0}, NumericsError, "tie_width must be finite and > 0"),
        ({"tau": -0.1}, NumericsError, "tau must be finite and > 0"),
        ({"label": SOFT - 1}, NumericsError, r"in \[0, 1\], got -1.0 at \[0\]"),
        ({"label": 2 * SOFT}, NumericsError, r"got 1.4 at \[3\]"),
        ({"label": SOFT[:, None]}, ShapeError, r"score \[6\], label \[6, 1\]"),
        ({"margin": MARGIN[:2]}, ShapeError, r"margin \[2\]"),
        ({"margin": -MARGIN}, NumericsError, "margin must be >= 0"),
        ({"error_rate": 0.5}, NumericsError, r"error_rate must be in \[0, 0.5\), got 0.5"),
        ({"kind": "regression", "margin": MARGIN, "error_rate": 0.1}, ConfigError, "knows no wrong winner"),
        ({"score": SCORE / 0}, NumericsError, "score must be finite"),
        ({"label": SOFT * torch.nan}, NumericsError, "label must be finite"),
    ],
)
def test_an_argument_that_cannot_be_right_is_refused_by_name(change, error, says) -> None:
    with pytest.raises(error, match=says):
        F.pairwise_loss(**{"score": SCORE, "label": SOFT, "tau": 0.7, **change})
