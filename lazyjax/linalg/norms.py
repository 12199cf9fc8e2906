"""Norms, eigenvalues and singular values that hold at any size and on any device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.typing import AnyArray


def frobenius_norm(matrices: Float[AnyArray, "*batch n m"]) -> Float[Array, "*batch"]:
    """Frobenius norms of matrices, of any size that can be represented.

    Args:
        matrices: One matrix, or several along leading axes.

    Returns:
        Their norms: squares neither overflow nor vanish.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(frobenius_norm(jnp.full((2, 2), 1e30, jnp.float32))) / 1e30, 6)
        2.0
    """
    matrices = jnp.asarray(matrices)
    largest = jnp.max(jnp.abs(matrices), axis=(-2, -1))
    # A power of two, by which nothing is rounded, and whose inverse is a normal number.
    limit = int(jnp.finfo(matrices.dtype).maxexp) - 2
    _, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
    exponent = jnp.clip(exponent, -limit, limit)
    one = jnp.ones_like(largest)
    scaled = matrices * jnp.ldexp(one, -exponent)[..., None, None]
    return jnp.linalg.norm(scaled, axis=(-2, -1)) * jnp.ldexp(one, exponent)


def eigvalsh(matrices: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Eigenvalues of symmetric matrices, increasing; one matrix after the other.

    Two batched eigensolves that run at once can block each other for ever on a CPU with
    few cores (seen with JAX 0.10.2); solves of one matrix were not seen to.

    Args:
        matrices: One matrix, or several along leading axes; also under `vmap`.

    Returns:
        Their eigenvalues.
    """
    return _one_by_one(_eigvalsh, matrices)


def singular_values(matrices: Float[Array, "*batch n m"]) -> Float[Array, "*batch r"]:
    """Singular values of matrices, decreasing; one matrix after the other.

    Args:
        matrices: One matrix, or several along leading axes; also under `vmap`.

    Returns:
        Their `r = min(n, m)` singular values.
    """
    return _one_by_one(_singular_values, matrices)


_eigvalsh = jax.custom_batching.sequential_vmap(
    lambda matrix: jnp.linalg.eigvalsh(matrix)  # its defaults are no operands
)
_singular_values = jax.custom_batching.sequential_vmap(
    lambda matrix: jnp.linalg.svd(matrix, compute_uv=False)
)


def _one_by_one(values_of: Callable[[Array], Array], matrices: Array) -> Array:
    if matrices.ndim == 2:
        return values_of(matrices)
    values = jax.lax.map(values_of, matrices.reshape(-1, *matrices.shape[-2:]))
    return values.reshape(*matrices.shape[:-2], -1)
