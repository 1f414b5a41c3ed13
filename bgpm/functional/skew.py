"""The score of a pair of responses, and its moments when the embeddings are uncertain.

Shapes: *B any batch, D the (even) embedding dimension in blocks of two.

    s = v_i^T A v_j = sum_l gate_l (v_i[2l] v_j[2l+1] - v_i[2l+1] v_j[2l])

A is block-diagonal and skew, A = R^T of Zhang et al., "Beyond Bradley-Terry Models: A General Preference
Model for Language Model Alignment" (arXiv:2410.02197) when all gates are 1. Swapping the responses flips
the sign of s exactly, in every dtype. Bradley-Terry is D = 2 with v = (r, 1).

Scores are logits times the temperature: P(a better) = sigmoid(s / tau).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bgpm.functional import _checks


def apply_skew(v: Tensor, gates: Tensor | None = None) -> Tensor:
    """A v: the gradient of the score with respect to the first embedding, [*B, D].

    The gradient with respect to the second is ``-apply_skew(v_i, gates)``.

    Args:
        v: Embeddings, [*B, D].
        gates: [*B, D/2] or its last dimensions, one factor a block; None for 1.

    Raises:
        ShapeError: If D is odd or the gates do not fit.
        NumericsError: If a number is NaN or infinite.
    """
    _checks.embeddings("apply_skew", gates, v=v)
    _checks.finite("apply_skew", v=v, **({} if gates is None else {"gates": gates}))
    return _skew(v, gates)


def _skew(v: Tensor, gates: Tensor | None) -> Tensor:
    even, odd = v[..., 0::2], v[..., 1::2]
    if gates is not None:
        even, odd = gates * even, gates * odd
    return torch.stack((odd, -even), dim=-1).flatten(-2)


def preference_score(v_i: Tensor, v_j: Tensor, gates: Tensor | None = None) -> Tensor:
    """Score of the first response over the second, [*B]; flips sign exactly when they are swapped.

    Args:
        v_i, v_j: Embeddings of the first and second response, [*B, D].
        gates: Scale of each block, [*B, D/2] or its last dimensions; None for 1.

    Returns:
        s, [*B], before division by the temperature.

    Raises:
        ShapeError: If D is odd, shapes differ, or the gates do not fit.
        NumericsError: If a score is NaN or infinite; names the first such pair.
    """
    _checks.embeddings("preference_score", gates, v_i=v_i, v_j=v_j)
    score = _score(v_i, v_j, gates)
    _checks.finite("preference_score", score=score)
    return score


def _score(v_i: Tensor, v_j: Tensor, gates: Tensor | None) -> Tensor:
    # Products and a difference, no fused multiply-add and no matmul: so that swapping negates every bit.
    blocks = v_i[..., 0::2] * v_j[..., 1::2] - v_i[..., 1::2] * v_j[..., 0::2]
    return (blocks if gates is None else gates * blocks).sum(-1)


def score_moments(
    mean_i: Tensor, var_i: Tensor, mean_j: Tensor, var_j: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the score for independent embeddings with diagonal Gaussian noise.

    Exact for ``v_k ~ N(mean_k, diag(var_k))``. Not true once embeddings are projected to the sphere, nor when
    both responses share uncertain weights: see `last_layer_score_variance` and `pair_kernel`.

    Args:
        mean_i, mean_j: Means, [*B, D].
        var_i, var_j: Variances (not log-variances), >= 0, [*B, D].
        gates: Scale of each block, [*B, D/2] or its last dimensions; they enter the variance squared.

    Returns:
        Mean [*B] and variance [*B], before division by the temperature. Under a swap the mean flips sign and the
        variance stays, both exactly.

    Raises:
        ShapeError: If D is odd, shapes differ, or the gates do not fit.
        NumericsError: If a variance is negative or a result is not finite.
    """
    _checks.embeddings("score_moments", gates, mean_i=mean_i, var_i=var_i, mean_j=mean_j, var_j=var_j)
    _checks.non_negative("score_moments", var_i=var_i, var_j=var_j)
    mean = _score(mean_i, mean_j, gates)
    # Var[x y] = E[x]^2 Var y + Var x E[y]^2 + Var x Var y for independent x, y; coordinate 2l of one response
    # meets 2l+1 of the other, and the two products of a block are uncorrelated.
    one = _product_variance(mean_i[..., 0::2], var_i[..., 0::2], mean_j[..., 1::2], var_j[..., 1::2])
    two = _product_variance(mean_i[..., 1::2], var_i[..., 1::2], mean_j[..., 0::2], var_j[..., 0::2])
    blocks = one + two
    variance = (blocks if gates is None else gates.square() * blocks).sum(-1)
    _checks.finite("score_moments", mean=mean, variance=variance)
    return mean, variance


