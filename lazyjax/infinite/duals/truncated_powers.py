r"""Gaussian moments of truncated powers $(g - h)_+^p / p!$, of which kinks are made.

For standard Gaussians $g, g'$ of correlation $\rho$, and $h, h' \ge 0$, let
$m_{pq} = E[(g - h)_+^p (g' - h')_+^q] / (p!\,q!)$, where the power $-1$ is a point mass.
Then $m_{00}$ is a bivariate normal probability, by Stein's lemma

$$p\,m_{pq} = \rho\,m_{p-1,q-1} - h\,m_{p-1,q} + m_{p-2,q},$$

and derivatives in $\rho, h, h'$ are $m_{p-1,q-1}$, $-m_{p-1,q}$, $-m_{p,q-1}$.
"""

import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.activations.moments import safe_sqrt

# Powers 0, 1, 2: jumps of a function and of its first two derivatives.
NUM_POWERS = 3

# m[p][q] for powers from 0.
Moments: TypeAlias = tuple[tuple[Array, ...], ...]

# Probabilities of two positive arguments that are both 0 have a limit, as both grow
# from 0 together.
_TINY = 1e-15


@jax.custom_jvp
def truncated_moments(h1: Array, h2: Array, rho: Array) -> Moments:
    r"""Moments $m_{pq}$, as `[p][q]`, for $h, h' \ge 0$ and correlation $\rho$."""
    rests = _rests(h1, h2, rho)
    m = _edges(h1, h2, rests)
    m[0, 0] = _both_above(h1, h2, rho, rests)
    for q in range(1, NUM_POWERS):
        m[0, q] = (rho * m[-1, q - 1] - h2 * m[0, q - 1] + m[0, q - 2]) / q
    for p in range(1, NUM_POWERS):
        for q in _POWERS:
            m[p, q] = (rho * m[p - 1, q - 1] - h1 * m[p - 1, q] + m[p - 2, q]) / p
    return tuple(tuple(m[p, q] for q in _POWERS) for p in _POWERS)


@truncated_moments.defjvp
def _truncated_moments_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Moments, Moments]:
    d1, d2, d_rho = tangents
    moments = truncated_moments(*primals)
    # Boundary cases of the table are differentiated as written, the others again so.
    h1, h2, rho = primals
    table = _edges(h1, h2, _rests(h1, h2, rho))
    table |= {(p, q): moments[p][q] for p in _POWERS for q in _POWERS}
    changes = tuple(
        tuple(
            table[p - 1, q - 1] * d_rho - table[p - 1, q] * d1 - table[p, q - 1] * d2
            for q in _POWERS
        )
        for p in _POWERS
    )
    return moments, changes


def truncated_means(h: Float[Array, "*q"]) -> list[Float[Array, "*q"]]:
    """Means of truncated powers of one Gaussian, by power."""
    means = [_density(h), _above(h)]  # powers -1 and 0
    for p in range(1, NUM_POWERS):
        means.append((means[-2] - h * means[-1]) / p)
    return means[1:]


def truncated_coefficients(
    h: Float[Array, "*q"], num_terms: int
) -> list[Float[Array, "terms *q"]]:
    r"""Hermite coefficients $E[(g - h)_+^p He_k(g)] / (p! \sqrt{k!})$, by power."""
    # Integration by parts makes them E of lower powers, then He_{k-p-1}(h).

    def step(state: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Array]:
        before, now = state
        after = (h * now - jnp.sqrt(k) * before) / jnp.sqrt(k + 1)
        return (now, after), now

    degrees = jnp.arange(num_terms, dtype=h.dtype)
    _, hermite = jax.lax.scan(step, (jnp.zeros_like(h), _density(h)), degrees)
    means = truncated_means(h)
    found = []
    for p in range(NUM_POWERS):
        low = [means[p - k] / math.sqrt(math.factorial(k)) for k in range(p + 1)]
        k = np.arange(p + 1, num_terms)
        falling = np.prod([k - j for j in range(p + 1)], axis=0)
        factors = jnp.asarray(1 / np.sqrt(falling), h.dtype)
        factors = factors.reshape(-1, *(1,) * h.ndim)
        high = factors * hermite[: num_terms - p - 1]
        found.append(jnp.concatenate([jnp.stack(low), high]))
    return found


_POWERS = range(NUM_POWERS)


class _Rests(NamedTuple):
    """What one Gaussian must still exceed, given that the other is at its place."""

    sine: Array  # deviation that is left, the root of `1 - rho**2`
    # Places beyond the conditional mean, that of the second Gaussian first.
    places: Float[Array, "2 *q"]
    ratios: Float[Array, "2 *q"]  # the same over the deviation
    # Probabilities to exceed the absolute values of the ratios.
    tails: Float[Array, "2 *q"]


