r"""Estimates of the error of Hermite series, by a second rule of another nature.

The first rule has few nodes and the same for all functions. The second has many, on
panels that are split at kinks and jumps, shrink towards every place where a value inside
the program passes 0, and reach farther out. The error is what the rules disagree on, plus
the part of the second moment, by the second rule, that is behind the last coefficient.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.activations.quadrature import gauss_legendre, panels, standardized
from lazyjax.infinite.duals.hermite import (
    NUM_COEFFICIENTS,
    decompose,
    hermite_mean,
    power_tail,
    rounding,
    series,
)
from lazyjax.infinite.duals.piecewise import Piecewise

_PARTS = 12  # of each panel
_NODES = 10  # of each part
_MOST_MARKS = 8
_BATCH = 16  # standard deviations at once
_SHRUNK = 2.0 ** -np.arange(31)  # distances from marks at which panels end


class _Side(NamedTuple):
    """Coefficients of a function of a scaled Gaussian, and their errors."""

    sizes: Array  # absolute values of coefficients, by the second rule
    differences: Array  # those between both rules
    # Root of the sum of squares that the series adds for further terms.
    remainder: Array
    rest_tail: Array  # the same, of coefficients of the rest that are left out
    power_tail: Array  # that of truncated powers, which are not
    second_moment: Array  # by the second rule
    # Its difference from that by split panels, or by the series.
    second_moment_error: Array


def series_error(
    phi: Piecewise,
    marks: Sequence[float],
    std1: Float[Array, "*#q"],
    correlation: Float[Array, "*#q"],
    std2: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    """Estimate of the error of `hermite_dual`, infinite where the second rule fails."""
    one, two = _side(phi, marks, std1), _side(phi, marks, std2)
    size = jnp.abs(correlation)
    products = [
        (one.differences, two.sizes + two.differences),
        (one.sizes, two.differences),
    ]
    tails = one.rest_tail * (two.rest_tail + two.power_tail)
    tails = tails + one.power_tail * two.rest_tail + one.remainder * two.remainder
    error = series(products, size) + tails * size**NUM_COEFFICIENTS
    scale = jnp.sqrt(one.second_moment * two.second_moment)
    error = error + 10 * jnp.finfo(error.dtype).eps * scale
    return jnp.where(jnp.isfinite(error), error, jnp.inf)


def disagreement(
    phi: Piecewise, marks: Sequence[float], std: Float[Array, "*q"]
) -> Float[Array, "*q"]:
    """Largest difference of both rules, relative to the second moment."""
    # What is left out behind the last coefficient does not count, which depends on the
    # correlation: `hermite_dual` is NaN where that is too much.
    side = _side(phi, marks, std)
    error = jnp.sum(side.differences * (2 * side.sizes + side.differences), 0)
    error = error + jnp.abs(side.remainder**2 - side.rest_tail**2)
    error = jnp.maximum(error, side.second_moment_error)
    is_zero = (side.second_moment == 0) & (error == 0)
    share = error / jnp.where(is_zero, 1, side.second_moment)
    return jnp.where(jnp.isfinite(share), share, jnp.inf)


def _side(phi: Piecewise, marks: Sequence[float], std: Float[Array, "*q"]) -> _Side:
    """Statistics of one side, for a few deviations at once: rules are large."""
    found = jax.lax.map(
        partial(_side_of_one, phi, marks), std.ravel(), batch_size=_BATCH
    )
    return jax.tree.map(
        lambda a: jnp.moveaxis(a, 0, -1).reshape(*a.shape[1:], *std.shape), found
    )


def _side_of_one(
    phi: Piecewise, marks: Sequence[float], std: Float[Array, ""]
) -> _Side:
    nodes, weights = _second_rule(phi, marks, std)
    values = phi.fn(nodes * std)
    parts = decompose(phi, std)
    rest, power = values, jnp.zeros_like(values)
    if phi.corners:
        power = parts.kept @ phi.powers(nodes * std)
        rest = values - power

    def step(state: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Array]:
        before, now = state
        after = (nodes * now - jnp.sqrt(k) * before) / jnp.sqrt(k + 1)
        return (now, after), jnp.sum(now * rest)

    degrees = jnp.arange(NUM_COEFFICIENTS, dtype=std.dtype)
    _, s = jax.lax.scan(step, (jnp.zeros_like(weights), weights), degrees)
    first, powers = parts.rest, parts.powers
    size = jnp.sum(weights * rest**2)
    left = size - jnp.sum(s**2)
    # Where that is rounding, coefficients of jumps, which decay most slowly, are taken
    # to continue the last ones.
    floor = rounding(size)
    left = jnp.where(left > floor, left, jnp.minimum(floor, 8 * jnp.sum(s[-32:] ** 2)))
    second_moment = jnp.sum(weights * values**2)
    at_one = jnp.sum(first * (first + 2 * powers)) + jnp.sum(weights * power**2)
    variance = hermite_mean(phi, std, power=2)
    return _Side(
        sizes=_filled(jnp.abs(s + powers[:NUM_COEFFICIENTS])),
        differences=_filled(jnp.abs(s - first[:NUM_COEFFICIENTS])),
        remainder=jnp.sqrt(jnp.sum(first[NUM_COEFFICIENTS:] ** 2)),
        rest_tail=jnp.sqrt(left),
        power_tail=power_tail(powers),
        second_moment=second_moment,
        second_moment_error=jnp.maximum(
            jnp.abs(second_moment - variance), jnp.abs(second_moment - at_one)
        ),
    )


def _filled(coefficients: Array) -> Array:
    return jnp.concatenate([coefficients, jnp.zeros(2, coefficients.dtype)])


def _second_rule(
    phi: Piecewise, marks: Sequence[float], std: Float[Array, ""]
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    # As far as the weight is a normal number.
    reach = 37 if jnp.finfo(std.dtype).bits > 32 else 13
    coarse = panels(reach)
    inner = coarse[:-1, None] + np.diff(coarse)[:, None] * np.arange(_PARTS) / _PARTS
    shrunk = np.concatenate([-_SHRUNK, np.zeros(1), _SHRUNK])
    fixed = np.unique(np.concatenate([inner.ravel(), coarse[-1:], shrunk]))
    nearest = sorted((mark for mark in marks if mark), key=abs)[:_MOST_MARKS]
    scaled = [standardized(place, std, reach)[None] for place in phi.breaks if place]
    for mark in nearest:
        near = standardized(mark, std, reach) + jnp.asarray(shrunk, std.dtype)
        scaled.append(jnp.clip(near, -reach, reach))
    if not scaled:  # the same nodes for all deviations: tables
        tables = gauss_legendre(fixed, _NODES)
        return jnp.asarray(tables[0], std.dtype), jnp.asarray(tables[1], std.dtype)
    ends = jnp.sort(jnp.concatenate([jnp.asarray(fixed, std.dtype), *scaled]))
    return gauss_legendre(ends, _NODES)
