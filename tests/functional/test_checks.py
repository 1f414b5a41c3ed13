"""The checks themselves, one by one: what each lets through and what it refuses, at the edge between them."""

from __future__ import annotations

import math

import pytest
import torch

from bgpm.errors import ArgumentError, NumericsError, ShapeError
from bgpm.functional import _checks


def t64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_zero_is_not_negative_and_the_smallest_negative_number_is() -> None:
    _checks.non_negative("here", var=t64(0.0, 3.0))
    with pytest.raises(NumericsError, match=r"here: var must be >= 0, got -5e-324 at \[1\]"):
        _checks.non_negative("here", var=t64(0.0, -5e-324))


def test_even_dimensions_are_blocks_of_two_and_odd_ones_are_not() -> None:
    for dim in (2, 4, 6):
        _checks.embeddings("here", None, v=torch.ones(3, dim))
    for dim in (0, 1, 3, 5):
        with pytest.raises(ShapeError, match=rf"expected v \[\*B, D\] with D even, got \[3, {dim}\]"):
            _checks.embeddings("here", None, v=torch.ones(3, dim))


def test_gates_are_one_a_block_of_each_pair_or_of_all() -> None:
    for shape in ((2, 3, 4), (3, 4), (4,)):
        _checks.embeddings("here", torch.ones(shape), v=torch.ones(2, 3, 8))
    for shape in ((8,), (2, 4), (2, 3, 8), (1, 2, 3, 4), ()):
        with pytest.raises(ShapeError, match="expected one gate a block"):
            _checks.embeddings("here", torch.ones(shape), v=torch.ones(2, 3, 8))


def test_rounding_below_zero_is_zero_and_more_than_rounding_is_refused() -> None:
    settled = _checks.settled("here", t64(-1e-10, 0.5), t64(1.0, 1.0))
    assert settled.tolist() == [0.0, 0.5]
    with pytest.raises(NumericsError, match=r"expected a variance >= 0, got -1e-07 at \[0\]"):
        _checks.settled("here", t64(-1e-7, 0.5), t64(1.0, 1.0))
    with pytest.raises(NumericsError, match=r"variance must be finite, got -inf at \[0\]"):
        _checks.settled("here", t64(-math.inf, 0.5), t64(math.inf, 1.0))


def test_row_numbers_are_whole_and_there() -> None:
    _checks.row_numbers("here", 4, rows=torch.tensor([0, 3, 3]))
    _checks.row_numbers("here", 0, rows=torch.empty(0, dtype=torch.int64))
    for bad in (torch.tensor([4]), torch.tensor([-1]), torch.tensor([1.0]), torch.tensor([[1]])):
        with pytest.raises(ShapeError, match="rows"):
            _checks.row_numbers("here", 4, rows=bad)


def test_a_whole_number_may_come_from_anywhere_and_a_fraction_from_nowhere() -> None:
    assert [_checks.whole("here", "k", value) for value in (3, torch.tensor(4))] == [3, 4]
    for bad in (2.0, "2", None, torch.tensor(2.0)):
        with pytest.raises(ArgumentError, match="here: expected k to be a whole number"):
            _checks.whole("here", "k", bad)


def test_a_positive_number_is_one_and_finite() -> None:
    assert [_checks.positive("here", "tau", value, "") for value in (2, 0.5, t64(3.0))] == [2, 0.5, 3]
    for bad, error in ((0.0, NumericsError), (math.nan, NumericsError), (t64(1, 2), ShapeError), ("1", ArgumentError)):
        with pytest.raises(error, match=r"here: .*tau"):
            _checks.positive("here", "tau", bad, "")


def test_an_error_stays_on_one_line_and_short_whatever_was_passed() -> None:
    with pytest.raises(ArgumentError) as error:
        _checks.instance("here", "x", torch.ones(50, 50), dict, "pass a dict")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 150
