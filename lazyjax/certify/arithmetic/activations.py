r"""Activations in float64: values, derivatives, and bounds of both.

The bounds are suprema over the real line, rounded up in the last digit shown.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF

Elementwise = Callable[[np.ndarray], np.ndarray]

ROUNDING = 32 * UNIT_ROUNDOFF
r"""Errors of `value` are at most this times $1 + |u|$, those of `derivative` this.

Both follow, formula by formula, from elementary functions within 4 ulp; most formulas
need less than half.
"""


@dataclasses.dataclass(frozen=True)
class SmoothActivation:
    r"""An activation whose derivative is bounded and Lipschitz.

    Attributes:
        value: $\phi$.
        derivative: $\phi'$.
        slope: Upper bound of $\sup |\phi'|$.
        curvature: Upper bound of $\sup |\phi''|$, the Lipschitz constant of $\phi'$.
    """

    value: Elementwise
    derivative: Elementwise
    slope: float
    curvature: float


def _sigmoid(u: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(u))
    return np.where(u >= 0, 1.0, small) / (1 + small)


def _softplus(u: np.ndarray) -> np.ndarray:
    return np.maximum(u, 0) + np.log1p(np.exp(-np.abs(u)))


def _tanh_derivative(u: np.ndarray) -> np.ndarray:
    t = np.tanh(u)
    return (1 - t) * (1 + t)


def _erf(u: np.ndarray) -> np.ndarray:
    # NumPy has none; that of the C library is called number by number.
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(u), np.float64)


def _erf_derivative(u: np.ndarray) -> np.ndarray:
    return 2 / math.sqrt(math.pi) * np.exp(-(u * u))


def _normal_cdf(u: np.ndarray) -> np.ndarray:
    return (1 + _erf(u / math.sqrt(2))) / 2


def _gelu_derivative(u: np.ndarray) -> np.ndarray:
    density = np.exp(-(u * u) / 2) / math.sqrt(2 * math.pi)
    return _normal_cdf(u) + u * density


def _silu_derivative(u: np.ndarray) -> np.ndarray:
    s = _sigmoid(u)
    return s + u * s * _sigmoid(-u)


def _sigmoid_derivative(u: np.ndarray) -> np.ndarray:
    return _sigmoid(u) * _sigmoid(-u)


SMOOTH_ACTIVATIONS: Mapping[str, SmoothActivation] = types.MappingProxyType(
    {
        "cos": SmoothActivation(np.cos, lambda u: -np.sin(u), 1.0, 1.0),
        "elu": SmoothActivation(
            lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0))),
            lambda u: np.exp(np.minimum(u, 0)),
            1.0,
            1.0,
        ),
        "erf": SmoothActivation(_erf, _erf_derivative, 1.1283792, 0.9678829),
        "gaussian": SmoothActivation(
            lambda u: np.exp(-(u * u)),
            lambda u: -2 * u * np.exp(-(u * u)),
            0.8577639,
            2.0,
        ),
        "gelu": SmoothActivation(
            lambda u: u * _normal_cdf(u), _gelu_derivative, 1.1289042, 0.7978846
        ),
        "identity": SmoothActivation(lambda u: u, np.ones_like, 1.0, 0.0),
        "sigmoid": SmoothActivation(_sigmoid, _sigmoid_derivative, 0.25, 0.0962251),
        "silu": SmoothActivation(
            lambda u: u * _sigmoid(u), _silu_derivative, 1.0998394, 0.5
        ),
        "sin": SmoothActivation(np.sin, np.cos, 1.0, 1.0),
        "softplus": SmoothActivation(_softplus, _sigmoid, 1.0, 0.25),
        "tanh": SmoothActivation(np.tanh, _tanh_derivative, 1.0, 0.7698004),
    }
)


def values_of(
    activation: SmoothActivation, u: Float[np.ndarray, "*shape"]
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Values and derivatives at `u`; exponentials may underflow on the way."""
    with np.errstate(under="ignore"):
        return activation.value(u), activation.derivative(u)


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    r"""An activation with one slope below 0 and another above.

    Attributes:
        below: Slope below 0, and at 0.
        above: Slope above 0.
    """

    below: float
    above: float

    @property
    def jump(self) -> float:
        """How much the slope changes at 0, rounded up."""
        return math.nextafter(abs(self.above - self.below), math.inf)

    @property
    def as_smooth(self) -> SmoothActivation:
        """The same, with a derivative taken to be that of the computed sign."""
        return SmoothActivation(
            lambda u: np.where(u > 0, self.above, self.below) * u,
            lambda u: np.where(u > 0, self.above, self.below),
            max(abs(self.below), abs(self.above)),
            0.0,
        )


PIECEWISE_ACTIVATIONS: Mapping[str, PiecewiseLinear] = types.MappingProxyType(
    {
        "abs": PiecewiseLinear(-1.0, 1.0),
        "leaky_relu": PiecewiseLinear(0.01, 1.0),
        "relu": PiecewiseLinear(0.0, 1.0),
    }
)
