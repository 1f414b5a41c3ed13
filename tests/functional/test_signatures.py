"""The names, arguments and shapes that users were promised, each called as it was written down."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from bgpm import functional as F

BATCH, D, P = (2, 3, 4), 6, 5
REQUIRED = inspect.Parameter.empty
GATES = {"gates": None}
TAU = {"tau": 1.0}

PROMISED: dict[str, tuple[list[str], dict[str, object]]] = {
    "preference_score": (["v_i", "v_j"], GATES),
    "score_moments": (["mean_i", "var_i", "mean_j", "var_j"], GATES),
    "joint_score_moments": (["mean_i", "mean_j", "cov_i", "cov_j", "cov_ij"], GATES),
    "last_layer_score_variance": (["mean_i", "mean_j", "k_ii", "k_jj", "k_ij", "output_cov"], GATES),
    "pair_kernel": (["mean_i", "mean_j", "phi_i", "phi_j", "posterior"], {}),
    "bernoulli_entropy": (["logit"], {}),
    "expected_probability": (["mean", "var"], TAU),
    "expected_entropy": (["mean", "var"], TAU),
    "bald": (["mean", "var"], TAU),
    "fisher_weight": (["mean", "var"], TAU),
    "greedy_logdet": (["variance", "kernel_row", "weight", "k"], {"generator": None}),
    "ece": (["probability", "label"], {}),
    "brier": (["probability", "label"], {}),
    "negative_log_likelihood": (["probability", "label"], {}),
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(*shape: int, size: int, seed: int = 0) -> torch.Tensor:
    root = draw(*shape, size, size, seed=seed)
    return root @ root.mT / size


@pytest.mark.parametrize("name", PROMISED)
def test_the_arguments_come_in_the_promised_order_and_whatever_was_added_is_optional(name: str) -> None:
    parameters = list(inspect.signature(getattr(F, name)).parameters.values())
    required, optional = PROMISED[name]
    promised = [(one, REQUIRED) for one in required] + list(optional.items())
    assert [(p.name, p.default) for p in parameters[: len(promised)]] == promised
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters[: len(promised)])
    assert all(p.default is not REQUIRED for p in parameters[len(promised) :])


M_I, M_J, GATE = draw(*BATCH, D, seed=1), draw(*BATCH, D, seed=2), draw(*BATCH, D // 2, seed=3)
V_I, V_J, JOINT = draw(*BATCH, D, seed=4) ** 2, draw(*BATCH, D, seed=5) ** 2, covariance(*BATCH, size=2 * D, seed=6)
COVS = JOINT[..., :D, :D], JOINT[..., D:, D:], JOINT[..., :D, D:]
KERNEL, U = covariance(*BATCH, size=2, seed=7), covariance(size=D, seed=8)
K = KERNEL[..., 0, 0], KERNEL[..., 1, 1], KERNEL[..., 0, 1]
MEAN, VAR = draw(*BATCH, seed=9), draw(*BATCH, seed=10) ** 2
PROBABILITY, LABEL = torch.sigmoid(MEAN), (draw(*BATCH, seed=11) > 0).double()


@pytest.mark.parametrize(
    ("function", "batched", "shared"),
    [
        (F.preference_score, (M_I, M_J), ()),
        (F.preference_score, (M_I, M_J, GATE), ()),
        (F.score_moments, (M_I, V_I, M_J, V_J), ()),
        (F.score_moments, (M_I, V_I, M_J, V_J, GATE), ()),
        (F.joint_score_moments, (M_I, M_J, *COVS), ()),
        (F.joint_score_moments, (M_I, M_J, *COVS, GATE), ()),
        (F.last_layer_score_variance, (M_I, M_J, *K), (U,)),
        (F.bernoulli_entropy, (MEAN,), ()),
        (F.expected_probability, (MEAN, VAR), ()),
        (F.expected_probability, (MEAN, VAR), (0.5,)),
        (F.expected_entropy, (MEAN, VAR), (0.5,)),
        (F.bald, (MEAN, VAR), (0.5,)),
        (F.fisher_weight, (MEAN, VAR), (0.5,)),
    ],
)
def test_a_batch_of_any_shape_is_its_members_one_by_one(function, batched, shared) -> None:
    whole = function(*batched, *shared)
    for at in ((0, 0, 0), (1, 0, 3), (1, 2, 1)):
        alone = function(*(tensor[at] for tensor in batched), *shared)
        for one, many in zip(*((x if isinstance(x, tuple) else (x,)) for x in (alone, whole)), strict=True):
            assert many.shape == BATCH
            assert one.shape == ()
            torch.testing.assert_close(one, many[at], rtol=1e-12, atol=1e-13)


def test_the_shared_layer_takes_gates_of_any_batch_by_name() -> None:
    whole = F.last_layer_score_variance(M_I, M_J, *K, output_cov=U, gates=GATE)
    assert whole.shape == BATCH
    at = (1, 2, 3)
    alone = F.last_layer_score_variance(M_I[at], M_J[at], *(k[at] for k in K), output_cov=U, gates=GATE[at])
    torch.testing.assert_close(alone, whole[at])


@pytest.mark.parametrize("measure", [F.ece, F.brier, F.negative_log_likelihood])
def test_calibration_is_one_number_for_pairs_of_any_shape(measure) -> None:
    whole = measure(PROBABILITY, LABEL)
    assert whole.shape == ()
    torch.testing.assert_close(measure(PROBABILITY.flatten(), LABEL.flatten()), whole)


@pytest.mark.parametrize("kind", ["full", "kronecker"])
def test_a_batch_is_chosen_from_a_pair_kernel_by_its_rows_as_they_are(kind: str) -> None:
    n, k = 12, 4
    mean_i, mean_j, phi_i, phi_j = draw(n, D, seed=1), draw(n, D, seed=2), draw(n, P, seed=3), draw(n, P, seed=4)
    u, v = covariance(size=D, seed=5), covariance(size=P, seed=6)
    posterior = F.FullPosterior(torch.kron(u, v)) if kind == "full" else F.KroneckerPosterior(u, v)
    kernel = F.pair_kernel(mean_i, mean_j, phi_i, phi_j, posterior)
    variance, weight = kernel.diagonal(), F.fisher_weight(F.preference_score(mean_i, mean_j), kernel.diagonal())
    indices, gains = F.greedy_logdet(variance, kernel.row, weight, k, generator=torch.Generator().manual_seed(0))
    matrix = torch.stack([kernel.row(j) for j in range(n)])
    assert (indices.dtype, indices.shape, gains.shape) == (torch.int64, (k,), (k,))
    rows = indices.tolist()
    root = weight[rows].sqrt()
    worth = 0.5 * torch.logdet(torch.eye(k, dtype=torch.float64) + root[:, None] * matrix[rows][:, rows] * root)
    assert gains.sum().item() == pytest.approx(worth.item(), rel=1e-10)
    assert gains[0].item() == pytest.approx(0.5 * math.log1p((weight * variance).max().item()), rel=1e-12)
