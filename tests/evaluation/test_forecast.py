"""Forecasts of learning curves: coverage on simulated curves, and the posterior against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bgpm.errors import ShapeError
from bgpm.evaluation import forecast as module
from bgpm.evaluation.forecast import Forecast, backtest, forecast

LABELS = 16.0 + 32 * np.arange(11)
SHAPES = {
    "power law": 0.75 - 0.68 * LABELS**-0.5,
    "exponential": 0.75 - 0.17 * np.exp(-(LABELS - 16) / 90),
    "flat": np.full(len(LABELS), 0.6),
}


def simulate(shape: str, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Curves of several seeds: offset of a seed, and noise that is correlated from round to round, [S, T]."""
    noise = rng.normal(0, 0.012, (seeds, len(LABELS)))
    for t in range(1, len(LABELS)):
        noise[:, t] = 0.6 * noise[:, t - 1] + 0.8 * noise[:, t]
    return SHAPES[shape] + noise + rng.normal(0, 0.02, (seeds, 1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seeds", [1, 5])
def test_intervals_hold_what_they_promise_on_simulated_curves(shape: str, seeds: int) -> None:
    inside, width = [], []
    for run in range(30):
        rng = np.random.default_rng([run, seeds])
        curves = simulate(shape, seeds, rng)
        made = forecast(LABELS[:7], curves[:, :7], LABELS[7:], rng=rng, draws=1000)
        came = curves[:, 7:].mean(0)
        inside.append((made.low <= came) & (came <= made.high))
        width.append(made.high - made.low)
        assert (np.diff([made.low, made.median, made.high], axis=0) >= 0).all()
    # 120 forecasts, four to a curve and alike: about 50 independent ones, whose share has a standard error of 3%.
    assert np.mean(inside) > 0.95 - 3 * 0.03
    # Informative too: narrower than the 0.17 that the curves climb, and wider further ahead.
    assert np.mean(width) < (0.12 if seeds == 1 else 0.08)
    assert np.mean(width, axis=0)[-1] > np.mean(width, axis=0)[0]


def test_more_seeds_give_narrower_intervals() -> None:
    widths = {2: [], 20: []}
    for run in range(10):
        curves = simulate("power law", 20, np.random.default_rng(run))
        for seeds, found in widths.items():
            made = forecast(LABELS[:7], curves[:seeds, :7], LABELS[7:], rng=np.random.default_rng(0), draws=1000)
            found.append(float((made.high - made.low).mean()))
    assert np.mean(widths[2]) > 1.5 * np.mean(widths[20])


def test_the_posterior_is_the_one_that_brute_force_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    c, rho = 0.5, 0.7
    monkeypatch.setattr(module, "EXPONENTS", (c,))
    monkeypatch.setattr(module, "CORRELATIONS", (rho,))
    monkeypatch.setattr(module, "FACTORS", (1.0,))
    n, y, ahead = LABELS[:6], np.array([0.9, 0.93, 0.925, 0.95, 0.93, 0.96]), LABELS[6:8]  # near 1: the cut counts
    made = forecast(n, y[None], ahead, rng=np.random.default_rng(0), draws=40_000)

    x = (n[0] ** -c - np.concatenate([n, ahead]) ** -c) / (n[0] ** -c - n[-1] ** -c)
    end = n[0] ** -c / (n[0] ** -c - n[-1] ** -c)
    start, gain, log_sd = np.meshgrid(
        np.linspace(0.8, 1.0, 161), np.linspace(0, 0.3, 161), np.linspace(-6.5, -1.5, 61), indexing="ij"
    )
    start, gain, sd = (v[start + gain * end <= 1] for v in (start, gain, np.exp(log_sd)))
    steps = np.arange(8)
    full = rho ** np.abs(steps[:, None] - steps)
    inverse = np.linalg.inv(full[:6, :6])
    residual = y - start[:, None] - gain[:, None] * x[:6]
    square = np.einsum("gt,tu,gu->g", residual, inverse, residual)
    log_posterior = -6 * np.log(sd) - square / (2 * sd**2)  # times the prior 1 / sd on a grid of log sd: constant
    weight = np.exp(log_posterior - log_posterior.max())
    weight /= weight.sum()
    assert float(made.weight @ made.gain) == pytest.approx(float(weight @ gain), abs=0.002)
    assert float(made.weight @ made.start) == pytest.approx(float(weight @ start), abs=0.002)
    carry = full[6:, :6] @ inverse
    mean = start[:, None] + gain[:, None] * x[6:] + residual @ carry.T
    spread = np.sqrt(np.diag(full[6:, 6:] - carry @ full[:6, 6:]))
    rng = np.random.default_rng(1)
    rows = rng.choice(len(weight), 100_000, p=weight)
    future = mean[rows] + sd[rows, None] * spread * rng.standard_normal((100_000, 2))
    for q, found in ((0.5, made.median), (0.025, made.low), (0.975, made.high)):
        np.testing.assert_allclose(found, np.quantile(future, q, axis=0), atol=0.004)
    assert (start + gain * end <= 1).all()
    assert (made.start + made.gain * end <= 1 + 1e-9).all()
    assert (made.gain >= 0).all()


def test_what_a_seed_is_better_at_throughout_changes_no_forecast() -> None:
    curves = simulate("power law", 4, np.random.default_rng(3))[:, :6]
    moved = curves + np.array([[0.05], [-0.05], [0.1], [-0.1]])
    one, other = (forecast(LABELS[:6], c, LABELS[6:], rng=np.random.default_rng(0)) for c in (curves, moved))
    np.testing.assert_allclose(one.high, other.high, atol=1e-9)
    np.testing.assert_allclose(one.low, other.low, atol=1e-9)


def test_a_curve_without_noise_is_carried_on_exactly() -> None:
    made = forecast(LABELS[:7], SHAPES["flat"][None, :7], LABELS[7:], rng=np.random.default_rng(0))
    np.testing.assert_allclose(made.median, 0.6, atol=1e-3)
    assert (made.high - made.low < 0.01).all()
    falling = 0.7 - 0.01 * np.arange(7)
    made = forecast(LABELS[:7], falling[None], LABELS[7:], rng=np.random.default_rng(0))
    assert (made.median <= 0.7).all()  # a power law cannot fall: the forecast is flat, and wide
    assert (made.high - made.low > 0.01).all()


def single(start: float, gain: float, exponent: float) -> Forecast:
    one = np.array([1.0])
    return Forecast(one, one, one, one, LABELS[:5], start * one, gain * one, exponent * one, one)


def test_labels_to_a_target_lie_on_the_curve() -> None:
    made = single(0.6, 0.1, 0.5)
    n = LABELS[4] + made.labels_to(0.73).labels
    x = (16**-0.5 - n**-0.5) / (16**-0.5 - LABELS[4] ** -0.5)
    assert 0.6 + 0.1 * x == pytest.approx(0.73, abs=1e-12)
    assert made.labels_to(0.65).labels == 0
    assert made.labels_to(0.7).probability == 1
    beyond = made.labels_to(0.9)  # the curve ends at 0.6 + 0.1 / (1 - 1/3) = 0.75
    assert (beyond.labels, beyond.low, beyond.probability) == (np.inf, np.inf, 0)
    assert made.labels_to(0.74, horizon=2).labels == np.inf
    assert single(0.6, 0.0, 0.5).labels_to(0.61).labels == np.inf


def test_a_target_that_some_draws_do_not_reach_has_no_upper_end() -> None:
    one = single(0.6, 0.1, 0.5)
    two = replace(
        one,
        start=np.array([0.6, 0.6]),
        gain=np.array([0.1, 0.02]),
        exponent=np.array([0.5, 0.5]),
        weight=np.array([0.7, 0.3]),
    )
    found = two.labels_to(0.72)
    assert found.labels == one.labels_to(0.72).labels
    assert (found.high, found.probability) == (np.inf, 0.7)


def test_the_backtest_makes_every_forecast_that_could_have_been_made() -> None:
    curves = simulate("power law", 5, np.random.default_rng(5))
    found = backtest(LABELS, curves, rng=np.random.default_rng(0))
    assert found is not None
    assert len(found.ahead) == sum(len(LABELS) - t for t in range(4, len(LABELS)))
    first = forecast(LABELS[:4], curves[:, :4], LABELS[4:], rng=np.random.default_rng(0), draws=1000)
    np.testing.assert_array_equal(found.high[:7], first.high)
    np.testing.assert_allclose(found.measured[:7], curves[:, 4:].mean(0))
    jump = curves + np.where(np.arange(len(LABELS)) >= 8, 0.3, 0.0)
    broken = backtest(LABELS, jump, rng=np.random.default_rng(0))
    assert broken is not None
    assert broken.inside.mean() < found.inside.mean()
    assert backtest(LABELS[:4], curves[:, :4], rng=np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("labels", "accuracy", "at", "message"),
    [
        (LABELS[:3], np.zeros((2, 3)), LABELS[3:], "at least 4 points"),
        (LABELS[:5], np.zeros((2, 4)), LABELS[5:], "labels \\[T\\] and accuracy \\[S, T\\]"),
        (LABELS[:5][::-1], np.zeros((2, 5)), LABELS[5:], "must be positive and increase"),
        (LABELS[:5], np.zeros((2, 5)), LABELS[4:], "beyond 144"),
        (LABELS[:5], np.full((2, 5), np.nan), LABELS[5:], "must be measured"),
    ],
)
def test_a_curve_that_cannot_be_carried_on_is_refused(
    labels: np.ndarray, accuracy: np.ndarray, at: np.ndarray, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        forecast(labels, accuracy, at, rng=np.random.default_rng(0))
