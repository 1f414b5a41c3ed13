"""Expectations over a Gaussian logit, by quadrature.

The score s of a pair is N(mean, var) and the label is Bernoulli with probability sigmoid(x), x = s / tau.
Entropies are in nats. For |mean| / tau <= 14 and sd / tau from 1e-3 to 20, every value is within 1e-6 of the
truth and, where it is above 1e-12, within a relative 1e-3; outside, values stay finite and keep their sign
(a variance of 0 is allowed). Half and single precision are computed in float64 where the device has it
and returned in their own dtype. Differentiable in both moments where var > 0.

Two rules, chosen by sd = sqrt(var) / tau, both symmetric in the sign of the mean:

* narrow: Gauss-Hermite nodes in z for x = mu + sd z. Its error is set by the poles of the sigmoid at +-i pi / sd.
* wide: the trapezoid rule on a fixed grid of logits, which converges geometrically for analytic integrands that
  decay (Trefethen and Weideman, SIAM Review 56, 2014). H(sigmoid x) and p(1-p) decay like exp(-|x|); the sigmoid
  itself does not, so a Gaussian distribution function is subtracted whose expectation is known:
  E Phi(x / c) = Phi(mu / sqrt(c^2 + sd^2)).

Mutual information between label and weights is BALD (Houlsby et al., arXiv:1112.5745).

Annotators err: with an error rate e every quantity is that of the label as it is given, whose probability is
q = e + (1 - 2 e) sigmoid(x). Integrands then approach a constant instead of 0, which is subtracted; their poles keep
their distance i pi from the real line, so the same rules keep their precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vecdot

from bgpm.errors import NumericsError
from bgpm.functional import _checks

_WIDE = 1.25  # sd above which the fixed grid is the better rule
_TIERS = ((0.25, 12), (_WIDE, 32))  # sd up to which so many Gauss-Hermite nodes do
_EDGE = 36.0  # exp(-36) is below the rounding error of 1
_GRID = 97
_STEP = 2 * _EDGE / (_GRID - 1)
_PROBIT = 1.702  # the scale at which Phi(x / c) is closest to the sigmoid
_CHUNK = 1 << 19  # entries of a temporary: 4 MiB, which stays in cache
_LANES = 128  # pairs are padded to a multiple of this, see `_padded`

_Narrow = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_Wide = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_NoisyRule = Callable[[float, Tensor, Tensor, Tensor, Tensor], Tensor]


def bernoulli_entropy(logit: Tensor) -> Tensor:
    """Entropy of a Bernoulli variable with this logit, in nats, without cancellation in the tails.

    Args:
        logit: Any shape; +-infinity is not allowed.

    Returns:
        log(1 + e^-|x|) + |x| sigmoid(-|x|), same shape and dtype, in [0, log 2].

    Raises:
        NumericsError: If a logit is NaN or infinite.
    """
    _checks.finite("bernoulli_entropy", logit=logit)
    return _entropy(logit)


def _entropy(x: Tensor) -> Tensor:
    size = x.abs()
    small = torch.exp(-size)
    return torch.log1p(small) + size * (small / (1 + small))


def _entropy_of_probability(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p) - torch.special.xlog1py(1 - p, -p)


def expected_probability(mean: Tensor, var: Tensor, tau: float | Tensor = 1.0, *, error_rate: float = 0.0) -> Tensor:
    """E[sigmoid(s / tau)] for s ~ N(mean, var): probability that response_a is better.

    Args:
        mean, var: Moments of the score before division by tau, [*B]; var >= 0.
        tau: Temperature, > 0.
        error_rate: e, the share of labels that name the wrong response, in [0, 0.5). With it, the probability that a
            label *says* so, e + (1 - 2 e) E[sigmoid(s / tau)].

    Returns:
        Probability, [*B]. Swapping a pair turns p into 1 - p.

    Raises:
        ShapeError: If the shapes differ.
        NumericsError: If a moment is not finite, a variance is negative, tau is not positive or the error rate not in
            [0, 0.5).
    """
    where = "expected_probability"
    _checks.error_rate(where, error_rate)
    below = error_rate + (1 - 2 * error_rate) * _integrate(
        where, mean, var, tau, _narrow_probability, _wide_probability
    )
    return torch.where(mean > 0, 1 - below, below)


def predictive_logit(mean: Tensor, var: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Logit of `expected_probability`, finite also where the probability rounds to 0 or 1.

    Arguments and errors as in `expected_probability`. Its sign flips when a pair is swapped. There is no error rate
    here: `pairwise_loss` of this logit takes one, and is exact.
    """
    below = _integrate("predictive_logit", mean, var, tau, _narrow_logit, _wide_logit)
    # Exactly 0 at 0, so that swapping flips the sign there too; the gradient stays.
    below = torch.where(mean == 0, below - below.detach(), below)
    return torch.where(mean > 0, -below, below)


