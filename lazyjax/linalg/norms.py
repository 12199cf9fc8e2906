"""Norms, eigenvalues and singular values that hold at any size and on any device."""

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
    if matrices.ndim == 2:
        return _eigvalsh_of_one(matrices)
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    return jax.lax.map(_eigvalsh_of_one, flat).reshape(matrices.shape[:-1])


@jax.custom_batching.sequential_vmap
def _eigvalsh_of_one(matrix: Array) -> Array:
    return jnp.linalg.eigvalsh(matrix)


def singular_values(matrices: Float[Array, "*batch n m"]) -> Float[Array, "*batch r"]:
    """Singular values of matrices, decreasing; one matrix after the other.

    Args:
        matrices: One matrix, or several along leading axes; also under `vmap`.

    Returns:
        Their `r = min(n, m)` singular values.
    """
    if matrices.ndim == 2:
        return _singular_values_of_one(matrices)
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    values = jax.lax.map(_singular_values_of_one, flat)
    return values.reshape(*matrices.shape[:-2], -1)


@jax.custom_batching.sequential_vmap
def _singular_values_of_one(matrix: Array) -> Array:
    return jnp.linalg.svd(matrix, compute_uv=False)
