r"""Programs evaluated on sets of numbers: each entry is known up to a radius.

The program is that of real numbers. An entry of it lies within `radius` of the computed
`value`, whatever rounding did. Sums of products are off by $\gamma_k$ times the sum of
the sizes of their terms (Higham 2002), functions of one number by their slope times the
radius of their argument, and a few units of rounding.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.program.scalar_functions import (
    VALUE_ERROR,
    power,
    scalar_function,
)
from lazyjax.jaxpr.equations import called, opened

# Radii are larger than computed by this much, which a few roundings are within.
_UP = 1 + 2.0**-40
_EXACT = np.zeros(())


class Enclosure(NamedTuple):
    """Numbers and how far off they may be.

    Attributes:
        value: The computed numbers.
        radius: Of floats, how far away the exact numbers may be; of others, whether
            they may be different ones. A single zero says that all are exact.
    """

    value: np.ndarray
    radius: np.ndarray

    @property
    def is_exact(self) -> bool:
        """Whether the numbers are what they are, without a radius."""
        return self.radius.ndim == 0 and not self.radius

    @property
    def is_float(self) -> bool:
        """Whether these are floating-point numbers."""
        return self.value.dtype == np.float64

    @property
    def size(self) -> np.ndarray:
        """Upper bounds of absolute values."""
        return np.asarray((np.abs(self.value) + self.radius) * _UP)

    @property
    def low(self) -> np.ndarray:
        """Lower bounds."""
        return np.asarray(np.nextafter(self.value - self.radius, -math.inf))

    @property
    def high(self) -> np.ndarray:
        """Upper bounds."""
        return np.asarray(np.nextafter(self.value + self.radius, math.inf))


class UnsupportedError(ValueError):
    """A program that no bounds are known of."""


def exact(value: Any) -> Enclosure:
    """Numbers as they are; floating-point ones in float64."""
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float64)
    return Enclosure(array, _EXACT)


def bind(eqn: jex.JaxprEqn, *operands: np.ndarray) -> list[np.ndarray]:
    """Results of an equation, computed by JAX in 64 bits on the CPU.

    Args:
        eqn: The equation.
        *operands: Values of its operands.

    Returns:
        The results.
    """
    params = dict(eqn.params)
    if params.get("preferred_element_type") is not None:
        params["preferred_element_type"] = np.dtype(np.float64)
        params["precision"] = None
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        results = eqn.primitive.bind(*map(jnp.asarray, operands), **params)
    several = eqn.primitive.multiple_results
    return [np.asarray(result) for result in (results if several else [results])]


def enclosures(
    closed: jex.ClosedJaxpr, arguments: Sequence[Enclosure]
) -> list[Enclosure]:
    """Results of a program, whose arguments are known up to radii.

    Args:
        closed: The program.
        arguments: Its arguments.

    Returns:
        Its results; radii are infinite or NaN where nothing is known.

    Raises:
        UnsupportedError: If there is no rule for one of its primitives.
    """
    with np.errstate(all="ignore"):
        return _run(*opened(closed), arguments)


def _run(
    jaxpr: jex.Jaxpr, consts: Sequence[Any], arguments: Sequence[Enclosure]
) -> list[Enclosure]:
    known: dict[Any, Enclosure] = dict(zip(jaxpr.invars, arguments, strict=True))
    known.update(zip(jaxpr.constvars, map(exact, consts), strict=True))

    def read(atom: Any) -> Enclosure:
        return exact(atom.val) if isinstance(atom, jex.Literal) else known[atom]

    last_use = {
        atom: number
        for number, eqn in enumerate(jaxpr.eqns)
        for atom in eqn.invars
        if not isinstance(atom, jex.Literal)
    }
    kept = {atom for atom in jaxpr.outvars if not isinstance(atom, jex.Literal)}
    for number, eqn in enumerate(jaxpr.eqns):
        results = _results(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
        for atom in {a for a in eqn.invars if not isinstance(a, jex.Literal)} - kept:
            if last_use[atom] == number:
                del known[atom]
    return [read(atom) for atom in jaxpr.outvars]


def inlined(eqn: jex.JaxprEqn) -> Any | None:
    """The jaxpr whose values are those of an equation, custom derivatives or not."""
    if eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return eqn.params["call_jaxpr"]
    return called(eqn)


def _results(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> list[Enclosure]:
    inner = inlined(eqn)
    if inner is not None:
        return _run(*opened(inner), operands)
    # Of integers and truth values nothing is rounded.
    if all(part.is_exact and not part.is_float for part in operands):
        return [exact(value) for value in bind(eqn, *(p.value for p in operands))]
    name = eqn.primitive.name
    scalar = scalar_function(name, eqn.params)
    if scalar is not None:
        (u,) = operands
        value = scalar.value(u.value)
        radius = VALUE_ERROR * np.abs(value)
        if not u.is_exact:
            radius = radius + scalar.slope(u.low, u.high) * u.radius
        return [Enclosure(value, radius * _UP)]
    rule = _RULES.get(name)
    if rule is None:
        raise UnsupportedError(name)
    return rule(eqn, *operands)


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
                    (part.radius + slack * np.abs(part.value)) * _UP, part.value.shape
                )
                if part.is_float
                else part.value
                for part in operands
            ),
        )
        grown = _UP + 2 * slack
        return [
            Enclosure(value, radius * grown)
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
    return [Enclosure(*pair) for pair in zip(values, radii, strict=True)]


def _product(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    """A sum of products: of matrices, or a convolution."""
    (value,) = bind(eqn, a.value, b.value)
    if not (a.is_float and b.is_float):
        raise UnsupportedError(f"{eqn.primitive.name} of integers and floats")
    slack = gamma(num_terms(eqn) + 2, UNIT_ROUNDOFF)
    (radius,) = bind(eqn, np.abs(a.value), (b.radius + slack * np.abs(b.value)) * _UP)
    if not a.is_exact:
        spread = np.broadcast_to(a.radius, a.value.shape)
        radius = radius + bind(eqn, spread, b.size)[0]
    return [Enclosure(value, radius * (_UP + 2 * slack))]


def num_terms(eqn: jex.JaxprEqn) -> int:
    """Number of products that each entry of a matrix product or convolution adds up."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    shape = eqn.invars[1].aval.shape
    return math.prod(shape) // shape[eqn.params["dimension_numbers"].rhs_spec[0]]


