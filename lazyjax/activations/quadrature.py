"""Means over a standard Gaussian by Gauss–Legendre rules on panels."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.typing import AnyArray

# Beyond 12 standard deviations the Gaussian weight is 1e-32.
REACH = 12
_NODES_PER_PANEL = 16


def panels(reach: int = REACH) -> np.ndarray:
    """Ends of panels, shrinking towards 0, where scaled functions vary fastest."""
    right = np.array([1 / 8, 1 / 4, 1 / 2, *range(1, reach + 1)])
    return np.concatenate([-right[::-1], np.zeros(1), right])


def split_panels(
    places: Sequence[float], std: Float[Array, "*q"]
) -> Float[Array, "ends *q"]:
    r"""Increasing ends of panels for functions of $\sigma g$, some at given places."""
    base = panels().reshape(-1, *(1,) * std.ndim)
    base = jnp.broadcast_to(jnp.asarray(base, std.dtype), (len(base), *std.shape))
    scaled = [standardized(place, std, REACH)[None] for place in places if place]
    # Compiling a sort takes long: none for those at 0, which is an end already.
    return jnp.sort(jnp.concatenate([base, *scaled]), 0) if scaled else base


def standardized(
    place: float, std: Float[Array, "*q"], reach: int
) -> Float[Array, "*q"]:
    r"""The $g$, within `reach`, at which $\sigma g$ is at a place."""
    is_within = abs(place) < reach * std
    inner = place / jnp.where(is_within, std, 1)
    return jnp.where(is_within, inner, math.copysign(reach, place))


def gauss_legendre(
    ends: Float[AnyArray, "ends *q"], num_nodes: int = _NODES_PER_PANEL
) -> tuple[Any, Any]:
    """Nodes and Gaussian weights of composite Gauss–Legendre rules, between `ends`."""
    xp: Any = np if isinstance(ends, np.ndarray) else jnp
    nodes, weights = (
        xp.asarray(table.reshape(1, -1, *(1,) * (ends.ndim - 1)), ends.dtype)
        for table in np.polynomial.legendre.leggauss(num_nodes)
    )
    low, high = ends[:-1, None], ends[1:, None]
    half = (high - low) / 2
    nodes = ((low + high) / 2 + half * nodes).reshape(-1, *ends.shape[1:])
    weights = (half * weights).reshape(nodes.shape)
    return nodes, weights * xp.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)


def halved(ends: Float[AnyArray, "ends *q"]) -> Any:
    """`ends`, and the middle of every panel."""
    xp: Any = np if isinstance(ends, np.ndarray) else jnp
    return xp.sort(xp.concatenate([ends, (ends[:-1] + ends[1:]) / 2]), 0)
