"""Effects of responses: the sparse algebra and the posterior against dense matrices, and what they are for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.errors import ConfigError, DataError, StateError
from bgpm.fitting import incidence as incidences
from bgpm.fitting.effects import ResponseEffects
from bgpm.fitting.incidence import Incidence
from bgpm.fitting.lbfgs import OnData
from bgpm.fitting.map import PairLoss
from bgpm.fitting.mixed import MixedProblem, expected_loss
from bgpm.fitting.newton import LinearProblem
from bgpm.fitting.tensors import labelled
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors import Posterior
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.registry import build
from bgpm.types import Comparisons, Features, Pairs


@dataclass(frozen=True)
class World:
    """All pairs of K responses to each prompt, with labels of a linear reward plus an effect of each response."""

    features: Features
    pairs: Pairs
    label: np.ndarray
    effect: np.ndarray

    def facts(self, rows: np.ndarray) -> Comparisons:
        return Comparisons(self.pairs.take(rows), self.label[rows])


def make_world(prompts: int, k: int, p: int, sigma: float, *, reward: float = 1.5, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    responses = rng.standard_normal((prompts * k, p)).astype(np.float32)
    effect = sigma * rng.standard_normal(prompts * k)
    i, j = np.triu_indices(k, 1)
    base = k * np.repeat(np.arange(prompts), len(i))
    pairs = Pairs(base + np.tile(i, prompts), base + np.tile(j, prompts), base // k)
    total = responses @ (rng.standard_normal(p) * reward / (2 * p) ** 0.5) + effect
    score = total[pairs.response_a] - total[pairs.response_b]
    label = (rng.random(len(pairs)) < 1 / (1 + np.exp(-score))).astype(float)
    return World(Features(responses, np.zeros((prompts, 1), np.float32)), pairs, label, effect)


def dense_incidence(incidence: Incidence) -> torch.Tensor:
    d = torch.zeros(len(incidence.response_a), len(incidence.rows), dtype=torch.float64)
    for n, (i, j) in enumerate(zip(incidence.response_a, incidence.response_b, strict=True)):
        d[n, i] += 1
        d[n, j] -= 1
    return d


# components of three, one, two and two responses; one pair twice, a response against itself
FIRST = np.array([7, 3, 3, 20, 11, 12, 11, 5])
SECOND = np.array([3, 9, 9, 20, 14, 13, 14, 4])


def test_blocks_are_those_of_the_dense_matrix() -> None:
    incidence = Incidence.of(FIRST, SECOND)
    assert incidence.sizes == ((1, 1), (2, 3), (3, 1))
    d, rng = dense_incidence(incidence), torch.Generator().manual_seed(0)
    curvature = torch.rand(len(FIRST), generator=rng, dtype=torch.float64)
    dense = torch.eye(len(incidence.rows)) + 0.7 * d.T @ torch.diag(curvature) @ d
    blocks, vector = incidence.blocks(curvature, 0.7), torch.randn(len(dense), 2, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(blocks.solve(vector), torch.linalg.solve(dense, vector))
    torch.testing.assert_close(
        blocks.half(vector).T @ blocks.half(vector), vector.T @ torch.linalg.solve(dense, vector)
    )
    assert blocks.half_log_det() == pytest.approx(torch.logdet(dense).item() / 2)
    start, local, size = incidence.layout()
    inverse = torch.zeros_like(dense)
    for a in range(len(dense)):
        for b in range(len(dense)):
            if start[a] == start[b]:
                inverse[a, b] = blocks.inverse()[start[a] + local[a] * size[a] + local[b]]
    torch.testing.assert_close(inverse, torch.linalg.inv(dense))
    torch.testing.assert_close(incidence.across(vector), d @ vector)
    torch.testing.assert_close(incidence.back(d @ vector), d.T @ (d @ vector))


def test_a_response_recurs_in_two_pairs_or_in_one_pair_twice() -> None:
    assert Incidence.of(FIRST, SECOND).recurs
    assert Incidence.of(np.array([0, 2, 2]), np.array([1, 3, 3])).recurs
    assert not Incidence.of(np.array([0, 2]), np.array([1, 3])).recurs


@dataclass(frozen=True)
class Dense:
    """The problem on all weights and effects at once, by Newton's method with short steps."""

    theta: torch.Tensor
    hessian: torch.Tensor
    jacobian: torch.Tensor
    log_evidence: float

    @classmethod
    def of(cls, x, incidence, label, precision, variance, weight=None) -> Dense:
        d = dense_incidence(incidence)
        jacobian = torch.cat([x, d], 1)
        prior = torch.cat([precision, torch.full((d.shape[1],), 1 / variance, dtype=torch.float64)])
        weight = torch.ones(len(x), dtype=torch.float64) if weight is None else weight
        theta = torch.zeros(len(prior), dtype=torch.float64)
        for _ in range(300):
            prob = torch.sigmoid(jacobian @ theta)
            hessian = jacobian.T @ ((weight * prob * (1 - prob))[:, None] * jacobian) + torch.diag(prior)
            theta = theta - 0.3 * torch.linalg.solve(hessian, jacobian.T @ (weight * (prob - label)) + prior * theta)
        loss = (weight * F.pairwise_loss(jacobian @ theta, label, tau=1.0)).sum() + (prior * theta.square()).sum() / 2
        evidence = -loss + prior.log().sum() / 2 - torch.logdet(hessian) / 2
        return cls(theta, hessian, jacobian, evidence.item())


