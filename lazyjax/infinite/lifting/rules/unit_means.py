"""Means over units, which are functions of the input, and what they do to values.

A layer's mean over many units is no longer random: the law of large numbers. Nor does a
gradient go through it, for each unit has one part of n in it. So the statistics by which
layers are normalized shift and scale values as functions of the input do.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.activations.registry import activation_fn
from lazyjax.infinite.lifting.axes import (
    BATCH_SIZES,
    Axes,
    has,
    lengths,
    positions,
    sizes,
)
from lazyjax.infinite.lifting.registers import RegisterInfo, added, scaled
from lazyjax.infinite.lifting.rules.context import (
    UNITS,
    Context,
    entries_by_atom,
    factor_of,
)
from lazyjax.infinite.lifting.steps import (
    Activate,
    Gain,
    Offset,
    Read,
    ScaleByInput,
    Step,
    UnitMean,
    has_mean,
)
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
from lazyjax.jaxpr.labels import Rows
from lazyjax.jaxpr.registry import primitive_of

_KEEP_ENTRIES = ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type")
MAY_VANISH = "a mean over hidden units that may be 0 at infinite width"
UNDIVIDED = (
    "reads a sum over hidden units that is not divided by their number, as a mean is"
)


def sum_over_units(
    context: Context, eqn: jex.JaxprEqn, value: Hidden | Squared
) -> Known:
    """A sum over all units, and pixels perhaps, as a multiple of its mean."""
    summed = eqn.params["axes"]
    kept = tuple(axis for i, axis in enumerate(value.axes) if i not in summed)
    if any(has(axis, "units") for axis in kept):
        raise RefusalError(UNITS)
    pixels = tuple(positions(value.axes, summed, "pixels"))
    count = math.prod(
        atom.size for i in summed for atom in value.axes[i] if atom.kind != "rows"
    )
    registers, is_square = context.registers, isinstance(value, Squared)
    register = registers.of(value.of if isinstance(value, Squared) else value)
    registers.sum_over_units(register)
    may_vanish = not (
        is_square or _has_one_sign(registers.steps[register], context.dtype)
    )
    first = context.add_known(
        lambda first: UnitMean(
            register,
            is_square,
            _writer(sizes(value.axes, "pixels"), pixels, kept),
            first,
        )
    )
    return Known(
        first,
        aval_of(eqn.outvars[0]).shape,
        Rows(0),  # to be replaced
        units=math.prod(sizes(value.axes, "units")),
        undivided=count,
        is_zero=not is_square and not has_mean(registers.steps, register),
        may_vanish=may_vanish,
    )


def _has_one_sign(step: Step, dtype: np.dtype) -> bool:
    """Whether a value is an activation that is nowhere negative, or nowhere positive."""
    if not isinstance(step, Activate):
        return False
    with jax.ensure_compile_time_eval():
        points = jnp.asarray(np.linspace(-9, 9, 1001), dtype)
        values = np.asarray(activation_fn(step.activation)(points))
    return bool((values >= 0).all() or (values <= 0).all()) and bool(values.any())


def _writer(
    shape: tuple[int, ...], summed: tuple[int, ...], kept: Axes
) -> Callable[[Array], Array]:
    """Function from numbers for each pixel to their means, for two equal rows."""
    atoms = [atom for axis in kept for atom in axis]
    split = [atom.size if atom.kind == "pixels" else 1 for atom in atoms]
    whole = [atom.size for atom in atoms]

    def write(array: Array) -> Array:
        means = jnp.mean(array.reshape(shape), axis=summed)
        return jnp.broadcast_to(means.reshape(split), whole).reshape(lengths(kept))

    return write


def checked_mean(
    eqn: jex.JaxprEqn, operands: Sequence[Known | Constant]
) -> Known | None:
    """A sum over units divided by their number, if an equation does that.

    Args:
        eqn: An equation of functions of the input.
        operands: Its operands.

    Returns:
        The mean; None if the equation is another.

    Raises:
        RefusalError: If it does anything else to such a sum but repeating it, or
            multiplies a mean by a number so large that its fluctuations are not small.
    """
    name = eqn.primitive.name
    known = [operand for operand in operands if isinstance(operand, Known)]
    factors = [o.number for o in operands if isinstance(o, Constant)]
    is_scaling = len(known) == len(factors) == 1 and (
        name == "mul" or (name == "div" and operands[0] is known[0])
    )
    factor = None
    if is_scaling and factors[0] is not None:
        factor = factor_of(name, factors[0])
    for value in known:
        if value.undivided and name not in _KEEP_ENTRIES:
            # One less, for an unbiased variance, is the same at infinite width. Of two
            # units that would be no division.
            counts = value.undivided, max(2, value.undivided - 1)
            if factor is None or not any(
                math.isclose(factor * count, 1, rel_tol=1e-5) for count in counts
            ):
                raise RefusalError(UNDIVIDED)
            return value.divided()
        if value.may_vanish and not _is_smooth_at_zero(eqn, operands):
            raise RefusalError(
                f"reads {MAY_VANISH}, by a function that may not be smooth there"
            )
        if value.units and factor is not None and 16 * factor**2 >= value.units:
            raise RefusalError(
                "multiplies a mean over hidden units by a number that is not small beside "
                "the root of their number, so that its fluctuations may not vanish"
            )
    return None


def _is_smooth_at_zero(eqn: jex.JaxprEqn, operands: Sequence[Known | Constant]) -> bool:
    name = eqn.primitive.name
    if name == "div":
        (*_, divisor) = operands
        return not (isinstance(divisor, Known) and divisor.may_vanish)
    if name == "integer_pow":
        return eqn.params["y"] > 0
    linear = ("add", "add_any", "sub", "mul", "neg", "stop_gradient")
    return name in (*linear, *_KEEP_ENTRIES, "square", "abs", "max", "min")


def described(
    eqn: jex.JaxprEqn, operands: Sequence[Known | Constant], value: Known
) -> Known:
    """The result of an equation, with what is known of its entries."""
    known = [operand for operand in operands if isinstance(operand, Known)]
    units = [operand.units for operand in known if operand.units]
    name = eqn.primitive.name
    keeps = name in _KEEP_ENTRIES and len(known) == 1
    return dataclasses.replace(
        value,
        alike=_alike(eqn, operands, value),
        units=min(units, default=0),
        undivided=known[0].undivided if keeps else 0,
        is_zero=keeps and known[0].is_zero,
        may_vanish=(all if name in ("add", "add_any", "sub") else any)(
            operand.may_vanish for operand in known
        ),
    )


def _alike(
    eqn: jex.JaxprEqn, operands: Sequence[Known | Constant], result: Known
) -> frozenset[int]:
    """Axes along which all entries of a result are equal, as far as is known."""
    shape = result.shape
    everywhere = frozenset(range(len(shape)))
    if eqn.primitive.name == "reshape" and all(map(_is_one_number, operands)):
        # The same number all over an example.
        is_whole = shape[result.rows.axis] == BATCH_SIZES[0]
        return everywhere - {result.rows.axis} if is_whole else frozenset()
    if eqn.primitive.name == "broadcast_in_dim":
        (operand,) = operands
        before, places = (
            aval_of(eqn.invars[0]).shape,
            eqn.params["broadcast_dimensions"],
        )
        own = operand.alike if isinstance(operand, Known) else frozenset()
        held = {p for i, p in enumerate(places) if before[i] != 1 and i not in own}
        return everywhere - held
    found = everywhere
    for atom, operand in zip(eqn.invars, operands, strict=True):
        size = aval_of(atom).shape
        if size == ():
            continue
        if len(size) != len(shape):
            return frozenset()
        own = operand.alike if isinstance(operand, Known) else _equal_axes(operand)
        found &= own | {axis for axis, extent in enumerate(size) if extent == 1}
    return found if primitive_of(eqn).is_elementwise else frozenset()


def _is_one_number(operand: Known | Constant) -> bool:
    """Whether all entries of each example are equal."""
    if not isinstance(operand, Known):
        return False
    axes = {i for i, extent in enumerate(operand.shape) if extent != 1}
    return axes - operand.alike <= {operand.rows.axis} and operand.rows.inner == 1


def _equal_axes(constant: Constant) -> frozenset[int]:
    array = constant.array
    if array is None:
        return frozenset()
    return frozenset(
        axis
        for axis in range(array.ndim)
        if array.size and bool((array == array.take([0], axis=axis)).all())
    )


def with_function_of_input(
    context: Context, eqn: jex.JaxprEqn, operands: Sequence[Value], value: Hidden
) -> Hidden:
    """A hidden value times, or plus, a function of the input that units share."""
    name = eqn.primitive.name
    first, second = operands
    known = second if first is value else first
    assert isinstance(known, Known)
    is_linear = name in ("add", "add_any", "sub", "mul")
    if not is_linear and not (name == "div" and first is value):
        raise RefusalError("combines a hidden value with a function of the input")
    if known.undivided:
        raise RefusalError(UNDIVIDED)
    units = {i for i, axis in enumerate(value.axes) if has(axis, "units")}
    single = {axis for axis, extent in enumerate(known.shape) if extent == 1}
    if not units <= known.alike | single:
        raise RefusalError(
            "combines a hidden value with a function of the input that did not go "
            "through weights, and may differ from unit to unit"
        )
    registers, read = context.registers, _pixel_reader(value.axes)
    if name == "div" and known.may_vanish:
        raise RefusalError(f"divides by {MAY_VANISH}")
    if name in ("mul", "div"):
        source = registers.of(value)
        if name == "div":
            divide = read
            read = lambda array: 1 / divide(array)
        step = ScaleByInput(source, known.number, read)
        register = registers.add(step, registers.infos[source])
        return Hidden(value.axes, ((register, 1.0),))
    signs = {"sub": (1.0, -1.0) if first is value else (-1.0, 1.0)}
    of_value, of_known = signs.get(name, (1.0, 1.0))
    if known.is_zero and of_value == 1:
        return value
    own = value.terms if value.phi is None else ((registers.of(value), 1.0),)
    own = scaled(Hidden(value.axes, own), of_value).terms
    if known.is_zero:
        return Hidden(value.axes, own)
    info = RegisterInfo(frozenset(), False, False, registers.new_units())
    offset = registers.add(Offset(known.number, read), info)
    return Hidden(value.axes, added(own, ((offset, of_known),)))


def _pixel_reader(axes: Axes) -> Read:
    """Function from a value of two equal rows to one number for each pixel."""
    atoms = [atom for axis in axes for atom in axis]
    chosen = tuple(slice(None) if atom.kind == "pixels" else 0 for atom in atoms)
    split = [atom.size for atom in atoms]
    whole = lengths(axes)
    return lambda array: jnp.broadcast_to(array, whole).reshape(split)[chosen].ravel()


def gained(context: Context, value: Hidden, weight: Weight) -> Hidden:
    """A hidden value times parameters that all start from one number."""
    leaves = context.leaves
    if leaves.variances[weight.leaf] != 0 or leaves.means[weight.leaf] == 0:
        raise RefusalError(
            "combines a hidden value with parameters entry by entry, other than as "
            "biases; scales have a limit where `variances` has 0 for them and `means` "
            "has what they start from"
        )
    if not sizes(value.axes, "units"):
        raise RefusalError("multiplies a layer of one unit by a parameter")
    entries, is_shared = entries_by_atom(
        weight.entries, value.axes, "multiplies all units of a layer by one parameter"
    )
    leaves.claim(weight.leaf, entries)
    registers = context.registers
    source = registers.of(value)
    registers.sum_over_units(source)  # or squared units would stay random
    step = Gain(
        source,
        weight.scale * leaves.means[weight.leaf],
        sizes(value.axes, "pixels"),
        is_shared,
        weight.scale**2 if weight.is_trained else 0.0,
    )
    register = registers.add(step, registers.infos[source])
    return Hidden(value.axes, ((register, 1.0),))


def is_square(eqn: jex.JaxprEqn, operands: Sequence[Value]) -> bool:
    """Whether an equation squares its operand."""
    name = eqn.primitive.name
    if name == "integer_pow":
        return eqn.params["y"] == 2
    return name == "square" or (
        name == "mul" and len(operands) == 2 and operands[0] is operands[1]
    )
