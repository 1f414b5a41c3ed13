"""Every public function refuses what it cannot work with by an error of its own, whichever argument it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bgpm import functional as F
from bgpm.errors import ArgumentError, BgpmError, NumericsError, ShapeError

N, D, P = 7, 6, 5


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size: int, seed: int = 0) -> torch.Tensor:
    root = draw(size, size, seed=seed)
    return root @ root.T / size


MEANS = {"mean_i": draw(N, D, seed=1), "mean_j": draw(N, D, seed=2)}
PHI = {"phi_i": draw(N, P, seed=3), "phi_j": draw(N, P, seed=4)}
GATES = {"gates": draw(N, D // 2, seed=5).abs()}
VARIANCES = {"var_i": draw(N, D, seed=6) ** 2, "var_j": draw(N, D, seed=7) ** 2}
COVS = {"cov_i": torch.stack([covariance(D, n) for n in range(N)])}
COVS |= {"cov_j": COVS["cov_i"].flip(0), "cov_ij": 0.01 * COVS["cov_i"]}
K = {"k_ii": 1 + draw(N, seed=8) ** 2, "k_jj": 1 + draw(N, seed=9) ** 2, "k_ij": 0.1 * draw(N, seed=10).tanh()}
MOMENTS = {"mean": draw(N, seed=11), "var": draw(N, seed=12) ** 2}
COINS = {"probability": torch.sigmoid(draw(N, seed=13)), "label": (draw(N, seed=14) > 0).double()}
FULL = F.FullPosterior(covariance(D * P))
KERNEL = F.pair_kernel(**MEANS, **PHI, posterior=FULL)
GREEDY = {"variance": KERNEL.diagonal(), "kernel_row": KERNEL.row, "weight": draw(N, seed=15).abs(), "k": 3}
LOSS = {"score": draw(N, seed=16), "label": COINS["label"], "tau": 1.0, "error_rate": 0.1}
DRAWS = {"probability": torch.sigmoid(draw(N, seed=17)), "pool_size": 2 * N}
RAO_KUPPER = {"kind": "rao_kupper", "tie_width": 0.5}

GOOD: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "apply_skew": (F.apply_skew, {"v": MEANS["mean_i"]} | GATES),
    "preference_score": (F.preference_score, {"v_i": MEANS["mean_i"], "v_j": MEANS["mean_j"]} | GATES),
    "score_moments": (F.score_moments, MEANS | VARIANCES | GATES),
    "joint_score_moments": (F.joint_score_moments, MEANS | COVS | GATES),
    "last_layer_score_variance": (F.last_layer_score_variance, MEANS | K | {"output_cov": covariance(D)} | GATES),
    "pair_kernel": (F.pair_kernel, MEANS | PHI | {"posterior": FULL} | GATES),
    "indexed_pair_kernel": (
        F.indexed_pair_kernel,
        {
            "mean": MEANS["mean_i"],
            "phi": PHI["phi_i"],
            "response_a": torch.arange(N),
            "response_b": torch.arange(N).flip(0),
        }
        | {"posterior": FULL}
        | GATES,
    ),
    "FullPosterior": (F.FullPosterior, {"covariance": covariance(D * P)}),
    "KroneckerPosterior": (F.KroneckerPosterior, {"output_cov": covariance(D), "input_cov": covariance(P)}),
    "LowRankPosterior": (
        F.LowRankPosterior.from_labels,
        {"prior_variance": 1 + draw(D, P) ** 2, "weight": draw(N).abs()} | MEANS | PHI | GATES,
    ),
    "LinearisedKernel.row": (KERNEL.row, {"j": 1}),
    "LinearisedKernel.block": (KERNEL.block, {"rows": torch.arange(4), "columns": torch.arange(2)}),
    "bernoulli_entropy": (F.bernoulli_entropy, {"logit": draw(N)}),
    "outcome_divergence": (F.outcome_divergence, {"p": COINS["probability"], "shift": -0.1 * COINS["probability"]}),
    "expected_probability": (F.expected_probability, MOMENTS | {"tau": 1.0, "error_rate": 0.1}),
    "expected_entropy": (F.expected_entropy, MOMENTS | {"tau": 1.0, "error_rate": 0.1}),
    "predictive_entropy": (F.predictive_entropy, MOMENTS | {"tau": 1.0, "error_rate": 0.1}),
    "predictive_logit": (F.predictive_logit, MOMENTS | {"tau": 1.0}),
    "bald": (F.bald, MOMENTS | {"tau": 1.0, "error_rate": 0.1}),
    "fisher_weight": (F.fisher_weight, MOMENTS | {"tau": 1.0, "error_rate": 0.1}),
    "greedy_logdet": (F.greedy_logdet, GREEDY),
    "greedy_conditional": (F.greedy_conditional, GREEDY | {"value": lambda rows, left: left}),
    "pairwise_loss": (F.pairwise_loss, LOSS | {"margin": draw(N).abs()}),
    "pairwise_loss with ties": (F.pairwise_loss, LOSS | RAO_KUPPER),
    "fisher_curvature": (F.fisher_curvature, {"score": draw(N), "tau": 1.0}),
    "variance_kl": (F.variance_kl, {"log_variance": draw(N, D), "prior_variance": 0.03}),
    "ece": (F.ece, COINS | {"bins": 10}),
    "expected_calibration_error": (F.expected_calibration_error, COINS),
    "brier": (F.brier, COINS),
    "negative_log_likelihood": (F.negative_log_likelihood, COINS),
    "importance_weights": (F.importance_weights, DRAWS),
    "mean_from_draws": (F.mean_from_draws, DRAWS | {"value": draw(N)}),
}


def wrong(value: Any) -> Iterator[tuple[str, Any]]:
    """What no argument like this one may be."""
    yield "a word", "full"
    yield "a list", [1.0, 2.0]
    yield "an object", object()
    if isinstance(value, torch.Tensor):
        yield "an array", value.numpy()
        yield "a complex tensor", value.to(torch.complex128)
        if value.is_floating_point():
            yield "a tensor of whole numbers", value.long()
            for number in (math.nan, math.inf, -math.inf):
                bad = value.clone()
                bad.view(-1)[-1] = number
                yield f"a tensor with {number}", bad
        else:
            yield "a tensor of floats", value.double()
    elif isinstance(value, int | float):
        yield "a vector", torch.ones(2)
        yield "a complex number", 1j
        yield "nan", math.nan
        yield "negative", -1


CASES = [
    pytest.param(function, good, argument, bad, id=f"{name}-{argument}-{what}")
    for name, (function, good) in GOOD.items()
    for argument, value in good.items()
    for what, bad in wrong(value)
]


def test_every_public_function_is_among_those_tried() -> None:
    assert {name.split(" ")[0].split(".")[0] for name in GOOD} == set(F.__all__)


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_taken_and_left_as_it_was(name: str) -> None:
    function, good = GOOD[name]
    before = {argument: value.clone() for argument, value in good.items() if isinstance(value, torch.Tensor)}
    function(**good)
    for argument, value in before.items():
        assert torch.equal(good[argument], value), argument


@pytest.mark.parametrize(("function", "good", "argument", "bad"), CASES)
def test_what_cannot_be_right_is_refused_by_an_error_of_ours_that_says_where(function, good, argument, bad) -> None:
    with pytest.raises(BgpmError) as error:
        function(**{**good, argument: bad})
    # Whoever catches the builtin, as one does elsewhere, catches it too.
    assert isinstance(error.value, TypeError | ValueError | ArithmeticError)
    assert ": " in str(error.value)
    assert "\n" not in str(error.value)


MATRIX, SINGLE = covariance(D * P), covariance(D).float()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.pair_kernel(**MEANS, **PHI, posterior="full"), ArgumentError, "posterior of type FullPosterior or"),
        (lambda: F.preference_score(*MEANS.values(), [1.0] * 3), ArgumentError, "gates of type Tensor, got list"),
        (
            lambda: F.pair_kernel(**MEANS, **PHI, posterior=F.FullPosterior(MATRIX[:10, :10], rows=(0, 1.5))),
            ArgumentError,
            "a row to be a whole number, got 1.5",
        ),
        (
            lambda: F.joint_score_moments(**MEANS, **COVS | {"cov_ij": COVS["cov_ij"].float()}),
            NumericsError,
            "one dtype",
        ),
        (
            lambda: F.last_layer_score_variance(**MEANS, **K, output_cov=covariance(D).float()),
            NumericsError,
            "one dtype",
        ),
        (lambda: F.KroneckerPosterior(SINGLE, covariance(P)), NumericsError, "one dtype"),
        (lambda: F.FullPosterior(covariance(4).bfloat16()), NumericsError, "float32 or float64, got torch.bfloat16"),
        (lambda: KERNEL.block(torch.arange(N + 1), torch.arange(2)), ShapeError, "got rows from 0 to 7"),
        (lambda: KERNEL.block(torch.arange(2), torch.tensor([-1])), ShapeError, "got columns from -1 to -1"),
        (
            lambda: F.greedy_conditional(**GREEDY, value=lambda rows, left: left * torch.nan),
            NumericsError,
            "value must be finite, got nan",
        ),
        (
            lambda: F.greedy_conditional(**GREEDY, value=lambda rows, left: left.sum()),
            ShapeError,
            r"expected the value \[7\], got \[\]",
        ),
    ],
)
def test_a_mistake_that_is_easily_made_is_named(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call()


def test_an_infinite_covariance_between_two_answers_is_no_variance_of_zero() -> None:
    bad = COVS["cov_ij"].clone()
    bad[2, 0, 0] = math.copysign(math.inf, -MEANS["mean_j"][2, 1] * MEANS["mean_i"][2, 1])
    with pytest.raises(NumericsError, match=r"cov_ij must be finite, got .*inf at \[2, 0, 0\]"):
        F.joint_score_moments(**MEANS, **COVS | {"cov_ij": bad})


def test_a_value_function_that_returns_the_variances_leaves_those_of_the_caller_alone() -> None:
    before = GREEDY["variance"].clone()
    picks, gains = F.greedy_conditional(**GREEDY, value=lambda rows, left: left)
    assert torch.equal(GREEDY["variance"], before)
    assert gains[0] == before.max()
    assert len(set(picks.tolist())) == 3
