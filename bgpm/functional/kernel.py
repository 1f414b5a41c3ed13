"""Covariance between the scores of pairs under a Gaussian posterior over the last layer, row by row.

Shapes: N pairs, R responses, D embedding dimension, p features, r <= D uncertain rows of the weights W [D, p].

A score s_n = v_i^T A v_j with v = W phi is linearised at the mean, s_n ~ g_n . W, with

    g_n = a_n (x) phi_i(n) + b_n (x) phi_j(n),   a = A v_j,   b = A^T v_i,

for W flattened **row by row**, W.flatten(). Then Cov(s_n, s_m) = g_n^T Sigma g_m, and one row needs only

    K_nm = a_n^T M phi_i(n) + b_n^T M phi_j(n),   M = mat(Sigma g_m)  [D, p].

The Jacobian [N, D p] is never formed; the largest temporary has a few million entries, whatever N is.

The linearised variance does not move along directions that leave every score as it is (W -> Q W with Q^T A Q = A),
where a posterior is as wide as its prior; exact second-order moments do, and are wrong there by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpm.errors import NumericsError, ShapeError
from bgpm.functional import _checks
from bgpm.functional.skew import apply_skew

_CHUNK = 1 << 22  # entries of a temporary: 32 MiB in float64
_KEPT = 1 << 14  # columns whose Sigma g is kept
_CONVERTED = 1 << 19  # entries of features converted at a time: 4 MiB, which stays in cache


@dataclass(frozen=True, eq=False)
class FullPosterior:
    """Weights with any covariance.

    Attributes:
        covariance: [r p, r p] over W[rows] flattened row by row, symmetric positive semi-definite.
        rows: Which coordinates of the embedding have uncertain weights, r of them; None for all D. A coordinate
            left out is known exactly, like the constant of a Bradley-Terry block (r, 1).

    Raises:
        ShapeError: If the covariance is not square.
        NumericsError: If it is not finite, not symmetric, has a negative variance or is in half precision.
    """

    covariance: Tensor
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _checks.at_least_single("FullPosterior", covariance=self.covariance)
        _checks.covariance("FullPosterior", covariance=self.covariance)

    @property
    def dtype(self) -> torch.dtype:
        """The precision everything is computed in."""
        return self.covariance.dtype

    def entries(self, r: int, p: int) -> int:
        """Entries of the temporaries that `variance` needs for each pair."""
        return 2 * r * p

    def check(self, r: int, p: int) -> None:
        """ShapeError unless this posterior is about r x p weights."""
        _checks.expect("FullPosterior", "covariance", self.covariance, (r * p, r * p), f"W has {r} x {p} weights")

    def against(self, a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> tuple[Tensor, Tensor]:
        """Sigma g of one pair as a product ``left @ right`` of [r, q] and [q, p]; arguments [r], [r], [p], [p]."""
        m = (self.covariance @ _outer(a, b, phi_i, phi_j).flatten()).view(len(a), -1)
        return torch.eye(len(a), dtype=m.dtype, device=m.device), m

    def variance(self, a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> Tensor:
        """g^T Sigma g of a chunk of pairs, [n]; arguments [n, r], [n, r], [n, p], [n, p]."""
        g = _outer(a, b, phi_i, phi_j).flatten(1)
        scale = (g.abs() @ self.covariance.diagonal().sqrt()).square()
        return _checks.settled("pair_kernel", ((g @ self.covariance) * g).sum(-1), scale)


@dataclass(frozen=True, eq=False)
class KroneckerPosterior:
    """Weights whose covariance is a product: Cov(W[r, q], W[s, t]) = output_cov[r, s] input_cov[q, t].

    Attributes:
        output_cov: U, [r, r], symmetric positive semi-definite.
        input_cov: V, [p, p], symmetric positive semi-definite.
        rows: As in `FullPosterior`.

    With W flattened row by row the covariance is U (x) V (with columns stacked it is V (x) U).

    Raises:
        ShapeError: If a factor is not square.
        NumericsError: If a factor is not finite, not symmetric, has a negative variance or is in half precision, or if
            the two are of different dtypes.
    """

    output_cov: Tensor
    input_cov: Tensor
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        factors = {"output_cov": self.output_cov, "input_cov": self.input_cov}
        _checks.at_least_single("KroneckerPosterior", **factors)
        _checks.same_dtype("KroneckerPosterior", **factors)
        _checks.covariance("KroneckerPosterior", **factors)

    @property
    def dtype(self) -> torch.dtype:
        """The precision everything is computed in."""
        return self.input_cov.dtype

    def entries(self, r: int, p: int) -> int:
        """Entries of the temporaries that `variance` needs for each pair."""
        return 4 * p

    def check(self, r: int, p: int) -> None:
        """ShapeError unless this posterior is about r x p weights."""
        _checks.expect("KroneckerPosterior", "output_cov", self.output_cov, (r, r), f"W has {r} uncertain rows")
        _checks.expect("KroneckerPosterior", "input_cov", self.input_cov, (p, p), f"there are {p} features")

    def against(self, a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> tuple[Tensor, Tensor]:
        """Sigma g of one pair as ``left @ right``: U [a b] times [phi_i phi_j]^T V, rank two."""
        return self.output_cov @ torch.stack((a, b), dim=1), torch.stack((phi_i, phi_j)) @ self.input_cov

    def variance(self, a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> Tensor:
        """g^T Sigma g of a chunk of pairs, [n]."""
        ua, ub = a @ self.output_cov, b @ self.output_cov
        vi, vj = phi_i @ self.input_cov, phi_j @ self.input_cov
        own = (ua * a).sum(-1) * (vi * phi_i).sum(-1) + (ub * b).sum(-1) * (vj * phi_j).sum(-1)
        cross = (ua * b).sum(-1) * (vi * phi_j).sum(-1)
        u, v = self.output_cov.diagonal().sqrt(), self.input_cov.diagonal().sqrt()
        scale = ((a.abs() @ u) * (phi_i.abs() @ v) + (b.abs() @ u) * (phi_j.abs() @ v)).square()
        return _checks.settled("pair_kernel", own + 2 * cross, scale)


@dataclass(frozen=True, eq=False)
class LowRankPosterior:
    """Weights with a diagonal prior, known better where labels are: for r p too large for a dense covariance.

    With J [n, r p] the Jacobian of the n labelled scores, each row times the square root of its weight, and
    P the diagonal prior covariance, Woodbury's identity gives the exact posterior without a matrix [r p, r p]:

        Sigma = (P^-1 + J^T J)^-1 = P - P J^T B^-1 J P,   B = I + J P J^T = L L^T  [n, n]

    Made by `from_labels`; the attributes are what has to be saved.

    Attributes:
        prior_variance: Diagonal of P, [r, p], > 0.
        a, b: Gradients of the labelled scores with respect to their embeddings, times the square root of the
            weights, [n, r].
        phi_i, phi_j: Features of the labelled pairs, [n, p].
        cholesky: L, lower triangular, [n, n].
        rows: As in `FullPosterior`.

    Raises:
        ShapeError: If the shapes do not fit together.
        NumericsError: If a number is not finite or a prior variance not positive, or if the dtypes differ or are half
            precision.
    """

    prior_variance: Tensor
    a: Tensor
    b: Tensor
    phi_i: Tensor
    phi_j: Tensor
    cholesky: Tensor
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        where = "LowRankPosterior"
        tensors = {name: getattr(self, name) for name in ("prior_variance", "a", "b", "phi_i", "phi_j", "cholesky")}
        _checks.at_least_single(where, **tensors)
        _checks.same_dtype(where, **tensors)
        if self.prior_variance.ndim != 2:
            raise ShapeError(
                f"{where}: expected prior_variance [r, p], got {list(self.prior_variance.shape)}; one for each weight"
            )
        n, (r, p) = len(self.a), self.prior_variance.shape
        expected = {"a": (n, r), "b": (n, r), "phi_i": (n, p), "phi_j": (n, p), "cholesky": (n, n)}
        for name, shape in expected.items():
            _checks.expect(where, name, getattr(self, name), shape, f"for {n} labels and {r} x {p} weights")
            _checks.finite(where, **{name: getattr(self, name)})
        _checks.finite(where, prior_variance=self.prior_variance)
        if (self.prior_variance <= 0).any():
            raise NumericsError(
                f"{where}: expected prior variances > 0, got {self.prior_variance.min().item()}; "
                "leave a weight that is known out by `rows`"
            )

    @classmethod
    def from_labels(
        cls,
        prior_variance: Tensor,
        mean_i: Tensor,
        mean_j: Tensor,
        phi_i: Tensor,
        phi_j: Tensor,
        weight: Tensor,
        gates: Tensor | None = None,
        rows: tuple[int, ...] | None = None,
    ) -> LowRankPosterior:
        """The Gauss-Newton posterior after n labels.

        Args:
            prior_variance: [r, p], the inverse of the prior precision of each weight.
            mean_i, mean_j: Mean embeddings of the labelled pairs, [n, D].
            phi_i, phi_j: Their features, [n, p].
            weight: Curvature of each label's loss, p (1 - p) / tau^2, >= 0, [n].
            gates: [n, D/2] or [D/2].
            rows: As in `FullPosterior`.
        """
        where = "LowRankPosterior.from_labels"
        a, b = _gradients(where, mean_i, mean_j, gates, rows)
        _checks.same_shape(where, phi_i=phi_i, phi_j=phi_j)
        _checks.expect(where, "weight", weight, (len(mean_i),), "one weight for each labelled pair")
        _checks.expect(where, "prior_variance", prior_variance, (a.shape[1], phi_i.shape[-1]), "one for each weight")
        _checks.at_least_single(where, prior_variance=prior_variance)
        _checks.finite(where, weight=weight, phi_i=phi_i, phi_j=phi_j, prior_variance=prior_variance)
        _checks.non_negative(where, weight=weight, prior_variance=prior_variance)
        dtype = prior_variance.dtype
        root = weight.to(dtype).sqrt()[:, None]
        a, b, phi_i, phi_j = root * a.to(dtype), root * b.to(dtype), phi_i.to(dtype), phi_j.to(dtype)
        gram = torch.eye(len(a), dtype=dtype, device=a.device)
        for row, variance in enumerate(prior_variance):
            x = a[:, row, None] * phi_i + b[:, row, None] * phi_j
            gram = gram.addmm(x * variance, x.T)
        _checks.finite(where, **{"I + J P J^T": gram})
        return cls(prior_variance, a, b, phi_i, phi_j, torch.linalg.cholesky(gram), rows)

    @property
    def dtype(self) -> torch.dtype:
        """The precision everything is computed in."""
        return self.prior_variance.dtype

    def entries(self, r: int, p: int) -> int:
        """Entries of the temporaries that `variance` needs for each pair."""
        return 2 * r * (p + len(self.a))

    def check(self, r: int, p: int) -> None:
        """ShapeError unless this posterior is about r x p weights."""
        _checks.expect("LowRankPosterior", "prior_variance", self.prior_variance, (r, p), f"W has {r} x {p} weights")

    def against(self, a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> tuple[Tensor, Tensor]:
        """Sigma g of one pair as ``left @ right``, [r, r] and [r, p]."""
        g = _outer(a, b, phi_i, phi_j)
        jpg = self._jacobian_times((self.prior_variance * g)[None])  # [n, 1]
        dual = torch.cholesky_solve(jpg, self.cholesky)
        m = self.prior_variance * (g - (dual * self.a).T @ self.phi_i - (dual * self.b).T @ self.phi_j)
        return torch.eye(len(a), dtype=m.dtype, device=m.device), m

    def variance(self, a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> Tensor:
        """g^T Sigma g of a chunk of pairs, [n]."""
        g = _outer(a, b, phi_i, phi_j)
        scaled = self.prior_variance * g
        prior = (scaled * g).sum((-2, -1))
        known = torch.linalg.solve_triangular(self.cholesky, self._jacobian_times(scaled), upper=False).square().sum(0)
        return _checks.settled("pair_kernel", prior - known, prior)

    def _jacobian_times(self, m: Tensor) -> Tensor:
        """J vec(m) for matrices m [c, r, p], as [n, c]."""
        side_i = torch.einsum("np,crp->ncr", self.phi_i, m)
        side_j = torch.einsum("np,crp->ncr", self.phi_j, m)
        return (self.a[:, None] * side_i + self.b[:, None] * side_j).sum(-1)


WeightPosterior = FullPosterior | KroneckerPosterior | LowRankPosterior


class LinearisedKernel:
    """Covariance between the scores of N pairs; made and checked by `pair_kernel` or `indexed_pair_kernel`.

    Swapping the responses of a pair flips the sign of its row and column and leaves the diagonal. Whoever has gradients
    of its own, of a score that is not the plain skew form, may pass them to the constructor, which checks nothing.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        phi: tuple[Tensor, Tensor],
        index: tuple[Tensor, Tensor] | None,
        posterior: WeightPosterior,
    ) -> None:
        """From parts.

        Args:
            a, b: Gradients of each score with respect to the uncertain coordinates of both embeddings, [N, r].
            phi: Features of both sides, [N, p] each; with ``index`` the features of all responses, [R, p], twice.
            index: Rows of the responses on both sides, int64 [N] each, or None.
            posterior: Over the weights [r, p].
        """
        self._a, self._b = a.to(posterior.dtype), b.to(posterior.dtype)
        self._phi, self._index, self._posterior = phi, index, posterior
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._a)

    def diagonal(self) -> Tensor:
        """Variance of each pair's score, [N]."""
        n, r = self._a.shape
        step = max(1, _CHUNK // self._posterior.entries(r, self._phi[0].shape[1]))
        out = self._a.new_empty(n)
        for low in range(0, n, step):
            part = slice(low, low + step)
            out[part] = self._posterior.variance(self._a[part], self._b[part], *self._features(part))
        return out

    def row(self, j: int) -> Tensor:
        """Covariance of pair j with every pair, [N].

        Raises:
            ArgumentError: If j is not a whole number.
            ShapeError: If j is not in 0..N-1.
        """
        j = _checks.whole("pair_kernel", "a row", j)
        if not 0 <= j < len(self):
            raise ShapeError(f"pair_kernel: expected a row in 0..{len(self) - 1}, got {j}; rows are counted from 0")
        left, right = self._against(j)
        first, second = self._project(right)
        return ((self._a @ left) * first).sum(-1) + ((self._b @ left) * second).sum(-1)

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Covariance of the pairs at ``rows`` with those at ``columns``, [n, m], by matrix products.

        Sigma g of a column, r p numbers, is kept, of 16,384 columns at most: asking for more rows of it soon costs no
        posterior again.

        Args:
            rows, columns: Numbers of pairs in 0..N-1, int64 [n] and [m].

        Raises:
            ArgumentError: If one is not a tensor.
            ShapeError: If one is not int64 with one dimension, or a pair does not exist.
        """
        _checks.row_numbers("pair_kernel", len(self), rows=rows, columns=columns)
        m, p = len(columns), self._phi[0].shape[1]
        out = self._a.new_empty((len(rows), m))
        if not m:
            return out
        left, right = (torch.stack(side) for side in zip(*map(self._against, columns.tolist()), strict=True))
        q = right.shape[1]
        flat, width = right.flatten(0, 1).T, left.transpose(0, 1).flatten(1)  # [p, m q] and [r, m q]
        step = max(1, _CHUNK // max(p, m * q))
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            phi_i, phi_j = self._features(part)
            whole = (self._a[part] @ width) * (phi_i @ flat) + (self._b[part] @ width) * (phi_j @ flat)
            out[at : at + step] = whole.view(len(part), m, q).sum(-1)
        return out

    def _against(self, j: int) -> tuple[Tensor, Tensor]:
        if j not in self._seen:
            if len(self._seen) == _KEPT:
                self._seen.clear()
            phi_i, phi_j = self._features(slice(j, j + 1))
            self._seen[j] = self._posterior.against(self._a[j], self._b[j], phi_i[0], phi_j[0])
        return self._seen[j]

    def _features(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        phi_i, phi_j = self._phi
        if self._index is None:
            phi_i, phi_j = phi_i[part], phi_j[part]
        else:
            phi_i, phi_j = phi_i[self._index[0][part]], phi_j[self._index[1][part]]
        return phi_i.to(self._a.dtype), phi_j.to(self._a.dtype)

    def _project(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """phi_i(n)^T right^T and phi_j(n)^T right^T, both [N, q]; each response is multiplied once."""
        if self._index is None:
            return _product(self._phi[0], right), _product(self._phi[1], right)
        product = _product(self._phi[0], right)
        return product[self._index[0]], product[self._index[1]]


def pair_kernel(
    mean_i: Tensor,
    mean_j: Tensor,
    phi_i: Tensor,
    phi_j: Tensor,
    posterior: WeightPosterior,
    gates: Tensor | None = None,
) -> LinearisedKernel:
    """Linearised covariance between the scores of N pairs, with ``diagonal()`` and ``row(j)``.

    Computed in the posterior's dtype; features of a lower precision are converted chunk by chunk.

    Args:
        mean_i, mean_j: Mean embeddings, [N, D].
        phi_i, phi_j: Features, [N, p]. Where pairs share responses, `indexed_pair_kernel` needs less memory.
        posterior: Over the weights W [D, p] of v = W phi, or over some of its rows.
        gates: Scale of each block, [N, D/2] or [D/2].

    Raises:
        ArgumentError: If the posterior is none of the three or another argument no tensor.
        ShapeError: If D is odd or shapes do not fit each other or the posterior.
        NumericsError: If a number is not finite.
    """
    where = "pair_kernel"
    _posterior(where, posterior)
    a, b = _gradients(where, mean_i, mean_j, gates, posterior.rows)
    _checks.same_shape(where, phi_i=phi_i, phi_j=phi_j)
    if phi_i.ndim != 2 or len(phi_i) != len(mean_i):
        raise ShapeError(
            f"{where}: expected features [{len(mean_i)}, p], got {list(phi_i.shape)}; one row for each pair"
        )
    _finite_features(where, phi_i, phi_j)
    posterior.check(a.shape[1], phi_i.shape[1])
    return LinearisedKernel(a, b, (phi_i, phi_j), None, posterior)


def indexed_pair_kernel(
    mean: Tensor,
    phi: Tensor,
    response_a: Tensor,
    response_b: Tensor,
    posterior: WeightPosterior,
    gates: Tensor | None = None,
) -> LinearisedKernel:
    """`pair_kernel` for pairs given as rows of a table of responses, whose features are held once.

    Args:
        mean: Mean embeddings of the responses, [R, D].
        phi: Their features, [R, p].
        response_a, response_b: int64 [N], the responses of each pair.
        posterior: Over the weights W [D, p] of v = W phi, or over some of its rows.
        gates: Scale of each block for each *pair*, [N, D/2] or [D/2].

    Raises:
        ArgumentError: If the posterior is none of the three or another argument no tensor.
        ShapeError: If D is odd, shapes do not fit each other or the posterior, or a row does not exist.
        NumericsError: If a number is not finite.
    """
    where = "indexed_pair_kernel"
    _posterior(where, posterior)
    _checks.floating(where, mean=mean, phi=phi)
    if phi.ndim != 2 or mean.ndim != 2 or len(phi) != len(mean):
        raise ShapeError(
            f"{where}: expected mean [R, D] and phi [R, p], got {list(mean.shape)} and {list(phi.shape)}; "
            "one row for each response"
        )
    _checks.same_shape(where, response_a=response_a, response_b=response_b)
    _checks.row_numbers(where, len(mean), response_a=response_a, response_b=response_b)
    a, b = _gradients(where, mean[response_a], mean[response_b], gates, posterior.rows)
    _finite_features(where, phi)
    posterior.check(a.shape[1], phi.shape[1])
    return LinearisedKernel(a, b, (phi, phi), (response_a, response_b), posterior)


def _posterior(where: str, posterior: object) -> None:
    fix = "make one of them from the covariance; a name is not enough"
    _checks.instance(where, "posterior", posterior, (FullPosterior, KroneckerPosterior, LowRankPosterior), fix)


def _gradients(
    where: str, mean_i: Tensor, mean_j: Tensor, gates: Tensor | None, rows: tuple[int, ...] | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the scores with respect to the uncertain coordinates of both embeddings, [N, r] each."""
    _checks.embeddings(where, gates, mean_i=mean_i, mean_j=mean_j)
    if mean_i.ndim != 2:
        raise ShapeError(f"{where}: expected embeddings [N, D], got {list(mean_i.shape)}; flatten the batch")
    _checks.finite(where, mean_i=mean_i, mean_j=mean_j, **({} if gates is None else {"gates": gates}))
    a, b = apply_skew(mean_j, gates), -apply_skew(mean_i, gates)
    if rows is None:
        return a, b
    _checks.instance(where, "rows", rows, (tuple, list), "pass the numbers of embedding coordinates")
    rows, dim = tuple(_checks.whole(where, "a row", row) for row in rows), mean_i.shape[1]
    if len(set(rows)) != len(rows) or not all(0 <= row < dim for row in rows):
        raise ShapeError(f"{where}: expected distinct rows in 0..{dim - 1}, got {rows}; they are embedding coordinates")
    return a[:, list(rows)], b[:, list(rows)]


def _outer(a: Tensor, b: Tensor, phi_i: Tensor, phi_j: Tensor) -> Tensor:
    """a phi_i^T + b phi_j^T, [*B, r, p]."""
    return a[..., :, None] * phi_i[..., None, :] + b[..., :, None] * phi_j[..., None, :]


def _product(phi: Tensor, right: Tensor) -> Tensor:
    """phi @ right^T in the dtype of ``right``, converting a few rows of phi at a time."""
    if phi.dtype == right.dtype:
        return phi @ right.T
    out = right.new_empty((len(phi), len(right)))
    for part in _parts(*phi.shape):
        out[part] = phi[part].to(right.dtype) @ right.T
    return out


def _finite_features(where: str, *features: Tensor) -> None:
    for phi in features:
        for part in _parts(*phi.shape):
            _checks.finite(where, **{f"features from row {part.start}": phi[part]})


def _parts(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CONVERTED // max(1, width))
    return (slice(low, low + step) for low in range(0, n, step))
