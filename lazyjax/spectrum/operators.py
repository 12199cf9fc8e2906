"""Kernels as matrices or as operators: what the functions of this package are given."""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_finite, check_floating
from lazyjax.linalg import (
    Eigen,
    check_semidefinite,
    eigh as eigh_of_matrix,
    frobenius_norm,
    gram_matrix,
)
from lazyjax.ntk.operator import NTKOperator
from lazyjax.typing import AnyArray

# Operators of more rows are not made into matrices unless that is asked for.
MAX_DENSE = 2048


@runtime_checkable
class LinearOperator(Protocol):
    """A symmetric positive semidefinite matrix that is only multiplied with vectors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape `(m, m)` of the matrix."""
        ...

    @property
    def dtype(self) -> Any:
        """Of its entries."""
        ...

    def mv(self, v: Float[AnyArray, " m"], /) -> Float[Array, " m"]:
        """Product with a vector."""
        ...


Kernel: TypeAlias = AnyArray | LinearOperator


def eigh(kernel: Kernel, *, max_dense: int = MAX_DENSE) -> Eigen:
    """Eigenvalues and eigenvectors of a kernel, and which eigenvalues are zero.

    Args:
            kernel: Matrix, kernel or operator; see `lazyjax.spectrum`.
            max_dense: Largest number of rows of an operator that is made into a matrix.

    Returns:
            `values` ascending, `vectors` in columns, and the `cutoff` up to which eigenvalues
            are zero to rounding (measured, see `lazyjax.linalg.eigen`).

    Raises:
            ValueError: If the kernel is not square, symmetric, finite and positive
                semidefinite, or is an operator of more than `max_dense` rows.

    Example:
            >>> import jax.numpy as jnp
            >>> from lazyjax import spectrum
            >>> spectrum.eigh(jnp.array([[2.0, 1.0], [1.0, 2.0]])).values.tolist()
            [1.0, 3.0]
    """
    matrix = dense(kernel, max_dense)
    if matrix is None:
        raise ValueError(
            f"`kernel` is an operator of {_rows(kernel)} rows, more than `max_dense`, "
            f"{max_dense}: raise that to decompose it as a matrix, or use `extremes` and "
            "`density`."
        )
    eigen = eigh_of_matrix(matrix)
    check_eigenvalues(eigen.values)
    return eigen


def dense(kernel: Kernel, max_dense: int) -> Float[Array, "m m"] | None:
    """The kernel as a matrix, or `None` for an operator of more than `max_dense` rows.

    Args:
        kernel: Matrix, kernel or operator.
        max_dense: Largest number of rows of an operator that is made into a matrix.

    Returns:
        The matrix.

    Raises:
        ValueError: If the kernel is not square, symmetric and finite.
        TypeError: If it is neither an array nor an operator.
    """
    check_at_least("max_dense", max_dense, 0)
    if isinstance(kernel, AnyArray):
        check_floating("kernel", kernel)
        matrix = gram_matrix(kernel)
        _rows(matrix)
    elif not isinstance(kernel, LinearOperator):
        raise TypeError(
            "`kernel` must be an array, or an operator with `shape`, `dtype` and `mv`; "
            f"got {type(kernel).__name__}."
        )
    elif isinstance(kernel, NTKOperator) and not _is_of_one_batch(kernel):
        raise ValueError(
            "`kernel` must be the operator of one batch with itself; it is of two, "
            f"{brief(kernel.x1)} and {brief(kernel.x2)}."
        )
    elif _rows(kernel) > max_dense:
        return None
    elif isinstance(kernel, NTKOperator):
        matrix = kernel.as_matrix()
    else:
        columns = jnp.eye(_rows(kernel), dtype=kernel.dtype)
        matrix = jnp.stack([kernel.mv(column) for column in columns], axis=1)
    check_finite("kernel", matrix)
    scale = frobenius_norm(matrix)
    check_semidefinite(
        "kernel",
        asymmetry=frobenius_norm(matrix - matrix.T),
        smallest=jnp.zeros_like(scale),
        scale=scale,
    )
    return matrix


def check_eigenvalues(values: Float[Array, "*batch m"]) -> None:
    """Check that no eigenvalue, or Ritz value, is negative beyond rounding.

    Args:
        values: Them.

    Raises:
        ValueError: If one is.
    """
    zero = jnp.zeros((), values.dtype)
    check_semidefinite(
        "kernel",
        asymmetry=zero,
        smallest=jnp.min(values),
        scale=jnp.max(jnp.abs(values)),
    )


def checked_key(key: Key[Array, ""] | None, kernel: Kernel) -> Key[Array, ""]:
    """The key that random vectors are drawn from, which a large operator needs.

    Args:
        key: What the user passed.
        kernel: The operator.

    Returns:
        The key.

    Raises:
        ValueError: If there is none.
    """
    if key is None:
        raise ValueError(
            f"`key` is needed to estimate: `kernel` is an operator of {_rows(kernel)} "
            "rows, more than `max_dense`. Pass `jax.random.key(0)`, or raise `max_dense`."
        )
    return key


def _is_of_one_batch(operator: NTKOperator) -> bool:
    """Whether both batches are the same, as far as values are known."""
    x1, x2 = operator.x1, operator.x2
    try:
        if x1 is x2:
            return True
        pairs = zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True)
        return all(bool(jnp.array_equal(*pair)) for pair in pairs)
    except jax.errors.ConcretizationTypeError:
        return True


def _rows(kernel: Kernel) -> int:
    shape = tuple(kernel.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"`kernel` must be square and not empty; got shape {shape}.")
    return shape[0]
