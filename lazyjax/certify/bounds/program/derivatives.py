"""Rules of primitives for bounds of derivatives, see `growth` beside this file."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jex
import numpy as np

from lazyjax.activations import ActivationSpec
from lazyjax.certify.arithmetic.activations import ROUNDING, values_of
from lazyjax.certify.bounds.program.enclosing.enclosure import UnsupportedError, exact
from lazyjax.certify.bounds.program.enclosing.rules import fixed_exponent
from lazyjax.certify.bounds.program.growth import (
    UP,
    Growth,
    Operand,
    added,
    bilinear,
    infinite,
    joined,
    of_scalar_function,
    scaled,
    without_kinks,
)
from lazyjax.certify.bounds.program.scalar_functions import (
    SCALAR_FUNCTIONS,
    ScalarFunction,
    power,
    scalar_function,
)
from lazyjax.certify.bounds.program.spans import Span
from lazyjax.jaxpr.equations import aval_of, is_smooth

Rule = Callable[[jex.JaxprEqn, Sequence[Operand]], Growth | None]


def activated(spec: ActivationSpec, operand: Operand) -> Growth | None:
    """Bounds of an activation with known bounds, from its slopes at the centre."""
    growth, phi = operand.growth, spec.float64
    if growth is None or phi is None:
        return None
    known = operand.span.known
    _, derivative = values_of(phi, known.value)
    off = ROUNDING + phi.curvature * known.radius
    size = np.abs(derivative) + np.broadcast_to(off, derivative.shape)
    here = np.max(size.reshape(len(size), -1), axis=1, initial=0.0)
    slope = np.minimum(phi.slope, (here + phi.curvature * operand.drift) * UP)
    return of_scalar_function(growth, slope, np.full(slope.shape, phi.curvature))


def _of_scalar(function: ScalarFunction, operand: Operand) -> Growth | None:
    if operand.growth is None:
        return None
    low, high = operand.ends
    slope, curvature = function.slope(low, high), function.curvature(low, high)
    return of_scalar_function(operand.growth, _proper(slope), _proper(curvature))


def _proper(bound: np.ndarray) -> np.ndarray:
    """Bounds of which nothing is known if they are not numbers."""
    return np.where(np.isnan(bound), math.inf, bound)


def _add(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    return _summed(operands)


def _summed(operands: Sequence[Operand]) -> Growth | None:
    shapes = [operand.span.shape for operand in operands]
    size, parts = math.prod(np.broadcast_shapes(*shapes)), []
    for operand, shape in zip(operands, shapes, strict=True):
        if operand.growth is not None:
            # It may be a number that is added to every entry.
            repeats = size / max(math.prod(shape), 1)
            parts.append(scaled(operand.growth, math.sqrt(repeats)))
    return added(*parts)


def _isometry(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    _only_first(eqn, operands)
    return operands[0].growth


def _convert(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    (operand,) = operands
    is_cut = operand.span.known.is_float and not is_smooth(eqn.outvars[0])
    if is_cut and operand.growth is not None:
        raise UnsupportedError(describe(eqn) + ", to integers")
    return operand.growth


def _only_first(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> None:
    if any(operand.growth is not None for operand in operands[1:]):
        raise UnsupportedError(
            f"{eqn.primitive.name} at places that depend on parameters"
        )


def _averaged(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    """Sums of as many entries each, or entries repeated as often."""
    (growth,) = (operand.growth for operand in operands)
    before, after = (aval_of(v).size for v in (eqn.invars[0], eqn.outvars[0]))
    if growth is None or not before or not after:
        return None
    return scaled(growth, math.sqrt(max(before / after, after / before)))


def _gather(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    _only_first(eqn, operands)
    # No entry is read more often than there are windows.
    windows = math.prod(aval_of(eqn.invars[1]).shape[:-1])
    growth = operands[0].growth
    return None if growth is None else scaled(growth, math.sqrt(windows))


def _side_by_side(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    return joined(*(operand.growth for operand in operands))


def _pad(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    _only_first(eqn, operands)
    return operands[0].growth


def _update(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    first, second, *places = operands
    if eqn.primitive.name == "scatter":
        first, places, second = first, [second], places[0]
    if any(place.growth is not None for place in places):
        raise UnsupportedError(
            f"{eqn.primitive.name} at places that depend on parameters"
        )
    return joined(first.growth, second.growth)


def _scatter_add(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    first, places, second = operands
    if places.growth is not None:
        raise UnsupportedError("scatter-add at places that depend on parameters")
    # No entry is added to more often than there are windows.
    windows = math.prod(aval_of(eqn.invars[1]).shape[:-1])
    update = second.growth
    update = None if update is None else scaled(update, math.sqrt(windows))
    return added(first.growth, update)


def _cumulated(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    (growth,) = (operand.growth for operand in operands)
    length = aval_of(eqn.invars[0]).shape[eqn.params["axis"]]
    return None if growth is None else scaled(growth, float(length))


def _window_sum(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    (growth,) = (operand.growth for operand in operands)
    params = eqn.params
    window, strides = params["window_dimensions"], params["window_strides"]
    is_plain = all(
        n == 1 for n in (*params["base_dilation"], *params["window_dilation"])
    )
    # As many entries add up; as many sums read one entry.
    repeats = [
        math.ceil(w / s) if is_plain else w
        for w, s in zip(window, strides, strict=True)
    ]
    norm = math.sqrt(math.prod(window) * math.prod(repeats))
    return None if growth is None else scaled(growth, norm)


def _mul(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    a, b = operands
    return bilinear(a.growth, b.growth, _beside(a, b), _beside(b, a))


def _beside(a: Operand, b: Operand) -> np.ndarray:
    """Norm of the product with `a`, as a map of `b`, which may be broadcast."""
    if not b.span.shape:
        return a.norm
    axes = tuple(axis for axis, size in enumerate(b.span.shape) if size == 1)
    return a.span.norm_along(axes if a.span.shape else ()) + a.drift


def _div(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    a, b = operands
    with np.errstate(divide="ignore"):
        inverse = np.where(b.smallest > 0, 1 / b.smallest, math.inf) * UP
    of_inverse = None
    if b.growth is not None:
        of_inverse = of_scalar_function(b.growth, inverse**2 * UP, 2 * inverse**3 * UP)
    repeats = aval_of(eqn.outvars[0]).size / max(math.prod(a.span.shape), 1)
    return bilinear(
        a.growth, of_inverse, _beside(a, b), inverse * math.sqrt(repeats) * UP
    )


def _dot(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    contracted, batched = eqn.params["dimension_numbers"]
    norms = [
        operand.span.operator_norm(tuple(batch), tuple(rows)) + operand.drift
        for operand, rows, batch in zip(operands, contracted, batched, strict=True)
    ]
    a, b = operands
    return bilinear(a.growth, b.growth, norms[0], norms[1])


def _convolution(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    params, (images, filters) = eqn.params, operands
    if params["batch_group_count"] != 1:
        raise UnsupportedError("conv_general_dilated with batch groups")
    spec = params["dimension_numbers"].rhs_spec
    shape = aval_of(eqn.invars[1]).shape
    is_plain = all(n == 1 for n in (*params["lhs_dilation"], *params["rhs_dilation"]))
    # No pixel is read by more windows than this.
    repeats = math.prod(
        math.ceil(shape[axis] / stride) if is_plain else shape[axis]
        for axis, stride in zip(spec[2:], params["window_strides"], strict=True)
    )
    overlap = math.sqrt(repeats) * UP
    of_images = images.norm * overlap
    of_filters = filters.span.operator_norm((), (spec[0],)) + filters.drift
    return bilinear(
        images.growth, filters.growth, of_images, of_filters * overlap, overlap
    )


def _compare(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    """Whether an inequality holds does not change as long as no entry is at its edge."""
    a, b = operands
    if eqn.invars[0] is eqn.invars[1]:
        return None
    if not (a.span.known.is_float and b.span.known.is_float):
        return _without_change(eqn, operands)
    gap, moved = a.span.distance(b.span), added(a.growth, b.growth)
    if moved is None or np.all(gap > (a.drift + b.drift) * UP):
        return None
    return infinite(moved)


def _is_finite(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    """What is finite in all of the ball stays so."""
    (a,) = operands
    if a.growth is None or np.all(np.isfinite(a.drift)):
        return None
    return infinite(a.growth)


def _argmax(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    """The place of the largest entry stays as long as no other can reach it."""
    (a,) = operands
    if a.growth is None:
        return None
    # The difference of two entries changes by no more than this.
    change = math.sqrt(2) * a.drift * UP
    (axis,) = eqn.params["axes"]
    is_known = np.all(a.span.lead(int(axis)) > change)
    return None if is_known else infinite(a.growth)


def _without_change(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    """What does not change where its operands do not."""
    return added(*(operand.growth for operand in operands))


def _select(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    which, *cases = operands
    if which.growth is not None:  # it may change
        return infinite(which.growth)
    return joined(*(case.growth for case in cases))


def _abs(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    (a,) = operands
    if a.growth is None:
        return None
    return without_kinks(a.growth, a.span.smallest, a.drift)


def _sign(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    (a,) = operands
    if a.growth is None or np.all(a.smallest > 0):
        return None
    return infinite(a.growth)


def _clamp(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    low, a, high = operands
    if a.growth is None or low.growth is not None or high.growth is not None:
        raise UnsupportedError("clamp between bounds that depend on parameters")
    gap = np.minimum(a.span.distance(low.span), a.span.distance(high.span))
    return without_kinks(a.growth, gap, a.drift)


def _pow(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    base, exponent = operands
    fixed = fixed_exponent(exponent.span.known)
    if fixed is not None and exponent.growth is None:
        return _of_scalar(power(fixed), base)
    # The exponential of a product with the logarithm.
    function = SCALAR_FUNCTIONS["log"]
    low, high = base.ends
    ends = [function.value(end) for end in (low, high)]
    size = np.maximum(*np.abs(ends)) * UP
    largest = np.max([s * t for s in ends for t in exponent.ends], axis=0)
    slope = _proper(np.exp(largest + 2.0**-36 * np.abs(largest)) * UP)
    slope = np.where(low > 0, slope, math.inf)
    repeats = math.sqrt(
        aval_of(eqn.outvars[0]).size / max(math.prod(exponent.span.shape), 1)
    )
    product = bilinear(
        exponent.growth,
        _of_scalar(function, base),
        _beside(exponent, base),
        _proper(size) * repeats,
    )
    return None if product is None else of_scalar_function(product, slope, slope)


def of_known_function(name: str, operands: Sequence[Operand]) -> Growth | None:
    """Bounds of a function of JAX that is called by name.

    Args:
        name: "relu", "relu6" or "logaddexp".
        operands: Its operands.

    Returns:
        The bounds, or `None` if the result does not move.
    """
    if name == "logaddexp":
        moved, ones = _summed(operands), np.ones(1)
        return None if moved is None else of_scalar_function(moved, ones, ones / 4)
    (a,) = operands
    if a.growth is None:
        return None
    gap = a.span.smallest
    if name == "relu6":
        gap = np.minimum(gap, a.span.distance(Span(exact(np.full(1, 6.0)), True)))
    return without_kinks(a.growth, gap, a.drift)


def bounded(operand: Operand, slope: float, curvature: float) -> Growth | None:
    """Bounds of a function with derivatives that are bounded everywhere."""
    if operand.growth is None:
        return None
    return of_scalar_function(operand.growth, np.full(1, slope), np.full(1, curvature))


def normalized(operand: Operand, scale: Span, divisor: float) -> Growth | None:
    """Bounds of a normalization.

    Args:
        operand: What is normalized.
        scale: The reciprocal of its size, at the centre.
        divisor: That of the sum of its squares.

    Returns:
        The bounds, or `None` if the result does not move.
    """
    if operand.growth is None:
        return None
    root = math.sqrt(divisor) / UP
    size = 1 / scale.largest / UP - operand.drift / root * UP
    slope = np.where(size > 0, 1 / size, math.inf) * UP
    return of_scalar_function(operand.growth, slope, 1.54 / root * slope**2)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("add", "add_any", "sub"), _add),
    **dict.fromkeys(
        (
            "neg",
            "reshape",
            "transpose",
            "squeeze",
            "expand_dims",
            "rev",
            "slice",
            "split",
            "unstack",
            "dynamic_slice",
            "copy",
            "copy_p",
            "name",
        ),
        _isometry,
    ),
    "convert_element_type": _convert,
    **dict.fromkeys(("broadcast_in_dim", "reduce_sum"), _averaged),
    "gather": _gather,
    **dict.fromkeys(("concatenate", "stack"), _side_by_side),
    "pad": _pad,
    **dict.fromkeys(("dynamic_update_slice", "scatter"), _update),
    "scatter-add": _scatter_add,
    "cumsum": _cumulated,
    "reduce_window_sum": _window_sum,
    "mul": _mul,
    "div": _div,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), _compare),
    **dict.fromkeys(("and", "or", "not", "xor"), _without_change),
    "is_finite": _is_finite,
    "select_n": _select,
    "abs": _abs,
    "sign": _sign,
    "argmax": _argmax,
    "clamp": _clamp,
    "pow": _pow,
}


def growth_of(eqn: jex.JaxprEqn, operands: Sequence[Operand]) -> Growth | None:
    """Bounds of the derivatives of an equation's result.

    Args:
        eqn: The equation.
        operands: Its operands.

    Returns:
        The bounds, or `None` if the result does not move.

    Raises:
        UnsupportedError: If there is no rule for the primitive.
    """
    function = scalar_function(eqn.primitive.name, eqn.params)
    if function is not None:
        return _of_scalar(function, operands[0])
    rule = _RULES.get(eqn.primitive.name)
    if rule is None:
        raise UnsupportedError(describe(eqn))
    return rule(eqn, operands)


def describe(eqn: jex.JaxprEqn) -> str:
    """A primitive by name, where its operands depend on parameters."""
    name: Any = eqn.primitive.name
    return f"{name} of what depends on parameters"
