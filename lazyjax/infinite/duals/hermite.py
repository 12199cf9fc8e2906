r"""Gaussian moments of arbitrary elementwise functions by Hermite (Mehler) series.

With $a_k(\sigma) = E[\phi(\sigma g) He_k(g)] / \sqrt{k!}$, the moment of standard
Gaussians $g, h$ of correlation $\rho$ is (Mehler)

$$E[\phi(\sigma_1 g)\phi(\sigma_2 h)] = \sum_k a_k(\sigma_1) a_k(\sigma_2) \rho^k.$$

Kinks and jumps make it converge slowly. So $\phi$ is split into truncated powers that
have the same kinks and jumps, with coefficients $b_k$, and a smoother rest, with
coefficients $s_k$ that decay fast. Then $a a' = s a' + b s' + b b'$, and the sum over
$b b'$ is known in closed form.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.activations.quadrature import (
    REACH,
    gauss_legendre,
    panels,
    split_panels,
    standardized,
)
from lazyjax.infinite.duals.piecewise import Piecewise
from lazyjax.infinite.duals.truncated_powers import (
    truncated_coefficients,
    truncated_moments,
)

# Terms of the series, in blocks that are fused: 126 coefficients and two remainders.
NUM_TERMS = 128
NUM_COEFFICIENTS = NUM_TERMS - 2
_BLOCK = 16

# Share of a second moment that may be unknown.
TOLERANCE = 1e-2


def hermite_dual(
    phi: Piecewise,
    std1: Float[Array, "*#q"],
    correlation: Float[Array, "*#q"],
    std2: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Moment $E[\phi(\sigma_1 g)\phi(\sigma_2 h)]$ of standard Gaussians $g, h$."""
    # Positive semidefinite term by term; NaN where terms that are left out may make up
    # more than a share `TOLERANCE` of that of equal arguments. Work is linear in the
    # number of entries times that of terms; coefficients are computed once per standard
    # deviation given.
    one, two = decompose(phi, std1), decompose(phi, std2)
    left, right = one.rest, two.rest
    left_out = _remainder_size(left) * _remainder_size(right)
    if phi.corners:
        b1, b2 = one.powers, two.powers
        total = series([(left, right + b2), (b1, right)], correlation)
        total = total + power_moment(phi, one, two, std1, correlation, std2)
        left_out = left_out + _remainder_size(left) * power_tail(b2)
        left_out = left_out + power_tail(b1) * _remainder_size(right)
        left, right = left + b1, right + b2
    else:
        total = series([(left, right)], correlation)
    size = jnp.sqrt(jnp.sum(left**2, 0)) * jnp.sqrt(jnp.sum(right**2, 0))
    rho = jnp.abs(correlation)
    is_known = left_out * rho**NUM_COEFFICIENTS <= TOLERANCE * size
    is_known = is_known | (rho == 1)
    return jnp.where(jax.lax.stop_gradient(is_known), total, jnp.nan)


def _remainder_size(coefficients: Float[Array, "terms *q"]) -> Float[Array, "*q"]:
    return jnp.sqrt(jnp.sum(coefficients[NUM_COEFFICIENTS:] ** 2, 0))


