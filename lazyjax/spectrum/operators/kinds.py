"""Kernels as matrices or as operators: what the functions of this package are given."""

import dataclasses
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
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


@runtime_checkable
class MatrixOnDisk(Protocol):
    """A matrix that is read tile by tile: a `lazyjax.grams.GramStore`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape `(n, n)` or `(n, n, k, k)`."""
        ...

    @property
    def flat_shape(self) -> tuple[int, int]:
        """Shape `(m, m)` as a matrix."""
        ...

    @property
    def dtype(self) -> Any:
        """Of its entries."""
        ...

    @property
    def is_symmetric(self) -> bool:
        """Whether it is of one batch with itself."""
        ...

    @property
    def tile(self) -> tuple[int, int]:
        """Examples on both sides of what is read at once."""
        ...

    def __getitem__(self, index: tuple[slice, slice], /) -> Any:
        """Entries of some pairs of examples."""
        ...

    def __matmul__(self, right: AnyArray, /) -> np.ndarray:
        """Product with columns."""
        ...


Kernel: TypeAlias = AnyArray | LinearOperator | MatrixOnDisk


@dataclasses.dataclass(frozen=True)
class ProductsFromDisk:
    """A matrix on disk as an operator: each product reads it once."""

    store: MatrixOnDisk

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `(m, m)` of the matrix."""
        return self.store.flat_shape

    @property
    def dtype(self) -> Any:
        """Of its entries, as JAX has them."""
        return jax.dtypes.canonicalize_dtype(self.store.dtype)

    def mv(self, v: Float[AnyArray, " m"]) -> Float[Array, " m"]:
        """Product with a vector."""
        return jnp.asarray(self.store @ np.asarray(v), self.dtype)


def eigh(kernel: Kernel, *, max_dense: int = MAX_DENSE) -> Eigen:
    """Eigenvalues and eigenvectors of a kernel, and which eigenvalues are zero.

    Args:
        kernel: Matrix, kernel, store or operator; see `lazyjax.spectrum`.
        max_dense: Largest number of rows of an operator or a store that is made into a
            matrix.

    Returns:
        `values` ascending, `vectors` in columns, and the `cutoff` up to which eigenvalues
        are zero to rounding (measured, see `lazyjax.linalg.eigen`).

    Raises:
        ValueError: If the kernel is not square, symmetric, finite and positive
            semidefinite, or is an operator of more than `max_dense` rows.
        TypeError: If it is none of these.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> spectrum.eigh(jnp.array([[2.0, 1.0], [1.0, 2.0]])).values.tolist()
        [1.0, 3.0]
    """
    matrix = resolved(kernel, max_dense)
    if not isinstance(matrix, jax.Array):
        raise ValueError(
            f"`kernel` is an operator of {matrix.shape[0]} rows, more than `max_dense`, "
            f"{max_dense}: raise that to decompose it as a matrix, or use `extremes` and "
            "`density`."
        )
    eigen = eigh_of_matrix(matrix)
    check_eigenvalues(eigen.values)
    return eigen


def resolved(kernel: Kernel, max_dense: int) -> Float[Array, "m m"] | LinearOperator:
    """The kernel as a matrix, or an operator if it has more than `max_dense` rows.

    Args:
        kernel: Matrix, kernel, store or operator.
        max_dense: Largest number of rows of what is not a matrix yet.

    Returns:
        The matrix, or the operator.

    Raises:
        ValueError: If the kernel is not square, symmetric and finite.
        TypeError: If it is none of these.
    """
    check_at_least("max_dense", max_dense, 0)
    if isinstance(kernel, AnyArray):
        check_floating("kernel", kernel)
        matrix = gram_matrix(kernel)
        num_rows(matrix)
    else:
        operator = as_operator("kernel", kernel)
        if num_rows(operator) > max_dense:
            return operator
        matrix = jnp.asarray(formed(kernel))
    check_finite("kernel", matrix)
    scale = frobenius_norm(matrix)
    check_semidefinite(
        "kernel",
        asymmetry=frobenius_norm(matrix - matrix.T),
        smallest=jnp.zeros_like(scale),
        scale=scale,
    )
    return matrix


def as_operator(name: str, kernel: Kernel) -> LinearOperator:
    """A store or an operator as an operator, once it is known to be of one batch.

    Args:
        name: Of the argument, for messages.
        kernel: Store or operator.

    Returns:
        The operator.

    Raises:
        ValueError: If it is of two batches.
        TypeError: If it is neither.
    """
    if isinstance(kernel, MatrixOnDisk):
        if not kernel.is_symmetric:
            raise ValueError(
                f"`{name}` must be of one batch with itself; got {brief(kernel)}."
            )
        return ProductsFromDisk(kernel)
    if not isinstance(kernel, LinearOperator):
        raise TypeError(
            f"`{name}` must be an array, a store of `lazyjax.gram`, or an operator with "
            f"`shape`, `dtype` and `mv`; got {type(kernel).__name__}."
        )
    if isinstance(kernel, NTKOperator) and not _is_of_one_batch(kernel):
        raise ValueError(
            f"`{name}` must be the operator of one batch with itself; it is of two, "
            f"{brief(kernel.x1)} and {brief(kernel.x2)}."
        )
    return kernel


def formed(kernel: LinearOperator | MatrixOnDisk) -> Float[AnyArray, "m m"]:
    """The matrix of a store, in its own precision, or of an operator."""
    if isinstance(kernel, MatrixOnDisk):
        entries = kernel[:, :]
        if entries.ndim == 2:
            return entries
        n, k = kernel.shape[0], kernel.shape[2]
        return entries.transpose(0, 2, 1, 3).reshape(n * k, n * k)
    if isinstance(kernel, NTKOperator):
        return kernel.as_matrix()
    columns = jnp.eye(num_rows(kernel), dtype=kernel.dtype)
    return jnp.stack([kernel.mv(column) for column in columns], axis=1)


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


def checked_key(key: Key[Array, ""] | None, operator: LinearOperator) -> Key[Array, ""]:
    """The key that random vectors are drawn from, which a large operator needs.

    Args:
        key: What the user passed.
        operator: The operator.

    Returns:
        The key.

    Raises:
        ValueError: If there is none.
    """
    if key is None:
        raise ValueError(
            f"`key` is needed to estimate: `kernel` is an operator of "
            f"{num_rows(operator)} rows, more than `max_dense`. Pass `jax.random.key(0)`, or "
            "raise `max_dense`."
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


def num_rows(kernel: AnyArray | LinearOperator) -> int:
    """Number of rows of a matrix or an operator, if it is square and not empty."""
    shape = tuple(kernel.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"`kernel` must be square and not empty; got shape {shape}.")
    return shape[0]
