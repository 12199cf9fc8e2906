r"""Factors of positive semidefinite matrices: Cholesky's, or eigenvectors.

Where a solve is all that is needed, Cholesky's factor serves if its smallest eigenvalue
is estimated beyond $2 \epsilon \lambda_{\max}$. Of singular matrices it was 1/4 at most,
where there was a factor at all; and of regular ones it was right to a fifth, though the
residual of eigenvectors was far larger. Solutions are 3 to 20 times as accurate as from
eigenvectors; a step of iterative refinement in the same precision gained nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.linalg.eigen import ALLOWANCE, dot, eigh

# Starting vectors and iterations by which extreme eigenvalues are estimated.
_NUM_STARTS = 4
_NUM_ITERATIONS = 16


class Extreme(NamedTuple):
    """An eigenvalue at one end of the spectrum, and its unit eigenvector."""

    value: Array
    vector: Array


class Factorization(NamedTuple):
    """Factors of a matrix, which have no derivatives of their own."""

    matrix: Array  # cholesky's lower factor, or eigenvectors in columns
    # Inverses of the eigenvalues, 0 for those that are dropped; ones beside Cholesky's
    # factor.
    inverses: Array
    is_dropped: Array  # eigenvalues that are zero to rounding
    is_cholesky: Array  # what `matrix` is
    cutoff: Array  # up to which eigenvalues are zero to rounding
    # Logarithm of the determinant; eigenvalues below the cutoff count as it.
    log_det: Array
    smallest: Extreme  # smallest eigenvalue and its vector
    largest: Extreme  # largest eigenvalue and its vector


@jax.custom_batching.sequential_vmap
def factorize(matrix: Array) -> Factorization:
    """Cholesky's factor if the matrix is regular to rounding, else eigenvectors."""
    found = by_cholesky(matrix)
    return jax.lax.cond(
        is_regular(found), lambda: found, lambda: by_eigenvectors(matrix)
    )


def is_regular(found: Factorization) -> Array:
    """Whether Cholesky's factor serves: where there is none, the eigenvalue is NaN."""
    return found.smallest.value > found.cutoff


def by_cholesky(matrix: Array) -> Factorization:
    """Cholesky's factor, and estimates of extreme eigenvalues."""
    size, dtype = matrix.shape[0], matrix.dtype
    lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    largest = _extreme(lambda v: dot(matrix, v), size, dtype)
    grown = _extreme(lambda v: _cholesky_solve(lower, v), size, dtype)
    return Factorization(
        matrix=lower,
        inverses=jnp.ones(size, dtype),
        is_dropped=jnp.zeros(size, bool),
        is_cholesky=jnp.array(True),
        cutoff=largest.value * (ALLOWANCE * float(jnp.finfo(dtype).eps)),
        log_det=2 * jnp.sum(jnp.log(jnp.diagonal(lower))),
        smallest=Extreme(1 / grown.value, grown.vector),
        largest=largest,
    )


def by_eigenvectors(matrix: Array) -> Factorization:
    """Eigenvectors, of which those of eigenvalues that are zero to rounding are dropped."""
    values, vectors, cutoff = eigh(matrix)
    is_dropped = values <= cutoff
    floor = jnp.maximum(cutoff, jnp.finfo(matrix.dtype).tiny)
    return Factorization(
        matrix=vectors,
        inverses=jnp.where(is_dropped, 0, 1 / jnp.where(is_dropped, 1, values)),
        is_dropped=is_dropped,
        is_cholesky=jnp.array(False),
        cutoff=floor,
        log_det=jnp.sum(jnp.log(jnp.maximum(values, floor))),
        smallest=Extreme(values[0], vectors[:, 0]),
        largest=Extreme(values[-1], vectors[:, -1]),
    )


def _extreme(product: Callable[[Array], Array], size: int, dtype: jnp.dtype) -> Extreme:
    """The largest eigenvalue by power iteration, from below, and its vector."""
    start = jax.random.normal(jax.random.key(0), (size, _NUM_STARTS), dtype)
    vectors, _ = _unit(start)
    vectors = jax.lax.fori_loop(
        0, _NUM_ITERATIONS, lambda _, v: _unit(product(v))[0], vectors
    )
    vectors, growth = _unit(product(vectors))
    best = jnp.argmax(growth)
    return Extreme(growth[best], vectors[:, best])


def _unit(vectors: Array) -> tuple[Array, Array]:
    """Columns divided by their norms, and the norms; squares do not overflow."""
    largest = jnp.max(jnp.abs(vectors), axis=0)
    vectors = vectors / largest[None]
    norms = jnp.linalg.norm(vectors, axis=0)
    return vectors / norms[None], largest * norms


def apply_inverse(factor: Factorization, right: Array) -> Array:
    """The factorized pseudo-inverse: linear, without a derivative in the matrix."""

    def by_cholesky() -> Array:
        # Under `vmap` both branches are computed: this one must not divide by zero.
        eye = jnp.eye(factor.matrix.shape[0], dtype=factor.matrix.dtype)
        return _cholesky_solve(jnp.where(factor.is_cholesky, factor.matrix, eye), right)

    def by_eigenvectors() -> Array:
        shares = dot(factor.matrix.T, right)
        return dot(factor.matrix, factor.inverses[:, None] * shares)

    return jax.lax.cond(factor.is_cholesky, by_cholesky, by_eigenvectors)


def project_dropped(factor: Factorization, of: Array) -> Array:
    """The dropped part, of a factorization by eigenvectors."""
    shares = dot(factor.matrix.T, of)
    return dot(factor.matrix, jnp.where(factor.is_dropped[:, None], shares, 0))


def _cholesky_solve(lower: Array, right: Array) -> Array:
    half = jax.lax.linalg.triangular_solve(lower, right, left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(
        lower, half, left_side=True, lower=True, transpose_a=True
    )
