r"""Gaussian moments of arbitrary elementwise functions by Hermite (Mehler) series."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.activations import gaussian_quadrature

# Terms of the series, in blocks that are fused: 126 coefficients and two remainders.
_NUM_TERMS = 128
_BLOCK = 16


def hermite_dual(
    phi: Callable[[Array], Array],
    std1: Float[Array, "*#q"],
    correlation: Float[Array, "*#q"],
    std2: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Moment $E[\phi(\sigma_1 g)\phi(\sigma_2 h)]$ of standard Gaussians $g, h$.

    With $a_k(\sigma) = E[\phi(\sigma g) He_k(g)] / \sqrt{k!}$ it is the series
    $\sum_k a_k(\sigma_1) a_k(\sigma_2) \rho^k$ (Mehler), positive semidefinite term by
    term. Work is linear in the number of entries times that of terms; coefficients are
    computed once per standard deviation given.

    Args:
        phi: Elementwise function.
        std1: Standard deviation $\sigma_1 \ge 0$.
        correlation: Correlation $\rho$ of $g$ and $h$, in [-1, 1].
        std2: Standard deviation $\sigma_2 \ge 0$.

    Returns:
        The moments, one per entry of the broadcast arguments.
    """
    a1, a2 = _coefficients(phi, std1), _coefficients(phi, std2)
    shape = jnp.broadcast_shapes(std1.shape, correlation.shape, std2.shape)

    @jax.checkpoint  # one array per block, not per term, is kept for differentiation
    def add_block(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        for left, right in zip(*block, strict=True):
            total = total * correlation + left * right
        return total, None

    blocks = tuple(
        a[::-1].reshape(_NUM_TERMS // _BLOCK, _BLOCK, *a.shape[1:]) for a in (a1, a2)
    )
    start = jnp.zeros(shape, correlation.dtype)
    return jax.lax.scan(add_block, start, blocks)[0]


def hermite_variance(
    phi: Callable[[Array], Array], std: Float[Array, "*q"]
) -> Float[Array, "*q"]:
    r"""Moment $E[\phi(\sigma g)^2]$ of a standard Gaussian $g$, by quadrature.

    Args:
        phi: Elementwise function.
        std: Standard deviation $\sigma \ge 0$.

    Returns:
        The moments; what `hermite_dual` gives at correlation 1, at a fraction of its
        cost.
    """
    nodes, weights, _ = _quadrature(2)
    return _expect(jnp.asarray(weights, std.dtype), phi(_scaled(nodes, std)) ** 2)


def hermite_mean(
    phi: Callable[[Array], Array], std: Float[Array, "*q"]
) -> Float[Array, "*q"]:
    r"""Mean $E[\phi(\sigma g)]$ over a standard Gaussian $g$, by quadrature.

    Args:
        phi: Elementwise function.
        std: Standard deviation $\sigma \ge 0$.

    Returns:
        The means.
    """
    nodes, weights, _ = _quadrature(2)
    return _expect(jnp.asarray(weights, std.dtype), phi(_scaled(nodes, std)))


def truncation_bound(
    phi: Callable[[Array], Array],
    std1: Float[Array, "*#q"],
    correlation: Float[Array, "*#q"],
    std2: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Bound of what the terms left out of `hermite_dual` change.

    Both the true tail and the two terms that stand for it are at most
    $r(\sigma_1) r(\sigma_2) |\rho|^{126}$, where $r^2$ is the variance left over.

    Args:
        phi: Elementwise function.
        std1: As in `hermite_dual`.
        correlation: As in `hermite_dual`.
        std2: As in `hermite_dual`.

    Returns:
        Twice that, one per entry; the error of quadrature comes in addition.
    """
    rest1, rest2 = (
        jnp.sqrt(jnp.sum(_coefficients(phi, std)[-2:] ** 2, axis=0))
        for std in (std1, std2)
    )
    return 2 * rest1 * rest2 * jnp.abs(correlation) ** (_NUM_TERMS - 2)


def _coefficients(
    phi: Callable[[Array], Array], std: Float[Array, "*q"]
) -> Float[Array, "terms *q"]:
    """Hermite coefficients of `phi` scaled by `std`, and two remainders."""
    nodes, weights, basis = _quadrature(_NUM_TERMS - 2)
    weights, basis = (jnp.asarray(table, std.dtype) for table in (weights, basis))
    values = phi(_scaled(nodes, std))
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


def _scaled(nodes: np.ndarray, std: Array) -> Array:
    """Every node times every standard deviation, nodes on a new leading axis."""
    nodes = nodes.reshape(-1, *(1,) * std.ndim)
    return jnp.asarray(nodes, std.dtype) * std[None]


def _expect(weights: Array, values: Array) -> Array:
    return jnp.tensordot(weights, values, 1, precision=jax.lax.Precision.HIGHEST)


def _remainder(variance: Array, a: Array) -> Array:
    """Square root of what squares of `a` lack of `variance`, 0 if that is rounding."""
    left = variance - jnp.sum(a**2, axis=0)
    is_real = left > 100 * jnp.finfo(left.dtype).eps * variance
    return jnp.where(is_real, jnp.sqrt(jnp.where(is_real, left, 1)), 0)


def _quadrature(num_terms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, Gaussian weights, and weighted normalized Hermite polynomials at nodes."""
    nodes, weights = gaussian_quadrature()
    basis = np.empty((num_terms, nodes.size))
    basis[0], basis[1] = weights, weights * nodes
    for k in range(1, num_terms - 1):
        basis[k + 1] = (nodes * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
    return nodes, weights, basis