def problem_of(world: World, rows: np.ndarray, group: list[int]) -> tuple[MixedProblem, torch.Tensor, torch.Tensor]:
    data = labelled(world.features, world.facts(rows), prompts=False, margins=False)
    x, label = data.response_a - data.response_b, data.label
    problem = MixedProblem(
        x, lambda s: F.pairwise_loss(s, label, tau=1.0), torch.tensor(group), Incidence.of(*data.rows)
    )
    return problem, x, label


@pytest.mark.parametrize("p", [5, 40])
def test_the_fit_and_its_evidence_are_those_of_all_weights_and_effects_at_once(p: int) -> None:
    world = make_world(6, 4, p, 1.0)
    problem, x, label = problem_of(world, np.arange(0, 36, 2), [0, 0] + [1] * (p - 2))
    precision = torch.tensor([0.7, 3.0], dtype=torch.float64)
    for variance in (2.0, 0.3):
        fit = problem.solve(precision, variance)
        dense = Dense.of(x, problem.incidence, label, precision[problem.group], variance)
        torch.testing.assert_close(torch.cat([fit.weight, fit.effect]), dense.theta, rtol=1e-5, atol=1e-6)
        assert fit.log_evidence == pytest.approx(dense.log_evidence, abs=1e-4)


@pytest.mark.parametrize("p", [5, 40])
def test_one_precision_and_no_variance_are_the_plain_linear_problem(p: int) -> None:
    world = make_world(6, 4, p, 1.0)
    problem, x, _ = problem_of(world, np.arange(0, 36, 2), [0] * p)
    plain = LinearProblem(x, problem.loss).solve(1.3)
    fit = problem.solve(torch.tensor([1.3], dtype=torch.float64), 0.0)
    torch.testing.assert_close(fit.weight, plain.weight, rtol=1e-6, atol=1e-7)
    assert fit.log_evidence == pytest.approx(plain.log_evidence, abs=1e-6)
    assert not fit.effect.any()
    nearly = problem.solve(torch.tensor([1.3], dtype=torch.float64), 1e-12)
    torch.testing.assert_close(nearly.weight, plain.weight, rtol=1e-6, atol=1e-7)