def _add(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    value = a.value - b.value if eqn.primitive.name == "sub" else a.value + b.value
    radius = a.radius + b.radius + UNIT_ROUNDOFF * np.abs(value)
    return [Enclosure(value, radius * _UP)]


def _mul(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    value = a.value * b.value
    radius = np.abs(a.value) * b.radius + a.radius * b.size
    return [Enclosure(value, (radius + UNIT_ROUNDOFF * np.abs(value)) * _UP)]


def _div(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    if not (a.is_float and b.is_float):
        return _of_others(eqn, a, b)
    value = a.value / b.value
    least = np.abs(b.value) - b.radius
    radius = (a.radius + np.abs(value) * b.radius * _UP) / (least / _UP)
    radius = (radius + 2 * UNIT_ROUNDOFF * np.abs(value)) * _UP
    return [Enclosure(value, np.where(least > 0, radius, math.inf))]


def _neg(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    return [Enclosure(-a.value, a.radius)]


def _abs(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    return [Enclosure(np.abs(a.value), a.radius)]


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
    radius = (a.radius + b.radius) * _UP
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
        farthest = np.max(np.stack(away), axis=0) * _UP
        radius = np.where(which.radius != 0, farthest, radius)
    return [Enclosure(value, radius)]


def _convert(eqn: jex.JaxprEqn, a: Enclosure) -> list[Enclosure]:
    target = np.dtype(eqn.params["new_dtype"])
    is_float = jnp.issubdtype(target, jnp.floating)
    if is_float and a.is_float:
        return [a]  # a real number has no precision
    if is_float:
        value = a.value.astype(np.float64)
        return [Enclosure(value, a.radius * 1.0 if a.value.dtype == bool else a.radius)]
    if a.is_float and not a.is_exact:
        raise UnsupportedError("convert_element_type to integers")
    return [Enclosure(a.value.astype(target), a.radius)]


def _pow(eqn: jex.JaxprEqn, a: Enclosure, b: Enclosure) -> list[Enclosure]:
    exponent = fixed_exponent(b)
    scalar, value = power(exponent), np.power(a.value, exponent)
    radius = VALUE_ERROR * np.abs(value)
    if not a.is_exact:
        radius = radius + scalar.slope(a.low, a.high) * a.radius
    return [Enclosure(value, radius * _UP)]


def fixed_exponent(exponent: Enclosure) -> float:
    """The one exponent of a power.

    Args:
        exponent: Exponents.

    Returns:
        What all of them are.

    Raises:
        UnsupportedError: If they differ or are uncertain.
    """
    values = np.unique(exponent.value)
    if len(values) != 1 or not exponent.is_exact:
        raise UnsupportedError("pow with exponents that differ or are computed")
    return float(values[0])


def _one(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return 1


def _reduced(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    before, after = operands[0].value.size, math.prod(eqn.outvars[0].aval.shape)
    return before // max(after, 1) + 1


def _along(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return int(operands[0].value.shape[eqn.params["axis"]])


def _in_window(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return math.prod(eqn.params["window_dimensions"])


def _scattered(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> int:
    return math.prod(operands[1].value.shape[:-1]) + 2


_RULES: dict[str, Callable[..., list[Enclosure]]] = {
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
    **dict.fromkeys(_COMPARISONS, _compare),
    **dict.fromkeys(("and", "or", "not", "xor", "rem"), _of_others),
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
