"""The scale by which an activation has a second moment of 1."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.activations.breakpoints import breaks
from lazyjax.activations.quadrature import REACH, gauss_legendre, halved, panels
from lazyjax.activations.registry import activation_fn, named_breaks
from lazyjax.typing import Activation


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
