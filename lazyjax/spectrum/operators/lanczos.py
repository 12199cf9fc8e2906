r"""Lanczos iteration with full reorthogonalization, also where it breaks down.

A Krylov space of fewer dimensions than steps (a kernel of low rank, or with few distinct
eigenvalues) ends the iteration early: what is left of the next vector is rounding.
Then the off-diagonal entry is zero and the iteration goes on from a new random vector,
so that the tridiagonal matrix stays a section of the operator and has no spurious
eigenvalues. Every vector is orthogonalized again *after* it was scaled to unit length,
because that also scales the rounding which is left in it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyjax.spectrum.operators.kinds import LinearOperator


class KrylovSection(NamedTuple):
    """An operator on a Krylov space.

    Attributes:
        values: Eigenvalues of the section, ascending: Ritz values.
        vectors: Its eigenvectors, in columns.
        basis: Orthonormal basis of the space, in rows.
    """

    values: Float[Array, " steps"]
    vectors: Float[Array, "steps steps"]
    basis: Float[Array, "steps m"]

    @property
    def weights(self) -> Float[Array, " steps"]:
        """Squared components of the first vector along the Ritz vectors."""
        return self.vectors[0] ** 2


def lanczos(
    operator: LinearOperator, num_steps: int, key: Key[Array, ""]
) -> KrylovSection:
    """Section of an operator on the Krylov space of a random vector.

    Args:
        operator: Symmetric.
        num_steps: Products with the operator; no more are done than it has rows.
        key: Source of the first vector, and of those that go on after a breakdown.

    Returns:
        The section.
    """
    num_steps = min(num_steps, operator.shape[0])
    first, key = jax.random.split(key)
    start = jax.random.normal(first, operator.shape[:1], operator.dtype)
    basis = jnp.zeros((num_steps, start.size), start.dtype)
    vector = start / jnp.linalg.norm(start)
    scale = jnp.zeros((), start.dtype)
    diagonal, off_diagonal = [], []
    for step in range(num_steps):
        product = operator.mv(vector)
        fresh = jax.random.normal(
            jax.random.fold_in(key, step), start.shape, start.dtype
        )
        basis, vector, alpha, beta, scale = _step(
            basis, step, vector, product, fresh, scale
        )
        diagonal.append(alpha)
        off_diagonal.append(beta)
    off = jnp.stack(off_diagonal)[:-1]
    section = jnp.diag(jnp.stack(diagonal)) + jnp.diag(off, 1) + jnp.diag(off, -1)
    values, vectors = jnp.linalg.eigh(section)
    return KrylovSection(values, vectors, basis)


@functools.partial(jax.jit, donate_argnums=0)
def _step(
    basis: Array,
    step: int | Array,
    vector: Array,
    product: Array,
    fresh: Array,
    scale: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Basis with one vector more, the next vector, and the section's new entries."""
    basis = basis.at[step].set(vector)
    alpha = jnp.vdot(vector, product)
    rest = _orthogonal(basis, product)
    beta = jnp.linalg.norm(rest)
    scale = jnp.maximum(scale, jnp.maximum(jnp.abs(alpha), beta))
    is_broken = beta <= 10 * jnp.finfo(beta.dtype).eps * scale
    following = jnp.where(is_broken, fresh, rest / jnp.where(is_broken, 1, beta))
    for _ in range(2):
        following = _orthogonal(basis, following)
        # In a full basis, nothing is left, and the result is not used.
        length = jnp.linalg.norm(following)
        following = following / jnp.where(length > 0, length, 1)
    return basis, following, alpha, jnp.where(is_broken, 0, beta), scale


def _orthogonal(basis: Array, vector: Array) -> Array:
    """What is left of a vector once its components along a basis are taken away."""
    highest = jax.lax.Precision.HIGHEST
    for _ in range(2):
        components = jnp.matmul(basis, vector, precision=highest)
        vector = vector - jnp.matmul(components, basis, precision=highest)
    return vector
