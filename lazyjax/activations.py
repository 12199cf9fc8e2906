"""Activations by name, shared by finite networks and infinite-width kernels."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_at_least, check_choice
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


def unit_scale(activation: Activation) -> float:
    r"""Number $\sqrt{c_\phi}$ with $c_\phi E[\phi(g)^2] = 1$ for a standard Gaussian $g$.

    Args:
        activation: Name of an activation, or an elementwise function of one array.

    Returns:
        The scale, by quadrature in the highest precision that JAX has enabled.

    Raises:
        ValueError: If the activation is 0 almost everywhere.
        TypeError: If its values are not known, as under `jax.jit`.
    """
    nodes, weights = gaussian_quadrature()
    with jax.ensure_compile_time_eval():
        # Compiled, because rules of derivatives would see an enclosing `jax.vmap`.
        phi = jax.jit(activation_fn(activation))
        values = phi(jnp.asarray(nodes, jnp.result_type(float)))
        values = np.asarray(values, np.float64)
    variance = float(weights @ values**2)
    if not variance > 0:
        raise ValueError(
            "`activation` cannot be scaled to a second moment of 1: its own is "
            f"{variance}."
        )
    return 1 / math.sqrt(variance)


# Beyond 12 standard deviations the Gaussian weight is 1e-32. Panels shrink towards 0,
# where scaled activations vary fastest and where kinks are.
_PANELS = (0.0, 1 / 8, 1 / 4, 1 / 2, *range(1, 13))
_NODES_PER_PANEL = 16


def gaussian_quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for means over a standard Gaussian, exact for kinks at 0.

    Returns:
        The nodes, increasing and symmetric about 0, and their weights.
    """
    ends = np.array(_PANELS)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES_PER_PANEL)
    half = np.diff(ends)[:, None] / 2
    right = ((ends[:-1] + ends[1:])[:, None] / 2 + half * nodes).ravel()
    nodes = np.concatenate([-right[::-1], right])
    weights = (half * weights).ravel()
    weights = np.concatenate([weights[::-1], weights])
    return nodes, weights * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
