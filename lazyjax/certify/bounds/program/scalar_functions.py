r"""Smooth functions of one number, elementwise: values, and bounds of two derivatives.

Bounds are over intervals and are rounded up; they are infinite where a function is not
smooth. Values are within 4 units in the last place, as those of NumPy, or 8, but for
the complementary error function of SciPy.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF

_VALUE_ERROR = 16 * UNIT_ROUNDOFF

# Bounds are larger than computed by this much, which a few roundings are within.
_UP = 1 + 2.0**-40

Bound = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ScalarFunction:
    r"""A function $\phi$ of one number.

    Attributes:
        value: $\phi$, in NumPy's float64.
        slope: Upper bound of $|\phi'|$ from `low` to `high`.
        curvature: Upper bound of $|\phi''|$ there.
        value_error: Bound of the relative error of `value`, by its argument.
    """

    value: Callable[[np.ndarray], np.ndarray]
    slope: Bound
    curvature: Bound
    value_error: Callable[[np.ndarray], np.ndarray | float] = lambda u: _VALUE_ERROR


def _nearest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Distance of an interval from 0."""
    return np.maximum(np.maximum(low, -high), 0.0)


def _farthest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(low), np.abs(high))


def _constant(bound: float) -> Bound:
    return lambda low, high: np.full(np.shape(low), bound)


def _where(is_inside: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """A bound that holds where an interval is inside of the domain."""
    return np.where(is_inside, bound * _UP, math.inf)


def _bell(low: np.ndarray, high: np.ndarray, *, rate: float) -> np.ndarray:
    # The reciprocal of the squared hyperbolic cosine falls with the distance from 0.
    return np.cosh(rate * _nearest(low, high)) ** -2.0 * _UP


def _logistic(u: np.ndarray) -> np.ndarray:
    tail = np.exp(-np.abs(u))
    return np.where(u >= 0, 1.0, tail) / (1 + tail)


def _erf(u: np.ndarray) -> np.ndarray:
    from scipy import special

    return special.erf(u)


def _erfc(u: np.ndarray) -> np.ndarray:
    from scipy import special

    return special.erfc(u)


def _gaussian_slope(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return 2 / math.sqrt(math.pi) * np.exp(-(_nearest(low, high) ** 2)) * _UP


def _exp_bound(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.exp(high) * _UP


def power(exponent: float) -> ScalarFunction:
    """The power with a fixed exponent; of positive numbers, if it is no integer."""
    is_integer = float(exponent).is_integer()

    def bound(low: np.ndarray, high: np.ndarray, order: int) -> np.ndarray:
        factor = abs(math.prod(exponent - i for i in range(order)))
        if factor == 0:
            return np.zeros(np.shape(low))
        left = exponent - order
        base = _farthest(low, high) if left >= 0 else _nearest(low, high)
        is_inside = np.isfinite(base) if is_integer else low > 0
        return _where(is_inside, factor * base**left)

    return ScalarFunction(
        value=lambda u: u**exponent,
        slope=functools.partial(bound, order=1),
        curvature=functools.partial(bound, order=2),
    )


_TANH = ScalarFunction(
    np.tanh,
    functools.partial(_bell, rate=1.0),
    # At most 4 / 3^1.5, and twice the slope.
    lambda low, high: np.minimum(0.7698004, 2 * _bell(low, high, rate=1.0)),
)
_LOGISTIC = ScalarFunction(
    _logistic,
    lambda low, high: _bell(low, high, rate=0.5) / 4,
    # At most 1 / (6 sqrt 3), and the slope.
    lambda low, high: np.minimum(0.09622505, _bell(low, high, rate=0.5) / 4),
)

SCALAR_FUNCTIONS: dict[str, ScalarFunction] = {
    "tanh": _TANH,
    "logistic": _LOGISTIC,
    "exp": ScalarFunction(np.exp, _exp_bound, _exp_bound),
    "expm1": ScalarFunction(np.expm1, _exp_bound, _exp_bound),
    "log": ScalarFunction(
        np.log,
        lambda low, high: _where(low > 0, 1 / low),
        lambda low, high: _where(low > 0, low**-2.0),
    ),
    "log1p": ScalarFunction(
        np.log1p,
        lambda low, high: _where(low > -1, 1 / (1 + low)),
        lambda low, high: _where(low > -1, (1 + low) ** -2.0),
    ),
    "sqrt": dataclasses.replace(power(0.5), value=np.sqrt),
    "rsqrt": dataclasses.replace(power(-0.5), value=lambda u: 1 / np.sqrt(u)),
    "square": dataclasses.replace(power(2.0), value=np.square),
    "sin": ScalarFunction(np.sin, _constant(1.0), _constant(1.0)),
    "cos": ScalarFunction(np.cos, _constant(1.0), _constant(1.0)),
    "erf": ScalarFunction(_erf, _gaussian_slope, _constant(0.9678829)),
    "erfc": ScalarFunction(
        _erfc,
        _gaussian_slope,
        _constant(0.9678829),
        lambda u: _VALUE_ERROR * (1 + u * u),
    ),
    "atan": ScalarFunction(np.arctan, _constant(1.0), _constant(0.6495191)),
    "asinh": ScalarFunction(np.arcsinh, _constant(1.0), _constant(0.3849002)),
}
"""By the names of JAX's primitives."""


def scalar_function(name: str, params: dict[str, Any]) -> ScalarFunction | None:
    """The function that a primitive of one operand computes, if it is known.

    Args:
        name: Name of the primitive.
        params: Its parameters.

    Returns:
        The function, or `None`.
    """
    if name == "integer_pow":
        return power(float(params["y"]))
    return SCALAR_FUNCTIONS.get(name)