def series(
    products: list[tuple[Array, Array]], correlation: Float[Array, "*#q"]
) -> Float[Array, "*q"]:
    """Sum over terms of products of coefficients, times powers of the correlation."""
    shapes = [a.shape[1:] for pair in products for a in pair]
    shape = jnp.broadcast_shapes(*shapes, correlation.shape)

    @jax.checkpoint  # one array per block, not per term, is kept for differentiation
    def add_block(total: Array, block: list[tuple[Array, Array]]) -> tuple[Array, None]:
        for term in range(_BLOCK):
            total = total * correlation
            for left, right in block:
                total = total + left[term] * right[term]
        return total, None

    blocks = jax.tree.map(
        lambda a: a[::-1].reshape(NUM_TERMS // _BLOCK, _BLOCK, *a.shape[1:]), products
    )
    start = jnp.zeros(shape, correlation.dtype)
    return jax.lax.scan(add_block, start, blocks)[0]


def hermite_mean(
    phi: Piecewise, std: Float[Array, "*q"], power: int
) -> Float[Array, "*q"]:
    r"""Mean $E[\phi(\sigma g)^p]$ over a standard Gaussian $g$, by quadrature."""
    nodes, weights = gauss_legendre(split_panels(phi.breaks, std))
    return jnp.sum(weights * phi.fn(nodes * std[None]) ** power, 0)


# Decomposition -----------------------------------------------------------------------


class Decomposition(NamedTuple):
    """A function of a scaled Gaussian as truncated powers and a rest.

    Attributes:
        rest: 126 Hermite coefficients of the rest; then what stands for all further
            ones, of even and of odd degree.
        powers: 126 coefficients of the truncated powers; then the parts of further ones
            along those of the rest.
        kept: For each used power, 1 where it is split off, else 0.
    """

    rest: Float[Array, "terms *q"]
    powers: Float[Array, "terms *q"]
    kept: Float[Array, "powers *q"]


def decompose(phi: Piecewise, std: Float[Array, "*q"]) -> Decomposition:
    """A function of a scaled Gaussian, split so that its series leave out least."""
    # Truncated powers of high degree do not help where the standard deviation is large
    # beside the pieces: there they are far larger than the function.
    nodes, weights, basis = _quadrature()
    weights, basis = (jnp.asarray(table, std.dtype) for table in (weights, basis))
    scaled = jnp.asarray(nodes.reshape(-1, *(1,) * std.ndim), std.dtype) * std[None]
    values = phi.fn(scaled)
    if not phi.corners:
        rest = _coefficients(weights, basis, values)
        none = jnp.zeros((0, *std.shape), std.dtype)
        return Decomposition(rest, jnp.zeros_like(rest), none)
    first = jnp.zeros((1, *values.shape), std.dtype)
    by_power = jnp.concatenate([first, phi.powers(scaled)])
    candidates = values[None] - jnp.cumsum(by_power, 0)
    rests = jax.vmap(partial(_coefficients, weights, basis))(candidates)
    added = _power_coefficients(phi, std)
    powers = jnp.cumsum(jnp.concatenate([jnp.zeros_like(added[:1]), added]), 0)
    second_moments = jax.vmap(lambda v: _expect(weights, v**2))(candidates)
    left = jax.vmap(_remainder_size)(rests)
    # Where that is rounding, further coefficients are taken to continue the last ones.
    last = jnp.sum(rests[:, NUM_COEFFICIENTS - 32 : NUM_COEFFICIENTS] ** 2, 1)
    hidden = jnp.minimum(rounding(second_moments), 8 * last)
    left = jnp.where(left > 0, left, jnp.sqrt(hidden))
    left_out = left * (left + 2 * jax.vmap(power_tail)(powers))
    error = left_out + 4 * jnp.finfo(std.dtype).eps * second_moments
    best = jnp.argmin(error, 0)
    rest = jnp.take_along_axis(rests, best[None, None], 0)[0]
    powers = jnp.take_along_axis(powers, best[None, None], 0)[0]
    kept = jnp.stack([best > p for p in range(len(added))]).astype(std.dtype)
    crossed = _crossed(phi, std, kept, rest[:NUM_COEFFICIENTS] * powers)
    is_left = rest[NUM_COEFFICIENTS:] > 0
    crossed = crossed / jnp.where(is_left, rest[NUM_COEFFICIENTS:], 1)
    crossed = jnp.where(is_left, crossed, 0)
    return Decomposition(rest, jnp.concatenate([powers, crossed]), kept)


def _crossed(phi: Piecewise, std: Array, kept: Array, products: Array) -> Array:
    """Mean of rest times powers, less `products`, of even and of odd degree."""
    nodes, weights = gauss_legendre(split_panels(phi.breaks, std))
    nodes = nodes * std[None]

    def parts(u: Array) -> tuple[Array, Array]:
        power = jnp.sum(kept[:, None] * phi.powers(u), 0)
        return phi.fn(u) - power, power

    rest, power = parts(nodes)
    mirrored, _ = parts(-nodes)
    means = [
        jnp.sum(weights * (rest + sign * mirrored) / 2 * power, 0)
        - jnp.sum(products[parity::2], 0)
        for parity, sign in ((0, 1), (1, -1))
    ]
    return jnp.stack(means)


def _coefficients(weights: Array, basis: Array, values: Array) -> Array:
    """Hermite coefficients of values at nodes, and two remainders."""
    a = _expect(basis, values)
    same = _expect(weights, values**2)
    mirrored = _expect(weights, values * values[::-1])
    # The last coefficient of either parity holds all the variance that is left: the
    # series is exact at correlations 1 and -1, however slowly it converges.
    remainders = [
        _remainder((same + sign * mirrored) / 2, a[parity::2])
        for parity, sign in ((0, 1), (1, -1))
    ]
    return jnp.concatenate([a, jnp.stack(remainders)])


def _expect(weights: Array, values: Array) -> Array:
    return jnp.tensordot(weights, values, 1, precision=jax.lax.Precision.HIGHEST)


def _remainder(variance: Array, a: Array) -> Array:
    """Square root of what squares of `a` lack of `variance`, 0 if that is rounding."""
    left = variance - jnp.sum(a**2, axis=0)
    is_real = left > rounding(variance)
    return jnp.where(is_real, jnp.sqrt(jnp.where(is_real, left, 1)), 0)


def rounding(variance: Float[Array, "*q"]) -> Float[Array, "*q"]:
    """What sums of squares of coefficients may lack of a variance by rounding."""
    return 100 * jnp.finfo(variance.dtype).eps * variance


def _quadrature() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, Gaussian weights, and weighted normalized Hermite polynomials at nodes."""
    nodes, weights = gauss_legendre(panels())
    basis = np.empty((NUM_COEFFICIENTS, nodes.size))
    basis[0], basis[1] = weights, weights * nodes
    for k in range(1, NUM_COEFFICIENTS - 1):
        basis[k + 1] = (nodes * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
    return nodes, weights, basis


# Truncated powers --------------------------------------------------------------------


def _power_coefficients(phi: Piecewise, std: Array) -> Array:
    """Coefficients of the truncated powers of `phi`, by power that is used."""
    used = phi.used_powers
    total = jnp.zeros((len(used), NUM_COEFFICIENTS, *std.shape), std.dtype)
    for corner, side, jumps in zip(phi.corners, phi.sides, phi.jumps, strict=True):
        h = side * standardized(corner, std, REACH)
        signs = jnp.asarray(float(side) ** np.arange(NUM_COEFFICIENTS), std.dtype)
        powers = truncated_coefficients(h, NUM_COEFFICIENTS)
        found = [jumps[p] * std[None] ** p * powers[p] for p in used]
        signs = signs.reshape(1, -1, *(1,) * std.ndim)
        total = total + signs * jnp.stack(found)
    return total


def power_tail(coefficients: Float[Array, "terms *q"]) -> Float[Array, "*q"]:
    """Root of the sum of squares of coefficients behind those of truncated powers."""
    last = coefficients[NUM_COEFFICIENTS - 64 : NUM_COEFFICIENTS]
    # Coefficients of jumps decay most slowly: squares like k**-1.5, hence the 4.
    return jnp.sqrt(4 * jnp.sum(last**2, 0))


def power_moment(
    phi: Piecewise,
    one: Decomposition,
    two: Decomposition,
    std1: Float[Array, "*#q"],
    correlation: Float[Array, "*#q"],
    std2: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    """Second moment of the truncated powers of `phi`, in closed form."""
    shape = jnp.broadcast_shapes(std1.shape, correlation.shape, std2.shape)
    used = phi.used_powers
    # Corners at the same distance from 0 share a place and differ by a sign.
    distances = sorted({abs(corner) for corner in phi.corners})

    def places_and_weights(std: Array, kept: Array) -> tuple[Array, Array]:
        places = jnp.stack([standardized(d, std, REACH) for d in distances])
        scales = jnp.stack([kept[i] * std**p for i, p in enumerate(used)])
        weights = jnp.zeros((len(distances), 2, *scales.shape), std.dtype)
        for corner, side, jumps in zip(phi.corners, phi.sides, phi.jumps, strict=True):
            at = distances.index(abs(corner)), int(side < 0)
            by_power = jnp.stack([jumps[p] for p in used])
            by_power = by_power.reshape(-1, *(1,) * std.ndim)
            weights = weights.at[at].set(by_power * scales)
        return places, weights

    h1, w1 = places_and_weights(std1, one.kept)
    h2, w2 = places_and_weights(std2, two.kept)
    pairs = [
        (distances.index(abs(c1)), distances.index(abs(c2)), side1 * side2)
        for c1, side1 in zip(phi.corners, phi.sides, strict=True)
        for c2, side2 in zip(phi.corners, phi.sides, strict=True)
    ]
    first, second, signs = map(np.array, zip(*sorted(set(pairs)), strict=True))
    # Of opposite signs, the sides of the second are exchanged.
    exchanged = np.where(signs[:, None] > 0, [0, 1], [1, 0])
    pairs = (
        h1[first],
        w1[first],
        h2[second],
        w2[second[:, None], exchanged],
        jnp.asarray(signs, correlation.dtype),
    )

    @jax.checkpoint
    def add_pair(total: Array, pair: tuple[Array, ...]) -> tuple[Array, None]:
        h1, w1, h2, w2, sign = pair
        moments = truncated_moments(h1, h2, sign * correlation)
        for i, p in enumerate(used):
            for j, q in enumerate(used):
                weight = w1[0, i] * w2[0, j] + w1[1, i] * w2[1, j]
                total = total + weight * moments[p][q]
        return total, None

    start = jnp.zeros(shape, correlation.dtype)
    return jax.lax.scan(add_pair, start, pairs)[0]
