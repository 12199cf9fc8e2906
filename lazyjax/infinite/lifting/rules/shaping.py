"""Operations that move, select or put together pixels of hidden values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.extend.core as jex
import numpy as np

from lazyjax.infinite.lifting.axes import (
    Axes,
    axis_of,
    broadcast,
    has,
    lengths,
    positions,
    reshaped,
    transposed,
)
from lazyjax.infinite.lifting.pixels import take
from lazyjax.infinite.lifting.rules.context import Context, limit_of
from lazyjax.infinite.lifting.values import (
    Constant,
    Hidden,
    PixelSelection,
    RefusalError,
    Value,
)
from lazyjax.jaxpr.equations import aval_of


def pixel_of(axes: Axes, index: int) -> int:
    """Number of the pixel atom that is the whole of an axis."""
    axis = axes[index]
    if has(axis, "units"):
        raise RefusalError("selects, pads or reorders hidden units")
    if len(axis) != 1:
        raise RefusalError("selects or pads along an axis of several kinds of pixels")
    return positions(axes, [index], "pixels")[0]


@limit_of("reshape", "squeeze")
def _reshape(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    (value,) = operands
    axes = reshaped(value.axes, aval_of(eqn.outvars[0]).shape)
    return dataclasses.replace(value, axes=axes, view=None)


@limit_of("broadcast_in_dim")
def _broadcast(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    value, shape = operands[0], aval_of(eqn.outvars[0]).shape
    axes = broadcast(value.axes, shape, eqn.params["broadcast_dimensions"])
    if axes is None:
        raise RefusalError("repeats hidden values")
    return dataclasses.replace(value, axes=axes, view=None)


@limit_of("transpose")
def _transpose(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    (value,) = operands
    axes, order = transposed(value.axes, eqn.params["permutation"])
    if order == sorted(order):
        return dataclasses.replace(value, axes=axes, view=None)
    fn = lambda array: array.transpose(*order, array.ndim - 1)
    return context.registers.map_pixels(value, axes, fn)


@limit_of("slice", "pad", "rev")
def _select(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    value, *rest = operands
    if not isinstance(value, Hidden):
        raise RefusalError("has no rule")
    for fill in rest:
        if not isinstance(fill, Constant) or fill.number != 0:
            raise RefusalError("pads by something else than zeros")
    for axis, before in enumerate(aval_of(eqn.invars[0]).shape):
        indices = chosen_along(eqn, axis, before)
        if not np.array_equal(indices, np.arange(before)):
            if before == 1:
                raise RefusalError("pads an axis of one pixel, or of one unit")
            parent = context.registers.of(value)
            value = _take(context, parent, value.axes, axis, indices)
    return value


def _take(
    context: Context, parent: int, parent_axes: Axes, axis: int, indices: np.ndarray
) -> Hidden:
    """Chosen pixels along one axis; -1 chooses a zero."""
    fn = take(pixel_of(parent_axes, axis), indices)
    axes = list(parent_axes)
    axes[axis] = axis_of("pixels", indices.size)
    whole = Hidden(parent_axes, ((parent, 1.0),))
    taken = context.registers.map_pixels(whole, tuple(axes), fn)
    view = PixelSelection(parent, parent_axes, axis, indices)
    return dataclasses.replace(taken, view=view)


@limit_of("concatenate")
def _concatenate(
    context: Context, eqn: jex.JaxprEqn, operands: Sequence[Value]
) -> Hidden:
    """Selections of one value, put side by side."""
    axis = eqn.params["dimension"]
    candidates: list[dict[int, PixelSelection]] = []
    for operand in operands:
        if not isinstance(operand, Hidden):
            raise RefusalError("puts a hidden value beside something else")
        found: dict[int, PixelSelection] = {}
        if operand.view is not None and operand.view.axis == axis:
            found[operand.view.parent] = operand.view
        if operand.axes[axis]:
            register = context.registers.of(operand)
            indices = np.arange(lengths(operand.axes)[axis])
            whole = PixelSelection(register, operand.axes, axis, indices)
            found.setdefault(register, whole)
        candidates.append(found)
    for parent in candidates[0]:
        if all(parent in found for found in candidates):
            views = [found[parent] for found in candidates]
            indices = np.concatenate([view.indices for view in views])
            return _take(context, parent, views[0].parent_axes, axis, indices)
    raise RefusalError("puts different hidden values side by side")


def chosen_along(eqn: jex.JaxprEqn, axis: int, size: int) -> np.ndarray:
    """Which entries along an axis a slice, a pad or a reversal chooses; -1 for none."""
    whole, params = np.arange(size), eqn.params
    if eqn.primitive.name == "rev":
        return whole[::-1] if axis in params["dimensions"] else whole
    if eqn.primitive.name == "slice":
        strides = params["strides"] or (1,) * (axis + 1)
        start, stop = params["start_indices"][axis], params["limit_indices"][axis]
        return whole[start : stop : strides[axis]]
    low, high, interior = params["padding_config"][axis]
    spread = np.full(max((size - 1) * (interior + 1) + 1, 0), -1)
    spread[:: interior + 1] = whole
    padded = np.concatenate(
        [np.full(max(low, 0), -1), spread, np.full(max(high, 0), -1)]
    )
    return padded[max(-low, 0) : padded.size - max(-high, 0)]