def predictive_entropy(mean: Tensor, var: Tensor, tau: float | Tensor = 1.0, *, error_rate: float = 0.0) -> Tensor:
    """H(E q): entropy of the next label, in nats, [*B]. Arguments and errors as in `expected_probability`."""
    clean, noisy = (_narrow_predictive_entropy, _wide_predictive_entropy), (_narrow_said_entropy, _wide_said_entropy)
    return _integrate("predictive_entropy", mean, var, tau, *_under("predictive_entropy", error_rate, clean, noisy))


def expected_entropy(mean: Tensor, var: Tensor, tau: float | Tensor = 1.0, *, error_rate: float = 0.0) -> Tensor:
    """E H(q): entropy of the label that would remain if the score were known, in nats, [*B].

    Arguments and errors as in `expected_probability`.
    """
    clean, noisy = (_narrow_entropy, _wide_entropy), (_narrow_noisy_entropy, _wide_noisy_entropy)
    return _integrate("expected_entropy", mean, var, tau, *_under("expected_entropy", error_rate, clean, noisy))


def bald(mean: Tensor, var: Tensor, tau: float | Tensor = 1.0, *, error_rate: float = 0.0) -> Tensor:
    """H(E q) - E H(q): mutual information between a label and the score, in nats, [*B], >= 0 (to 1e-300).

    For small sd the two entropies nearly cancel, so there it is computed as E KL(q || E q), a sum of
    non-negative terms. Arguments and errors as in `expected_probability`.
    """
    clean, noisy = (_narrow_bald, _wide_bald), (_narrow_noisy_bald, _wide_noisy_bald)
    return _integrate("bald", mean, var, tau, *_under("bald", error_rate, clean, noisy))


def fisher_weight(mean: Tensor, var: Tensor, tau: float | Tensor = 1.0, *, error_rate: float = 0.0) -> Tensor:
    """E[(dq/dx)^2 / (q (1 - q))] / tau^2: expected Fisher information of a label about the score, [*B].

    Without errors E[p (1 - p)] / tau^2. Arguments and errors as in `expected_probability`.
    """
    clean, noisy = (_narrow_fisher, _wide_fisher), (_narrow_noisy_fisher, _wide_noisy_fisher)
    return _integrate("fisher_weight", mean, var, tau, *_under("fisher_weight", error_rate, clean, noisy)) / tau**2


def outcome_divergence(p: Tensor, shift: Tensor) -> Tensor:
    """p h(shift / p), h(u) = (1 + u) log(1 + u) - u: what one outcome adds to KL(p + shift || p), >= 0 each, in nats.

    Summed over all outcomes, whose shifts add up to 0, it is the divergence, without cancellation where shifts are
    small. An outcome of probability 0 adds 0 and cannot be shifted: the divergence would be infinite.

    Args:
        p: Probability of the outcome, any shape.
        shift: What is added to it, same shape; p + shift is a probability up to rounding.

    Raises:
        ArgumentError: If one is not a tensor.
        ShapeError: If shapes differ.
        NumericsError: If a number is not finite, p or p + shift is not in [0, 1], or p is 0 and p + shift is not.
    """
    where = "outcome_divergence"
    _checks.same_shape(where, p=p, shift=shift)
    _checks.finite(where, p=p, shift=shift)
    rounding = 8 * torch.finfo(torch.promote_types(p.dtype, shift.dtype)).eps
    # Relative to p below, so that a tiny probability does not become a negative one.
    left = (shift < -p * (1 + rounding)) | (p + shift > 1 + rounding)
    for name, span, value, bad in (
        ("p", "in [0, 1]", p, (p < 0) | (p > 1)),
        ("p + shift", "in [0, 1]", p + shift, left),
        ("shift", "0 where p is 0", shift, (p == 0) & (shift > rounding)),
    ):
        if bad.any():
            raise NumericsError(
                f"{where}: expected {name} {span}, got {value[bad][0].item()} at {_checks.first_bad(bad)}; "
                "shift is a difference of two probabilities of one outcome"
            )
    return _outcome_divergence(p, shift)


def _outcome_divergence(p: Tensor, shift: Tensor) -> Tensor:
    # Rounding, and in the last digits a rule's error, may leave what a probability allows: u >= -1 brings it back.
    u = torch.where(p > 0, shift / p.clamp(min=torch.finfo(p.dtype).tiny), torch.zeros_like(p)).clamp(min=-1.0)
    exact = torch.special.xlog1py(1 + u, u) - u
    series = u.square() * (0.5 - u / 6 + u.square() / 12)
    return p * torch.where(u.abs() < 1e-3, series, exact)


def _bernoulli_divergence(shift: Tensor, p: Tensor) -> Tensor:
    """KL(p + shift || p) of two Bernoulli variables, in nats; shapes may broadcast."""
    return _outcome_divergence(p, shift) + _outcome_divergence(1 - p, -shift)


