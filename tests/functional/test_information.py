"""Greedy batches against brute force, a refitted posterior and exhaustive search."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from bgpm import functional as F
from bgpm.errors import ArgumentError, NumericsError, ShapeError

N, DIM = 14, 8


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blocks(k: torch.Tensor):
    """A covariance that is there as a whole, block by block."""
    return lambda rows, columns: k[rows][:, columns]


class Problem:
    """Pairs with Jacobian g over weights with covariance sigma: K = g sigma g'."""

    def __init__(self, n: int = N, seed: int = 0) -> None:
        self.g = draw(n, DIM, seed=seed)
        root = draw(DIM, DIM, seed=seed + 1)
        self.sigma = root @ root.T / DIM
        self.weight = draw(n, seed=seed + 2).abs()

    @property
    def k(self) -> torch.Tensor:
        return self.g @ self.sigma @ self.g.T

    def worth(self, rows: list[int]) -> float:
        """1/2 log det(I + L^1/2 K L^1/2) of a batch, by a dense determinant."""
        root = self.weight[rows].sqrt()
        inside = torch.eye(len(rows), dtype=torch.float64) + root[:, None] * self.k[rows][:, rows] * root
        return 0.5 * torch.logdet(inside).item()

    def refitted(self, rows: list[int]) -> torch.Tensor:
        """Variance of every pair after these labels: the precision is summed and inverted anew."""
        precision = torch.linalg.inv(self.sigma) + self.g[rows].T @ (self.weight[rows, None] * self.g[rows])
        return (self.g @ torch.linalg.inv(precision) * self.g).sum(-1)

    def greedy(self, k: int, **keywords):
        return F.greedy_logdet(self.k.diagonal(), self.k.__getitem__, self.weight, k, **keywords)


def unused(j: int) -> torch.Tensor:
    raise AssertionError("a row was asked for where there are blocks")


@pytest.mark.parametrize("by", ["rows", "blocks"])
def test_picks_and_gains_are_those_of_brute_force_greedy(by: str) -> None:
    problem = Problem()
    if by == "rows":
        picks, gains = problem.greedy(6)
    else:
        k = problem.k
        picks, gains = F.greedy_logdet(k.diagonal(), unused, problem.weight, 6, block=blocks(k))
    chosen: list[int] = []
    for pick, gain in zip(picks.tolist(), gains.tolist(), strict=True):
        worth = {j: problem.worth([*chosen, j]) for j in range(N) if j not in chosen}
        best = max(worth, key=lambda j: worth[j])
        assert pick == best
        assert gain == pytest.approx(worth[best] - problem.worth(chosen), rel=1e-10)
        chosen.append(pick)
    assert gains.sum().item() == pytest.approx(problem.worth(chosen), rel=1e-12)
    assert (gains.diff() <= 0).all()


def test_each_gain_is_that_of_the_refitted_posterior() -> None:
    problem = Problem(seed=10)
    picks, gains = problem.greedy(8)
    for t, (pick, gain) in enumerate(zip(picks.tolist(), gains.tolist(), strict=True)):
        left = problem.refitted(picks[:t].tolist())
        assert gain == pytest.approx(0.5 * math.log1p(problem.weight[pick] * left[pick]), rel=1e-11)


@pytest.mark.parametrize("n", [N, 3000])
def test_the_variances_asked_about_are_those_of_the_refitted_posterior(n: int) -> None:
    problem, seen = Problem(n, seed=20), []

    def value(rows: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        seen.append((rows.clone(), left.clone()))
        return left * problem.weight[rows]

    picks, _ = F.greedy_conditional(problem.k.diagonal(), problem.k.__getitem__, problem.weight, 7, value)
    refitted = torch.stack([problem.refitted(picks[:t].tolist()) for t in range(7)])
    for rows, left in seen:
        apart = (refitted[:, rows] - left).abs().amax(1)
        assert apart.min() < 1e-9  # of one of the posteriors, all of them
    assert len(seen[0][0]) == n


def test_few_values_are_computed_anew_and_no_pick_differs_from_those_of_all_of_them() -> None:
    problem, asked = Problem(4000, seed=70), []
    problem.weight = problem.weight**3  # some labels tell much more than others, as in a pool
    whole = blocks(problem.k)

    def counted(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows) * len(columns))
        return whole(rows, columns)

    picks, gains = F.greedy_logdet(problem.k.diagonal(), unused, problem.weight, 8, block=counted)
    open_ = torch.ones(4000, dtype=torch.bool)
    for t, (pick, gain) in enumerate(zip(picks.tolist(), gains.tolist(), strict=True)):
        all_gains = 0.5 * torch.log1p(problem.weight * problem.refitted(picks[:t].tolist()))
        assert all_gains.masked_fill(~open_, -1).argmax() == pick
        assert gain == pytest.approx(all_gains[pick].item(), rel=1e-9)
        open_[pick] = False
    assert sum(asked) < 0.4 * 8 * 4000


