"""A kernel's eigenvectors, and how much of the targets lies along each."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_array, check_finite, check_floating, check_targets
from lazyjax.linalg import gram_matrix
from lazyjax.typing import AnyArray


class Modes(NamedTuple):
    """Eigensystem of a kernel of `m` examples, and targets in it, in float64.

    Attributes:
        values: Eigenvalues of the matrix, ascending; what rounding made negative is 0.
        vectors: In columns.
        coefficients: Targets along the eigenvectors, one column an output.
    """

    values: Float[np.ndarray, " m"]
    vectors: Float[np.ndarray, "m m"]
    coefficients: Float[np.ndarray, "m k"]


def modes(kernel: Float[AnyArray, "m m"], y: Float[AnyArray, "m k"]) -> Modes:
    """Eigensystem of a kernel, and targets in it.

    Args:
        kernel: One number for each pair of examples: that of all outputs.
        y: Their targets, `(m, k)`.

    Returns:
        The modes.

    Raises:
        ValueError: If shapes do not fit, or something is not finite.
        TypeError: If an argument is not an array of floating-point numbers.
    """
    matrix = checked_matrix(kernel)
    check_array("y", y)
    check_floating("y", y)
    check_targets("y", y, matrix.shape[0], y.shape[-1] if y.ndim else 1)
    check_finite("y", y)
    values, vectors = eigensystem(matrix)
    return Modes(values, vectors, vectors.T @ np.asarray(y, np.float64))


def eigensystem(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending and not negative, and eigenvectors in columns."""
    values, vectors = np.linalg.eigh(matrix)
    return np.maximum(values, 0), vectors


def checked_matrix(kernel: AnyArray) -> Float[np.ndarray, "m m"]:
    """The kernel as a symmetric matrix in float64.

    Args:
        kernel: One number for each pair of examples.

    Returns:
        Its symmetric part.

    Raises:
        ValueError: If it has another shape, or something is not finite.
        TypeError: If it is not an array of floating-point numbers.
    """
    check_array("kernel", kernel)
    check_floating("kernel", kernel)
    if kernel.ndim == 4 and kernel.shape[2:] == (1, 1):
        kernel = gram_matrix(kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            "`kernel` must have shape (m, m), one number for each pair of examples, such "
            'as `infinite_ntk` or `empirical_ntk(..., outputs="pseudo")`; got '
            f"{kernel.shape}."
        )
    check_finite("kernel", kernel)
    matrix = np.asarray(kernel, np.float64)
    return (matrix + matrix.T) / 2
