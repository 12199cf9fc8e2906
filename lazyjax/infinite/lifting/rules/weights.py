"""Products with weights, convolutions and biases."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.infinite.layers import LayerScales
from lazyjax.infinite.lifting.axes import Axes, Axis, axis_of, has, positions, sizes
from lazyjax.infinite.lifting.pixels import PixelMap, filter_sums, summed_pixels
from lazyjax.infinite.lifting.registers import RegisterInfo, added
from lazyjax.infinite.lifting.rules.context import (
    Context,
    entries_by_atom,
    factor_of,
    is_identity,
    limit_of,
)
from lazyjax.infinite.lifting.rules.elementwise import elementwise
from lazyjax.infinite.lifting.rules.pixel_maps import mapped_by_constant
from lazyjax.infinite.lifting.rules.shaping import chosen_along
from lazyjax.infinite.lifting.rules.unit_means import MAY_VANISH
from lazyjax.infinite.lifting.steps import Bias, MapPairs, MapPixels, Moments, Weigh
from lazyjax.infinite.lifting.values import (
    Constant,
    Hidden,
    Known,
    RefusalError,
    Squared,
    Value,
    Weight,
)
from lazyjax.jaxpr.equations import aval_of


def rearranged(eqn: jex.JaxprEqn, operands: Sequence[Value]) -> Weight:
    """A parameter reshaped, selected, or times a number; anything else is refused."""
    name = eqn.primitive.name
    weight = next(operand for operand in operands if isinstance(operand, Weight))
    others = [operand for operand in operands if operand is not weight]
    match others:
        case [Constant(number=number)] if number is not None:
            if name == "mul" or (name == "div" and operands[0] is weight):
                scale = weight.scale * factor_of(name, number)
                shape = aval_of(eqn.outvars[0]).shape
                entries = np.broadcast_to(weight.entries, shape)
                return dataclasses.replace(weight, scale=scale, entries=entries)
        case []:
            if name == "neg":
                return dataclasses.replace(weight, scale=-weight.scale)
            if name == "stop_gradient":
                return dataclasses.replace(weight, is_trained=False)
            if is_identity(eqn):
                return weight
            moved = _moved(eqn, weight.entries)
            if moved is not None:
                return dataclasses.replace(weight, entries=moved)
    raise RefusalError(
        "changes parameters in another way than by a constant factor, before they "
        "multiply a value as weights or are added to it as biases"
    )


def _moved(eqn: jex.JaxprEqn, entries: np.ndarray) -> np.ndarray | None:
    """Entries of a parameter, rearranged, repeated or selected."""
    params = eqn.params
    match eqn.primitive.name:
        case "reshape":
            return entries.reshape(params["new_sizes"])
        case "transpose":
            return entries.transpose(params["permutation"])
        case "squeeze":
            return entries.squeeze(tuple(params["dimensions"]))
        case "broadcast_in_dim":
            sizes = [1] * len(params["shape"])
            for axis, place in enumerate(params["broadcast_dimensions"]):
                sizes[place] = entries.shape[axis]
            return np.broadcast_to(entries.reshape(sizes), params["shape"])
        case "slice" | "rev":
            for axis, size in enumerate(entries.shape):
                entries = entries.take(chosen_along(eqn, axis, size), axis=axis)
            return entries
    return None


@limit_of("dot_general")
def _dot(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Hidden:
    if {type(operand) for operand in operands} == {Hidden, Constant}:
        return mapped_by_constant(context, eqn, operands)
    is_weight = [isinstance(operand, Weight) for operand in operands]
    if sum(is_weight) != 1 or any(isinstance(o, Constant) for o in operands):
        if all(isinstance(operand, Hidden) for operand in operands):
            raise RefusalError("multiplies two hidden values, as attention does")
        raise RefusalError(
            "multiplies hidden values or parameters by something else than weights of "
            "their own"
        )
    contracted, batched = eqn.params["dimension_numbers"]
    if batched[0]:
        raise RefusalError("multiplies by other weights at each pixel")
    side = is_weight.index(True)
    weight, value = operands[side], operands[1 - side]
    source, axes, num_units = _moments(context, value, contracted[1 - side])
    units = tuple(
        axis_of("units", size)
        for i, size in enumerate(weight.entries.shape)
        if i not in contracted[side]
    )
    register = _weigh(context, source, weight, num_units)
    return Hidden(axes + units if side else units + axes, ((register, 1.0),))


@limit_of("conv_general_dilated")
def _convolve(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> Hidden:
    value, weight = operands
    if not isinstance(weight, Weight) or not isinstance(value, Known | Hidden):
        raise RefusalError("convolves something else than a value by weights")
    registers, params = context.registers, eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise RefusalError("convolves each hidden channel by itself, or in groups")
    if any(d != 1 for d in params["lhs_dilation"]):
        raise RefusalError("is a transposed convolution")
    pads = tuple((int(low), int(high)) for low, high in params["padding"])
    if any(pad < 0 for pair in pads for pad in pair):
        raise RefusalError("crops its input")
    numbers = params["dimension_numbers"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    space = [value.axes[i] for i in lhs[2:]]
    if any(len(axis) > 1 for axis in space):
        raise RefusalError("moves over an axis of several kinds of pixels")
    if any(has(axis, "units") for axis in space):
        raise RefusalError("moves over hidden units")
    source, axes, num_units = _moments(context, value, [lhs[1]])
    # Pixels as axes, those of the batch axis and single ones too.
    kept = [i for i in range(len(value.axes)) if i != lhs[1]]
    shape: list[int] = []
    place: dict[int, int] = {}
    for i, axis in zip(kept, axes, strict=True):
        place[i] = len(shape)
        shape += [a.size for a in axis if a.kind == "pixels"]
        if i in lhs[2:] and not axis:
            shape.append(1)
    along = tuple(place[i] for i in lhs[2:])
    step = MapPairs(
        source,
        tuple(shape),
        filter_sums(
            along,
            tuple(weight.entries.shape[i] for i in rhs[2:]),
            tuple(params["window_strides"]),
            pads,
            tuple(params["rhs_dilation"]),
        ),
    )
    registers.count_pixels(shape)
    mapped = registers.add(step, registers.infos[source])
    result = aval_of(eqn.outvars[0]).shape
    for axis, i in zip(along, out[2:], strict=True):
        shape[axis] = result[i]
    registers.count_pixels(shape)
    register = _weigh(context, mapped, weight, num_units)
    # The order of pixels is that of the input's axes, which may not be the output's.
    axes_out: list[Axis] = [()] * len(result)
    axes_out[out[0]] = value.axes[lhs[0]]
    axes_out[out[1]] = axis_of("units", result[out[1]])
    numbered = {out[0]: lhs[0]}
    for i, o in zip(lhs[2:], out[2:], strict=True):
        axes_out[o] = axis_of("pixels", result[o])
        numbered[o] = i
    order = [numbered[o] for o in sorted(numbered)]
    if order != sorted(order):
        ends = [*place.values(), len(shape)]
        spans = {
            i: range(start, end)
            for i, start, end in zip(place, ends, ends[1:], strict=False)
        }
        moved = [axis for i in order for axis in spans[i]]
        permute = PixelMap(
            tuple(shape), lambda array: jnp.transpose(array, (*moved, array.ndim - 1))
        )
        step = MapPixels(register, permute)
        register = registers.add(step, registers.infos[register])
    return Hidden(tuple(axes_out), ((register, 1.0),))


@limit_of("add", "add_any", "sub")
def _add(
    context: Context, eqn: jex.JaxprEqn, operands: Sequence[Value]
) -> Hidden | Squared:
    match operands:
        case [Hidden() as value, Weight() as weight]:
            sign = -1.0 if eqn.primitive.name == "sub" else 1.0
            return _add_bias(context, value, weight, sign)
        case [Weight() as weight, Hidden() as value] if eqn.primitive.name != "sub":
            return _add_bias(context, value, weight, 1.0)
    return elementwise(context, eqn, operands)


def _add_bias(context: Context, value: Hidden, weight: Weight, sign: float) -> Hidden:
    """Parameters added to a hidden value."""
    entries, is_shared = entries_by_atom(
        weight.entries, value.axes, "adds one parameter to all units of a layer"
    )
    scales = _scales(context, weight, entries, 1, is_bias=True)
    shape = sizes(value.axes, "pixels")
    registers = context.registers
    registers.count_pixels(shape)
    step = Bias(shape, is_shared, scales)
    register = registers.new_weights(step, scales.b_sq)
    terms = value.terms
    if value.phi is not None:
        terms = ((registers.of(value), 1.0),)
    return Hidden(value.axes, added(terms, ((register, sign),)))


def _moments(
    context: Context, value: Any, contracted: Sequence[SupportsIndex]
) -> tuple[int, Axes, int]:
    """Moments summed over axes; axes left; how many units each number stands for."""
    registers, axes = context.registers, value.axes
    left = tuple(axis for i, axis in enumerate(axes) if i not in contracted)
    if isinstance(value, Known):
        if value.may_vanish:
            raise RefusalError(f"multiplies weights by {MAY_VANISH}")
        info = RegisterInfo(frozenset(), False, False, registers.new_units())
        registers.count_pixels(sizes(left, "pixels"))
        step = Moments(value.number, _reader(axes, contracted))
        return registers.add(step, info), left, 1
    if any(has(axis, "units") for axis in left):
        raise RefusalError(
            "multiplies weights by a hidden value without summing over its units"
        )
    num_units = math.prod(sizes(axes, "units"))
    if num_units == 1:
        raise RefusalError(
            "reads a layer of one unit; for a limit, layers must have several"
        )
    register = registers.of(value)
    registers.sum_over_units(register)
    shape = sizes(axes, "pixels")
    summed = positions(axes, contracted, "pixels")
    registers.count_pixels(shape)
    if summed:
        step = MapPairs(register, shape, summed_pixels(shape, summed))
        register = registers.add(step, registers.infos[register])
    return register, left, num_units


def _weigh(context: Context, source: int, weight: Weight, num_units: int) -> int:
    scales = _scales(context, weight, weight.entries, num_units, is_bias=False)
    return context.registers.new_weights(Weigh(source, scales), scales.w_sq)


def _scales(
    context: Context,
    weight: Weight,
    entries: np.ndarray,
    num_units: int,
    *,
    is_bias: bool,
) -> LayerScales:
    context.leaves.claim(weight.leaf, entries)
    if context.leaves.means[weight.leaf] != 0:
        raise RefusalError(
            "reads parameters whose mean, by `means`, is not 0; there is a limit for "
            "those alone that scale each unit, as after a normalization"
        )
    own = weight.scale**2 * num_units
    variance = own * context.leaves.variances[weight.leaf]
    if is_bias:
        return LayerScales(0.0, variance, 0.0, own, weight.is_trained)
    return LayerScales(variance, 0.0, own, 0.0, weight.is_trained)


def _reader(
    axes: Axes, contracted: Sequence[SupportsIndex]
) -> Callable[[Array], Array]:
    """Function from a value of two equal rows to (pixels, features) of one."""
    split: list[int] = []
    rows: list[int] = []
    pixels: list[int] = []
    features: list[int] = []
    for i, axis in enumerate(axes):
        for atom in axis:
            place = len(split)
            split.append(atom.size)
            if atom.kind == "rows":
                rows.append(place)
            else:
                (features if i in contracted else pixels).append(place)
    num_pixels = math.prod(
        a.size
        for i, axis in enumerate(axes)
        if i not in contracted
        for a in axis
        if a.kind != "rows"
    )

    def read(array: Array) -> Array:
        array = array.reshape(split).transpose(*rows, *pixels, *features)
        return (array[0] if rows else array).reshape(num_pixels, -1)

    return read