def test_anchors_move_both_priors() -> None:
    world = make_world(6, 4, 5, 1.0)
    problem, x, label = problem_of(world, np.arange(0, 36, 2), [0] * 5)
    rng = torch.Generator().manual_seed(0)
    anchor = torch.randn(5, generator=rng, dtype=torch.float64)
    away = torch.randn(len(problem.incidence.rows), generator=rng, dtype=torch.float64)
    moved = MixedProblem(x, problem.loss, problem.group, problem.incidence, anchor=anchor, effect_anchor=away)
    fit = moved.solve(torch.tensor([2.0], dtype=torch.float64), 0.8)
    slope = torch.sigmoid(x @ fit.weight + problem.incidence.across(fit.effect)) - label
    torch.testing.assert_close(x.T @ slope, -2.0 * (fit.weight - anchor), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(problem.incidence.back(slope), -(fit.effect - away) / 0.8, rtol=1e-5, atol=1e-6)


def test_scores_without_a_fold_are_close_to_those_of_a_refit() -> None:
    world = make_world(20, 4, 4, 1.0)
    rows = np.arange(0, 120, 2)
    problem, _, _ = problem_of(world, rows, [0] * 4)
    precision = torch.tensor([2.0], dtype=torch.float64)
    problem.solve(precision, 0.8)
    stale = problem._score(problem._at)
    prompt = world.pairs.prompt[rows]
    for held in (torch.from_numpy(np.flatnonzero(prompt < 4)), torch.arange(0, 60, 7)):  # whole prompts, single pairs
        train = np.setdiff1d(np.arange(60), held.numpy())
        mean, variance = problem.left_out([(torch.from_numpy(train), held)])
        refit, *_ = problem_of(world, rows[train], [0] * 4)
        fit = refit.solve(precision, 0.8)
        effect = np.zeros(80)
        effect[refit.incidence.rows] = fit.effect.numpy()
        pairs = world.pairs.take(rows[held.numpy()])
        sides = [
            world.features.responses[r] @ fit.weight.numpy() + effect[r] for r in (pairs.response_a, pairs.response_b)
        ]
        right = torch.from_numpy(sides[0] - sides[1])
        assert (mean[held] - right).norm() < 0.15 * (stale[held] - right).norm()
        if held[1] == 1:
            torch.testing.assert_close(variance[held], torch.full_like(right, 1.6))


def test_one_label_left_out_is_close_to_a_refit_without_it() -> None:
    world = make_world(5, 4, 3, 1.0)
    problem, _, _ = problem_of(world, np.arange(30), [0] * 3)
    precision = torch.tensor([2.0], dtype=torch.float64)
    problem.solve(precision, 0.8)
    mean, variance = problem.left_out_one_by_one()
    stale = problem._score(problem._at)
    for n in (3, 17):
        rows = np.delete(np.arange(30), n)
        refit, x, label = problem_of(world, rows, [0] * 3)
        dense = Dense.of(x, refit.incidence, label, precision.expand(3), 0.8)
        pair = world.pairs.take(np.array([n]))
        i, j = pair.response_a[0], pair.response_b[0]
        d = (refit.incidence.rows == i).astype(float) - (refit.incidence.rows == j)
        g = world.features.responses[i] - world.features.responses[j]
        e = torch.from_numpy(np.concatenate([g.astype(float), d]))
        assert abs(mean[n] - e @ dense.theta) < 0.2 * abs(stale[n] - e @ dense.theta)
        assert variance[n] == pytest.approx((e @ torch.linalg.solve(dense.hessian, e)).item(), rel=0.1)


def test_a_loss_is_averaged_over_what_is_not_known_of_the_score() -> None:
    label, mean = torch.ones(3, dtype=torch.float64), torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    variance = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    drawn = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = expected_loss(lambda s: F.pairwise_loss(s, label, tau=1.0), mean, variance)
    for n in range(3):
        likelihood = torch.sigmoid(mean[n] + variance[n].sqrt() * drawn)
        assert found[n].exp().reciprocal().item() == pytest.approx(likelihood.mean().item(), abs=2e-3)


SEEN = np.arange(0, 48, 2)  # labels of the small world below: three of each prompt's six pairs
FIXED = {"prior_precision": 1.5, "response_variance": 0.8}


def dense_covariance(model, world: World, pairs: Pairs, rows: np.ndarray = SEEN) -> torch.Tensor:
    """Covariance of scores by the dense Hessian of weights and of the effects of every response of the table."""
    count = len(world.features.responses)

    def jacobian(some: Pairs) -> torch.Tensor:
        sides = [torch.from_numpy(world.features.responses[s]).double() for s in (some.response_a, some.response_b)]
        out = torch.zeros(len(some), count, dtype=torch.float64)
        for n, (i, j) in enumerate(zip(some.response_a, some.response_b, strict=True)):
            out[n, i] += 1
            out[n, j] -= 1
        return torch.cat([model.module.design(*sides).gradients(), out], 1)

    data = world.facts(rows)
    j = jacobian(data.pairs)
    prob = torch.sigmoid(model.moments(world.features, data.pairs).mean)
    weights = model.module.weight
    precision = torch.full_like(weights, model.summary()["prior_precision"])
    precision[1:] = model.summary().get("block_precision", 1.0)
    prior = torch.cat([precision.detach().flatten(), torch.full((count,), 1 / 0.8, dtype=torch.float64)])
    covariance = torch.linalg.inv(j.T @ ((prob * (1 - prob))[:, None] * j) + torch.diag(prior))
    g = jacobian(pairs)
    return g @ covariance @ g.T


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(8, 4, 5, 1.0)


def test_moments_and_covariances_are_those_of_the_dense_hessian(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0)
    more = Pairs(np.array([0, 4, 1]), np.array([0, 9, 30]), np.zeros(3, np.int64))  # itself, and across prompts
    sides = ("response_a", "response_b", "prompt")
    pairs = Pairs(*(np.concatenate([getattr(world.pairs, side), getattr(more, side)]) for side in sides))
    turn = np.arange(51) % 3 == 0
    pairs = Pairs(
        np.where(turn, pairs.response_b, pairs.response_a),
        np.where(turn, pairs.response_a, pairs.response_b),
        pairs.prompt,
    )
    expected = dense_covariance(model, world, pairs)
    moments, kernel = model.moments(world.features, pairs), model.kernel(world.features, pairs)
    torch.testing.assert_close(moments.variance, expected.diagonal(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.stack([kernel.row(n) for n in range(51)]), expected, rtol=1e-6, atol=1e-9)
    rows, columns = torch.tensor([3, 50, 3, 0]), torch.tensor([49, 1])
    block = kernel.block(rows, columns)
    torch.testing.assert_close(block, expected[rows][:, columns], rtol=1e-6, atol=1e-9)
    monkeypatch.setattr("bgpm.fitting.effects._FEW", 0)  # as for many rows
    assert torch.equal(kernel.block(rows, columns), block)
    assert moments.variance[48] == 0
    assert (expected[:6, :6].abs() > 0.3).sum() > 6  # effects join pairs beyond themselves


def test_cyclic_blocks_are_linearised_with_effects_beside_them() -> None:
    planted = make_world(60, 4, 4, 0.5, seed=1)
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.standard_normal((4, 2)))[0]
    u, v = (planted.features.responses[s] @ plane for s in (planted.pairs.response_a, planted.pairs.response_b))
    turn = 3 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    label = (rng.random(len(turn)) < 1 / (1 + np.exp(-turn))).astype(float)
    world, rows = replace(planted, label=label), np.arange(300)
    model = Laplace(**FIXED, off_variance=0.0).fit(Gpm(dim=4), world.features, world.facts(rows), seed=0)
    assert model.summary()["blocks_active"] == 1
    data, point = world.facts(rows), Point(**FIXED).fit(Gpm(dim=4), world.features, world.facts(rows), seed=0)
    assert torch.equal(point.moments(world.features, world.pairs).mean, model.moments(world.features, world.pairs).mean)
    slope = torch.sigmoid(model.moments(world.features, data.pairs).mean) - torch.from_numpy(data.label)
    incidence = Incidence.of(data.pairs.response_a, data.pairs.response_b)
    at = np.searchsorted(model.effects.rows.numpy()[order := np.argsort(model.effects.rows.numpy())], incidence.rows)
    effect = model.effects.mean[torch.from_numpy(order[at])]
    assert (incidence.back(slope) + effect / 0.8).abs().max() < 2e-3  # a stationary point in the effects
    some = world.pairs.take(np.arange(290, 310))
    expected = dense_covariance(model, world, some, rows)
    kernel = model.kernel(world.features, some)
    torch.testing.assert_close(model.moments(world.features, some).variance, expected.diagonal(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.stack([kernel.row(n) for n in range(20)]), expected, rtol=1e-6, atol=1e-9)


def test_a_response_of_another_table_adds_its_prior_variance_and_no_mean(world: World) -> None:
    model = Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0)
    effects = model.effects
    other = Features(world.features.responses[::-1].copy(), world.features.prompts)
    there = model.moments(other, world.pairs)
    model.effects = None
    plain = model.moments(other, world.pairs)
    model.effects = effects
    assert torch.equal(there.mean, plain.mean)
    torch.testing.assert_close(there.variance, plain.variance + 2 * 0.8)
    short = Features(world.features.responses[:8], world.features.prompts)  # the pool's first rows are another table
    few = world.pairs.take(np.arange(12))
    assert not torch.equal(model.moments(short, few).mean, model.moments(world.features, few).mean)
    longer = Features(np.concatenate([world.features.responses, other.responses]), world.features.prompts)
    assert torch.equal(model.moments(longer, few).mean, model.moments(world.features, few).mean)
    row = model.kernel(other, few).row(0)
    g = torch.from_numpy(other.responses[few.response_a] - other.responses[few.response_b]).double()
    weights = g @ model.weights.covariance @ g[0]
    shares = torch.from_numpy(
        (few.response_a == 0).astype(float) - (few.response_b == 0) + (few.response_b == 1) - (few.response_a == 1)
    )
    torch.testing.assert_close(row, weights + 0.8 * shares)  # pairs of one response share its prior


def test_the_pool_after_a_change_is_refused(world: World) -> None:
    model = Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0)
    changed = world.features.responses.copy()
    changed[9, 2] += 1e-3
    with pytest.raises(StateError, match=r"response row 9: its features differ .* train the model again"):
        model.moments(Features(changed, world.features.prompts), world.pairs)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_effects_are_not_taken_for_those_of_another_table_whose_features_are_as_coarse(world: World, share) -> None:
    rng = np.random.default_rng(0)

    def table() -> Features:
        features = (rng.random((len(world.features.responses), 1)) < share).astype(np.float32)
        features[-1] = rng.random()  # no label is about it
        return Features(features, world.features.prompts)

    rows = SEEN[SEEN < 42]
    model = Laplace(**FIXED).fit(Bt(), table(), world.facts(rows), seed=0)
    for _ in range(10):
        other = table()
        places = model.effects.within(other)
        assert (places.place == -1).all()
        x = other.responses[world.pairs.response_a] - other.responses[world.pairs.response_b]
        expected = torch.from_numpy(x).double() @ model.module.weight[0]
        torch.testing.assert_close(model.moments(other, world.pairs).mean, expected)


