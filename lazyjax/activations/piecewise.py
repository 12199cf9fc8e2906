"""Activations that are linear on either side of 0, their powers, and the sign."""

import dataclasses
import functools
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_at_least
from lazyjax.activations.moments import Moments, correlation, horner, share_and_sine
from lazyjax.activations.registry import (
    ActivationSpec,
    Float64Activation,
    register_known,
)


@dataclasses.dataclass(frozen=True)
class ABReLU:
    r"""Piecewise linear activation $a \min(u, 0) + b \max(u, 0)$.

    Attributes:
        below: Slope $a$ below 0.
        above: Slope $b$ above 0.
    """

    below: float
    above: float

    def __call__(self, u: Array) -> Array:
        """Value at `u`; the derivative at 0 is that from below."""
        return jnp.where(u > 0, self.above * u, self.below * u)

    def gaussian_moments(self, q11: Array, q12: Array, q22: Array) -> Moments:
        """Both Gaussian moments in closed form."""
        rho, product = correlation(q11, q12, q22)
        share, sine = share_and_sine(rho)
        jump_sq = (self.above - self.below) ** 2 / 2
        moment = jump_sq * product * (sine / jnp.pi + share * rho)
        both = self.below * self.above
        return moment + both * q12, jump_sq * share + both


@dataclasses.dataclass(frozen=True)
class RectifiedPower:
    r"""Rectified power $\max(u, 0)^p$, of which ReLU is the case $p = 1$.

    Attributes:
        power: Exponent $p$, a positive integer.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is not positive.
    """

    power: int

    def __post_init__(self) -> None:
        check_at_least("power", self.power, 1)

    def __call__(self, u: Array) -> Array:
        """Value at `u`."""
        return jnp.where(u > 0, u, 0) ** self.power

    def gaussian_moments(self, q11: Array, q12: Array, q22: Array) -> Moments:
        """Both Gaussian moments in closed form."""
        rho, product = correlation(q11, q12, q22)
        share, sine = share_and_sine(rho)

        def moment(p: int) -> Array:
            with_sine, with_angle = _arc_cosine(p, p)
            value = sine / jnp.pi * horner(with_sine, rho)
            value = value + share * horner(with_angle, rho)
            return product**p * value / 2

        return moment(self.power), self.power**2 * moment(self.power - 1)


@functools.cache
def _arc_cosine(a: int, b: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""$P$, $Q$ of $2\pi E[u_+^a v_+^b] = P(\rho)\sin\theta + Q(\rho)(\pi - \theta)$."""
    # By Stein's lemma for unit variances, a + b even; u_+^0 is the step function, whose
    # derivative, a point mass, gives the last case.
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


def _sign(q11: Array, q12: Array, q22: Array) -> Moments:
    rho, product = correlation(q11, q12, q22)
    share, _ = share_and_sine(rho)
    moment = jnp.where(product > 0, 2 * share - 1, 0)
    return moment, jnp.zeros_like(moment)


def _piecewise_linear(
    name: str,
    fn: Callable[[Array], Array],
    slopes: tuple[float, float],
    stax: Callable[[Any], Any],
) -> ActivationSpec:
    return ActivationSpec(
        name=name,
        fn=fn,
        breaks=(0.0,),
        moments=ABReLU(*slopes).gaussian_moments,
        slopes=slopes,
        is_increasing=False,
        is_analytic=False,
        stax=stax,
    )


register_known(
    _piecewise_linear("abs", jnp.abs, (-1.0, 1.0), methodcaller("Abs")),
    # The slope of `jax.nn.leaky_relu`.
    _piecewise_linear(
        "leaky_relu", jax.nn.leaky_relu, (0.01, 1.0), methodcaller("LeakyRelu", 0.01)
    ),
    _piecewise_linear("relu", jax.nn.relu, (0.0, 1.0), methodcaller("Relu")),
    ActivationSpec(
        name="sign",
        fn=jnp.sign,
        breaks=(0.0,),
        is_continuous=False,
        moments=_sign,
        float64=Float64Activation(np.sign, np.zeros_like),
        is_increasing=False,
        is_analytic=False,
        stax=methodcaller("Sign"),
    ),
)
