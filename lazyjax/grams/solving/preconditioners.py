"""What conjugate gradients are preconditioned with: the large part of a Gram matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.ntk import NTKOperator


def nystrom_preconditioner(
    multiply: Callable[[np.ndarray], np.ndarray],
    size: int,
    rank: int,
    ridge: float,
    eps: float,
) -> Callable[[np.ndarray], np.ndarray]:
    """The inverse of a low-rank approximation of `multiply`, plus the ridge."""
    if not rank:
        return lambda v: v
    vectors, values = _nystrom(multiply, size, rank, eps)
    # What the approximation leaves is taken to be as large as its last eigenvalue.
    rest = max(values[-1] + ridge, np.finfo(np.float64).eps * values[0])
    if not rest > 0:  # a matrix of zeros, or one that is not positive semidefinite
        return lambda v: v
    shares = (rest / np.maximum(values + ridge, rest) - 1)[:, None]
    return lambda v: v + vectors @ (shares * (vectors.T @ v))


def _nystrom(
    multiply: Callable[[np.ndarray], np.ndarray], size: int, rank: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and eigenvalues of the randomized Nystrom approximation."""
    test = np.random.default_rng(0).normal(size=(size, rank))
    test, _ = np.linalg.qr(test)
    image = multiply(test)
    # Rounding of the matrix must not make the small matrix below indefinite.
    shift = np.sqrt(size) * eps * np.linalg.norm(image)
    image = image + shift * test
    inner = test.T @ image
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    roots = np.sqrt(np.maximum(values, shift if shift > 0 else 1.0))
    factor = image @ (vectors / roots)
    vectors, roots, _ = np.linalg.svd(factor, full_matrices=False)
    return vectors, np.maximum(roots**2 - shift, 0.0)


def product_with(matrix: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A matrix, a store or an operator, times columns, in double precision."""
    if isinstance(matrix, NTKOperator):
        # Compiled once for all products; anew for each system, as functions may change.
        program = jax.jit(lambda operator, v: operator @ v)
        return lambda v: np.asarray(
            program(matrix, jnp.asarray(v, matrix.dtype)), np.float64
        )
    return lambda v: np.asarray(matrix @ v, np.float64)
