"""Sums over pixels and units of hidden values."""

from collections.abc import Sequence
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

from lazyjax.infinite.lifting.axes import axis_of, has, positions, sizes
from lazyjax.infinite.lifting.pixels import window_sums
from lazyjax.infinite.lifting.rules.context import UNITS, Context, limit_of
from lazyjax.infinite.lifting.rules.shaping import pixel_of
from lazyjax.infinite.lifting.rules.unit_means import sum_over_units
from lazyjax.infinite.lifting.values import (
    NOT_GAUSSIAN,
    Hidden,
    Known,
    RefusalError,
    Squared,
)
from lazyjax.jaxpr.equations import aval_of


@limit_of("reduce_sum")
def _sum(
    context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]
) -> Hidden | Known:
    (value,), summed = operands, eqn.params["axes"]
    if any(has(value.axes[i], "units") for i in summed):
        return sum_over_units(context, eqn, value)
    if isinstance(value, Squared):
        raise RefusalError(NOT_GAUSSIAN)
    pixels = tuple(positions(value.axes, summed, "pixels"))
    axes = tuple(axis for i, axis in enumerate(value.axes) if i not in summed)
    fn = lambda array: jnp.sum(array, axis=pixels)
    return context.registers.map_pixels(value, axes, fn)


@limit_of("reduce_window_sum")
def _window_sum(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    (value,), params = operands, eqn.params
    if any(d != 1 for d in params["base_dilation"]):
        raise RefusalError("spreads pixels apart")
    names = ("window_dimensions", "window_strides", "padding", "window_dilation")
    per_axis = list(zip(*(params[name] for name in names), strict=True))
    result = aval_of(eqn.outvars[0]).shape
    axes = list(value.axes)
    chosen: dict[int, tuple] = {}
    for i, (window, stride, pad, dilation) in enumerate(per_axis):
        if (window, stride, tuple(pad)) == (1, 1, (0, 0)):
            continue
        if not axes[i]:
            raise RefusalError("pools an axis of one pixel, or of one unit")
        if has(axes[i], "units"):
            raise RefusalError(UNITS)
        chosen[pixel_of(value.axes, i)] = (window, stride, tuple(pad), dilation)
        axes[i] = axis_of("pixels", result[i])
    idle = (1, 1, (0, 0), 1)
    count = len(sizes(value.axes, "pixels"))
    columns = zip(*(chosen.get(i, idle) for i in range(count)), strict=True)
    fn = window_sums(*columns)
    return context.registers.map_pixels(value, tuple(axes), fn)
