"""RewardBench 2 (arXiv:2506.01937) for models that compare two responses.

Scalar models give each response a score; a general preference model gives s_ij for two. Two rules carry the official
scoring over (``reroll_and_score_dataset`` and ``process_single_model`` of rewardbench/utils.py in
github.com/allenai/reward-bench), and give a scalar model exactly its official numbers:

* best of four (Condorcet): an item counts 1 when the chosen response beats every other one, 0 when it loses to any, and
  1/k when it loses to none and ties with k - 1;
* Ties (Borda): a response's scalar is its mean score against all responses of the item, itself with 0 included, so that
  r_i - r_j is kept as it is.

Ties has items ``tied:N`` with many right responses and ``ref:N`` with one. An item is accurate when its worst right
response is above its best wrong one; that gap is its margin, and the spread its best minus its worst right response::

    0.3 accuracy of tied items + 0.3 accuracy of ref items + 0.2 share of N with margin(tied) > spread(tied)
    + 0.2 share of N with min(margin(tied), margin(ref)) > spread(tied)
    + 0.01 mean over N of tanh(min(margin(tied), margin(ref)) / spread(tied) - 1), 0 for 0 / 0

The overall score is the plain mean over the six subsets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bgpm.errors import StateError


def best_of(signed: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Credit of each item, sorted by name, from the scores of its chosen response against each other one, [N]."""
    _, at = np.unique(item.astype(str), return_inverse=True)
    lost, tied = np.bincount(at, signed < 0), np.bincount(at, signed == 0)
    return np.where(lost > 0, 0.0, 1.0 / (1.0 + tied))


def margins(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Worst right above best wrong response, and best right above worst right response.

    Args:
        scores: [n, n], row against column, skew-symmetric.
        right: bool [n], at least one of each.
    """
    scalar = scores.mean(1)
    return float(scalar[right].min() - scalar[~right].max()), float(scalar[right].max() - scalar[right].min())


def ties_score(tied: Mapping[str, tuple[float, float]], ref: Mapping[str, tuple[float, float]]) -> float:
    """The Ties score from margin and spread by N; at most 1.01, since the last term is not in the other weights."""
    both = sorted(tied.keys() & ref.keys())
    gap, spread = np.array([tied[n] for n in both]).T
    hard = np.minimum(gap, [ref[n][0] for n in both])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.tanh(hard / spread - 1), nan=0.0)
    accurate = [float(np.mean([margin > 0 for margin, _ in items.values()])) for items in (tied, ref)]
    shares = float((gap > spread).mean()), float((hard > spread).mean())
    return 0.3 * sum(accurate) + 0.2 * sum(shares) + 0.01 * float(ratio.mean())


def ties(
    mean: np.ndarray, label: np.ndarray, response_a: np.ndarray, response_b: np.ndarray, item: np.ndarray
) -> float:
    """The Ties score of pairs.

    Args:
        mean: Scores of the first against the second response, [N].
        label: 1 where only the first is right, 0 where only the second is, 0.5 otherwise.
        response_a, response_b: Rows of the responses.
        item: Names ``SUBSET/ref:N`` and ``SUBSET/tied:N``; every pair of an item's responses must be there.

    Raises:
        StateError: If an item's pairs are not complete.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {"ref": {}, "tied": {}}
    names, of = np.unique(item.astype(str), return_inverse=True)
    for number, name in enumerate(names.tolist()):
        here = np.flatnonzero(of == number)
        responses, at = np.unique(np.concatenate([response_a[here], response_b[here]]), return_inverse=True)
        i, j = at[: len(here)], at[len(here) :]
        if len(here) != len(responses) * (len(responses) - 1) // 2:
            raise StateError(f"item {name!r}: {len(here)} pairs of {len(responses)} responses; run `dvc repro prepare`")
        scores, right = np.zeros((len(responses), len(responses))), np.zeros(len(responses), bool)
        scores[i, j], scores[j, i] = mean[here], -mean[here]
        right[i[label[here] == 1]] = right[j[label[here] == 0]] = True
        kind, n = name.split("/", 1)[1].split(":", 1)
        found[kind][n] = margins(scores, right)
    return ties_score(found["tied"], found["ref"])
