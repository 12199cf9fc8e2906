"""Activations by name, shared by finite networks and infinite-width kernels."""

import types
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax._checks import check_choice
from lazyjax.typing import Activation


def _identity(x: Array) -> Array:
    return x


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = types.MappingProxyType(
    {
        "abs": jnp.abs,
        "cos": jnp.cos,
        "elu": jax.nn.elu,
        "erf": jax.lax.erf,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "identity": _identity,
        "leaky_relu": jax.nn.leaky_relu,
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
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
