"""Rules of primitives for numbers that are known up to radii."""

import math
from collections.abc import Callable

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.program.enclosing.enclosure import (
    UP,
    Enclosure,
    UnsupportedError,
    bind,
    enclosed,
    exact,
    leads,
    norm_of,
)
from lazyjax.certify.bounds.program.scalar_functions import (
    SCALAR_FUNCTIONS,
    ScalarFunction,
    power,
)
from lazyjax.certify.bounds.program.spans import Span
from lazyjax.jaxpr.equations import aval_of


def of_scalar_function(function: ScalarFunction, u: Enclosure) -> list[Enclosure]:
    """A function of each number.

    Args:
        function: The function.
        u: The numbers.

    Returns:
        The one result.
    """
    value = function.value(u.value)
    rounded = function.value_error(u.value) * np.abs(value)
    if u.is_exact:
        return [Enclosure(value, rounded * UP)]
    slope = function.slope(u.low, u.high)
    norm = float(np.max(slope, initial=0.0)) * u.error + norm_of(rounded)
    return [enclosed(value, (rounded + slope * u.radius) * UP, norm)]


def _repeats(value: np.ndarray, *operands: Enclosure) -> list[float]:
    """Bounds of how an operation that broadcasts stretches errors of its operands."""
    return [math.sqrt(value.size / max(part.value.size, 1)) for part in operands]


def _linear(
    count: Callable[[jex.JaxprEqn, list[Enclosure]], int],
) -> Callable[..., list[Enclosure]]:
    """Sums of entries of float operands, of which at most `count` are added up."""

    def rule(eqn: jex.JaxprEqn, *operands: Enclosure) -> list[Enclosure]:
        for part in operands:
            if not part.is_float and not part.is_exact:
                raise UnsupportedError(f"{eqn.primitive.name} at uncertain places")
        values = bind(eqn, *(part.value for part in operands))
        num_terms = count(eqn, list(operands))
        slack = gamma(num_terms, UNIT_ROUNDOFF) if num_terms > 1 else 0.0
        if slack == 0 and all(part.is_exact for part in operands):
            return [exact(value) for value in values]
        radii = bind(
            eqn,
            *(
                np.broadcast_to(
                    (part.radius + slack * np.abs(part.value)) * UP, part.value.shape
                )
                if part.is_float
                else part.value
                for part in operands
            ),
        )
        grown, norm, name = UP + 2 * slack, math.inf, eqn.primitive.name
        if name == "reduce_sum":
            (part,) = operands
            norm = part.error + slack * norm_of(part.value)
            norm *= math.sqrt(part.value.size / max(values[0].size, 1)) * grown
        elif name in ("concatenate", "stack", "pad"):
            norm = math.hypot(*(part.error for part in operands)) * grown
        return [
            enclosed(value, radius * grown, norm)
            for value, radius in zip(values, radii, strict=True)
        ]

    return rule


def _moved(eqn: jex.JaxprEqn, *operands: Enclosure) -> list[Enclosure]:
    """Entries of the first operand at other places; the others say where."""
    first, *others = operands
    if not all(part.is_exact and not part.is_float for part in others):
        raise UnsupportedError(f"{eqn.primitive.name} at uncertain places")
    places = [part.value for part in others]
    values = bind(eqn, first.value, *places)
    if first.is_exact:
        return [exact(value) for value in values]
    spread = np.broadcast_to(first.radius, first.value.shape)
    radii = bind(eqn, spread, *places)
    norm = math.inf  # entries may be read more than once
    if eqn.primitive.name != "gather":
        norm = first.error * max(1.0, *_repeats(values[0], first))
    return [enclosed(*pair, norm) for pair in zip(values, radii, strict=True)]