def test_a_pool_of_coarse_features_is_known_by_all_of_its_rows_in_either_precision(world: World) -> None:
    coarse = np.round(world.features.responses[:, :1])
    model = Laplace(**FIXED).fit(Bt(), Features(coarse, world.features.prompts), world.facts(SEEN[:12]), seed=0)
    changed = coarse.copy()
    changed[-1] += 1  # no label is about it
    pools, others = (coarse, coarse.astype(np.float64), np.concatenate([coarse, changed])), (changed, coarse[:-1])
    known = [(model.effects.within(Features(t, world.features.prompts)).place >= 0).any() for t in (*pools, *others)]
    assert known == [True, True, True, False, False]


def test_effects_that_an_earlier_version_saved_are_refused_with_what_to_do(world: World) -> None:
    effects = Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0).effects
    older = {name: value for name, value in vars(effects).items() if name != "table"}
    with pytest.raises(StateError, match="train the model again"):
        ResponseEffects.restored(Path("model"), older)


def test_no_variance_is_the_model_without_effects_to_the_byte(world: World, tmp_path) -> None:
    for posterior in (Point, Laplace, Ensemble):
        for name, settings in (("plain", {}), ("zero", {"response_variance": 0.0})):
            posterior(**settings).fit(Gpm(), world.features, world.facts(SEEN), seed=0).save(tmp_path / name)
        for suffix in (".json", ".safetensors"):
            assert (tmp_path / f"plain{suffix}").read_bytes() == (tmp_path / f"zero{suffix}").read_bytes()
        assert "response_variance" not in (tmp_path / "zero.json").read_text()


