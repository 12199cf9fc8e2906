r"""Bounds of norms and eigenvalues of float64 matrices that hold despite rounding.

Matrix products are taken to be computed in float64 by sums of products in any order, so
that every entry of $AB$ is off by at most $\gamma_k (|A| |B|)_{ij}$ (Higham 2002).
"""

import math

import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.rounding import gamma, root_up, round_down, round_up

# Above this size an eigenvalue that is large is guessed by Lanczos' method.
_LARGE = 256

# Shifts are at least this, so that zero has a Cholesky factor as well.
_LEAST_SLACK = 1e-280


def row_norms_upper(
    matrix: Float[np.ndarray, "*rows columns"], unit: float
) -> Float[np.ndarray, "*rows"]:
    """Upper bounds of the Euclidean norms along the last axis."""
    squares = np.einsum("...j,...j->...", matrix, matrix)
    return root_up(squares, matrix.shape[-1] + 1, unit)


def frobenius_upper(matrix: Float[np.ndarray, "*shape"], unit: float) -> float:
    """Upper bound of the root of the sum of squares of all entries."""
    return float(row_norms_upper(matrix.reshape(1, -1), unit)[0])


def frobenius_lower(matrix: Float[np.ndarray, "*shape"], unit: float) -> float:
    """Lower bound of the root of the sum of squares of all entries."""
    flat = matrix.reshape(-1)
    return float(
        np.sqrt(round_down(float(flat @ flat), flat.size + 1, unit)) * (1 - 4 * unit)
    )


def scaled_norm(values: Float[np.ndarray, "*shape"]) -> float:
    """Root of the sum of squares, rounded, of which none over- or underflows."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if not 0 < largest < math.inf:
        return largest
    return largest * math.sqrt(float(np.sum(np.square(values / largest))))


def symmetric_norm_upper(matrix: Float[np.ndarray, "n n"], unit: float) -> float:
    """Upper bound of the spectral norm of a symmetric matrix, by its entries."""
    sums = round_up(np.sum(np.abs(matrix), axis=1), len(matrix), unit)
    return min(float(np.max(sums)), frobenius_upper(matrix, unit))


def gram_and_error(
    matrix: Float[np.ndarray, "n p"], unit: float
) -> tuple[Float[np.ndarray, "n n"], float]:
    """The product of a matrix with its transpose, symmetric, and the norm of its error."""
    norms = row_norms_upper(matrix, unit)
    # The error is below gamma times an outer product, entry by entry.
    error = round_up(
        gamma(matrix.shape[1], unit) * (norms @ norms), matrix.size + 2, unit
    )
    return symmetric(matrix @ matrix.T), float(error)


def symmetric(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The lower triangle and its mirror image: bounds of entries stay valid."""
    lower = np.tril(matrix)
    return lower + np.tril(matrix, -1).T


def eig_min_lower(matrix: Float[np.ndarray, "n n"], unit: float) -> float:
    r"""Lower bound of the smallest eigenvalue of a symmetric matrix.

    If $R$ is any matrix at all, $A - \tau I = R R^\top + D$ has no eigenvalue below
    $-\lVert D\rVert$. So $R$ is a Cholesky factor computed without care, for $\tau$
    just below the smallest eigenvalue, and $D$ is bounded with care.

    Args:
        matrix: Symmetric matrix.
        unit: Unit roundoff; 0 for the computed eigenvalue as it is.

    Returns:
        The bound, negative infinity if none was found.

    References:
        Rump (2006), Verification of positive definiteness, BIT 46 (constant not
        checked: it is not used, the residual is bounded directly).
    """
    if not np.all(np.isfinite(matrix)):
        return -math.inf
    guess = _eig_min_guess(matrix)
    if unit == 0:
        return guess
    scale = float(np.sum(np.abs(np.diagonal(matrix)))) + abs(guess)
    slack = len(matrix) * unit * scale + _LEAST_SLACK
    for _ in range(16):
        shift = guess - slack
        bound = _eig_min_by_cholesky(matrix, shift, unit)
        if bound > -math.inf:
            return bound
        slack *= 8
    return -math.inf


def eig_max_upper(matrix: Float[np.ndarray, "n n"], unit: float) -> float:
    """Upper bound of the largest eigenvalue of a symmetric matrix."""
    return -eig_min_lower(-matrix, unit)


def spectral_norm_upper(matrix: Float[np.ndarray, "n p"], unit: float) -> float:
    """Upper bound of the largest singular value."""
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    gram, error = gram_and_error(matrix, unit)
    return float(root_up(max(eig_max_upper(gram, unit), 0.0) + error, 1, unit))


def perron_upper(matrix: Float[np.ndarray, "n n"], unit: float) -> float:
    r"""Upper bound of the spectral radius of a nonnegative matrix.

    By Collatz and Wielandt it is at most $\max_i (Mv)_i / v_i$ for any $v > 0$.

    Args:
        matrix: Matrix with nonnegative entries.
        unit: Unit roundoff.

    Returns:
        The bound.
    """
    if not np.all(np.isfinite(matrix)):
        return math.inf
    vector = np.ones(len(matrix))
    for _ in range(50):
        image = matrix @ vector
        largest = np.max(image)
        if not largest > 0:
            break
        vector = np.maximum(image / largest, 1e-6)
    ratio = round_up(matrix @ vector, len(matrix) + 1, unit) / vector
    return float(np.max(ratio) * (1 + 2 * unit))


def _eig_min_by_cholesky(matrix: np.ndarray, shift: float, unit: float) -> float:
    """Lower bound of the smallest eigenvalue, if that minus `shift` has a factor."""
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] -= shift
    try:
        factor = np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return -math.inf
    if not np.all(np.isfinite(factor)):
        return -math.inf
    return _eig_min_by_factor(matrix, factor, shift, unit)


def _eig_min_by_factor(
    matrix: np.ndarray, factor: np.ndarray, shift: float, unit: float
) -> float:
    """Lower bound of the smallest eigenvalue from any matrix that may be a factor."""
    n = len(matrix)
    diagonal = np.arange(n)
    residual = matrix - symmetric(factor @ factor.T)
    cancelled = np.max(np.abs(np.diagonal(residual))) + abs(shift)
    residual[diagonal, diagonal] -= shift
    rounded = gamma(n, unit) * frobenius_upper(factor, unit) ** 2
    subtracted = gamma(2, unit) * cancelled
    error = symmetric_norm_upper(residual, unit) * (1 + gamma(2, unit))
    total = round_up(error + rounded + subtracted, n * n + 8, unit)
    return math.nextafter(shift - float(total), -math.inf)


def _eig_min_guess(matrix: np.ndarray) -> float:
    """Smallest eigenvalue in floating point, or some number near it or below."""
    if len(matrix) <= _LARGE or np.min(np.diagonal(matrix)) > 0:
        return float(np.linalg.eigvalsh(matrix)[0])
    from scipy.sparse.linalg import ArpackError, eigsh  # takes a while to import

    first = np.random.default_rng(0).standard_normal(len(matrix))
    try:
        found = eigsh(
            matrix, k=1, which="SA", v0=first, maxiter=100, return_eigenvectors=False
        )
    except ArpackError:  # as of a matrix of zeros
        return -float(np.max(np.sum(np.abs(matrix), axis=1)))
    return float(found[0])
