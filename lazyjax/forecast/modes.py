"""A kernel's eigenvectors, and how much of the targets lies along each."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_array, check_finite, check_floating, check_targets
from lazyjax.linalg import check_semidefinite, gram_matrix
from lazyjax.linalg.eigen import ALLOWANCE
from lazyjax.typing import AnyArray


class Modes(NamedTuple):
    """Eigensystem of a kernel of `m` examples, and targets in it, in float64.

    Attributes:
        values: Eigenvalues of the matrix, ascending; 0 where they are zero to rounding.
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
    check_array("y", y)
    check_floating("y", y)
    values, vectors = eigensystem(kernel)
    check_targets("y", y, values.size, y.shape[-1] if y.ndim else 1)
    check_finite("y", y)
    return Modes(values, vectors, vectors.T @ np.asarray(y, np.float64))


def eigensystem(
    kernel: Float[AnyArray, "m m"],
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """Eigenvalues and eigenvectors of a kernel in float64.

    Args:
        kernel: One number for each pair of examples.

    Returns:
        Eigenvalues, ascending, those that are zero to the rounding of the kernel as 0;
        and eigenvectors in columns.

    Raises:
        ValueError: If it has another shape, something is not finite, or it is not
            symmetric and positive semidefinite.
        TypeError: If it is not an array of floating-point numbers.
    """
    check_array("kernel", kernel)
    check_floating("kernel", kernel)
    if kernel.ndim == 4 and kernel.shape[2:] == (1, 1):
        kernel = gram_matrix(kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.size:
        raise ValueError(
            "`kernel` must have shape (m, m), one number for each pair of examples, such "
            'as `infinite_ntk` or `empirical_ntk(..., outputs="pseudo")`; got '
            f"{kernel.shape}."
        )
    check_finite("kernel", kernel)
    matrix = np.asarray(kernel, np.float64)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    # Rounding is that of the kernel's own dtype, beside that of the decomposition.
    asymmetry, smallest, scale = (
        np.asarray(number, kernel.dtype)
        for number in (np.linalg.norm(matrix - matrix.T), values[0], np.max(values))
    )
    check_semidefinite("kernel", asymmetry=asymmetry, smallest=smallest, scale=scale)
    eps = ALLOWANCE * float(jnp.finfo(kernel.dtype).eps)
    eps += values.size * float(np.finfo(np.float64).eps)
    return np.where(values > eps * values[-1], values, 0.0), vectors
