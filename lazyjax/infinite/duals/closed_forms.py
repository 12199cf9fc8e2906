r"""Gaussian moments in closed form, one function per family of activations.

Each takes $(q_{11}, q_{12}, q_{22})$ and returns $E[\phi(u)\phi(v)]$ and
$E[\phi'(u)\phi'(v)]$. Derivatives of the formulas are finite at $u = \pm v$ and at
variance 0, where those of square roots are taken as 0.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.activations.functions import (
    ACTIVATIONS,
    ABReLU,
    Polynomial,
    RectifiedPower,
)
from lazyjax.typing import Activation

Moments: TypeAlias = tuple[Array, Array]
ClosedForm: TypeAlias = Callable[[Array, Array, Array], Moments]


def closed_form(activation: Activation) -> ClosedForm | None:
    """Moments of `activation`, a name, the function named, or one of a family."""
    if isinstance(activation, str):
        return _NAMED.get(activation)
    for family, moments_of in _FAMILIES.items():
        if isinstance(activation, family):
            return moments_of(activation)
    for name, moments in _NAMED.items():
        if activation is ACTIVATIONS[name]:
            return moments
    return None


def is_continuous(activation: Activation) -> bool:
    """Whether Price's theorem, hence `dual_derivative`, gives derivatives in q12."""
    return activation not in ("sign", ACTIVATIONS["sign"])


