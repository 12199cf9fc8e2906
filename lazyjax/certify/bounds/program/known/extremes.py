"""Largest entries as entries at a place, which may be known not to change."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.jaxpr.equations import aval_of
from lazyjax.jaxpr.registry import primitive_of

_NAMES = ("reduce_max", "reduce_min", "reduce_window_max")


def with_derivatives(jaxpr: jex.Jaxpr) -> frozenset[Any]:
    """Variables that results of a program have derivatives by, or may have.

    Args:
        jaxpr: The program.

    Returns:
        The variables.
    """
    found = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if primitive_of(eqn).dependence != "zero" and found.intersection(eqn.outvars):
            found.update(v for v in eqn.invars if not isinstance(v, jex.Literal))
    return frozenset(found)


def extreme(eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Array | None:
    """An extreme as the entry at its place, of which the derivative is the same.

    It is the same as long as no two entries are equal. Where they are, JAX has the mean
    of derivatives, and bounds are infinite.

    Args:
        eqn: The equation.
        operands: Its operands.

    Returns:
        The result, or `None` if the equation is of no extreme, or of padded windows.
    """
    name = eqn.primitive.name
    if name not in _NAMES:
        return None
    (x,) = operands
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    if name == "reduce_window_max":
        parts = _windows(eqn, x)
        return None if parts is None else _largest(parts)
    axes = tuple(eqn.params["axes"])
    last = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    flat = last.reshape(*aval_of(eqn.outvars[0]).shape, -1)
    return _largest(flat) if name == "reduce_max" else -_largest(-flat)


def _largest(x: Array) -> Array:
    """Largest entries along the last axis."""
    place = lax.argmax(x, x.ndim - 1, jnp.int32)
    numbers = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    chosen = (numbers == place[..., None]).astype(x.dtype)
    batch = tuple(range(x.ndim - 1))
    numbers = ((x.ndim - 1,), (x.ndim - 1,)), (batch, batch)
    return lax.dot_general(chosen, x, numbers, precision=lax.Precision.HIGHEST)


def _windows(eqn: jex.JaxprEqn, x: jax.Array) -> Array | None:
    """Entries of each window, along a last axis."""
    params = eqn.params
    sizes, strides = params["window_dimensions"], params["window_strides"]
    dilations = (*params["base_dilation"], *params["window_dilation"])
    if any(n != 1 for n in dilations) or any(
        n for pair in params["padding"] for n in pair
    ):
        return None
    counts = aval_of(eqn.outvars[0]).shape
    parts = []
    for begin in itertools.product(*map(range, sizes)):
        end = [
            b + s * (n - 1) + 1 for b, s, n in zip(begin, strides, counts, strict=True)
        ]
        parts.append(lax.slice(x, begin, end, strides))
    return jnp.stack(parts, axis=-1)
