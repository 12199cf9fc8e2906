"""A kernel's eigenvectors, and how much of the targets lies along each."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax._checks import (
    check_array,
    check_finite,
    check_floating,
    check_nonnegative,
    check_number,
    check_targets,
)
from lazyjax.linalg import check_semidefinite, gram_matrix
from lazyjax.linalg.eigen import ALLOWANCE
from lazyjax.spectrum.operators import Kernel, as_operator, formed, num_rows
from lazyjax.spectrum.operators.views import outputs_of
from lazyjax.typing import AnyArray

# Stores and operators of more rows are not made into matrices.
MAX_ROWS = 8192


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


def modes(kernel: Kernel, y: Float[AnyArray, "m k"]) -> Modes:
    """Eigensystem of a kernel, and targets in it.

    Args:
        kernel: One number for each pair of examples, that of all outputs: an array, a
            store or an operator.
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
    kernel: Kernel, *, name: str = "kernel"
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """Eigenvalues and eigenvectors of a kernel in float64.

    Args:
        kernel: One number for each pair of examples: an array, a store or an operator.
        name: Of the argument, for messages.

    Returns:
        Eigenvalues, ascending, those that are zero to the rounding of the kernel as 0;
        and eigenvectors in columns.

    Raises:
        ValueError: If it has another shape, something is not finite, it is not symmetric
            and positive semidefinite, or it is a store or an operator of more than 8,192
            rows.
        TypeError: If it is none of these, or not of floating-point numbers.
    """
    given = _array(name, kernel)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not given.size:
        raise ValueError(
            f"`{name}` must have shape (m, m), one number for each pair of examples, such "
            'as `infinite_ntk` or `empirical_ntk(..., outputs="pseudo")`; got '
            f"{given.shape}."
        )
    check_finite(name, given)
    matrix = np.asarray(given, np.float64)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    # Rounding is that of the kernel's own dtype, beside that of the decomposition.
    asymmetry, smallest, scale = (
        np.asarray(number, given.dtype)
        for number in (np.linalg.norm(matrix - matrix.T), values[0], np.max(values))
    )
    check_semidefinite(name, asymmetry=asymmetry, smallest=smallest, scale=scale)
    eps = ALLOWANCE * float(jnp.finfo(given.dtype).eps)
    eps += values.size * float(np.finfo(np.float64).eps)
    return np.where(values > eps * values[-1], values, 0.0), vectors


def check_strength(name: str, value: object) -> None:
    """Check that a ridge, or a variance of noise, is one finite number, not negative."""
    check_number(name, value)
    check_nonnegative(name, value, infinity_allowed=False)


def _array(name: str, kernel: Kernel) -> AnyArray:
    """The kernel as an array, of one number for each pair of examples if it can be."""
    if isinstance(kernel, AnyArray):
        check_floating(name, kernel)
        is_of_one = kernel.ndim == 4 and kernel.shape[2:] == (1, 1)
        return gram_matrix(kernel) if is_of_one else kernel
    operator = as_operator(name, kernel)
    if outputs_of(kernel) > 1:
        raise ValueError(
            f"`{name}` must have one output, or one number for each pair of examples, "
            f'such as of `outputs="pseudo"`; it has {outputs_of(kernel)} outputs.'
        )
    if num_rows(operator) > MAX_ROWS:
        raise ValueError(
            f"`{name}` must have at most {MAX_ROWS} rows, as it is decomposed in memory; "
            f"got {num_rows(operator)}. Take fewer examples, such as `store[:n, :n]` and "
            "`y[:n]`: forecasts are made from samples; or pass an array."
        )
    return formed(kernel)