class CappedQuota:
    """At most one pair of each group of three; the first rows of the list are taken before the start."""

    def __init__(self, n: int, taken: list[int]) -> None:
        self.taken: list[int] = []
        self._open = torch.ones(n, dtype=torch.bool).numpy()
        for row in taken:
            self.take(row)

    def open(self):
        return self._open

    def take(self, row: int) -> None:
        self.taken.append(row)
        self._open[row - row % 3 : row - row % 3 + 3] = False


def test_a_quota_is_kept_and_what_it_has_taken_is_known() -> None:
    problem = Problem(30, seed=80)
    quota = CappedQuota(30, [4, 19])
    picks, gains = problem.greedy(6, quota=quota)
    assert quota.taken == [4, 19, *picks.tolist()]
    for t, (pick, gain) in enumerate(zip(picks.tolist(), gains.tolist(), strict=True)):
        before = [4, 19, *picks[:t].tolist()]
        worth = 0.5 * torch.log1p(problem.weight * problem.refitted(before))
        shut = torch.tensor([n // 3 in {row // 3 for row in before} for n in range(30)])
        assert worth.masked_fill(shut, -1).argmax() == pick
        assert gain == pytest.approx(worth[pick].item(), rel=1e-10)


def test_a_quota_that_ends_before_the_batch_is_refused() -> None:
    with pytest.raises(ShapeError, match="expected 11 picks, got a quota used up after 8"):
        Problem(30, seed=80).greedy(11, quota=CappedQuota(30, [4, 19]))


def test_conditional_bald_picks_the_most_informative_pair_of_the_refitted_posterior() -> None:
    problem, mean, tau = Problem(seed=30), 2 * draw(N, seed=33), 0.8
    weight = F.fisher_weight(mean, problem.k.diagonal(), tau)
    problem.weight = weight
    picks, gains = F.greedy_conditional(
        problem.k.diagonal(), problem.k.__getitem__, weight, 5, lambda rows, left: F.bald(mean[rows], left, tau)
    )
    for t in range(5):
        earlier = picks[:t].tolist()
        value = F.bald(mean, problem.refitted(earlier), tau)
        value[earlier] = -1
        assert picks[t] == value.argmax()
        assert gains[t].item() == pytest.approx(value.max().item(), rel=1e-9)


def test_greedy_is_close_to_the_best_batch_and_better_than_the_best_single_pairs() -> None:
    for seed in range(0, 50, 10):
        problem = Problem(seed=seed)
        picks, _ = problem.greedy(3)
        best = max(problem.worth(list(rows)) for rows in itertools.combinations(range(N), 3))
        assert problem.worth(picks.tolist()) >= (1 - 1 / math.e) * best
        top = (problem.weight * problem.k.diagonal()).topk(3).indices.tolist()
        assert problem.worth(picks.tolist()) >= problem.worth(top) - 1e-12


def test_a_kernel_on_demand_gives_the_picks_of_its_dense_matrix_by_rows_and_by_blocks() -> None:
    mean_i, mean_j, phi_i, phi_j = draw(40, 4, seed=1), draw(40, 4, seed=2), draw(40, 3, seed=3), draw(40, 3, seed=4)
    root = draw(12, 12, seed=5)
    kernel = F.pair_kernel(mean_i, mean_j, phi_i, phi_j, F.FullPosterior(root @ root.T))
    dense = torch.stack([kernel.row(j) for j in range(40)])
    weight = draw(40, seed=6).abs()
    full = F.greedy_logdet(dense.diagonal(), dense.__getitem__, weight, 12)
    by_rows = F.greedy_logdet(kernel.diagonal(), kernel.row, weight, 12)
    by_blocks = F.greedy_logdet(kernel.diagonal(), kernel.row, weight, 12, block=kernel.block)
    for picks, gains in (by_rows, by_blocks):
        assert torch.equal(picks, full[0])
        torch.testing.assert_close(gains, full[1], rtol=1e-9, atol=0)


def test_each_row_of_the_kernel_is_asked_for_once_at_most_and_only_for_a_pick() -> None:
    problem, asked = Problem(300, seed=90), []

    def row(j: int) -> torch.Tensor:
        asked.append(j)
        return problem.k[j]

    picks, _ = F.greedy_logdet(problem.k.diagonal(), row, problem.weight, 9)
    assert asked == picks.tolist()


def twins() -> tuple[torch.Tensor, torch.Tensor]:
    """Four pairs, each there three times, some with their answers swapped."""
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).repeat(4)
    g = draw(4, DIM, seed=7).repeat_interleave(3, 0) * sign[:, None]
    return g @ g.T, torch.ones(12, dtype=torch.float64)


def test_ties_go_to_the_lower_row_without_a_generator() -> None:
    k, weight = twins()
    picks, _ = F.greedy_logdet(k.diagonal(), k.__getitem__, weight, 4)
    assert (picks % 3 == 0).all()


@pytest.mark.parametrize("by", ["rows", "blocks"])
def test_ties_are_broken_by_a_key_from_the_generator_alone(by: str) -> None:
    k, weight = twins()

    def run(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        block = blocks(k) if by == "blocks" else None
        return F.greedy_logdet(k.diagonal(), k.__getitem__, weight, 4, generator, block=block)[0].tolist()

    assert run(3) == run(3)
    runs = [run(seed) for seed in range(60)]
    groups = {tuple(j // 3 for j in picks) for picks in runs}
    assert len(groups) == 1  # which pair is best does not depend on the seed
    for place in range(4):
        copies = [picks[place] % 3 for picks in runs]
        assert all(8 <= copies.count(c) <= 32 for c in range(3))  # 20 expected, 3.65 standard deviation


def test_swapping_answers_changes_neither_picks_nor_gains() -> None:
    problem = Problem(seed=40)
    before = problem.greedy(6)
    problem.g = problem.g * torch.where(torch.arange(N) % 3 == 0, -1.0, 1.0)[:, None]
    after = problem.greedy(6)
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1], after[1], rtol=1e-13, atol=0)


def test_a_pair_of_weight_zero_gains_nothing_and_teaches_nothing() -> None:
    problem = Problem(seed=50)
    problem.weight[:] = 0
    problem.weight[4] = 1
    picks, gains = problem.greedy(N)
    assert picks[0] == 4
    assert sorted(picks.tolist()) == list(range(N))
    assert gains[0].item() == pytest.approx(0.5 * math.log1p(problem.k[4, 4]))
    assert torch.equal(gains[1:], torch.zeros(N - 1, dtype=torch.float64))


def test_more_labels_than_directions_leave_no_negative_variance() -> None:
    problem = Problem(n=60, seed=60)
    problem.weight = 1e9 * torch.ones(60, dtype=torch.float64)
    picks, gains = problem.greedy(60)
    assert len(set(picks.tolist())) == 60
    assert (gains >= 0).all()
    # every direction is worth a lot once, and next to nothing again
    assert gains[:DIM].min() > 5
    assert gains[DIM:].max() < 1


def test_none_asked_none_given() -> None:
    picks, gains = Problem().greedy(0)
    assert picks.shape == gains.shape == (0,)
    assert picks.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"k": N + 1}, ShapeError, "between 0 and the number of pairs 14, got 15"),
        ({"k": -1}, ShapeError, "got -1"),
        ({"weight": torch.ones(N - 1).double()}, ShapeError, r"variance \[14\], weight \[13\]"),
        ({"weight": -torch.ones(N).double()}, NumericsError, "weight must be >= 0, got -1.0"),
        ({"weight": torch.full((N,), torch.nan)}, NumericsError, "weight must be finite"),
        ({"variance": -torch.ones(N).double()}, NumericsError, "variance must be >= 0"),
        ({"variance": torch.ones(N, 1).double(), "weight": torch.ones(N, 1).double()}, ShapeError, r"variance \[N\]"),
        ({"k": 2.5}, ArgumentError, "expected k to be a whole number, got 2.5"),
        ({"kernel_row": torch.eye(N).double()}, ArgumentError, "expected kernel_row of type Callable, got Tensor"),
        ({"weight": [1.0] * N}, ArgumentError, "expected weight of type Tensor, got list"),
        ({"generator": 7}, ArgumentError, "expected generator of type Generator, got int 7"),
        ({"variance": torch.ones(N).bfloat16()}, NumericsError, "variance in float32 or float64, got torch.bfloat16"),
        ({"kernel_row": lambda j: Problem().k[j, 1:]}, ShapeError, r"kernel_row\(\d+\) \[14\], got \[13\]"),
        ({"kernel_row": lambda j: Problem().k[j].float()}, NumericsError, "float64, the covariance torch.float32"),
        ({"kernel_row": lambda j: Problem().k[j] * torch.nan}, NumericsError, "covariance must be finite"),
        (
            {"variance": torch.full((N,), 40.0).double()},
            NumericsError,
            r"covariance of pair 12 with itself to be variance\[12\] = 40",
        ),
        (
            {"block": lambda r, c: Problem().k[r][:, [0, *c]][:, len(r) < 5 :]},
            ShapeError,
            r"\[13, 1\], got \[13, 2\]",
        ),
        ({"block": lambda r, c: Problem().k[r][:, c] / (r[:, None] == c)}, NumericsError, "must be finite"),
        (
            {"block": lambda r, c: Problem().k[r][:, c] * torch.where(r[:, None] == c, 1, 9)},
            NumericsError,
            "not positive semi-definite",
        ),
    ],
)
def test_an_argument_that_cannot_be_right_is_refused_by_name(change, error, says) -> None:
    problem = Problem()
    arguments = {
        "variance": problem.k.diagonal(), "kernel_row": problem.k.__getitem__, "weight": problem.weight, "k": 5,
    }  # fmt: skip
    with pytest.raises(error, match=says):
        F.greedy_logdet(**{**arguments, **change})
