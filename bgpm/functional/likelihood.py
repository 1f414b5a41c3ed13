"""The loss of labelled pairs: one function, with what the published objectives vary as arguments.

P(a better) = sigmoid(s / tau). A label is the probability that response_a is the better one: 1 or 0
from one annotator, anything between from several, 0.5 for a tie. Every kind is unchanged when the responses of a
pair are swapped (s -> -s, label -> 1 - label).

Annotators err: with an error rate e a label names the loser with probability e, and
P(label says a) = e + (1 - 2 e) sigmoid(s / tau). A label that contradicts a large score then hardly pulls on it.
The price: the likelihood is not log-concave in s. `fisher_curvature` is >= 0 where the second derivative is not.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bgpm.errors import ConfigError, NumericsError
from bgpm.functional import _checks

LossKind = Literal["logistic", "rao_kupper", "regression"]


def pairwise_loss(
    score: Tensor,
    label: Tensor,
    *,
    tau: float | Tensor,
    margin: Tensor | None = None,
    kind: LossKind = "logistic",
    tie_width: float | Tensor | None = None,
    error_rate: float = 0.0,
) -> Tensor:
    """Loss of each labelled pair, [*B]; take the mean for training.

    ``logistic``: cross-entropy in nats, hard or soft labels; a tie is the label 0.5. With a margin m the winner
    has to lead by it: ``-y log sigmoid((s - m) / tau) - (1 - y) log sigmoid((-s - m) / tau)``.

    ``rao_kupper``: ties as an outcome of their own (Rao and Kupper, JASA 62, 1967): a response wins only when it
    leads by more than ``tie_width`` after logistic noise. Labels 1, 0.5 and 0 are the three outcomes; one between
    shares its weight linearly between a tie and the nearer win.

    ``regression``: ``((s - (2 y - 1) m) / tau)^2``, the score is drawn to the stated margin, to 0 for a tie.

    Args:
        score: s, before division by tau, [*B].
        label: Probability that response_a is better, in [0, 1], [*B].
        tau: Temperature, > 0; a tensor with gradient makes it learnable.
        margin: How much better the winner is, in units of the score, >= 0, [*B].
        kind: Which of the three.
        tie_width: Half-width of the band of ties in units of the score, > 0; for ``rao_kupper`` only.
        error_rate: Share of labels that name the loser, in [0, 0.5); ties are not affected. Not for ``regression``.

    Raises:
        ConfigError: If the kind is unknown or lacks or refuses an argument given.
        ShapeError: If shapes differ.
        NumericsError: If a number is not finite, a label outside [0, 1], a margin negative, tau not positive, or the
            error rate not in [0, 0.5).
    """
    where = "pairwise_loss"
    if kind not in get_args(LossKind):
        raise ConfigError(f"{where}: unknown kind {kind!r}; choose one of: {', '.join(get_args(LossKind))}")
    if (tie_width is not None) != (kind == "rao_kupper"):
        raise ConfigError(f"{where}: tie_width goes with kind='rao_kupper' and no other, got {tie_width} with {kind!r}")
    if kind == "rao_kupper" and margin is not None:
        raise ConfigError(f"{where}: kind='rao_kupper' takes no margin, its tie_width plays that part; drop it")
    _checks.same_shape(where, score=score, label=label, **({} if margin is None else {"margin": margin}))
    _checks.finite(where, score=score, label=label)
    _checks.temperature(where, tau)
    _checks.error_rate(where, error_rate)
    check_labels(where, label)
    if margin is not None:
        _checks.finite(where, margin=margin)
        _checks.non_negative(where, margin=margin)
    if kind == "regression":
        if margin is None:
            raise ConfigError(f"{where}: kind='regression' needs a margin to regress to, got none; or use 'logistic'")
        if error_rate:
            raise ConfigError(
                f"{where}: kind='regression' knows no wrong winner, got error_rate {error_rate}; set it to 0"
            )
        return ((score - (2 * label - 1) * margin) / tau).square()
    if tie_width is not None:
        return _rao_kupper(score, label, tau, tie_width, error_rate)
    lead = 0.0 if margin is None else margin
    first, second = _mistaken(logsigmoid((score - lead) / tau), logsigmoid((-score - lead) / tau), error_rate)
    return -(label * first + (1 - label) * second)


def fisher_curvature(score: Tensor, **options: Any) -> Tensor:
    """Expected squared slope of a label's loss in the score, the label drawn from the model, [*B], >= 0.

    For the plain logistic loss it is its second derivative p (1 - p) / tau^2, whatever the label. Where annotators err
    the second derivative may be negative and this is what a Gauss-Newton step or a Laplace posterior needs:
    (dq/ds)^2 / (q (1 - q)).

    Args:
        score: s, [*B].
        options: Those of `pairwise_loss` but the label, kinds with outcomes only.

    Raises:
        ConfigError: For ``regression``, which has no outcomes; its curvature is 2 / tau^2.
    """
    if options.get("kind") == "regression":
        raise ConfigError(
            "fisher_curvature: kind='regression' has no outcomes to draw from; its curvature is 2 / tau^2"
        )
    _checks.finite("fisher_curvature", score=score)
    total = torch.zeros_like(score)
    with torch.enable_grad():
        score = score.detach().requires_grad_()
        for outcome in (0.0, 0.5, 1.0) if options.get("kind") == "rao_kupper" else (0.0, 1.0):
            loss = pairwise_loss(score, torch.full_like(total, outcome), **options)
            (slope,) = torch.autograd.grad(loss.sum(), score)
            total += (-loss.detach()).exp() * slope.square()
    return total


def _mistaken(first: Tensor, second: Tensor, error_rate: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities that a label names the first and the second response, from those that they win."""
    if not error_rate:
        return first, second
    right, wrong = math.log1p(-error_rate), math.log(error_rate)
    return _log_of_sum(right + first, wrong + second), _log_of_sum(right + second, wrong + first)


def _log_of_sum(x: Tensor, y: Tensor) -> Tensor:
    """log(e^x + e^y); `torch.logaddexp` has no second derivative where x and y are far apart."""
    return x - logsigmoid(x - y)


def _rao_kupper(
    score: Tensor, label: Tensor, tau: float | Tensor, tie_width: float | Tensor, error_rate: float
) -> Tensor:
    _checks.positive("pairwise_loss", "tie_width", tie_width, "without ties use 'logistic'")
    width = torch.as_tensor(tie_width, dtype=score.dtype, device=score.device)
    first, second = logsigmoid((score - width) / tau), logsigmoid((-score - width) / tau)
    # P(tie) = 1 - P(first) - P(second) = (e^(2 width / tau) - 1) P(first) P(second), without cancellation;
    # log(e^x - 1) = x + log(1 - e^-x) does not overflow.
    twice = 2 * width / tau
    tie = twice + torch.log(-torch.expm1(-twice)) + first + second
    lean = 2 * label - 1
    first, second = _mistaken(first, second, error_rate)
    return -(lean.clamp(min=0) * first + (-lean).clamp(min=0) * second + (1 - lean.abs()) * tie)


def check_labels(where: str, label: Tensor) -> None:
    """Refuse labels that are not probabilities.

    Raises:
        NumericsError: Naming the first bad one.
    """
    bad = ~((label >= 0) & (label <= 1))
    if bad.any():
        raise NumericsError(
            f"{where}: labels are probabilities in [0, 1], got {label[bad][0].item()} at {_checks.first_bad(bad)}; "
            "drop pairs without a label and map -1/+1 to 0/1"
        )
