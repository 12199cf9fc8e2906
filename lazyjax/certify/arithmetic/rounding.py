r"""Bounds that take account of rounding, in NumPy's float64 without rounding modes.

Scalars are intervals, widened by one number after each operation. Arrays are computed
as usual, and what rounding may have done is bounded by $\gamma_k = k u / (1 - k u)$,
the relative error of $k$ roundings to the nearest, of which each is at most $u$. With
$u = 0$ the same formulas give plain floating-point values.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import numpy as np

from lazyjax.files.results import Storable

# A number, or an array of them.
Numbers = TypeVar("Numbers", float, np.ndarray)

UNIT_ROUNDOFF = 2.0**-53

# NumPy says that its vectorized elementary functions are within 4 units in the last
# place (ulp); those of C libraries are nearer. An ulp is at most two unit roundoffs.
LIBRARY_ERROR = 8 * UNIT_ROUNDOFF

# Numbers below the smallest normal one may be flushed to zero.
SMALLEST_NORMAL = 2.0**-1022


def unit_roundoff(rigor: str) -> float:
    """Unit roundoff that is accounted for: that of float64 for "proof", else none."""
    return UNIT_ROUNDOFF if rigor == "proof" else 0.0


def gamma(count: int, unit: float) -> float:
    """Upper bound of the relative error of `count` roundings, itself rounded up."""
    total = (count + 2) * unit  # two more outweigh the roundings of this function
    return total / (1 - total) if total < 0.5 else math.inf


def round_up(value: Numbers, count: int, unit: float) -> Numbers:
    """Upper bound of a nonnegative number that was computed with `count` roundings."""
    if unit == 0:
        return value
    return value * (1 + gamma(count + 2, unit)) + (count + 1) * SMALLEST_NORMAL


def root_up(square: Numbers, count: int, unit: float) -> Numbers:
    """Upper bound of the root of a number that was computed with `count` roundings."""
    root: Numbers = cast(Any, np.sqrt)(round_up(square, count, unit))
    return root * (1 + 4 * unit)


def round_down(value: float, count: int, unit: float) -> float:
    """Lower bound of a nonnegative number that was computed with `count` roundings."""
    if unit == 0:
        return value
    below = value * (1 - gamma(count + 2, unit)) - (count + 1) * SMALLEST_NORMAL
    return max(below, 0.0)


@dataclasses.dataclass(frozen=True)
class Interval(Storable):
    """Two numbers that a real number is known to lie between; NaN if nothing is known.

    Attributes:
        low: Lower bound.
        high: Upper bound.
    """

    low: float | int
    high: float | int

    def __post_init__(self) -> None:
        low, high = float(self.low), float(self.high)
        if not low <= high:  # also if either is NaN
            low = high = math.nan
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def __add__(self, other: "Interval | float | int") -> "Interval":
        other = interval(other)
        return _outward(self.low + other.low, self.high + other.high)

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __sub__(self, other: "Interval | float | int") -> "Interval":
        return self + (-interval(other))

    def __mul__(self, other: "Interval | float | int") -> "Interval":
        other = interval(other)
        return _hull(a * b for a in _ends(self) for b in _ends(other))

    def __truediv__(self, other: "Interval | float | int") -> "Interval":
        other = interval(other)
        if not (other.low > 0 or other.high < 0):
            return Interval(math.nan, math.nan)
        return _hull(a / b for a in _ends(self) for b in _ends(other))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float | int) -> "Interval":
        return interval(other) - self

    def __rtruediv__(self, other: float | int) -> "Interval":
        return interval(other) / self

    def sqrt(self) -> "Interval":
        """Square root; unknown unless the whole interval is nonnegative."""
        if not self.low >= 0:
            return Interval(math.nan, math.nan)
        root = _outward(math.sqrt(self.low), math.sqrt(self.high))
        return Interval(max(root.low, 0.0), root.high)

    def log(self) -> "Interval":
        """Natural logarithm; unknown unless the whole interval is positive."""
        if not self.low > 0:
            return Interval(math.nan, math.nan)
        return _widened(math.log(self.low), math.log(self.high))

    def expm1(self) -> "Interval":
        """Exponential minus one; infinite where it overflows."""
        return _widened(_expm1(self.low), _expm1(self.high))


def interval(value: "Interval | float | int") -> Interval:
    """A float as the interval of itself; intervals as they are."""
    return value if isinstance(value, Interval) else Interval(value, value)


def upper_or_infinity(value: "Interval | float | int") -> float:
    """Upper end of an interval, or a number; infinity if nothing is known of it."""
    high = interval(value).high
    return math.inf if math.isnan(high) else high


def _ends(value: Interval) -> tuple[float, float]:
    return value.low, value.high


def _hull(values: Iterable[float]) -> Interval:
    values = list(values)
    if any(map(math.isnan, values)):  # `min` and `max` may overlook one
        return Interval(math.nan, math.nan)
    return _outward(min(values), max(values))


def _outward(low: float, high: float) -> Interval:
    return Interval(math.nextafter(low, -math.inf), math.nextafter(high, math.inf))


def _widened(low: float, high: float) -> Interval:
    """Outward by the error of elementary functions."""
    return _outward(low - LIBRARY_ERROR * abs(low), high + LIBRARY_ERROR * abs(high))


def _expm1(value: float) -> float:
    try:
        return math.expm1(value)
    except OverflowError:
        return math.inf
