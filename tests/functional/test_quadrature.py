"""What a label is worth, against adaptive quadrature, thirty-digit arithmetic and Monte Carlo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit, log_expit

from bgpm import functional as F
from bgpm.errors import ArgumentError, NumericsError, ShapeError

NAMES = [
    "expected_probability", "predictive_logit", "predictive_entropy", "expected_entropy", "bald", "fisher_weight",
]  # fmt: skip
EVEN = NAMES[2:]


def t64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def entropy(x: float) -> float:
    return -expit(x) * log_expit(x) - expit(-x) * log_expit(-x)


def adaptive(mu: float, sd: float) -> dict[str, float]:
    """Every quantity by adaptive quadrature over z, with break points where the sigmoid and the Gaussian turn."""

    def expectation(f: Callable[[float], float]) -> float:
        turns = sorted({float(np.clip(z, -9.5, 9.5)) for z in (-mu / sd, -sd, sd, (3 - mu) / sd, (-3 - mu) / sd)})
        edges = [-10.0, *turns, 10.0]
        density = 1 / math.sqrt(2 * math.pi)
        pieces = (
            quad(lambda z: f(mu + sd * z) * math.exp(-z * z / 2) * density, a, b, epsabs=0, epsrel=1e-11, limit=200)[0]
            for a, b in itertools.pairwise(edges)
            if b > a
        )
        return math.fsum(pieces)

    p, q = expectation(expit), expectation(lambda x: expit(-x))
    small = min(p, q)
    h_mean = -small * math.log(small) - (1 - small) * math.log1p(-small)
    h = expectation(entropy)
    return {
        "expected_probability": p,
        "predictive_logit": math.log(p) - math.log(q),
        "predictive_entropy": h_mean,
        "expected_entropy": h,
        "bald": h_mean - h,
        "fisher_weight": expectation(lambda x: expit(x) * expit(-x)),
    }


MEANS = [-14.0, -6.0, -1.0, 0.0, 0.3, 2.5, 9.0, 14.0]
DEVIATIONS = [1e-3, 0.02, 0.2, 0.25, 0.26, 0.6, 1.0, 1.2499, 1.2501, 2.0, 4.5, 10.0, 20.0]
GRID = [(mu, sd) for mu in MEANS for sd in DEVIATIONS]


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    rows = [adaptive(mu, sd) for mu, sd in GRID]
    return {name: np.array([row[name] for row in rows]) for name in NAMES}


NOISY = [name for name in NAMES if name != "predictive_logit"]


def with_errors(mu: float, sd: float, e: float) -> dict[str, float]:
    """Every quantity of a label that is wrong with probability e, by the trapezoid rule in forty digits."""
    with mpmath.workdps(40):
        m, s, e = mpmath.mpf(mu), mpmath.mpf(sd), mpmath.mpf(e)
        step = mpmath.mpf(1) / max(16, int(8 * sd))
        nodes = [step * k for k in range(int(-13 / step), int(13 / step) + 1)]
        weights = [mpmath.exp(-z * z / 2) for z in nodes]
        total = mpmath.fsum(weights)
        p = [1 / (1 + mpmath.exp(-m - s * z)) for z in nodes]
        q = [e * (1 - x) + (1 - e) * x for x in p]

        def h(y):
            return -y * mpmath.log(y) - (1 - y) * mpmath.log(1 - y)

        mean = mpmath.fdot(weights, q) / total
        noise = mpmath.fdot(weights, [h(y) for y in q]) / total
        slopes = [((1 - 2 * e) * x * (1 - x)) ** 2 / (y * (1 - y)) for x, y in zip(p, q, strict=True)]
        return {
            "expected_probability": float(mean),
            "predictive_entropy": float(h(mean)),
            "expected_entropy": float(noise),
            "bald": float(h(mean) - noise),
            "fisher_weight": float(mpmath.fdot(weights, slopes) / total),
        }


@pytest.mark.slow
@pytest.mark.parametrize("e", [1e-6, 0.2, 0.49])
def test_with_errors_values_match_forty_digits_to_the_promised_precision(e: float) -> None:
    for mu, sd in itertools.product((-14.0, 0.3, 9.0), (1e-3, 0.2, 1.2499, 1.2501, 4.5, 20.0)):
        for name, truth in with_errors(mu, sd, e).items():
            value = getattr(F, name)(t64(0.1 * mu), t64(0.01 * sd**2), 0.1, error_rate=e).item()
            value *= 0.01 if name == "fisher_weight" else 1
            assert value == pytest.approx(truth, abs=5e-9), (name, mu, sd)  # promised: 1e-6
            assert truth < 1e-12 or value == pytest.approx(truth, rel=1e-6), (name, mu, sd)  # promised: 1e-3


@pytest.mark.parametrize("name", NOISY)
def test_errors_of_zero_change_no_bit_and_errors_of_one_half_leave_nothing_to_learn(name: str) -> None:
    mean = torch.linspace(-20, 20, 41, dtype=torch.float64)
    for var in (0.0, 1e-10, 0.3, 5.0, 400.0):
        v = torch.full_like(mean, var)
        clean = getattr(F, name)(mean, v, 0.7)
        assert torch.equal(getattr(F, name)(mean, v, 0.7, error_rate=0.0), clean)
        near = getattr(F, name)(mean, v, 0.7, error_rate=1e-14)
        torch.testing.assert_close(near, clean, rtol=1e-6, atol=2e-12)
        most = getattr(F, name)(mean, v, 0.7, error_rate=0.5 - 1e-9)
        limit = {"expected_probability": 0.5, "bald": 0.0, "fisher_weight": 0.0}.get(name, math.log(2))
        torch.testing.assert_close(most, torch.full_like(mean, limit), rtol=0, atol=1e-8)


@given(mean=st.floats(-1e6, 1e6), sd=st.floats(0, 1e6), e=st.floats(1e-9, 0.499))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_with_errors_values_stay_finite_bounded_and_symmetric_everywhere(mean, sd, e) -> None:
    m, v = t64(mean, -mean), t64(sd**2, sd**2)
    value = {name: getattr(F, name)(m, v, error_rate=e) for name in NOISY}
    for name in ("predictive_entropy", "expected_entropy", "bald", "fisher_weight"):
        assert value[name].isfinite().all(), name
        assert value[name][0] == value[name][1], name
        assert (value[name] >= 0).all(), name
    assert (value["expected_probability"] >= e * (1 - 1e-12)).all()
    assert value["expected_probability"].sum().item() == pytest.approx(1)
    # a wrong label now and then never teaches more, and leaves no less noise
    assert (value["bald"] <= F.bald(m, v) + 1e-8).all()
    assert (value["fisher_weight"] <= F.fisher_weight(m, v) + 1e-8).all()
    assert (value["expected_entropy"] >= F.expected_entropy(m, v) - 1e-8).all()


def test_with_errors_a_little_uncertainty_is_worth_half_the_fisher_information_times_the_variance() -> None:
    mean, var = t64(-14.0, -2.0, 0.0, 3.0), t64(1e-9, 1e-12, 1e-40, 2e-8)
    half = 0.5 * F.fisher_weight(mean, torch.zeros_like(var), error_rate=0.1) * var
    torch.testing.assert_close(F.bald(mean, var, error_rate=0.1), half, rtol=2e-7, atol=0)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("bad", [-0.01, 0.5, math.nan])
def test_an_error_rate_that_is_none_is_refused(name: str, bad: float) -> None:
    with pytest.raises(NumericsError, match=rf"{name}: error_rate must be in \[0, 0.5\), got {bad}"):
        getattr(F, name)(t64(0.0), t64(1.0), error_rate=bad)


def test_the_divergence_of_two_coins_keeps_its_precision_where_they_hardly_differ() -> None:
    for p, shift in ((0.3, 1e-9), (0.999, -1e-5), (1e-12, 3e-13), (0.5, 0.5), (0.2, -0.2), (0.0, 0.0)):
        with mpmath.workdps(50):
            q, r = mpmath.mpf(p) + mpmath.mpf(shift), mpmath.mpf(p)
            terms = [a * mpmath.log(a / b) for a, b in ((q, r), (1 - q, 1 - r)) if a > 0]
            truth = float(mpmath.fsum(terms))
        found = F.outcome_divergence(t64(p), t64(shift)) + F.outcome_divergence(t64(1 - p), t64(-shift))
        assert found.item() == pytest.approx(truth, rel=1e-9, abs=0), (p, shift)


@pytest.mark.parametrize(
    ("p", "shift", "error", "says"),
    [
        (t64(0.2, 0.5), t64(0.1, -0.9), NumericsError, r"expected p \+ shift in \[0, 1\], got -0\.4 at \[1\]"),
        (t64(0.7), t64(0.4), NumericsError, r"p \+ shift in \[0, 1\], got 1\.1"),
        (t64(1e-20), t64(-1.1e-20), NumericsError, r"p \+ shift in \[0, 1\], got -1"),
        (t64(1.5), t64(-0.9), NumericsError, r"expected p in \[0, 1\], got 1\.5"),
        (t64(-0.1), t64(0.1), NumericsError, r"expected p in \[0, 1\], got -0\.1"),
        (t64(0.0), t64(0.1), NumericsError, "expected shift 0 where p is 0, got 0.1"),
        (t64(math.nan), t64(0.0), NumericsError, "p must be finite, got nan"),
        (t64(0.5), t64(math.nan), NumericsError, "shift must be finite, got nan"),
        (t64(0.5, 0.5), t64(0.1), ShapeError, r"p \[2\], shift \[1\]"),
        (0.5, t64(0.1), ArgumentError, "expected p of type Tensor, got float 0.5"),
    ],
)
def test_a_shift_that_no_two_probabilities_have_between_them_is_refused(p, shift, error, says) -> None:
    with pytest.raises(error, match=says):
        F.outcome_divergence(p, shift)


@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_values_match_adaptive_quadrature_to_the_promised_precision(name: str, tau: float, reference) -> None:
    mean, sd = (torch.tensor(column, dtype=torch.float64) * tau for column in zip(*GRID, strict=True))
    value = getattr(F, name)(mean, sd.square(), tau).numpy() * (tau**2 if name == "fisher_weight" else 1)
    error = np.abs(value - reference[name])
    assert error.max() < 5e-9  # promised: 1e-6
    relevant = np.abs(reference[name]) > 1e-12
    assert (error[relevant] / np.abs(reference[name][relevant])).max() < 1e-6  # promised: 1e-3


@pytest.mark.parametrize(
    ("mu", "sd"), [(14.0, 2e-3), (-14.0, 0.05), (0.0, 1e-3), (14.0, 1.3), (-14.0, 1.2), (10.0, 5.0), (-14.0, 20.0)]
)
def test_bald_keeps_its_relative_precision_in_the_tails(mu: float, sd: float) -> None:
    with mpmath.workdps(40):
        m, s = mpmath.mpf(mu), mpmath.mpf(sd)
        step = mpmath.mpf(1) / max(16, int(8 * sd))
        nodes = [step * k for k in range(int(-13 / step), int(13 / step) + 1)]
        weights = [mpmath.exp(-z * z / 2) for z in nodes]

        def h(p, q):
            return -p * mpmath.log(p) - q * mpmath.log(q)

        p, q = ([1 / (1 + mpmath.exp(sign * (m + s * z))) for z in nodes] for sign in (-1, 1))
        total = mpmath.fsum(weights)
        mean = mpmath.fdot(weights, p) / total
        truth = float(h(mean, 1 - mean) - mpmath.fdot(weights, [h(*pair) for pair in zip(p, q, strict=True)]) / total)
    assert truth > 1e-12
    assert F.bald(t64(mu), t64(sd**2)).item() == pytest.approx(truth, rel=1e-7)


@pytest.mark.parametrize(("mu", "sd"), [(-60.0, 10.0), (-100.0, 14.0), (-200.0, 28.0), (-600.0, 80.0)])
def test_a_small_probability_of_a_wide_score_keeps_its_relative_precision(mu: float, sd: float) -> None:
    expected = adaptive(mu, sd)
    for name in NAMES:
        value = getattr(F, name)(t64(mu), t64(sd**2)).item()
        assert value == pytest.approx(expected[name], rel=1e-7, abs=0), name


def test_values_match_monte_carlo() -> None:
    mean, var, tau, count = t64(-3.0, 0.2, 1.0), t64(4.0, 0.09, 30.0), 0.7, 400_000
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (mean + var.sqrt() * noise) / tau
    p = torch.sigmoid(x)
    for samples, value in (
        (p, F.expected_probability(mean, var, tau)),
        (F.bernoulli_entropy(x), F.expected_entropy(mean, var, tau)),
        (p * (1 - p) / tau**2, F.fisher_weight(mean, var, tau)),
    ):
        assert ((samples.mean(0) - value).abs() < 4.5 * samples.std(0) / count**0.5).all()
    # log(p / E p) has the same mean as the information, averaged over labels
    q = p.mean(0)
    information = p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))
    assert ((information.mean(0) - F.bald(mean, var, tau)).abs() < 4.5 * information.std(0) / count**0.5).all()


def test_entropy_of_a_logit_is_the_entropy_of_its_probability() -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = -p * p.log() - (1 - p) * (1 - p).log()
    torch.testing.assert_close(F.bernoulli_entropy(p.logit()), expected, rtol=1e-13, atol=0)
    assert F.bernoulli_entropy(t64(0.0)).item() == math.log(2)
    # where the probability rounds to 1: (1 + x) e^-x
    assert F.bernoulli_entropy(t64(50.0, -50.0)).tolist() == pytest.approx([51 * math.exp(-50)] * 2, rel=1e-12, abs=0)
    assert F.bernoulli_entropy(torch.tensor([60.0, -90.0], dtype=torch.bfloat16)).isfinite().all()


def test_without_uncertainty_values_are_those_at_the_mean_and_a_label_teaches_nothing() -> None:
    x = t64(-800.0, -14.0, -0.3, 0.0, 2.0, 14.0, 800.0)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(F.expected_probability(x, zero), x.sigmoid(), rtol=1e-15, atol=0)
    torch.testing.assert_close(F.predictive_logit(x, zero), x, rtol=1e-15, atol=0)
    torch.testing.assert_close(F.expected_entropy(x, zero), F.bernoulli_entropy(x), rtol=1e-14, atol=0)
    torch.testing.assert_close(F.predictive_entropy(x, zero), F.bernoulli_entropy(x), rtol=1e-14, atol=0)
    torch.testing.assert_close(F.fisher_weight(x, zero), x.sigmoid() * (-x).sigmoid(), rtol=1e-14, atol=0)
    assert torch.equal(F.bald(x, zero), zero)


def test_for_small_uncertainty_bald_is_half_the_fisher_information_times_the_variance() -> None:
    mean, var = t64(-14.0, -2.0, 0.0, 3.0), t64(1e-9, 1e-12, 1e-40, 2e-8)
    half = 0.5 * mean.sigmoid() * (-mean).sigmoid() * var
    torch.testing.assert_close(F.bald(mean, var), half, rtol=2e-7, atol=0)


@given(mean=st.floats(-1e6, 1e6), sd=st.floats(0, 1e6), tau=st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_far_outside_the_promised_range_values_stay_finite_bounded_and_symmetric(mean, sd, tau) -> None:
    m, v = t64(mean, -mean), t64(sd**2, sd**2)
    value = {name: getattr(F, name)(m, v, tau) for name in NAMES}
    for name, x in value.items():
        assert x.isfinite().all(), name
    for name in EVEN:
        assert value[name][0] == value[name][1], name
        assert (value[name] >= 0).all(), name
    assert value["expected_probability"][0] == 1 - value["expected_probability"][1] or mean <= 0
    assert value["predictive_logit"][0] == -value["predictive_logit"][1]
    for name in ("predictive_entropy", "expected_entropy", "bald"):
        assert (value[name] <= math.log(2) + 1e-9).all(), name
    assert (value["bald"] <= value["predictive_entropy"] + 1e-9).all()
    assert (value["fisher_weight"] <= 0.25 / tau**2 * (1 + 1e-9)).all()
    assert np.sign(value["predictive_logit"][0].item()) == np.sign(mean) or abs(mean) < 1e-12 * max(tau, sd)


def test_the_predictive_logit_goes_on_where_the_probability_has_underflowed() -> None:
    # E e^x = e^(mu + sd^2 / 2) where the sigmoid is an exponential; the Gaussian tail where it is a step
    assert F.predictive_logit(t64(-900.0, 900.0), t64(4.0, 4.0)).tolist() == pytest.approx([-898.0, 898.0], rel=1e-12)
    step = F.predictive_logit(t64(-40_000.0), t64(1e6)).item()
    assert step == pytest.approx(torch.special.log_ndtr(t64(-40.0)).item(), abs=1.0)
    near = F.predictive_logit(t64(-90.0, -90.0), t64(1.5624, 1.5626))  # either side of the two rules
    assert near[0].item() == pytest.approx(near[1].item(), abs=1e-3)


@pytest.mark.parametrize("sd", [1.26, 2.0, 4.0, 6.0])
def test_the_predictive_logit_of_a_pair_that_is_far_beyond_doubt_is_right_too(sd: float) -> None:
    means = np.arange(-75.0, -14.0, 4.0)
    found = F.predictive_logit(t64(*means), torch.full((len(means),), sd**2, dtype=torch.float64))
    for mu, logit in zip(means.tolist(), found.tolist(), strict=True):
        x = np.linspace(mu - 12 * sd, mu + sd**2 + 12 * sd, 100_001)
        log_p = np.logaddexp.reduce(log_expit(x) - ((x - mu) / sd) ** 2 / 2) + math.log((x[1] - x[0]) / sd)
        assert logit == pytest.approx(log_p - math.log(2 * math.pi) / 2, abs=0.01)


def test_moments_are_those_of_the_score_before_division_by_the_temperature() -> None:
    mean, var = t64(-3.0, 0.2, 1.0), t64(4.0, 0.09, 30.0)
    for name in NAMES:
        scaled = getattr(F, name)(0.01 * mean, 1e-4 * var, 0.01)
        plain = getattr(F, name)(mean, var)
        torch.testing.assert_close(scaled, plain * (1e4 if name == "fisher_weight" else 1), rtol=1e-12, atol=1e-15)
        tensor = getattr(F, name)(mean, var, torch.tensor(0.7))
        torch.testing.assert_close(tensor, getattr(F, name)(mean, var, 0.7), rtol=1e-6, atol=1e-7)


def test_the_temperature_defaults_to_one() -> None:
    for name in NAMES:
        function = getattr(F, name)
        assert torch.equal(function(t64(0.4), t64(2.0)), function(t64(0.4), t64(2.0), tau=1.0))


@pytest.mark.parametrize("name", NAMES)
def test_neither_batch_nor_order_nor_precision_changes_a_value(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = 5 * torch.randn(2000, generator=generator, dtype=torch.float64)
    var = torch.exp(3 * torch.randn(2000, generator=generator, dtype=torch.float64))
    function = getattr(F, name)
    whole = function(mean, var)
    order = torch.randperm(2000, generator=generator)
    assert torch.equal(function(mean[order], var[order]), whole[order])
    for row in range(20):
        assert function(mean[row], var[row]) == whole[row]
    assert torch.equal(function(mean.view(4, 5, 100), var.view(4, 5, 100)), whole.view(4, 5, 100))
    single = function(mean.float(), var.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), function(mean.float().double(), var.float().double()), rtol=1e-7, atol=0
    )


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from bgpm.functional import quadrature

    mean, var = torch.linspace(-9, 9, 500, dtype=torch.float64), torch.linspace(0, 30, 500, dtype=torch.float64)
    whole = F.bald(mean, var)
    monkeypatch.setattr(quadrature, "_CHUNK", 1000)
    torch.testing.assert_close(F.bald(mean, var), whole, rtol=1e-12, atol=1e-16)


def test_gradients_follow_the_heat_equation() -> None:
    # d/dmean E f = E f' and d/dvar E f = E f'' / 2, also at a mean of 0 and in both rules
    mean = t64(-3.0, 0.0, 0.0, 2.0).requires_grad_()
    var = t64(0.04, 0.5, 6.0, 40.0).requires_grad_()
    slope = torch.autograd.grad(F.expected_probability(mean, var).sum(), mean)[0]
    torch.testing.assert_close(slope, F.fisher_weight(mean, var).detach(), rtol=1e-6, atol=0)
    curvature = torch.autograd.grad(F.expected_probability(mean, var).sum(), var)[0]
    turn = torch.autograd.grad(F.fisher_weight(mean, var).sum(), mean)[0]
    torch.testing.assert_close(curvature, 0.5 * turn, rtol=1e-5, atol=1e-9)
    logit = torch.autograd.grad(F.predictive_logit(mean, var).sum(), mean)[0]
    p = F.expected_probability(mean, var).detach()
    torch.testing.assert_close(logit, slope / (p * (1 - p)), rtol=1e-6, atol=0)


def test_information_grows_with_the_variance_and_shrinks_with_the_distance_from_the_boundary() -> None:
    var = torch.logspace(-8, 4, 400, dtype=torch.float64)
    assert (F.bald(torch.full_like(var, 1.5), var).diff() > 0).all()
    mean = torch.linspace(0, 14, 400, dtype=torch.float64)
    for sd in (0.01, 0.5, 1.5, 6.0):
        assert (F.bald(mean, torch.full_like(mean, sd**2)).diff() < 0).all()


def test_an_empty_batch_is_an_empty_result() -> None:
    for name in NAMES:
        assert getattr(F, name)(torch.empty(0, 3), torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_that_cannot_be_right_is_refused_by_name(name: str) -> None:
    function = getattr(F, name)
    for mean, var, tau, error, says in (
        (t64(1, 2), t64(1), 1.0, ShapeError, rf"{name}: expected one shape, got mean \[2\], var \[1\]"),
        (t64(1, 2), t64(1, -1e-9), 1.0, NumericsError, r"var must be >= 0, got -1e-09 at \[1\]"),
        (t64(1, math.nan), t64(1, 1), 1.0, NumericsError, r"mean must be finite, got nan at \[1\]"),
        (t64(1, 1), t64(math.inf, 1), 1.0, NumericsError, r"var must be finite, got inf at \[0\]"),
        (torch.tensor([1]), torch.tensor([1]), 1.0, NumericsError, "mean must be a floating tensor, got torch.int64"),
        (t64(1), t64(1), 0.0, NumericsError, r"tau must be finite and > 0, got 0\.0"),
        (t64(1), t64(1), math.inf, NumericsError, "tau must be finite and > 0, got inf"),
        (t64(1), t64(1), t64(1, 2), ShapeError, r"expected one tau, got a tensor \[2\]"),
        (t64(1e300), t64(1), 1e-20, NumericsError, "mean / tau must be finite, got -inf"),
    ):
        with pytest.raises(error, match=says):
            function(mean, var, tau)


def test_the_entropy_of_an_infinite_logit_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"logit must be finite, got inf at \[1\]"):
        F.bernoulli_entropy(t64(0.0, math.inf))