def _product_variance(mean_x: Tensor, var_x: Tensor, mean_y: Tensor, var_y: Tensor) -> Tensor:
    return (mean_x.square() * var_y + var_x * mean_y.square()) + var_x * var_y


def joint_score_moments(
    mean_i: Tensor, mean_j: Tensor, cov_i: Tensor, cov_j: Tensor, cov_ij: Tensor, gates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the score for jointly Gaussian embeddings.

    With a = A m_j, b = A^T m_i and C = Cov(v_i, v_j)::

        E   = m_i^T A m_j + tr(A C^T)
        Var = a^T S_i a + b^T S_j b + 2 a^T C b + tr(A S_j A^T S_i) + tr(A C^T A C^T)

    Exact. Not to be fed with a Laplace posterior over weights: the likelihood is silent along v -> Q v with
    Q^T A Q = A, so the second-order terms are those of the prior, however many labels there are. Use the
    linearised `pair_kernel` there.

    Args:
        mean_i, mean_j: Means, [*B, D].
        cov_i, cov_j: Covariances of each embedding, [*B, D, D], symmetric.
        cov_ij: Cov(v_i, v_j) with row for v_i and column for v_j, [*B, D, D]; its transpose is Cov(v_j, v_i).
        gates: Scale of each block, [*B, D/2] or its last dimensions.

    Returns:
        Mean [*B] and variance [*B], before division by the temperature. A variance below zero by rounding alone
        is returned as zero.

    Raises:
        ShapeError: If D is odd or shapes do not fit.
        NumericsError: If a covariance is not symmetric, has a negative diagonal, is not finite, or the three are
            not jointly positive semi-definite.
    """
    where = "joint_score_moments"
    _checks.embeddings(where, gates, mean_i=mean_i, mean_j=mean_j)
    for name, matrix in (("cov_i", cov_i), ("cov_j", cov_j), ("cov_ij", cov_ij)):
        _checks.expect(where, name, matrix, (*mean_i.shape, mean_i.shape[-1]), "one D x D matrix for each pair")
    _checks.covariance(where, cov_i=cov_i, cov_j=cov_j)
    _checks.finite(where, mean_i=mean_i, mean_j=mean_j, cov_ij=cov_ij)
    _checks.same_dtype(where, mean_i=mean_i, mean_j=mean_j, cov_i=cov_i, cov_j=cov_j, cov_ij=cov_ij)
    rows = None if gates is None else gates[..., None, :]
    # For a matrix X, _skew(X) acts on each row: X A^T.
    skew_i, skew_j, skew_ij = _skew(cov_i, rows), _skew(cov_j, rows), _skew(cov_ij, rows)
    # tr(A C^T) = tr(C A^T); summed block by block, so that a swap negates it exactly.
    trace = skew_ij.diagonal(dim1=-2, dim2=-1)
    mean = _score(mean_i, mean_j, gates) + (trace[..., 0::2] + trace[..., 1::2]).sum(-1)
    a, b = _skew(mean_j, gates), -_skew(mean_i, gates)
    first = (_quadratic(a, cov_i, a) + _quadratic(b, cov_j, b)) + 2 * _quadratic(a, cov_ij, b)
    second = (skew_ij * skew_ij.mT).sum((-2, -1)) - (skew_j * skew_i.mT).sum((-2, -1))
    # Magnitudes before anything cancels, by |S[r, s]|^2 <= S[r, r] S[s, s].
    width_i, width_j = (cov.diagonal(dim1=-2, dim2=-1).sqrt() for cov in (cov_i, cov_j))
    scale = ((a.abs() * width_i).sum(-1) + (b.abs() * width_j).sum(-1)).square()
    scale = scale + (skew_ij * skew_ij.mT).abs().sum((-2, -1)) + (skew_j * skew_i.mT).abs().sum((-2, -1))
    variance = _checks.settled(where, first + second, scale)
    _checks.finite(where, mean=mean, variance=variance)
    return mean, variance


def _quadratic(x: Tensor, matrix: Tensor, y: Tensor) -> Tensor:
    return ((x.unsqueeze(-2) @ matrix).squeeze(-2) * y).sum(-1)


def last_layer_score_variance(
    mean_i: Tensor,
    mean_j: Tensor,
    k_ii: Tensor,
    k_jj: Tensor,
    k_ij: Tensor,
    output_cov: Tensor,
    gates: Tensor | None = None,
) -> Tensor:
    """Exact variance of the score when both embeddings come from one uncertain last layer v = W phi.

    With Cov(vec W) = V (x) U (columns stacked; U is ``output_cov``) and k_xy = phi_x^T V phi_y::

        Var = k_ii a^T U a + k_jj b^T U b + 2 k_ij a^T U b + (k_ii k_jj - k_ij^2) tr(A U A^T U)

    The last term is second order: along directions of W that leave every score as it is, no label shrinks it. For
    a Laplace posterior use the linearised `pair_kernel`. Two identical responses have variance 0. The mean of the
    score is `preference_score` of the means: tr(A U) = 0 for a symmetric U.

    Args:
        mean_i, mean_j: Mean embeddings, [*B, D].
        k_ii, k_jj, k_ij: Feature kernels of the pair, [*B].
        output_cov: U, [D, D], symmetric.
        gates: Scale of each block, [*B, D/2] or its last dimensions.

    Returns:
        Variance, [*B], before division by the temperature squared; below zero by rounding alone it is zero.

    Raises:
        ShapeError: If D is odd or shapes do not fit.
        NumericsError: If a kernel breaks the Cauchy-Schwarz inequality, ``output_cov`` is no covariance, or a
            number is not finite.
    """
    where = "last_layer_score_variance"
    _checks.embeddings(where, gates, mean_i=mean_i, mean_j=mean_j)
    for name, k in (("k_ii", k_ii), ("k_jj", k_jj), ("k_ij", k_ij)):
        _checks.expect(where, name, k, tuple(mean_i.shape[:-1]), "one kernel value for each pair")
    _checks.expect(where, "output_cov", output_cov, (mean_i.shape[-1],) * 2, "one covariance shared by all pairs")
    _checks.covariance(where, output_cov=output_cov)
    _checks.finite(where, mean_i=mean_i, mean_j=mean_j, k_ii=k_ii, k_jj=k_jj, k_ij=k_ij)
    _checks.non_negative(where, k_ii=k_ii, k_jj=k_jj)
    more = {} if gates is None else {"gates": gates}
    _checks.same_dtype(where, mean_i=mean_i, mean_j=mean_j, output_cov=output_cov, **more)
    a, b = _skew(mean_j, gates), -_skew(mean_i, gates)
    ua, ub = a @ output_cov, b @ output_cov
    # tr(A U A^T U) = L^T Q L with L the gates repeated twice, so no D x D matrix per pair.
    skewed = _skew(_skew(output_cov, None).mT, None).mT
    q = skewed * output_cov
    if gates is None:
        trace = q.sum()
    else:
        scale = gates.repeat_interleave(2, dim=-1)
        trace = ((scale @ q) * scale).sum(-1)
    schur = _checks.settled(where, k_ii * k_jj - k_ij.square(), k_ii * k_jj + k_ij.square())
    first = (k_ii * (ua * a).sum(-1) + k_jj * (ub * b).sum(-1)) + 2 * k_ij * (ua * b).sum(-1)
    width = output_cov.diagonal().sqrt()
    scale = (k_ii.sqrt() * (a.abs() @ width) + k_jj.sqrt() * (b.abs() @ width)).square() + k_ii * k_jj * trace.abs()
    variance = _checks.settled(where, first + schur * trace, scale)
    _checks.finite(where, variance=variance)
    return variance