def test_without_a_response_in_two_labels_effects_are_off_and_it_is_said(world: World) -> None:
    once = np.flatnonzero((world.pairs.response_a % 2 == 0) & (world.pairs.response_b == world.pairs.response_a + 1))
    model = Laplace(response_variance="auto").fit(Bt(), world.features, world.facts(once), seed=0)
    assert model.effects is None
    assert model.summary()["response_variance"] == 0
    assert model.summary()["response_effects"] == "off: no response stands in two labels"


@pytest.mark.parametrize("how", ["auto", "evidence"])
def test_the_variance_is_found_where_there_is_one_and_none_where_there_is_none(how: str) -> None:
    found = {}
    for sigma in (0.0, 1.5):
        world = make_world(25, 8, 6, sigma)
        rows = np.random.default_rng(0).permutation(len(world.pairs))[:400]
        summary = Point(response_variance=how).fit(Bt(), world.features, world.facts(rows), seed=0).summary()
        found[sigma] = summary["response_variance"]
        assert ("response_effects" in summary) == (found[sigma] == 0)
    assert found[0.0] < 0.1
    low = 0.3 if how == "evidence" else 1.0  # evidence is known to find it too small
    assert low < found[1.5] < 4.5


@pytest.mark.slow
def test_probabilities_are_calibrated_whether_pairs_share_two_one_or_no_response_with_labelled_ones() -> None:
    (probability, won), effects = ([[[], [], []] for _ in range(2)]), 0
    for seed in range(1, 5):
        world = make_world(150, 6, 6, 1.0, seed=seed)
        rng = np.random.default_rng(seed)
        known = np.flatnonzero(world.pairs.prompt < 100)
        rows = rng.permutation(known)[:500]
        model = Laplace(response_variance="auto").fit(Bt(), world.features, world.facts(rows), seed=0)
        effects += model.effects is not None
        rest = np.setdiff1d(np.arange(len(world.pairs)), rows)
        pairs = world.pairs.take(rest)
        seen = np.unique(np.concatenate([world.pairs.response_a[rows], world.pairs.response_b[rows]]))
        shared = np.isin(pairs.response_a, seen).astype(int) + np.isin(pairs.response_b, seen)
        moments = model.moments(world.features, pairs)
        p = F.expected_probability(moments.mean, moments.variance, moments.tau).numpy()
        for k in range(3):
            probability[k].append(p[shared == k])
            won[k].append(world.label[rest][shared == k])
    assert effects >= 3
    for k in range(3):
        p, y = (torch.from_numpy(np.concatenate(some[k])) for some in (probability, won))
        assert len(p) > 400
        assert F.expected_calibration_error(p, y) < 0.03, k


