"""How often a campaign that stops when a target is certified stops wrongly, by rule: ``python -m benchmarks.audit``.

Whole campaigns, many at once: a small linear model (logistic, Laplace) is trained on acquired labels, margin or BALD
chooses the next batch, a rule looks at audits and stops at the first look that certifies the target. Wrong is a stop
while fewer labels are right. Two worlds that a bound has to survive:

* ``harder``: annotators disagree with the model's kind of rule in one region, which the acquisition leaves for last
  (pairs far from the boundary for margin, pairs near it for BALD). What is acquired is right anyway, so the share of
  right labels stays just under the target, look after look, while the model's accuracy on what is left falls.
* ``falling``: the pairs that BALD likes best, the extreme ones, follow another rule than the rest, so that what is
  acquired makes the model worse: the share of right labels itself falls.

Rules:

* ``sound``: `bgpm.evaluation.audit`, the error spread over the planned looks.
* ``begun``: the same, but the first look is that at which the model before its batch expected the target to be met, and
  the number of looks is open.
* ``each look``: as many fresh audits each round, and their Clopper-Pearson bound at the full level: sound once, not
  look after look. (On audits that stand from look to look it is wrong less often: the looks are then nearly the same.)
* ``pooled``: fresh audits each round, judged by the model of their round and pooled over rounds, with the error spread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.special import betaincinv, expit

from bgpm import functional as F
from bgpm.evaluation import audit

ALPHA = 0.05
_GRID = ((0.0, 15.0, 301), (-12.0, 4.0, 161))  # of |mean| and log variance: first, last, points
RULES = ("sound", "begun", "each look", "pooled")


@dataclass(frozen=True)
class World:
    """What campaigns are run on.

    Attributes:
        pairs, features: Of the pool, N and p.
        start, batch, looks: Labels of the first model, of a round, and rounds that are looked at.
        audits, fresh: Audits that stand at each look, and new ones a look for the rule that pools them.
        target: Share of right labels to certify.
        scale: Of each further feature beside the one before.
        world: From the first feature [N] and the kind of selection: whether response_a is better by rule, and
            where annotators go against the rule in 1 of 7 pairs of the pool, bool [N] each.
    """

    pairs: int
    features: int
    start: int
    batch: int
    looks: int
    audits: int
    fresh: int
    target: float
    scale: float
    world: Callable[[np.ndarray, str], tuple[np.ndarray, np.ndarray]]


def _harder(z: np.ndarray, selection: str) -> tuple[np.ndarray, np.ndarray]:
    return z > 0, np.abs(z) > 0.67 if selection == "margin" else np.abs(z) < 0.5


def _falling(z: np.ndarray, _: str) -> tuple[np.ndarray, np.ndarray]:
    return (z > 0) != (np.abs(z) > 1.9), np.zeros(len(z), bool)


WORLDS = {
    "harder": World(800, 2, 20, 12, 32, 40, 15, 0.863, 0.1, _harder),
    "falling": World(600, 2, 40, 4, 14, 120, 10, 0.75, 0.3, _falling),
}
SELECTIONS = {"harder": ("margin", "bald"), "falling": ("bald",)}


def labels(rule: np.ndarray, noisy: np.ndarray, campaigns: int, rng: np.random.Generator) -> np.ndarray:
    """Labels [C, N] that go against the rule in the same number of noisy pairs in every campaign."""
    label = np.tile(rule, (campaigns, 1))
    columns = np.flatnonzero(noisy)
    flipped = columns[rng.random((campaigns, len(columns))).argsort(1)[:, : len(rule) // 7]] if len(columns) else None
    if flipped is not None:
        label[np.arange(campaigns)[:, None], flipped] ^= True
    return label.astype(float)


def trained(x: np.ndarray, rows: np.ndarray, label: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MAP weights [C, p] and their covariances [C, p, p] of C campaigns, by Newton's method from ``weight``.

    Args:
        x: [N, p], feature differences.
        rows: int64 [C, n], acquired pairs of each campaign.
        label: [C, n].
        weight: [C, p], where to begin.
    """
    seen, eye = x[rows], np.eye(x.shape[1])
    precision = np.zeros(1)
    for _ in range(12):
        p = expit(np.einsum("cnp,cp->cn", seen, weight))
        precision = np.matmul(seen.transpose(0, 2, 1) * (p * (1 - p))[:, None], seen) + eye
        step = np.linalg.solve(precision, (np.einsum("cnp,cn->cp", seen, label - p) - weight)[..., None])[..., 0]
        weight = weight + step * np.minimum(1, 2 / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9))
    return weight, np.linalg.inv(precision)


