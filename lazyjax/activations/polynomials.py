"""Polynomials as activations, the identity among them."""

import dataclasses
import functools
import math
from fractions import Fraction
from operator import methodcaller

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_at_least
from lazyjax.activations.moments import Moments, horner
from lazyjax.activations.registry import (
    ActivationSpec,
    Float64Activation,
    register_known,
)


@dataclasses.dataclass(frozen=True)
class Polynomial:
    r"""Polynomial $\sum_k c_k u^k$.

    Attributes:
        coefficients: $c_0, c_1, \dots$, at least one.

    Raises:
        ValueError: If there is no coefficient.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.coefficients:
            raise ValueError("`coefficients` must hold at least one number; got none.")

    def __call__(self, u: Array) -> Array:
        """Value at `u`."""
        return horner(self.coefficients, u)

    def gaussian_moments(self, q11: Array, q12: Array, q22: Array) -> Moments:
        """Both Gaussian moments in closed form."""
        coefficients = self.coefficients
        slope = tuple(k * c for k, c in enumerate(coefficients))[1:] or (0.0,)
        return (
            _polynomial_moment(coefficients, q11, q12, q22),
            _polynomial_moment(slope, q11, q12, q22),
        )


def monomial(degree: int) -> Polynomial:
    """The power `u**degree`.

    Args:
        degree: Exponent, at least 0.

    Returns:
        An activation whose kernel is in closed form.

    Raises:
        TypeError: If `degree` is not an integer.
        ValueError: If it is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> monomial(3)(jnp.float32(2.0)).item()
        8.0
    """
    check_at_least("degree", degree, 0)
    return Polynomial((0.0,) * degree + (1.0,))


def hermite(degree: int) -> Polynomial:
    r"""Hermite polynomial $He_k / \sqrt{k!}$, orthonormal under the standard Gaussian.

    Args:
        degree: Its degree $k$, at least 0.

    Returns:
        An activation whose kernel is in closed form.

    Raises:
        TypeError: If `degree` is not an integer.
        ValueError: If it is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> round(hermite(2)(jnp.float32(3.0)).item(), 4)  # (9 - 1) / sqrt(2)
        5.6569
    """
    check_at_least("degree", degree, 0)
    unit = np.zeros(degree + 1)
    unit[degree] = 1 / math.sqrt(math.factorial(degree))
    return Polynomial(tuple(np.polynomial.hermite_e.herme2poly(unit).tolist()))


def _polynomial_moment(
    coefficients: tuple[float, ...], q11: Array, q12: Array, q22: Array
) -> Array:
    r"""Mehler's sum, finite: $\sum_m b_m(q_{11}) b_m(q_{22}) q_{12}^m$."""
    total = jnp.zeros(jnp.broadcast_shapes(q11.shape, q12.shape, q22.shape), q12.dtype)
    for m in reversed(range(len(coefficients))):
        b = _mehler(coefficients, m)
        total = total * q12 + horner(b, q11) * horner(b, q22)
    return total


@functools.cache
def _mehler(coefficients: tuple[float, ...], m: int) -> tuple[float, ...]:
    r"""Coefficients in $q$ of $b_m(q) = E[\phi(\sqrt q g) He_m(g)] / (q^{m/2}\sqrt{m!})$."""
    b = []
    for k in range(m, len(coefficients), 2):
        # E[g^k He_m] = k! / ((k - m)/2)! / 2^((k - m)/2), here over sqrt(m!).
        half = (k - m) // 2
        moment = Fraction(math.factorial(k), math.factorial(half) * 2**half)
        b.append(coefficients[k] * float(moment) / math.factorial(m) ** 0.5)
    return tuple(b)


def _identity(q11: Array, q12: Array, q22: Array) -> Moments:
    q12 = q12 + 0 * (q11 + q22)
    return q12, jnp.ones_like(q12)


register_known(
    ActivationSpec(
        name="identity",
        fn=lambda u: u,
        breaks=(),
        moments=_identity,
        float64=Float64Activation(lambda u: u, np.ones_like, 1.0, 0.0),
        is_increasing=True,
        is_analytic=True,
        stax=methodcaller("Identity"),
    )
)
