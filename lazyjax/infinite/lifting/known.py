"""Axes of values that are functions of the input alone, each row of its own row."""

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from lazyjax.infinite.lifting.axes import (
    Axes,
    Axis,
    axis_of,
    broadcast,
    has,
    reshaped,
    transposed,
)
from lazyjax.infinite.lifting.values import Constant, Known, RefusalError
from lazyjax.jaxpr.equations import aval_of

ROWS = "lets examples of a batch interact, or tells them apart by their place"

_REDUCTIONS = frozenset(
    f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or")
) | {"argmax", "argmin"}
_CUMULATIVE = frozenset(
    {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "cumulative_logsumexp"}
)
_WINDOWS = frozenset({"reduce_window_sum", "reduce_window_max", "reduce_window_min"})


def known_axes(eqn: Any, operands: Sequence[Known | Constant]) -> Axes:
    """Axes of the result of an equation that is not elementwise.

    Args:
        eqn: The equation.
        operands: Its operands, of which at least one is known.

    Returns:
        The axes.

    Raises:
        RefusalError: If rows interact, or it cannot be told.
    """
    name, params = eqn.primitive.name, eqn.params
    shape = aval_of(eqn.outvars[0]).shape
    first = operands[0]
    axes = first.axes if isinstance(first, Known) else ()
    if len(eqn.outvars) > 1:
        raise RefusalError("has no rule here")
    if name == "dot_general":
        return _dot_axes(params["dimension_numbers"], operands)
    if name == "concatenate":
        merged = elementwise_axes(operands, None)
        return _resized(merged, [params["dimension"]], shape)
    if not isinstance(first, Known):
        raise RefusalError("has no rule here")
    if name == "reshape":
        return reshaped(axes, shape)
    if name == "transpose":
        return transposed(axes, params["permutation"])[0]
    if name == "squeeze":
        return tuple(a for i, a in enumerate(axes) if i not in params["dimensions"])
    if name == "broadcast_in_dim":
        dimensions = params["broadcast_dimensions"]
        found = broadcast(axes, shape, dimensions)
        if found is not None:
            return found
        source = dict(zip(dimensions, axes, strict=True))
        sizes = [
            math.prod(a.size for a in source.get(i, ())) for i in range(len(shape))
        ]
        return tuple(
            source[i] if sizes[i] == size and i in source else axis_of("pixels", size)
            for i, size in enumerate(shape)
        )
    if name in ("slice", "pad", "rev"):
        changed = {
            "slice": lambda: [i for i in range(len(axes)) if _is_sliced(eqn, i)],
            "pad": lambda: [
                i for i, c in enumerate(params["padding_config"]) if any(c)
            ],
            "rev": lambda: list(params["dimensions"]),
        }[name]()
        return _resized(axes, changed, shape)
    if name in _REDUCTIONS:
        _refuse_rows(axes, params["axes"])
        return tuple(a for i, a in enumerate(axes) if i not in params["axes"])
    if name in _CUMULATIVE:
        return _resized(axes, [params["axis"]], shape)
    if name in _WINDOWS:
        moved = [
            i
            for i, sizes in enumerate(
                zip(
                    params["window_dimensions"],
                    params["window_strides"],
                    map(tuple, params["padding"]),
                    strict=True,
                )
            )
            if sizes != (1, 1, (0, 0))
        ]
        return _resized(axes, moved, shape)
    raise RefusalError("has no rule by which rows of the batch could be followed")


def elementwise_axes(
    operands: Sequence[Known | Constant], shape: Sequence[int] | None
) -> Axes:
    """Axes of the result of an elementwise operation.

    Args:
        operands: At least one of them known.
        shape: That of the result; None if axes may be of other sizes.

    Returns:
        The axes.

    Raises:
        RefusalError: If operands do not have the same rows at the same places.
    """
    known = [operand for operand in operands if isinstance(operand, Known)]
    rank = max(len(operand.axes) for operand in known)
    result: list[Axis] = []
    for index in range(rank):
        found = [k.axes[index] for k in known if len(k.axes) == rank and k.axes[index]]
        rows = [axis for axis in found if has(axis, "rows")]
        if any(axis != found[0] for axis in (found if rows else [])):
            raise RefusalError(ROWS)
        sizes = {math.prod(a.size for a in axis) for axis in found}
        if not found:
            size = 1 if shape is None else shape[index]
            result.append(axis_of("pixels", size))
        elif all(axis == found[0] for axis in found) or shape is None:
            result.append(found[0])
        else:
            assert len(sizes) == 1
            result.append(axis_of("pixels", sizes.pop()))
    axes = tuple(result)
    if sum(has(axis, "rows") for axis in axes) > 1:
        raise RefusalError(ROWS)
    for operand in operands:
        if isinstance(operand, Constant):
            check_same_rows(operand, axes)
    return axes


def check_same_rows(constant: Constant, axes: Axes) -> None:
    """Check that a constant is the same for all rows.

    Raises:
        RefusalError: If it is not, or not known.
    """
    if constant.value is None:
        raise RefusalError("reads numbers that are not known while tracing")
    if not is_constant_along(constant.value, axes, "rows"):
        raise RefusalError(ROWS)


def is_constant_along(array: np.ndarray, axes: Axes, kind: str) -> bool:
    """Whether an array that meets a value with these axes is constant along `kind`."""
    if array.ndim == 0:
        return True
    split: list[int] = []
    kinds: list[str] = []
    for size, axis in zip(array.shape, axes, strict=True):
        whole = math.prod(a.size for a in axis)
        parts = axis if size == whole and size > 1 else ()
        if not parts:
            split.append(size)
            kinds.append("")
        split.extend(a.size for a in parts)
        kinds.extend(a.kind for a in parts)
    array = array.reshape(split)
    along = [i for i, k in enumerate(kinds) if k == kind]
    first = array
    for i in along:
        first = first.take([0], axis=i)
    return bool(np.array_equal(np.broadcast_to(first, array.shape), array))


def _dot_axes(numbers: Any, operands: Sequence[Known | Constant]) -> Axes:
    """Axes of a product with a constant."""
    (contracted, batched) = numbers
    if all(isinstance(operand, Known) for operand in operands) or batched[0]:
        raise RefusalError("multiplies two functions of the input")
    result: list[Axis] = []
    for side, operand in enumerate(operands):
        if isinstance(operand, Known):
            _refuse_rows(operand.axes, contracted[side])
            axes = operand.axes
        else:
            if operand.value is None:
                raise RefusalError("reads numbers that are not known while tracing")
            axes = tuple(axis_of("pixels", size) for size in operand.value.shape)
        result += [a for i, a in enumerate(axes) if i not in contracted[side]]
    return tuple(result)


def _is_sliced(eqn: Any, axis: int) -> bool:
    before = aval_of(eqn.invars[0]).shape[axis]
    return aval_of(eqn.outvars[0]).shape[axis] != before


def _resized(
    axes: Axes, changed: Sequence[SupportsIndex], shape: Sequence[int]
) -> Axes:
    _refuse_rows(axes, changed)
    return tuple(
        axis_of("pixels", shape[i]) if i in changed else axis
        for i, axis in enumerate(axes)
    )


def _refuse_rows(axes: Axes, chosen: Sequence[SupportsIndex]) -> None:
    if any(has(axes[i], "rows") for i in chosen):
        raise RefusalError(ROWS)
