"""What conjugate gradients are preconditioned with: the large part of a Gram matrix."""

import numpy as np

from lazyjax.grams.solving.products import Product


def nystrom_preconditioner(
    multiply: Product,
    size: int,
    rank: int,
    ridge: float,
    eps: float,
) -> Product:
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
    multiply: Product, size: int, rank: int, eps: float
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