def _product(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    """A sum of products: of matrices, or a convolution."""
    (value,) = bind(eqn, a.value, b.value)
    if not (a.is_float and b.is_float):
        raise UnsupportedError(f"{eqn.primitive.name} of integers and floats")
    slack = gamma(num_terms(eqn) + 2, UNIT_ROUNDOFF)
    (rounded,) = bind(eqn, np.abs(a.value), slack * np.abs(b.value) * UP)
    if a.is_exact and b.is_exact:
        return [Enclosure(value, rounded * (UP + 2 * slack))]
    radius, norm = rounded, norm_of(rounded)
    if not b.is_exact:
        spread = np.broadcast_to(b.radius, b.value.shape)
        radius = radius + bind(eqn, np.abs(a.value), spread)[0]
        norm += _norm_of_map(eqn, 0, a) * b.error
    if not a.is_exact:
        spread = np.broadcast_to(a.radius, a.value.shape)
        radius = radius + bind(eqn, spread, b.size)[0]
        norm += (_norm_of_map(eqn, 1, b) + b.error) * a.error
    return [enclosed(value, radius * (UP + 2 * slack), norm * (UP + 2 * slack))]


def _norm_of_map(eqn: jex.JaxprEqn, position: int, known: Enclosure) -> float:
    """Norm of a product as a map of the other operand, errors left out."""
    whole = Enclosure(known.value[None], np.zeros(()))
    span = Span(whole, is_shared=True)
    if eqn.primitive.name == "dot_general":
        contracted, batched = eqn.params["dimension_numbers"]
        rows, batch = tuple(contracted[position]), tuple(batched[position])
        return float(span.operator_norm(batch, rows)[0])
    params, spec = eqn.params, eqn.params["dimension_numbers"].rhs_spec
    if params["batch_group_count"] != 1:
        return math.inf
    # No pixel is read by more windows than a filter has.
    overlap = math.sqrt(
        math.prod(aval_of(eqn.invars[1]).shape[axis] for axis in spec[2:])
    )
    norm = span.norm if position == 0 else span.operator_norm((), (spec[0],))
    return float(norm[0]) * overlap * UP


def num_terms(eqn: jex.JaxprEqn) -> int:
    """Number of products that each entry of a matrix product or convolution adds up."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(aval_of(eqn.invars[0]).shape[axis] for axis in contracted)
    shape = aval_of(eqn.invars[1]).shape
    return math.prod(shape) // shape[eqn.params["dimension_numbers"].rhs_spec[0]]


def _add(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    is_sub = eqn.primitive.name == "sub"
    value = np.asarray(a.value - b.value if is_sub else a.value + b.value)
    radius = a.radius + b.radius + UNIT_ROUNDOFF * np.abs(value)
    of_a, of_b = _repeats(value, a, b)
    norm = of_a * a.error + of_b * b.error + UNIT_ROUNDOFF * norm_of(value)
    return [enclosed(value, radius * UP, norm)]


def _mul(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    value = np.asarray(a.value * b.value)
    radius = np.abs(a.value) * b.radius + a.radius * b.size
    radius = (radius + UNIT_ROUNDOFF * np.abs(value)) * UP
    of_a, of_b = _repeats(value, a, b)
    norm = UNIT_ROUNDOFF * norm_of(value)
    norm += of_a * a.error * float(np.max(b.size, initial=0.0))
    norm += of_b * b.error * float(np.max(np.abs(a.value), initial=0.0))
    return [enclosed(value, radius, norm)]


def _div(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    value = np.asarray(a.value / b.value)
    least = np.abs(b.value) - b.radius
    radius = (a.radius + np.abs(value) * b.radius * UP) / (least / UP)
    radius = (radius + 2 * UNIT_ROUNDOFF * np.abs(value)) * UP
    smallest = float(np.min(least, initial=math.inf))
    if not smallest > 0:
        return [Enclosure(value, np.where(least > 0, radius, math.inf))]
    of_a, of_b = _repeats(value, a, b)
    largest = float(np.max(np.abs(value), initial=0.0))
    norm = (of_a * a.error + of_b * b.error * largest) / smallest
    norm += 2 * UNIT_ROUNDOFF * norm_of(value)
    return [enclosed(value, radius, norm)]


def _neg(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    return [a._replace(value=-a.value)]


def _abs(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    return [a._replace(value=np.abs(a.value))]


def _same(eqn: jex.JaxprEqn, *operands: Enclosure) -> list[Enclosure]:
    return list(operands)


def _sign(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    is_unsure = np.abs(a.value) <= a.radius
    return [Enclosure(np.sign(a.value), np.where(is_unsure & ~_known(a), 2.0, 0.0))]


def _known(a: Enclosure) -> np.ndarray:
    return np.broadcast_to(a.radius == 0, a.value.shape)


def _extreme(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    larger = np.maximum if eqn.primitive.name == "max" else np.minimum
    # Neither changes by more than the larger change of its operands.
    radius = np.broadcast_to(
        np.maximum(a.radius, b.radius),
        np.broadcast_shapes(a.value.shape, b.value.shape),
    )
    return [Enclosure(larger(a.value, b.value), radius)]


def _clamp(
    eqn: jex.JaxprEqn, low: Enclosure, a: Enclosure, high: Enclosure
) -> list[Enclosure]:
    if not a.is_float:
        return _of_others(eqn, low, a, high)
    radius = np.maximum(np.maximum(low.radius, high.radius), a.radius)
    value = np.clip(a.value, low.value, high.value)
    return [Enclosure(value, np.broadcast_to(radius, value.shape))]


def _reduce_extreme(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    (value,) = bind(eqn, a.value)
    axes = tuple(eqn.params["axes"])
    if a.is_exact:
        return [exact(value)]
    spread = np.broadcast_to(a.radius, a.value.shape)
    return [Enclosure(value, np.max(spread, axis=axes))]


def _argmax(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    (value,) = bind(eqn, a.value)
    if a.is_exact:
        return [exact(value)]
    (axis,) = eqn.params["axes"]
    gap = leads(a.value, np.broadcast_to(a.radius, a.value.shape), int(axis))
    return [Enclosure(value, ~(gap > 0))]


_COMPARISONS = {
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def _compare(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    name = eqn.primitive.name
    value = np.asarray(_COMPARISONS[name](a.value, b.value))
    if eqn.invars[0] is eqn.invars[1]:  # a number is equal to itself
        return [exact(np.full(value.shape, name in ("ge", "le", "eq")))]
    if a.is_exact and b.is_exact:
        return [exact(value)]
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    radius = (a.radius + b.radius) * UP
    gap = np.abs(a.value - b.value)
    is_unsure = ~(gap > radius) & ~((radius == 0) & (gap == gap))
    return [Enclosure(value, np.asarray(is_unsure))]


def _of_others(eqn: jex.JaxprEqn, *operands: Enclosure) -> list[Enclosure]:
    """Integers and truth values; uncertain where an operand is."""
    (value,) = bind(eqn, *(part.value for part in operands))
    if all(part.is_exact for part in operands):
        return [exact(value)]
    is_unsure = np.zeros(value.shape, bool)
    for part in operands:
        is_unsure = is_unsure | (part.radius != 0)
    return [Enclosure(value, is_unsure)]


def _rem(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if a.is_float and not (a.is_exact and b.is_exact):
        raise UnsupportedError("rem of what is rounded")  # it jumps
    return _of_others(eqn, a, b)


def _is_finite(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    if not np.all(np.isfinite(a.high) & np.isfinite(a.low)):
        raise UnsupportedError("is_finite of what may not be finite")
    return [exact(np.ones(a.value.shape, bool))]


def _select(eqn: jex.JaxprEqn, which: Enclosure, *cases: Enclosure) -> list[Enclosure]:
    if not cases[0].is_float:
        return _of_others(eqn, which, *cases)
    (value,) = bind(eqn, which.value, *(case.value for case in cases))
    spreads = [np.broadcast_to(case.radius, case.value.shape) for case in cases]
    (radius,) = bind(eqn, which.value, *spreads)
    if not which.is_exact:
        away = [np.abs(c.value - value) + c.radius for c in cases]
        farthest = np.max(np.stack(away), axis=0) * UP
        radius = np.where(which.radius != 0, farthest, radius)
        return [Enclosure(value, radius)]
    return [enclosed(value, radius, sum(case.error for case in cases))]


def _convert(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    target = np.dtype(eqn.params["new_dtype"])
    is_float = jnp.issubdtype(target, jnp.floating)
    if is_float and a.is_float:
        return [a]  # a real number has no precision
    if is_float:
        farthest = 1.0 if a.value.dtype == bool else math.inf
        radius = np.where(a.radius != 0, farthest, 0.0)
        value = a.value.astype(np.float64)
        if np.max(np.abs(value), initial=0.0) > 2.0**53:
            radius = radius + UNIT_ROUNDOFF * np.abs(value)
        return [Enclosure(value, radius)]
    if a.is_float and not a.is_exact:
        raise UnsupportedError("convert_element_type to integers")
    return [Enclosure(a.value.astype(target), a.radius)]


def _pow(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    fixed = fixed_exponent(b)
    if fixed is not None:
        return of_scalar_function(power(fixed), a)
    if not b.is_float:
        far = np.where(b.radius != 0, math.inf, 0.0)
        b = Enclosure(b.value.astype(np.float64), far)
    (logarithm,) = of_scalar_function(SCALAR_FUNCTIONS["log"], a)
    (product,) = _mul(eqn, logarithm, b)
    return of_scalar_function(SCALAR_FUNCTIONS["exp"], product)


def fixed_exponent(exponent: Enclosure) -> float | None:
    """The one exponent of a power; `None` if they differ or are uncertain.

    Args:
        exponent: Exponents.

    Returns:
        What all of them are.
    """
    values = np.unique(exponent.value)
    return float(values[0]) if len(values) == 1 and exponent.is_exact else None


def _one(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return 1


def _reduced(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    before, after = operands[0].value.size, math.prod(aval_of(eqn.outvars[0]).shape)
    return before // max(after, 1) + 1


def _along(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return int(operands[0].value.shape[eqn.params["axis"]])


def _in_window(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return math.prod(eqn.params["window_dimensions"])


def _scattered(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return math.prod(operands[1].value.shape[:-1]) + 2


RULES: dict[str, Callable[..., list[Enclosure]]] = {
    **dict.fromkeys(("add", "add_any", "sub"), _add),
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "pow": _pow,
    **dict.fromkeys(("max", "min"), _extreme),
    "clamp": _clamp,
    **dict.fromkeys(("reduce_max", "reduce_min"), _reduce_extreme),
    "argmax": _argmax,
    **dict.fromkeys(_COMPARISONS, _compare),
    **dict.fromkeys(("and", "or", "not", "xor"), _of_others),
    "rem": _rem,
    "is_finite": _is_finite,
    "select_n": _select,
    "convert_element_type": _convert,
    **dict.fromkeys(
        ("copy", "copy_p", "stop_gradient", "name", "optimization_barrier"), _same
    ),
    **dict.fromkeys(("dot_general", "conv_general_dilated"), _product),
    **dict.fromkeys(
        (
            "reshape",
            "transpose",
            "broadcast_in_dim",
            "squeeze",
            "expand_dims",
            "slice",
            "rev",
            "dynamic_slice",
            "gather",
            "split",
            "unstack",
        ),
        _moved,
    ),
    **dict.fromkeys(
        ("concatenate", "stack", "pad", "dynamic_update_slice", "scatter"),
        _linear(_one),
    ),
    "reduce_sum": _linear(_reduced),
    "cumsum": _linear(_along),
    "reduce_window_sum": _linear(_in_window),
    "scatter-add": _linear(_scattered),
}
