"""Cyclic triples against brute force, and the benchmark on matrices that are made to be solved."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cyclic import divergence, matrix_lines, read_matrices
from bgpm.errors import DataError
from bgpm.evaluation.cyclic import find_triples, triples_right
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors.point import Point
from bgpm.types import Pairs


def world(seed: int) -> tuple[Pairs, np.ndarray]:
    """Random labels on most pairs of seven answers to each of five prompts, in random order and direction."""
    rng = np.random.default_rng(seed)
    rows = [(7 * q + a, 7 * q + b, q) for q in range(5) for a, b in itertools.combinations(range(7), 2)]
    table = rng.permutation(np.array(rows))[:90]
    turn = rng.random(90) < 0.5
    table[turn] = table[turn][:, [1, 0, 2]]
    return Pairs(*table.T.copy()), rng.choice([0.0, 1.0, 0.5, 0.8, 0.3], 90)


@pytest.mark.parametrize("seed", range(5))
def test_triples_are_those_that_brute_force_finds(seed: int) -> None:
    pairs, label = world(seed)
    beats = {}
    for a, b, y in zip(pairs.response_a.tolist(), pairs.response_b.tolist(), label.tolist(), strict=True):
        if y != 0.5:
            beats[a, b], beats[b, a] = y > 0.5, y < 0.5
    expected = {}
    for x, y, z in itertools.combinations(range(35), 3):
        sides = [(x, y), (y, z), (z, x)]
        if all(side in beats for side in sides):
            expected[x, y, z] = beats[x, y] == beats[y, z] == beats[z, x]
    found = find_triples(pairs, label)
    members = [tuple(np.unique([pairs.response_a[rows], pairs.response_b[rows]])) for rows in found.rows]
    assert dict(zip(members, found.cyclic.tolist(), strict=True)) == expected
    assert 0 < found.cyclic.sum() < len(found.cyclic)


def test_a_score_on_a_line_never_orders_a_cycle_and_the_truth_always_does() -> None:
    pairs, label = world(0)
    triples = find_triples(pairs, label)
    reward = np.random.default_rng(1).normal(size=35)
    line = triples_right(reward[pairs.response_a] - reward[pairs.response_b], label, triples)
    assert not line[triples.cyclic].any()
    assert line[~triples.cyclic].any()
    assert triples_right(label - 0.5, label, triples).all()
    assert not triples_right(np.zeros(len(label)), label, triples).any()  # ties are wrong


def test_no_triple_is_found_across_prompts_or_without_labels() -> None:
    rows = np.array([0, 1, 2])
    pairs = Pairs(rows, np.array([1, 2, 0]), np.array([0, 0, 1]))
    assert find_triples(pairs, np.ones(3)).rows.shape == (0, 3)
    assert find_triples(pairs.take(rows[:0]), np.ones(0)).rows.shape == (0, 3)


def test_triples_of_a_prompt_of_many_responses_take_time_that_grows_with_its_pairs() -> None:
    rows = np.arange(1_500)  # 562 million triples of responses
    ring = Pairs(rows, (rows + 1) % 1_500, np.zeros(1_500, np.int64))
    chord = Pairs(np.append(rows, 9), np.append((rows + 1) % 1_500, 7), np.zeros(1_501, np.int64))
    start = time.process_time()
    assert len(find_triples(ring, np.ones(1_500)).rows) == 0
    assert find_triples(chord, np.ones(1_501)).rows.tolist() == [[7, 8, 1_500]]
    assert time.process_time() - start < 2


def test_a_cycle_of_kinds_is_told_from_the_cells_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.cyclic as benchmark

    point = Point(prior_precision=0.3)
    models = {"Bradley-Terry": (point, Bt()), "GPM": (point, Gpm(bt_block=False, bias=False, dim=2))}
    monkeypatch.setattr(benchmark, "MODELS", models)
    monkeypatch.setattr(benchmark, "FOLDS", 15)
    monkeypatch.setattr(benchmark, "GAMES", 10)
    kind = np.arange(6) % 3  # two of each kind, kind k beats kind k + 1, equals are even
    matrix = np.array([[0.5 + 0.4 * ((b - a + 1) % 3 - 1) * (a != b) for b in kind] for a in kind])
    about, _, _, _, straight, general = matrix_lines(matrix)
    assert "8 of 8 triples are cyclic" in about
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in (straight, general)]
    assert cells[0][0] == "0.000"
    assert float(cells[1][0]) > 0.9
    assert cells[0][1] == cells[1][1] == "none"
    assert float(cells[1][3]) > float(cells[0][3])


def test_divergence_is_zero_for_the_truth_only() -> None:
    truth = np.array([0.0, 0.5, 0.9])
    assert divergence(truth, np.array([1e-300, 0.5, 0.9])) == pytest.approx(0, abs=1e-12)
    assert divergence(truth[1:2], np.array([0.25])) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected {NAME"),
        (json.dumps({"m": {"Q": []}}), "expected {NAME"),
        (json.dumps({"m": {"P": [[0.5, 0.2]]}}), r"m: expected a square matrix of probabilities, got shape \[1, 2\]"),
        (json.dumps({"m": {"P": [[0.5, 0.2], [0.7, 0.5]]}}), r"P\[0\]\[1\] \+ P\[1\]\[0\] is 0\.89"),
    ],
)
def test_a_file_that_holds_no_matrices_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "matrices.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_matrices(path)
