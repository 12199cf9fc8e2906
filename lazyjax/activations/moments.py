r"""The arithmetic of Gaussian moments in closed form.

A closed form takes the covariances $(q_{11}, q_{12}, q_{22})$ of two Gaussians and
returns $E[\phi(u)\phi(v)]$ and $E[\phi'(u)\phi'(v)]$. Derivatives of what is here are
finite at $u = \pm v$ and at variance 0, where those of square roots are taken as 0.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Moments: TypeAlias = tuple[Array, Array]
ClosedForm: TypeAlias = Callable[[Array, Array, Array], Moments]


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


def root_and_covariance(
    q11: Array, q12: Array, q22: Array, scale: int
) -> tuple[Array, Array]:
    r"""$\sqrt{\det(1 + s Q)} \ge 1$ for covariances $Q$, and clipped $q_{12}$."""
    rho, product = correlation(q11, q12, q22)
    left = product**2 * (1 - rho) * (1 + rho)
    return jnp.sqrt(1 + scale * (q11 + q22) + scale**2 * left), rho * product


def share_and_sine(rho: Array) -> tuple[Array, Array]:
    r"""$1 - \theta / \pi$, the share where two signs agree, and $\sin\theta$."""
    # With s = (1 - |rho|) / 2, theta = arccos(rho) or its supplement is 2
    # arcsin(sqrt(s)): one polynomial, some forty times as fast on a CPU as
    # `jnp.arccos`.
    is_acute = rho > 0
    s = (1 - jnp.where(is_acute, rho, -rho)) / 2
    root = safe_sqrt(s)
    smaller = 2 / jnp.pi * root * horner(_arcsine(_num_terms(rho.dtype)), s)
    sine = 2 * root * jnp.sqrt(1 - s)
    return jnp.where(is_acute, 1 - smaller, smaller), sine


def arctan2(y: Array, x: Array) -> Array:
    r"""Angle of $(x, y) \ne 0$, as `jnp.arctan2`, which a CPU does not vectorize."""
    # With s <= 1/2 the smaller of x^2 and y^2 over their sum, it is arcsin(sqrt(s)) up
    # to reflections.
    is_steep = jnp.abs(y) > jnp.abs(x)
    smaller = jnp.where(is_steep, x, y)
    total_sq = jnp.square(x) + jnp.square(y)
    series = horner(_arcsine(_num_terms(y.dtype)), jnp.square(smaller) / total_sq)
    angle = smaller * jax.lax.rsqrt(total_sq) * series
    upper = jnp.where(y < 0, -jnp.pi, jnp.pi).astype(y.dtype)
    flat = jnp.where(x < 0, upper - angle, angle)
    return jnp.where(is_steep, upper / 2 - jnp.where(y < 0, -angle, angle), flat)


def _num_terms(dtype: jnp.dtype) -> int:
    return 24 if jnp.finfo(dtype).bits > 32 else 9


@functools.cache
def _arcsine(num_terms: int) -> tuple[float, ...]:
    r"""Coefficients of $\arcsin(\sqrt s) / \sqrt s$ on [0, 1/2], by Chebyshev nodes."""
    # The error is about (3 + sqrt(8))^-n for n terms: the nearest singularity is 1.

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


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """Value at `x` of the polynomial with these coefficients, increasing."""
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value