@cache
def _bald_grid() -> np.ndarray:
    """BALD by quadrature on a grid of |mean| and log variance, whose ends and steps are `_GRID`'s."""
    (low, high, n), (start, stop, m) = _GRID
    mean, variance = np.meshgrid(np.linspace(low, high, n), np.exp(np.linspace(start, stop, m)), indexing="ij")
    return F.bald(torch.from_numpy(mean.ravel()), torch.from_numpy(variance.ravel())).numpy().reshape(n, m)


def worth(selection: str, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Value of each pair as the acquisition functions `margin` and `bald` have it; BALD between points of a grid."""
    if selection == "margin":
        return -np.abs(mean)
    at = [
        (np.clip(value, low, high) - low) / (high - low) * (n - 1)
        for value, (low, high, n) in zip((np.abs(mean), np.log(variance)), _GRID, strict=True)
    ]
    return map_coordinates(_bald_grid(), at, order=1)


def clopper_pearson(wrong: np.ndarray, audited: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    """Upper bound of a share of wrong labels, from audits that are taken for draws with replacement."""
    return np.where(wrong < audited, betaincinv(wrong + 1, np.maximum(audited - wrong, 1), 1 - np.asarray(alpha)), 1.0)


def simulate(world: World, selection: str, campaigns: int, seed: int = 0) -> dict[str, np.ndarray]:
    """For each rule the share of right labels at its stop, [C], NaN where it never stops; and ``truth`` [C, looks]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(world.pairs, world.features)) * world.scale ** np.arange(world.features)
    label = labels(*world.world(x[:, 0], selection), campaigns, rng)
    priority = rng.random((campaigns, world.pairs))
    every = np.arange(campaigns)[:, None]
    rows = rng.random(label.shape).argsort(1)[:, : world.start]
    inferred = np.ones(label.shape, bool)
    weight = np.zeros((campaigns, world.features))
    stops = {rule: np.full(campaigns, np.nan) for rule in RULES}
    pooled, alpha = np.zeros((2, campaigns)), audit.level(ALPHA, 1, world.looks)
    truth, looks = np.empty((campaigns, world.looks)), np.zeros(campaigns, np.int64)
    expected = np.zeros(campaigns)  # share of right labels, by the model that chose the batch
    for look in range(world.looks):
        inferred[every, rows] = False
        weight, covariance = trained(x, rows, label[every, rows], weight)
        mean = weight @ x.T
        wrong = (mean > 0) != (label > 0.5)
        left = inferred.sum(1)
        truth[:, look] = 1 - (wrong & inferred).sum(1) / world.pairs
        order = np.where(inferred, priority, 2.0).argsort(1)
        size = int(min(world.audits, left[0]))
        found = wrong[every, order[:, :size]].sum(1)
        drawn = np.where(inferred, rng.random(label.shape), 2.0).argsort(1)
        alone = wrong[every, drawn[:, :size]].sum(1)
        pooled += wrong[every, drawn[:, : world.fresh]].sum(1), np.full(campaigns, world.fresh)
        acquired = world.pairs - left
        looks += (looks > 0) | (expected >= world.target)
        spread = ALPHA / np.maximum(looks * (looks + 1), 1)
        bound = {
            "begun": np.where(looks > 0, audit.right_share(acquired, left, size, found, world.pairs, spread), 0.0),
            "sound": audit.right_share(acquired, left, size, found, world.pairs, alpha),
            "each look": 1 - left * clopper_pearson(alone, np.full(campaigns, size), ALPHA) / world.pairs,
            "pooled": 1 - left * clopper_pearson(pooled[0], pooled[1], alpha) / world.pairs,
        }
        for rule, low in bound.items():
            now = np.isnan(stops[rule]) & (low >= world.target)
            stops[rule][now] = truth[now, look]
        variance = np.einsum("np,cpq,nq->cn", x, covariance, x, optimize=True)
        sure = expit(np.abs(mean) / np.sqrt(1 + np.pi / 8 * variance))
        expected = 1 - np.where(inferred, 1 - sure, 0.0).mean(1)
        value = np.where(inferred, worth(selection, mean, variance), -np.inf)
        rows = np.concatenate([rows, np.argpartition(-value, world.batch, 1)[:, : world.batch]], 1)
    return stops | {"truth": truth}


def wrongly(stops: np.ndarray, target: float) -> float:
    """Share of campaigns that stop while fewer labels are right than the target asks."""
    return float((stops < target).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=2000)
    options = parser.parse_args()
    print(
        "| world | selection | right, first look to last | " + " | ".join(f"{r}: stops, wrongly" for r in RULES) + " |"
    )
    print("|---|---|---|" + "---|" * len(RULES))
    for name, world in WORLDS.items():
        for selection in SELECTIONS[name]:
            found = simulate(world, selection, options.campaigns)
            first, last = found["truth"].mean(0)[[0, -1]]
            cells = [f"{np.isfinite(found[r]).mean():.1%}, {wrongly(found[r], world.target):.1%}" for r in RULES]
            print(f"| {name} | {selection} | {first:.3f} to {last:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
