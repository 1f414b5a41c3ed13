"""Arguments are refused here, with what is wrong, what was expected, what was found and how to mend it."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bgpm.errors import ArgumentError, NumericsError, ShapeError


def first_bad(bad: Tensor) -> str:
    """Index of the first true entry, as people write it: ``[3, 1]``; empty for a scalar."""
    where = bad.nonzero()
    return str(where[0].tolist()) if where.shape[1] else ""


def instance(where: str, name: str, value: object, kind: Any, fix: str) -> None:
    """Refuse what is not of this type or one of these types.

    Raises:
        ArgumentError: Naming the argument, both types and the fix.
    """
    if not isinstance(value, kind):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        shown = repr(value).splitlines()[0][:60]
        raise ArgumentError(f"{where}: expected {name} of type {names}, got {type(value).__name__} {shown}; {fix}")


def whole(where: str, name: str, value: object) -> int:
    """A whole number, as an int.

    Raises:
        ArgumentError: If it is none.
    """
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ArgumentError(f"{where}: expected {name} to be a whole number, got {value!r}; pass an int") from None


def _tensor(where: str, name: str, value: object) -> None:
    instance(where, name, value, Tensor, "convert it with torch.as_tensor")


def floating(where: str, **tensors: Tensor) -> None:
    """Refuse what is not a floating tensor.

    Raises:
        ArgumentError: If one is not a tensor.
        NumericsError: Naming the argument and its dtype.
    """
    for name, tensor in tensors.items():
        _tensor(where, name, tensor)
        if not tensor.is_floating_point():
            raise NumericsError(f"{where}: {name} must be a floating tensor, got {tensor.dtype}; convert it first")


def same_dtype(where: str, **tensors: Tensor) -> None:
    """Refuse tensors of different dtypes, where torch would not promote them.

    Raises:
        NumericsError: Listing every dtype.
    """
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise NumericsError(f"{where}: expected one dtype, got {dtypes}; convert all to the most precise")


def at_least_single(where: str, **tensors: Tensor) -> None:
    """Refuse half precision, in which torch factorises no matrix.

    Raises:
        ArgumentError: If one is not a tensor.
        NumericsError: Naming the argument and its dtype.
    """
    floating(where, **tensors)
    for name, tensor in tensors.items():
        if torch.finfo(tensor.dtype).bits < 32:
            raise NumericsError(f"{where}: expected {name} in float32 or float64, got {tensor.dtype}; convert it first")


def finite(where: str, **tensors: Tensor) -> None:
    """Refuse tensors that are not floating or hold NaN or infinity.

    Raises:
        ArgumentError: If one is not a tensor.
        NumericsError: Naming the argument, the first bad entry and its value.
    """
    floating(where, **tensors)
    for name, tensor in tensors.items():
        bad = ~torch.isfinite(tensor)
        if bad.any():
            raise NumericsError(
                f"{where}: {name} must be finite, got {tensor[bad][0].item()} at {first_bad(bad)} "
                f"({int(bad.sum())} such entries); find where it arose, in bfloat16 or float16 often an overflow"
            )


def non_negative(where: str, **tensors: Tensor) -> None:
    """Refuse tensors that are not floating or have negative entries.

    Raises:
        ArgumentError: If one is not a tensor.
        NumericsError: Naming the argument, the first bad entry and its value.
    """
    floating(where, **tensors)
    for name, tensor in tensors.items():
        bad = tensor < 0
        if bad.any():
            raise NumericsError(
                f"{where}: {name} must be >= 0, got {tensor[bad][0].item()} at {first_bad(bad)}; "
                "pass variances, not their logarithms, and mend the covariance they come from"
            )


def same_shape(where: str, **tensors: Tensor) -> None:
    """Refuse tensors of different shapes: broadcasting [N] against [N, 1] is a bug, not a wish.

    Raises:
        ArgumentError: If one is not a tensor.
        ShapeError: Listing every shape.
    """
    for name, tensor in tensors.items():
        _tensor(where, name, tensor)
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ShapeError(f"{where}: expected one shape, got {shapes}; index or expand the smaller one")


def embeddings(where: str, gates: Tensor | None, **tensors: Tensor) -> None:
    """Refuse embeddings of odd dimension or different shapes, gates that do not fit them, and other than floats.

    Raises:
        ArgumentError: If one is not a tensor.
        ShapeError: If the last dimension is odd or zero, shapes differ, or gates are neither [*B, D/2] nor its last
            dimensions.
        NumericsError: If a tensor is not floating.
    """
    same_shape(where, **tensors)
    floating(where, **tensors, **({} if gates is None else {"gates": gates}))
    name, tensor = next(iter(tensors.items()))
    if tensor.ndim == 0 or tensor.shape[-1] == 0 or tensor.shape[-1] % 2:
        raise ShapeError(
            f"{where}: embeddings are made of blocks of two: expected {name} [*B, D] with D even, "
            f"got {list(tensor.shape)}; choose an even dimension"
        )
    blocks = (*tensor.shape[:-1], tensor.shape[-1] // 2)
    if gates is not None and (gates.ndim == 0 or gates.shape != blocks[-gates.ndim :]):
        raise ShapeError(
            f"{where}: expected one gate a block, gates {list(blocks)} or its last dimensions, "
            f"got {list(gates.shape)}; gates are per block, not per coordinate"
        )


def expect(where: str, name: str, tensor: Tensor, shape: tuple[int, ...], why: str) -> None:
    """Refuse a tensor that has not this shape.

    Raises:
        ArgumentError: If it is not a tensor.
        ShapeError: With both shapes and the reason.
    """
    _tensor(where, name, tensor)
    if tensor.shape != shape:
        raise ShapeError(f"{where}: expected {name} {list(shape)}, got {list(tensor.shape)}; {why}")


def row_numbers(where: str, count: int, **indices: Tensor) -> None:
    """Refuse what are not numbers of ``count`` rows, int64 [n].

    Raises:
        ArgumentError: If one is not a tensor.
        ShapeError: If one is not int64 [n] or names a row that does not exist.
    """
    for name, index in indices.items():
        _tensor(where, name, index)
        if index.dtype != torch.int64 or index.ndim != 1:
            raise ShapeError(
                f"{where}: expected {name} int64 [n], got {index.dtype} {list(index.shape)}; pass row numbers"
            )
        if len(index) and (index.min() < 0 or index.max() >= count):
            raise ShapeError(
                f"{where}: expected rows in 0..{count - 1}, got {name} from {int(index.min())} to "
                f"{int(index.max())}; the numbers are of another table"
            )


def covariance(where: str, **tensors: Tensor) -> None:
    """Refuse matrices [*B, n, n] that are not finite, not symmetric, or have a negative diagonal.

    Positive definiteness is not tested: it would cost a factorisation.

    Raises:
        ArgumentError: If one is not a tensor.
        ShapeError: If not square.
        NumericsError: If not finite, not symmetric or with a negative diagonal.
    """
    for name, matrix in tensors.items():
        _tensor(where, name, matrix)
        if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
            raise ShapeError(f"{where}: expected {name} to be square, got {list(matrix.shape)}; pass a covariance")
        finite(where, **{name: matrix})
        non_negative(where, **{f"diagonal of {name}": matrix.diagonal(dim1=-2, dim2=-1)})
        slack = 1e3 * torch.finfo(matrix.dtype).eps * matrix.abs().amax() if matrix.numel() else 0.0
        skewed = (matrix - matrix.mT).abs() > slack
        if skewed.any():
            raise NumericsError(
                f"{where}: {name} must be symmetric, got {matrix[skewed][0].item()} at {first_bad(skewed)} against "
                f"{matrix.mT[skewed][0].item()} across the diagonal; pass (S + S^T) / 2 if this is rounding"
            )


def temperature(where: str, tau: float | Tensor) -> None:
    """Refuse a temperature that is not one finite positive number.

    Raises:
        ArgumentError: If it is not a number.
        ShapeError: If it is a tensor of more than one element.
        NumericsError: If it is not finite and positive.
    """
    positive(where, "tau", tau, "the usual range is 0.01 to 10")


def positive(where: str, name: str, number: float | Tensor, fix: str) -> float:
    """One finite positive number, as a float.

    Raises:
        ArgumentError: If it is not a number.
        ShapeError: If it is a tensor of more than one element.
        NumericsError: If it is not finite and positive.
    """
    instance(where, name, number, (Real, Tensor), "pass one number")
    if isinstance(number, Tensor) and number.numel() != 1:
        raise ShapeError(f"{where}: expected one {name}, got a tensor {list(number.shape)}; call once for each")
    value = float(number.detach() if isinstance(number, Tensor) else number)
    if not (math.isfinite(value) and value > 0):
        raise NumericsError(f"{where}: {name} must be finite and > 0, got {value}; {fix}")
    return value


def error_rate(where: str, rate: float) -> None:
    """Refuse a share of wrong labels that is not in [0, 0.5).

    Raises:
        ArgumentError: If it is not a number.
        NumericsError: If it is not; at 0.5 a label says nothing.
    """
    instance(where, "error_rate", rate, Real, "pass one number")
    if not 0 <= rate < 0.5:
        raise NumericsError(f"{where}: error_rate must be in [0, 0.5), got {rate}; it is the share of wrong labels")


def settled(where: str, variance: Tensor, scale: Tensor) -> Tensor:
    """A variance whose rounding error below zero is set to zero.

    Args:
        variance: [*B], a sum of terms of which some cancel.
        scale: [*B], magnitude of those terms before any cancelled; rounding is at most half of its digits.

    Raises:
        NumericsError: If a value is negative by more than rounding explains: the inputs are no covariance; or if it
            is not finite.
    """
    finite(where, variance=variance)
    bad = variance < -(torch.finfo(variance.dtype).eps ** 0.5) * scale
    if bad.any():
        raise NumericsError(
            f"{where}: expected a variance >= 0, got {variance[bad][0].item()} at {first_bad(bad)}; "
            "what was passed as a covariance is not positive semi-definite"
        )
    return torch.where(variance < 0, torch.zeros_like(variance), variance)
