"""Elementwise operations on hidden values and constants."""

from collections.abc import Sequence

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.infinite.lifting.axes import Axes, lengths, merged, sizes
from lazyjax.infinite.lifting.functions import Elementwise, applied
from lazyjax.infinite.lifting.registers import added, scaled
from lazyjax.infinite.lifting.rules.context import Context, factor_of, is_identity
from lazyjax.infinite.lifting.values import (
    Constant,
    Hidden,
    Known,
    RefusalError,
    Value,
    Weight,
)
from lazyjax.jaxpr.equations import aval_of


def elementwise(
    context: Context, eqn: jex.JaxprEqn, operands: Sequence[Value]
) -> Hidden:
    """An elementwise operation on hidden values and constants."""
    name, result = eqn.primitive.name, aval_of(eqn.outvars[0])
    hidden = [operand for operand in operands if isinstance(operand, Hidden)]
    if jnp.issubdtype(result.dtype, jnp.complexfloating):
        raise RefusalError("makes complex numbers")
    if not hidden:
        raise RefusalError(
            "combines parameters with a function of the input entry by entry"
        )
    if any(isinstance(operand, Known) for operand in operands):
        raise RefusalError(
            "combines a hidden value with a function of the input that did not go "
            "through weights"
        )
    if any(isinstance(operand, Weight) for operand in operands):
        raise RefusalError(
            "combines a hidden value with parameters entry by entry, other than as "
            "biases"
        )
    axes = merged(hidden[0].axes)
    if any(merged(value.axes) != axes for value in hidden):
        raise RefusalError(
            "combines two hidden values whose examples, pixels or units stand in "
            "different places"
        )
    if len(operands) == 1:
        if is_identity(eqn):
            return hidden[0]
        if name == "neg" and hidden[0].phi is None:
            return scaled(hidden[0], -1.0)
        if name == "stop_gradient":
            return context.registers.detached(hidden[0])
    if len(operands) == 2 and len(hidden) == 1:
        found = _with_constant(context, name, operands, hidden[0])
        if found is not None:
            return found
    if name in ("add", "add_any", "sub") and len(hidden) == 2:
        return _sum(context, eqn, hidden, -1.0 if name == "sub" else 1.0)
    if name == "mul" and len(hidden) == 2 and not _same_argument(context, hidden):
        product = context.registers.product(hidden)
        if product is not None:
            return product
    return _function(context, eqn, operands)


def _with_constant(
    context: Context, name: str, operands: Sequence[Value], value: Hidden
) -> Hidden | None:
    """A linear operation with a constant, if it is one."""
    (constant,) = (o for o in operands if isinstance(o, Constant))
    array, number = constant.array, constant.number
    if array is None:
        raise RefusalError("reads numbers that are not known while tracing")
    is_first = operands[0] is value
    is_product = name == "mul" or (name == "div" and is_first)
    if number is not None:
        if name in ("add", "sub") and number == 0 and (name == "add" or is_first):
            return value
        if is_product and value.phi is None:
            return scaled(value, factor_of(name, number))
        return None
    if not is_product:
        raise RefusalError("adds or compares with a constant that is not one number")
    if not _is_constant_along_units(array, value.axes):
        raise RefusalError("treats hidden units differently, by a constant")
    return _by_pixel(context, value, factor_of(name, array))


def _is_constant_along_units(array: np.ndarray, axes: Axes) -> bool:
    """Whether an array that multiplies a value with these axes is the same for units."""
    if array.ndim == 0:
        return True
    split: list[int] = []
    along: list[int] = []
    for size, length, axis in zip(array.shape, lengths(axes), axes, strict=True):
        if size != length or size == 1:
            split.append(size)
            continue
        along += [len(split) + i for i, atom in enumerate(axis) if atom.kind == "units"]
        split += [atom.size for atom in axis]
    array = array.reshape(split)
    first = array
    for axis in along:
        first = first.take([0], axis=axis)
    return bool(np.array_equal(np.broadcast_to(first, array.shape), array))


def _by_pixel(context: Context, value: Hidden, array: np.ndarray) -> Hidden:
    """A hidden value times a number for each pixel."""
    atoms = [atom for axis in value.axes for atom in axis]
    shape = np.broadcast_shapes(array.shape, lengths(value.axes))
    whole = np.broadcast_to(array, shape).reshape([atom.size for atom in atoms])
    for index, atom in enumerate(atoms):
        if atom.kind != "pixels":
            whole = whole.take([0], axis=index)
    factors = whole.reshape(*sizes(value.axes, "pixels"), 1).astype(context.dtype)
    fn = lambda a: a * jnp.asarray(factors, a.dtype)
    return context.registers.map_pixels(value, value.axes, fn)


def _sum(
    context: Context, eqn: jex.JaxprEqn, values: Sequence[Hidden], sign: float
) -> Hidden:
    if _same_argument(context, values):
        return _function(context, eqn, values)
    terms = [
        value.terms if value.phi is None else ((context.registers.of(value), 1.0),)
        for value in values
    ]
    signed = tuple((register, sign * c) for register, c in terms[1])
    return Hidden(values[0].axes, added(terms[0], signed))


def _same_argument(context: Context, values: Sequence[Hidden]) -> bool:
    """Whether values are functions of one Gaussian, and not all are linear in it."""
    sources = {value.source for value in values if value.phi is not None}
    if len(sources) != 1:
        return False
    (source,) = sources
    return all(
        v.phi is not None or context.registers.ratio(v, source) is not None
        for v in values
    )


def _function(context: Context, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> Hidden:
    """A nonlinear function of one Gaussian value."""
    hidden = [operand for operand in operands if isinstance(operand, Hidden)]
    sources = {value.source for value in hidden if value.phi is not None}
    if not sources:
        sources = {context.registers.argument(hidden[0])[1]}
    source = sources.pop()
    arguments: list[Elementwise | np.generic] = []
    for operand in operands:
        if isinstance(operand, Constant):
            arguments.append(_constant(context, operand))
            continue
        assert isinstance(operand, Hidden)
        if operand.phi is not None and operand.source == source:
            arguments.append(operand.phi)
            continue
        ratio = None
        if operand.phi is None:
            ratio = context.registers.ratio(operand, source)
        if ratio is None:
            raise RefusalError(
                "is not linear in two hidden values that depend on each other, as "
                "activations of sums of activations are not"
            )
        linear = Elementwise()
        if ratio != 1:
            factor = context.dtype.type(ratio)
            (times,) = jax.make_jaxpr(jax.lax.mul)(factor, factor).jaxpr.eqns
            linear = applied(times.primitive, times.params, [linear, factor])
        arguments.append(linear)
    params = dict(eqn.params)
    if jnp.issubdtype(params.get("new_dtype", bool), jnp.floating):
        params["new_dtype"] = context.dtype
    try:
        phi = applied(eqn.primitive, params, arguments)
    except TypeError:  # parameters that cannot be compared
        raise RefusalError("has parameters that are not understood") from None
    if context.operation is not None:
        context.registers.origins.setdefault(phi, context.operation)
    return Hidden(hidden[0].axes, phi=phi, source=source)


def _constant(context: Context, constant: Constant) -> np.generic:
    number = constant.number
    if number is None:
        raise RefusalError("reads a constant that is not one number, or not known")
    if jnp.issubdtype(number.dtype, jnp.floating):
        return context.dtype.type(number)
    return number