# Narrow rules: mu <= 0 and sd [n, 1], nodes z and weights w [m], result [n]. With q = e^mu and e = expm1(sd z):
# p(x) = q (1 + e) / (1 + q (1 + e)) and p(x) / p(mu) - 1 = e / (1 + q (1 + e)), without cancellation.


def _relative_shift(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """E[p] / p(mu) - 1, [n]."""
    e = torch.expm1(sd * z)
    return vecdot(e / (1 + mu.exp() * (1 + e)), w)


def _narrow_probability(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return torch.sigmoid(mu[:, 0]) * (1 + _relative_shift(mu, sd, z, w))


def _logit_shift(mu: Tensor, rho: Tensor) -> Tensor:
    """logit(E p) - mu, [n], where E p = p(mu) (1 + rho)."""
    return torch.log1p(rho) - torch.log1p(-mu[:, 0].exp() * rho)


def _narrow_logit(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return mu[:, 0] + _logit_shift(mu, _relative_shift(mu, sd, z, w))


def _narrow_predictive_entropy(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return _entropy(_narrow_logit(mu, sd, z, w))


def _narrow_entropy(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return vecdot(_entropy(mu + sd * z), w)


def _narrow_fisher(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    p = torch.sigmoid(mu + sd * z)
    return vecdot(p * (1 - p), w)


def _narrow_bald(mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    # KL(p || p') = log(1 + p (e^delta - 1)) - delta p, delta = logit p' - logit p, here with p' = E p.
    q, step = mu.exp(), sd * z
    e = torch.expm1(step)
    odds = 1 + q * (1 + e)
    shift = _logit_shift(mu, vecdot(e / odds, w))[:, None]
    divergence = torch.log1p(q * (torch.expm1(shift) - e) / odds) - (shift - step) * (q * (1 + e) / odds)
    # Below sd = 1e-4 the leading term is the better number, by 1e-8 relative.
    leading = 0.5 * sd.square() * q / (1 + q).square()
    return torch.where(sd[:, 0] < 1e-4, leading[:, 0], vecdot(divergence, w))


# Wide rules: mu <= 0 and sd [n, 1], grid of logits x [m], weights h N(x; mu, sd^2) [n, m], result [n].


def _wide_probability(mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    residual = torch.sigmoid(x) - _phi(x / _PROBIT)
    return _phi(mu / (_PROBIT**2 + sd.square()).sqrt())[:, 0] + vecdot(weights, residual)


def _phi(x: Tensor) -> Tensor:
    """Gaussian distribution function; `torch.special.ndtr` has no relative precision in the lower tail."""
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _wide_logit(mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    p = _wide_probability(mu, sd, x, weights)
    # Where p is about to underflow: E min(1, e^x), which exceeds E sigmoid(x) by a factor of at most two.
    rising = mu + 0.5 * sd.square() + torch.special.log_ndtr(-mu / sd - sd)
    far = torch.logaddexp(rising, torch.special.log_ndtr(mu / sd))[:, 0]
    # There too where it is nearer: relative to E e^x, whose mass is around mu + sd^2, the grid lacks what is left of
    # its edge, and this has E e^2x too much at most.
    lacking, excess = torch.special.log_ndtr((-_EDGE - mu) / sd - sd), mu + 1.5 * sd.square()
    return torch.where((p > 1e-30) & (lacking < excess)[:, 0], torch.log(p) - torch.log1p(-p), far)


def _wide_predictive_entropy(mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return _entropy_of_probability(_wide_probability(mu, sd, x, weights))


def _wide_entropy(mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return vecdot(weights, _entropy(x))


def _wide_fisher(mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return vecdot(weights, torch.sigmoid(x) * torch.sigmoid(-x))


def _wide_bald(mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return _wide_predictive_entropy(mu, sd, x, weights) - _wide_entropy(mu, sd, x, weights)


# With an error rate e: q = e + c p with c = 1 - 2 e, so that q (1 - q) = e (1 - e) + c^2 p (1 - p).


def _under(
    where: str, error_rate: float, clean: tuple[_Narrow, _Wide], noisy: tuple[_NoisyRule, _NoisyRule]
) -> tuple[_Narrow, _Wide]:
    """The pair of rules for this error rate; without errors the leaner one."""
    _checks.error_rate(where, error_rate)
    return clean if error_rate == 0 else (partial(noisy[0], error_rate), partial(noisy[1], error_rate))


def _said(e: float, p: Tensor) -> Tensor:
    return e + (1 - 2 * e) * p


def _narrow_said_entropy(e: float, mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return _entropy_of_probability(_said(e, _narrow_probability(mu, sd, z, w)))


def _wide_said_entropy(e: float, mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return _entropy_of_probability(_said(e, _wide_probability(mu, sd, x, weights)))


def _narrow_noisy_entropy(e: float, mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return vecdot(_entropy_of_probability(_said(e, torch.sigmoid(-(mu + sd * z).abs()))), w)


def _wide_noisy_entropy(e: float, mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    floor = _entropy_of_probability(torch.as_tensor(e, dtype=x.dtype, device=x.device))
    return floor + vecdot(weights, _entropy_of_probability(_said(e, torch.sigmoid(-x.abs()))) - floor)


def _noisy_information(e: float, p: Tensor, other: Tensor) -> Tensor:
    """(dq/dx)^2 / (q (1 - q)) where p and other = 1 - p."""
    a = (1 - 2 * e) ** 2 * p * other
    return a * (p * other) / (e * (1 - e) + a)


def _narrow_noisy_fisher(e: float, mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    logit = mu + sd * z
    return vecdot(_noisy_information(e, torch.sigmoid(logit), torch.sigmoid(-logit)), w)


def _wide_noisy_fisher(e: float, mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return vecdot(weights, _noisy_information(e, torch.sigmoid(x), torch.sigmoid(-x)))


def _narrow_noisy_bald(e: float, mu: Tensor, sd: Tensor, z: Tensor, w: Tensor) -> Tensor:
    p = torch.sigmoid(mu)
    step = torch.expm1(sd * z)
    shift = step / (1 + mu.exp() * (1 + step))  # p(x) / p - 1
    rho = vecdot(shift, w)[:, None]
    return vecdot(_bernoulli_divergence((1 - 2 * e) * p * (shift - rho), _said(e, p * (1 + rho))), w)


def _wide_noisy_bald(e: float, mu: Tensor, sd: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    # E KL(q || E q): the divergence goes to a constant at either end, so a scaled Phi is subtracted from it too.
    c, mean = 1 - 2 * e, _wide_probability(mu, sd, x, weights)[:, None]
    low, high = (_bernoulli_divergence(c * (end - mean), _said(e, mean)) for end in (0.0, 1.0))
    rest = _bernoulli_divergence(c * (torch.sigmoid(x) - mean), _said(e, mean)) - low - (high - low) * _phi(x / _PROBIT)
    known = low + (high - low) * _phi(mu / (_PROBIT**2 + sd.square()).sqrt())
    return known[:, 0] + vecdot(weights, rest)


def _integrate(name: str, mean: Tensor, var: Tensor, tau: float | Tensor, narrow: _Narrow, wide: _Wide) -> Tensor:
    """Check, sort pairs by the rule that suits their sd, and integrate in chunks; the mean's sign is dropped."""
    _checks.same_shape(name, mean=mean, var=var)
    _checks.finite(name, mean=mean, var=var)
    _checks.non_negative(name, var=var)
    _checks.temperature(name, tau)
    working = torch.float32 if mean.device.type == "mps" else torch.float64
    # Not -abs(): its gradient at 0 would be 0.
    mu = torch.where(mean > 0, -mean, mean).to(working).flatten() / tau
    sd = (var.to(working).sqrt() / tau).flatten()
    _checks.finite(name, **{"mean / tau": mu, "sd / tau": sd})
    out = torch.empty_like(mu)
    lower = -1.0
    for upper, count in _TIERS:
        z, w = (t.to(mu) for t in _gauss_hermite(count))
        for rows in ((sd > lower) & (sd <= upper)).nonzero()[:, 0].split(max(1, _CHUNK // count)):
            m, s = _padded(mu, sd, rows)
            out[rows] = narrow(m, s, z, w)[: len(rows)]
        lower = upper
    x = torch.linspace(-_EDGE, _EDGE, _GRID, dtype=mu.dtype, device=mu.device)
    for rows in (sd > lower).nonzero()[:, 0].split(max(1, _CHUNK // _GRID)):
        m, s = _padded(mu, sd, rows)
        weights = torch.exp(-0.5 * ((x - m) / s).square()) * (_STEP / (math.sqrt(2 * math.pi) * s))
        out[rows] = wide(m, s, x, weights)[: len(rows)]
    return out.reshape(mean.shape).to(mean.dtype)


def _padded(mu: Tensor, sd: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Moments at these rows as columns, padded with copies of the last.

    Vectorised functions treat what is left over at the end of an array by another routine, which may round
    otherwise. Without leftovers a pair has the same value, to the bit, wherever it stands in a batch: so a tie
    stays a tie. (For the same reason sums are `vecdot`, not matrix products.)
    """
    rows = torch.cat((rows, rows[-1:].expand(-len(rows) % _LANES)))
    return mu[rows, None], sd[rows, None]


@lru_cache
def _gauss_hermite(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the expectation over N(0, 1), float64 on the CPU."""
    z, w = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(z), torch.from_numpy(w / w.sum())
