"""Linear maps of pixels by arrays of numbers: resizing, and selections at places."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.infinite.lifting.axes import (
    Axis,
    axis_of,
    has,
    lengths,
    positions,
    sizes,
)
from lazyjax.infinite.lifting.pixels import take
from lazyjax.infinite.lifting.rules.context import Context, limit_of
from lazyjax.infinite.lifting.rules.shaping import pixel_of
from lazyjax.infinite.lifting.values import Constant, Hidden, RefusalError
from lazyjax.jaxpr.equations import aval_of

_NO_SELECTION = "reads hidden values at places that are no selection along each axis"


def mapped_by_constant(
    context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]
) -> Hidden:
    """A hidden value whose pixels are multiplied by a matrix of numbers."""
    side = int(isinstance(operands[1], Constant))
    matrix, value = operands[side].array, operands[1 - side]
    contracted, batched = eqn.params["dimension_numbers"]
    over, by = contracted[1 - side], contracted[side]
    if matrix is None:
        raise RefusalError("reads numbers that are not known while tracing")
    if batched[0]:
        raise RefusalError("multiplies by other numbers at each pixel")
    if any(has(value.axes[i], kind) for i in over for kind in ("rows", "units")):
        raise RefusalError("multiplies hidden units by numbers and sums them")
    new = [n for i, n in enumerate(matrix.shape) if i not in by]
    matrix = np.moveaxis(matrix, by, range(len(by))).reshape(-1, *new)
    # In the order in which axes of the value are contracted, atom by atom.
    places = [p for i in over for p in positions(value.axes, [i], "pixels")]
    shape = sizes(value.axes, "pixels")
    split = [shape[place] for place in places]
    numbers = matrix.reshape((*split, *new)).astype(context.dtype)
    kept = tuple(axis for i, axis in enumerate(value.axes) if i not in over)
    made = tuple(axis_of("pixels", size) for size in new)
    count = len(shape) - len(places)

    def fn(array: Array) -> Array:
        found = jnp.tensordot(
            array,
            jnp.asarray(numbers, array.dtype),
            (places, list(range(len(places)))),
            precision=jax.lax.Precision.HIGHEST,
        )
        first = 0 if side == 0 else count
        ends = range(count + 1, count + 1 + len(new))
        return jnp.moveaxis(found, tuple(ends), tuple(range(first, first + len(new))))

    return context.registers.map_pixels(value, kept + made if side else made + kept, fn)


@limit_of("gather")
def _gather(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    """Chosen pixels along each axis, at places that are numbers."""
    value, places = operands
    if not isinstance(value, Hidden) or not isinstance(places, Constant):
        raise RefusalError("reads hidden values or parameters at places")
    if places.array is None:
        raise RefusalError("reads places that are not known while tracing")
    before = lengths(value.axes)
    sources = [
        _coordinates(eqn, before, axis, places.array) for axis in range(len(before))
    ]
    along = [_varies_along(source) for source in sources]
    used = [place for place in along if place is not None]
    shape = aval_of(eqn.outvars[0]).shape
    repeats = any(size > 1 and i not in used for i, size in enumerate(shape))
    if used != sorted(set(used)) or repeats:
        raise RefusalError(_NO_SELECTION)
    axes: list[Axis] = [()] * len(shape)
    maps: list[Callable[[Array], Array]] = []
    for axis, (source, place) in enumerate(zip(sources, along, strict=True)):
        indices = source.ravel()[:1] if place is None else _line(source, place)
        own = value.axes[axis]
        if not np.array_equal(indices, np.arange(before[axis])):
            maps.append(take(pixel_of(value.axes, axis), indices))
            own = axis_of("pixels", indices.size)
        if place is not None:
            axes[place] = own
    if not maps:
        return dataclasses.replace(value, axes=tuple(axes), view=None)

    def fn(array: Array) -> Array:
        for select in maps:
            array = select(array)
        return array

    return context.registers.map_pixels(value, tuple(axes), fn)


def _coordinates(
    eqn: jex.JaxprEqn, shape: Sequence[int], axis: int, places: np.ndarray
) -> np.ndarray:
    """Index along an axis of the operand that each entry of a gather comes from."""
    line = np.arange(shape[axis], dtype=np.int32)
    line = line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    with jax.ensure_compile_time_eval():
        whole = jnp.asarray(np.broadcast_to(line, shape))
        found = np.asarray(eqn.primitive.bind(whole, jnp.asarray(places), **eqn.params))
    if ((found < 0) | (found >= shape[axis])).any():
        raise RefusalError("reads hidden values out of their bounds")
    return found


def _varies_along(source: np.ndarray) -> int | None:
    """The one axis along which an array varies, if there is one."""
    moving = [
        axis
        for axis in range(source.ndim)
        if not (source == source.take([0], axis=axis)).all()
    ]
    if len(moving) > 1:
        raise RefusalError(_NO_SELECTION)
    return moving[0] if moving else None


def _line(source: np.ndarray, place: int) -> np.ndarray:
    return np.moveaxis(source, place, 0).reshape(source.shape[place], -1)[:, 0]