def _rests(h1: Array, h2: Array, rho: Array) -> _Rests:
    sine = safe_sqrt((1 - rho) * (1 + rho))
    places = jnp.stack([_rest(h1, h2, rho), _rest(h2, h1, rho)])
    ratios = _ratio(places, sine[None])
    # Not `jnp.abs`, whose derivative at 0 is neither of the two sides.
    sizes = jnp.where(ratios < 0, -ratios, ratios)
    return _Rests(sine, places, ratios, _above(sizes))


def _edges(h1: Array, h2: Array, rests: _Rests) -> dict[tuple[int, int], Array]:
    """Moments of which a power is -1: densities times means of the other side."""
    first, second = _density(h1), _density(h2)
    m: dict[tuple[int, int], Array] = {}
    for q, mean in enumerate(_conditional_means(rests, 0)):
        m[-1, q] = first * mean
    for p, mean in enumerate(_conditional_means(rests, 1)):
        m[p, -1] = second * mean
    m[-1, -1] = first * _density(rests.ratios[0]) * _inverse(rests.sine)
    return m


def _conditional_means(rests: _Rests, side: int) -> list[Array]:
    """Means of truncated powers of a Gaussian of deviation `sine` at its place."""
    sine, place, ratio = rests.sine, rests.places[side], rests.ratios[side]
    tail = rests.tails[side]
    means = [sine * _density(ratio), jnp.where(ratio < 0, 1 - tail, tail)]
    for q in range(1, NUM_POWERS):
        variance = sine**2 if q > 1 else 1
        means.append((variance * means[-2] - place * means[-1]) / q)
    return means[1:]


def _both_above(h1: Array, h2: Array, rho: Array, rests: _Rests) -> Array:
    r"""Probability that $g > h$ and $g' > h'$, by Owen's function of each of the two."""

    def both(first: Array, second: Array) -> Array:  # two at once: programs are long
        return jnp.stack(jnp.broadcast_arrays(first, second, rho)[:2])

    h1, h2 = jnp.maximum(h1, _TINY), jnp.maximum(h2, _TINY)
    h, above = both(h1, h2), both(_above(h1), _above(h2))
    y = _ratio(_rest(h, h[::-1], rho[None]), rests.sine[None])
    # Where `h` was 0, tails do not matter: they are multiplied by `1 - 2 * above`.
    total = above / 2 - _owen(h, y, above, rests.tails)
    return jnp.maximum(total[0] + total[1], 0)


def _rest(h: Array, other: Array, rho: Array) -> Array:
    r"""$h' - \rho h$, without cancellation near $\rho = \pm 1$."""
    near = (other - h) + h * (1 - rho)
    return jnp.where(rho > 0, near, (other + h) - h * (1 + rho))


def _owen(h: Array, y: Array, above: Array, above_y: Array) -> Array:
    """Owen's $T(h, y / h)$ for $h > 0$, of known probabilities above $h$ and $|y|$."""
    # Written for a ratio of at most 1, which it is or its inverse is: there a few nodes
    # are enough, the nearest singularity in units of the ratio being at i and -i.
    size = jnp.abs(y)
    larger = jnp.maximum(h, size)
    ratio = jnp.minimum(h, size) / larger
    node, weight = (
        jnp.asarray(table.reshape(-1, *(1,) * h.ndim), h.dtype)
        for table in _owen_rule(h.dtype)
    )
    square = 1 + (ratio[None] * node) ** 2
    total = jnp.sum(weight * jnp.exp(-(larger[None] ** 2) / 2 * square) / square, 0)
    inner = ratio * total / (2 * np.pi)
    outer = (above + above_y) / 2 - above * above_y - inner
    return jnp.sign(y) * jnp.where(size <= h, inner, outer)


def _owen_rule(dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre rule on [0, 1] for even functions."""
    num_nodes = 12 if jnp.finfo(dtype).bits > 32 else 6
    nodes, weights = np.polynomial.legendre.leggauss(2 * num_nodes)
    return nodes[num_nodes:], weights[num_nodes:]


def _density(x: Array) -> Array:
    return jnp.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _above(x: Array) -> Array:
    return jax.lax.erfc(x / math.sqrt(2)) / 2


def _inverse(sine: Array) -> Array:
    return jnp.where(sine > 0, 1 / jnp.where(sine > 0, sine, 1), 0)


def _ratio(rest: Array, sine: Array) -> Array:
    """`rest / sine`; at sine 0 a number beyond all deviations, or 0 if both are."""
    ratio = rest / jnp.where(sine > 0, sine, 1)
    return jnp.where(sine > 0, ratio, 1e3 * jnp.sign(rest))