def test_effects_infer_what_features_cannot() -> None:
    world = make_world(20, 10, 4, 2.0)
    rows = np.random.default_rng(1).permutation(len(world.pairs))[:300]
    rest = np.setdiff1d(np.arange(len(world.pairs)), rows)
    right = {}
    for variance in (0.0, "auto"):
        model = Point(response_variance=variance).fit(Bt(), world.features, world.facts(rows), seed=0)
        mean = model.moments(world.features, world.pairs.take(rest)).mean.numpy()
        right[variance] = ((mean > 0) == (world.label[rest] > 0.5)).mean()
    assert right["auto"] > right[0.0] + 0.1


def test_a_big_ensemble_has_the_laplace_variance_with_effects_too(world: World) -> None:
    laplace = Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0)
    ensemble = Ensemble(**FIXED, members=80).fit(Bt(), world.features, world.facts(SEEN), seed=0)
    one, many = (m.moments(world.features, world.pairs) for m in (laplace, ensemble))
    assert 0.75 < (many.variance / one.variance).mean() < 1.35
    other = Features(world.features.responses[::-1].copy(), world.features.prompts)
    one, many = (m.moments(other, world.pairs).variance for m in (laplace, ensemble))
    assert 0.75 < (many / one).mean() < 1.35


def test_weights_count_labels_in_fits_precisions_and_variances(world: World) -> None:
    data = world.facts(SEEN)
    weight = np.where(np.arange(len(SEEN)) % 3, 1.0, np.where(np.arange(len(SEEN)) % 2, 2.0, 0.0))
    twice = world.facts(np.repeat(SEEN, weight.astype(int)))
    for settings in ({"prior_precision": 1.5}, FIXED):
        once = Laplace(**settings).fit(Bt(), world.features, replace(data, weight=weight), seed=0)
        again = Laplace(**settings).fit(Bt(), world.features, twice, seed=0)
        for name in ("mean", "variance"):
            one, two = (getattr(m.moments(world.features, world.pairs), name) for m in (once, again))
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    evidence = []
    for facts in (replace(data, weight=weight), twice):
        seen = labelled(world.features, facts, prompts=False, margins=False)
        loss = OnData(PairLoss(Laplace(), 1.0), seen)
        evidence.append(LinearProblem(seen.response_a - seen.response_b, loss).solve(1.5).log_evidence)
    assert evidence[0] == pytest.approx(evidence[1], abs=1e-6)
    with pytest.raises(DataError, match="weight > 0"):
        Point().fit(Bt(), world.features, replace(data, weight=np.zeros(len(SEEN))), seed=0)