def safe_sqrt(x: Float[Array, "*q"]) -> Float[Array, "*q"]:
    """Square root, 0 below 0, whose derivative at 0 is 0 and not infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _safe_rsqrt(x: Float[Array, "*q"]) -> Float[Array, "*q"]:
    positive = x > 0
    return jnp.where(positive, 1 / jnp.sqrt(jnp.where(positive, x, 1)), 0)


def correlation(
    q11: Float[Array, "*#q"], q12: Float[Array, "*#q"], q22: Float[Array, "*#q"]
) -> tuple[Float[Array, "*q"], Float[Array, "*q"]]:
    """Correlation in [-1, 1], 0 at variance 0, and the product of deviations."""
    # By inverses of each side: a division for each pair would cost more than the rest.
    rho = q12 * _safe_rsqrt(q11) * _safe_rsqrt(q22)
    is_same = (q12 > 0) & (q12 == q11) & (q12 == q22)
    exact = jnp.where(is_same, 1, jnp.clip(rho, -1, 1))
    # Rounding is undone in the value only: derivatives at the ends are kept.
    rho = rho + jax.lax.stop_gradient(exact - rho)
    return rho, safe_sqrt(q11) * safe_sqrt(q22)


# Piecewise linear and rectified powers -----------------------------------------------


def _abrelu(
    below: float, above: float, q11: Array, q12: Array, q22: Array
) -> tuple[Array, Array]:
    r"""Both moments of $\phi(u) = $ `below` $\min(u, 0) + $ `above` $\max(u, 0)$."""
    rho, product = correlation(q11, q12, q22)
    share, sine = _share_and_sine(rho)
    jump_sq = (above - below) ** 2 / 2
    moment = jump_sq * product * (sine / jnp.pi + share * rho) + below * above * q12
    return moment, jump_sq * share + below * above


def _sign(q11: Array, q12: Array, q22: Array) -> Moments:
    rho, product = correlation(q11, q12, q22)
    share, _ = _share_and_sine(rho)
    moment = jnp.where(product > 0, 2 * share - 1, 0)
    return moment, jnp.zeros_like(moment)


def _rectified_power(power: int, q11: Array, q12: Array, q22: Array) -> Moments:
    rho, product = correlation(q11, q12, q22)
    share, sine = _share_and_sine(rho)

    def moment(p: int) -> Array:
        with_sine, with_angle = _arc_cosine(p, p)
        value = sine / jnp.pi * _horner(with_sine, rho)
        value = value + share * _horner(with_angle, rho)
        return product**p * value / 2

    return moment(power), power**2 * moment(power - 1)


@functools.cache
def _arc_cosine(a: int, b: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Polynomials in $2\pi E[u_+^a v_+^b] = P(\rho)\sin\theta + Q(\rho)(\pi - \theta)$.

    By Stein's lemma for unit variances, $a + b$ even; $u_+^0$ is the step function,
    whose derivative, a point mass, gives the last case.

    Returns:
        Coefficients of the two, increasing.
    """
    if a > b:
        return _arc_cosine(b, a)
    if b == 0:
        return (0.0,), (1.0,)
    if a == b == 1:
        return (1.0,), (0.0, 1.0)
    below = _arc_cosine(a, b - 2)
    terms = [(b - 1.0, 0, below)]
    if a > 0:
        terms.append((float(a), 1, _arc_cosine(a - 1, b - 1)))
    parts = []
    for part in range(2):
        total = np.polynomial.Polynomial([0.0])
        for factor, shift, pair in terms:
            total += factor * np.polynomial.Polynomial([0.0] * shift + [*pair[part]])
        parts.append(total)
    if a == 0:
        double_factorial = float(np.prod(np.arange(b - 2, 0, -2)))
        half = np.polynomial.Polynomial([1.0, 0.0, -1.0]) ** ((b - 2) // 2)
        parts[0] += double_factorial * np.polynomial.Polynomial([0.0, 1.0]) * half
    return tuple(parts[0].coef.tolist()), tuple(parts[1].coef.tolist())


# Polynomials and exponentials --------------------------------------------------------


def _identity(q11: Array, q12: Array, q22: Array) -> Moments:
    q12 = q12 + 0 * (q11 + q22)
    return q12, jnp.ones_like(q12)


def _polynomial(
    coefficients: tuple[float, ...], q11: Array, q12: Array, q22: Array
) -> Moments:
    slope = tuple(k * c for k, c in enumerate(coefficients))[1:] or (0.0,)
    return (
        _polynomial_moment(coefficients, q11, q12, q22),
        _polynomial_moment(slope, q11, q12, q22),
    )


def _polynomial_moment(
    coefficients: tuple[float, ...], q11: Array, q12: Array, q22: Array
) -> Array:
    r"""Mehler's sum, finite: $\sum_m b_m(q_{11}) b_m(q_{22}) q_{12}^m$."""
    total = jnp.zeros(jnp.broadcast_shapes(q11.shape, q12.shape, q22.shape), q12.dtype)
    for m in reversed(range(len(coefficients))):
        b = _mehler(coefficients, m)
        total = total * q12 + _horner(b, q11) * _horner(b, q22)
    return total


@functools.cache
def _mehler(coefficients: tuple[float, ...], m: int) -> tuple[float, ...]:
    r"""Coefficients in $q$ of $b_m(q) = E[\phi(\sqrt q g) He_m(g)] / (q^{m/2}\sqrt{m!})$."""
    b = []
    for k in range(m, len(coefficients), 2):
        # E[g^k He_m] = k! / ((k - m)/2)! / 2^((k - m)/2), here over sqrt(m!).
        half = (k - m) // 2
        moment = Fraction(_factorial(k), _factorial(half) * 2**half)
        b.append(coefficients[k] * float(moment) / _factorial(m) ** 0.5)
    return tuple(b)


def _factorial(k: int) -> int:
    return 1 if k < 2 else k * _factorial(k - 1)


def _exp(q11: Array, q12: Array, q22: Array) -> Moments:
    moment = jnp.exp((q11 + q22) / 2 + q12)
    return moment, moment


def _gaussian(q11: Array, q12: Array, q22: Array) -> Moments:
    r"""Moments of $\exp(-u^2)$."""
    root, clipped = _root_and_covariance(q11, q12, q22, 2)
    return 1 / root, 4 * clipped / root**3


def _sin(q11: Array, q12: Array, q22: Array) -> Moments:
    return _sin_moment(q11, q12, q22), _cos_moment(q11, q12, q22)


def _cos(q11: Array, q12: Array, q22: Array) -> Moments:
    return _cos_moment(q11, q12, q22), _sin_moment(q11, q12, q22)


def _sin_moment(q11: Array, q12: Array, q22: Array) -> Array:
    mean = (q11 + q22) / 2
    # sinh(q12) exp(-mean), without overflow and without cancellation near 0.
    is_small = jnp.abs(q12) < 1
    small = jnp.sinh(jnp.where(is_small, q12, 0)) * jnp.exp(-mean)
    large = (jnp.exp(q12 - mean) - jnp.exp(-q12 - mean)) / 2
    return jnp.where(is_small, small, large)


def _cos_moment(q11: Array, q12: Array, q22: Array) -> Array:
    mean = (q11 + q22) / 2
    return (jnp.exp(q12 - mean) + jnp.exp(-q12 - mean)) / 2


# Error functions ---------------------------------------------------------------------


def _erf(q11: Array, q12: Array, q22: Array) -> Moments:
    root, clipped = _root_and_covariance(q11, q12, q22, 2)
    return 2 / jnp.pi * _arctan2(2 * clipped, root), 4 / jnp.pi / root


def _gelu(q11: Array, q12: Array, q22: Array) -> Moments:
    r"""Moments of $u \Phi(u)$, by Stein's lemma and Price's theorem."""
    root, clipped = _root_and_covariance(q11, q12, q22, 1)
    both_above = 1 / 4 + _arctan2(clipped, root) / (2 * jnp.pi)  # E[Phi(u) Phi(v)]
    inverses = 1 / (1 + q11) + 1 / (1 + q22)
    # q11 q22 - q12^2 = root^2 - 1 - q11 - q22
    rho, product = correlation(q11, q12, q22)
    left = product**2 * (1 - rho) * (1 + rho)
    inner = left + clipped**2 * inverses
    moment = clipped * both_above + inner / (2 * jnp.pi * root)
    slope = both_above + clipped / (2 * jnp.pi * root) * (
        2 * inverses - 1 + inner / root**2
    )
    return moment, slope


def _root_and_covariance(
    q11: Array, q12: Array, q22: Array, scale: int
) -> tuple[Array, Array]:
    r"""$\sqrt{\det(1 + s Q)}$ for the covariance matrix $Q$, and its clipped $q_{12}$.

    The determinant is at least 1: no singularity anywhere.

    Returns:
        The two.
    """
    rho, product = correlation(q11, q12, q22)
    left = product**2 * (1 - rho) * (1 + rho)
    return jnp.sqrt(1 + scale * (q11 + q22) + scale**2 * left), rho * product


# Elementary functions ----------------------------------------------------------------


def _share_and_sine(rho: Array) -> tuple[Array, Array]:
    r"""Share $1 - \theta / \pi$ of the plane where two signs agree, and $\sin\theta$.

    With $s = (1 - |\rho|) / 2$, $\theta$ or its supplement is $2\arcsin\sqrt s$: one
    polynomial, some forty times as fast on a CPU as `jnp.arccos`.

    Returns:
        The two, for $\theta = \arccos \rho$.
    """
    is_acute = rho > 0
    s = (1 - jnp.where(is_acute, rho, -rho)) / 2
    root = safe_sqrt(s)
    smaller = 2 / jnp.pi * root * _horner(_arcsine(_num_terms(rho.dtype)), s)
    sine = 2 * root * jnp.sqrt(1 - s)
    return jnp.where(is_acute, 1 - smaller, smaller), sine


def _arctan2(y: Array, x: Array) -> Array:
    r"""Angle of $(x, y) \ne 0$, as `jnp.arctan2`, which a CPU does not vectorize.

    With $s \le 1/2$ the smaller of $x^2, y^2$ over their sum, it is $\arcsin\sqrt s$ up
    to reflections.

    Returns:
        The angle.
    """
    is_steep = jnp.abs(y) > jnp.abs(x)
    smaller = jnp.where(is_steep, x, y)
    total_sq = jnp.square(x) + jnp.square(y)
    series = _horner(_arcsine(_num_terms(y.dtype)), jnp.square(smaller) / total_sq)
    angle = smaller * jax.lax.rsqrt(total_sq) * series
    upper = jnp.where(y < 0, -jnp.pi, jnp.pi).astype(y.dtype)
    flat = jnp.where(x < 0, upper - angle, angle)
    return jnp.where(is_steep, upper / 2 - jnp.where(y < 0, -angle, angle), flat)


def _num_terms(dtype: jnp.dtype) -> int:
    return 24 if jnp.finfo(dtype).bits > 32 else 9


@functools.cache
def _arcsine(num_terms: int) -> tuple[float, ...]:
    r"""Coefficients of $\arcsin(\sqrt s) / \sqrt s$ on [0, 1/2], by Chebyshev nodes.

    The error is about $(3 + \sqrt 8)^{-n}$ for $n$ terms: the nearest singularity is 1.

    Returns:
        Coefficients, increasing.
    """

    def fn(t: np.ndarray) -> np.ndarray:
        root = np.sqrt(np.maximum((1 + t) / 4, 1e-30))
        return np.arcsin(root) / root

    nodes = np.polynomial.chebyshev.chebpts1(num_terms)
    chebyshev = np.polynomial.chebyshev.chebfit(nodes, fn(nodes), num_terms - 1)
    # Exact arithmetic: in floating point the change of basis would lose digits.
    previous, current = [Fraction(1)], [Fraction(-1), Fraction(4)]  # t = 4 s - 1
    total = [Fraction(0)] * num_terms
    for c in chebyshev.tolist():
        for k, value in enumerate(previous):
            total[k] += Fraction(c) * value
        doubled = [Fraction(0)] * (len(current) + 1)
        for k, value in enumerate(current):
            doubled[k] -= 2 * value
            doubled[k + 1] += 8 * value
        for k, value in enumerate(previous):
            doubled[k] -= value
        previous, current = current, doubled
    return tuple(float(value) for value in total)


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


_NAMED: dict[str, ClosedForm] = {
    "abs": partial(_abrelu, -1.0, 1.0),
    "cos": _cos,
    "erf": _erf,
    "exp": _exp,
    "gaussian": _gaussian,
    "gelu": _gelu,
    "identity": _identity,
    "leaky_relu": partial(_abrelu, 0.01, 1.0),  # the slope of jax.nn.leaky_relu
    "relu": partial(_abrelu, 0.0, 1.0),
    "sign": _sign,
    "sin": _sin,
}
_FAMILIES: dict[type, Callable[..., ClosedForm]] = {
    ABReLU: lambda it: partial(_abrelu, it.below, it.above),
    Polynomial: lambda it: partial(_polynomial, it.coefficients),
    RectifiedPower: lambda it: partial(_rectified_power, it.power),
}
