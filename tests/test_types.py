"""The nouns refuse what does not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from bgpm.errors import ShapeError
from bgpm.types import Comparisons, FeatureBlock, Features, Pairs

PAIRS = Pairs(np.array([0, 2, 4]), np.array([1, 3, 5]), np.array([0, 0, 1]))


def test_swapping_twice_changes_nothing_and_once_turns_labels_round() -> None:
    facts = Comparisons(PAIRS, np.array([1.0, 0.25, 0.5]), np.array([2.0, 0.0, np.nan]))
    swapped = facts.swapped()
    assert swapped.pairs.response_a.tolist() == [1, 3, 5]
    assert swapped.label.tolist() == [0.0, 0.75, 0.5]
    assert swapped.margin is facts.margin
    assert swapped.swapped().label.tolist() == facts.label.tolist()


def test_rows_are_taken_in_the_order_asked_for_or_by_mask() -> None:
    assert PAIRS.take(np.array([2, 0])).response_b.tolist() == [5, 1]
    assert PAIRS.take(np.array([False, True, True])).prompt.tolist() == [0, 1]
    assert len(PAIRS.take(np.array([], np.int64))) == 0


@pytest.mark.parametrize(
    ("response_a", "response_b", "prompt"), [([0], [1, 2], [0]), ([0], [1], [0, 0]), ([[0]], [[1]], [[0]]), (0, 1, 0)]
)
def test_pairs_of_different_lengths_or_dimensions_are_refused(
    response_a: object, response_b: object, prompt: object
) -> None:
    with pytest.raises(ShapeError, match="three vectors of one length"):
        Pairs(np.array(response_a), np.array(response_b), np.array(prompt))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([1.0, 0.0], "3 pairs but 2 labels"),
        ([1.0, 0.0, 1.1], "labels are probabilities"),
        ([1.0, -0.1, 1.0], "labels are probabilities"),
        ([1.0, np.nan, 1.0], "a missing label cannot be trained on"),
        ([np.nan, np.nan, np.nan], "a missing label cannot be trained on"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused(label: list[float], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Comparisons(PAIRS, np.array(label))


def test_margins_need_as_many_as_pairs() -> None:
    with pytest.raises(ShapeError, match="3 pairs but 1 margins"):
        Comparisons(PAIRS, np.zeros(3), np.zeros(1))


def test_no_comparisons_are_comparisons() -> None:
    none = np.array([], np.int64)
    assert len(Comparisons(Pairs(none, none, none), np.array([]))) == 0


@pytest.mark.parametrize(
    ("weight", "message"),
    [([1.0], "3 pairs but 1 weights"), ([1.0, -0.1, 1.0], "finite and >= 0"), ([1.0, np.nan, 1.0], "finite and >= 0")],
)
def test_weights_say_how_often_labels_count(weight: list[float], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Comparisons(PAIRS, np.zeros(3), weight=np.array(weight))


def features(*blocks: FeatureBlock) -> Features:
    return Features(np.zeros((4, 6), np.float32), np.zeros((2, 6), np.float32), blocks)


def test_blocks_of_features_cover_every_column_once() -> None:
    assert [
        len(block) for block in features(FeatureBlock("states", 0, 4), FeatureBlock("statistics", 4, 6)).blocks
    ] == [
        4,
        2,
    ]
    assert features().blocks == ()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([("a", 0, 4)], "end at column 4, expected 6"),
        ([("a", 0, 4), ("b", 4, 7)], "end at column 7, expected 6"),
        ([("a", 1, 6)], "block a: expected columns from 0"),
        ([("a", 0, 4), ("b", 5, 6)], "block b: expected columns from 4"),
        ([("a", 0, 6), ("b", 6, 6)], "block b: .* at least one, got 6 to 6"),
        ([("a", 0, 4), ("a", 4, 6)], "names of their own, got a, a"),
    ],
)
def test_blocks_with_gaps_or_one_name_are_refused(blocks: list[tuple[str, int, int]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        features(*(FeatureBlock(*block) for block in blocks))