def test_a_prompt_with_too_many_responses_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidences, "MOST_RESPONSES", 2)
    says = r"row 7 of .* labels join 3 of its responses, .* at most 2, .* posteriors.laplace.response_variance: 0\.0"
    with pytest.raises(DataError, match=says):
        Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0)
    Laplace().fit(Bt(), world.features, world.facts(SEEN), seed=0)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("laplace", {"response_variance": -1.0}, "greater than or equal to 0"),
        ("laplace", {"response_variance": "guess"}, "evidence"),
        ("laplace", {"response_variance": 1.0, "structure": "kronecker"}, "structure: full or auto"),
        ("amortized", {"response_variance": 1.0}, "response_variance: unknown key"),
        ("point", {"precision_by_block": True, "prior_precision": 1.0}, "prior_precision: goal, heldout or evidence"),
    ],
)
def test_settings_that_do_not_go_with_effects_are_refused(kind: str, settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(Posterior, kind, settings, "posteriors")


def test_too_many_weights_for_effects_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpm.fitting.covariances.EXACT_ENTRIES", 24)
    with pytest.raises(ConfigError, match=r"1 x 5 weights, at most 4 of them; lower features\.pca"):
        Laplace(**FIXED).fit(Bt(), world.features, world.facts(SEEN), seed=0)
