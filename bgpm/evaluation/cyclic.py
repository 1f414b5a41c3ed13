"""Cyclic triples of preferences: which there are, and whether a model orders them rightly.

Bradley-Terry orders every triple on a line: it gets at most two of a cycle's three pairs right, never all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bgpm.types import Pairs


@dataclass(frozen=True)
class Triples:
    """Triples of responses to one prompt of which every pair has a winner.

    Attributes:
        rows: int64 [M, 3], rows of the pairs: x against y, y against z, x against z.
        cyclic: bool [M], whether each beats the next and the last the first, in one direction or the other.
    """

    rows: np.ndarray
    cyclic: np.ndarray


def find_triples(pairs: Pairs, label: np.ndarray) -> Triples:
    """Every triple whose three pairs are there and decided.

    Args:
        pairs: [N], each unordered pair at most once.
        label: Probability that response_a is better, [N]; 0.5 is undecided.
    """
    wins: dict[int, dict[int, dict[int, tuple[int, bool]]]] = {}  # of a prompt: lower response, higher, row and winner
    for n in np.flatnonzero(label != 0.5).tolist():
        a, b, better = int(pairs.response_a[n]), int(pairs.response_b[n]), bool(label[n] > 0.5)
        wins.setdefault(int(pairs.prompt[n]), {}).setdefault(min(a, b), {})[max(a, b)] = n, better == (a < b)
    rows: list[tuple[int, int, int]] = []
    cyclic: list[bool] = []
    for beats in wins.values():
        for x in sorted(beats):
            for y in sorted(beats[x].keys() & beats.keys()):
                for z in sorted(beats[x].keys() & beats[y].keys()):
                    (i, xy), (j, yz), (k, xz) = beats[x][y], beats[y][z], beats[x][z]
                    rows.append((i, j, k))
                    cyclic.append(xy == yz != xz)
    return Triples(np.array(rows, np.int64).reshape(-1, 3), np.array(cyclic, bool))


def triples_right(mean: np.ndarray, label: np.ndarray, triples: Triples) -> np.ndarray:
    """Whether all three pairs of each triple are ordered rightly, bool [M]; a tied score is wrong.

    Args:
        mean: Scores of the first against the second response, [N].
        label: As for `find_triples`.
    """
    return (np.sign(mean) == np.sign(label - 0.5))[triples.rows].all(1)
