"""Activations by name, shared by finite networks and infinite-width kernels."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_at_least, check_choice
from lazyjax.activations.breakpoints import breaks
from lazyjax.activations.quadrature import (
    REACH,
    gauss_legendre,
    halved,
    panels,
)
from lazyjax.typing import Activation


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
        value = jnp.full_like(u, self.coefficients[-1])
        for c in self.coefficients[-2::-1]:
            value = value * u + c
        return value


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


def _identity(x: Array) -> Array:
    return x


def _gaussian(x: Array) -> Array:
    return jnp.exp(-jnp.square(x))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = types.MappingProxyType(
    {
        "abs": jnp.abs,
        "cos": jnp.cos,
        "elu": jax.nn.elu,
        "erf": jax.lax.erf,
        "exp": jnp.exp,
        "gaussian": _gaussian,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "identity": _identity,
        "leaky_relu": jax.nn.leaky_relu,
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
        "sign": jnp.sign,
        "silu": jax.nn.silu,
        "sin": jnp.sin,
        "softplus": jax.nn.softplus,
        "tanh": jnp.tanh,
    }
)


def check_activation(activation: Activation) -> None:
    """Check that `activation` is a known name or a callable.

    Raises:
        ValueError: If it is an unknown name; the nearest one is suggested.
        TypeError: If it is neither a name nor callable.
    """
    if isinstance(activation, str):
        check_choice("activation", activation, ACTIVATIONS)
    elif not callable(activation):
        raise TypeError(
            "`activation` must be a name or an elementwise function; "
            f"got {activation!r}."
        )


def activation_fn(activation: Activation) -> Callable[[Array], Array]:
    """Elementwise function that `activation` names, or `activation` itself.

    Returns:
        A function of one array, to one of the same shape and dtype.

    Raises:
        ValueError: If it is an unknown name; the nearest one is suggested.
        TypeError: If it is neither a name nor callable.
    """
    check_activation(activation)
    return ACTIVATIONS[activation] if isinstance(activation, str) else activation


# Without kinks or jumps; the others that have a name have theirs at 0.
_SMOOTH = frozenset(
    {
        *("cos", "erf", "exp", "gaussian", "gelu", "identity"),
        *("sigmoid", "silu", "sin", "softplus", "tanh"),
    }
)


def named_breaks(activation: Activation) -> tuple[float, ...] | None:
    """Places of kinks and jumps of an activation that has a name.

    Args:
        activation: Name of an activation, or an elementwise function of one array.

    Returns:
        The places, or None for functions that have no name.
    """
    for name, fn in ACTIVATIONS.items():
        if activation is fn or activation == name:
            return () if name in _SMOOTH else (0.0,)
    return None


def unit_scale(activation: Activation) -> float:
    r"""Number $\sqrt{c_\phi}$ with $c_\phi E[\phi(g)^2] = 1$ for a standard Gaussian $g$.

    Args:
        activation: Name of an activation, or an elementwise function of one array.

    Returns:
        The scale, by quadrature in the highest precision that JAX has enabled.

    Raises:
        ValueError: If the activation is 0 almost everywhere, varies too fast, or has
            more than 32 kinks and jumps.
        TypeError: If its values are not known, as under `jax.jit`.
    """
    dtype = jnp.result_type(float)
    phi = activation_fn(activation)
    places = named_breaks(activation)
    if places is None:
        places = breaks(phi, dtype)
    ends = np.unique([*panels(), *(c for c in places if abs(c) < REACH)])
    coarse, variance = (
        _second_moment(phi, rule, dtype) for rule in (ends, halved(ends))
    )
    if not variance > 0:
        raise ValueError(
            "`activation` cannot be scaled to a second moment of 1: its own is "
            f"{variance}."
        )
    if abs(coarse - variance) > 1e-3 * variance:
        raise ValueError(
            "`activation` varies too fast for its second moment to be known: two rules "
            f"of quadrature make it {coarse:.6g} and {variance:.6g}."
        )
    return 1 / math.sqrt(variance)


def _second_moment(
    phi: Callable[[Array], Array], ends: np.ndarray, dtype: Any
) -> float:
    nodes, weights = gauss_legendre(ends)
    with jax.ensure_compile_time_eval():
        # Compiled, because rules of derivatives would see an enclosing `jax.vmap`.
        values = jax.jit(phi)(jnp.asarray(nodes, dtype))
        values = np.asarray(values, np.float64)
    return float(weights @ values**2)
