r"""Eigenvalues of positive semidefinite matrices, and which of them are zero.

One rule says which eigenvalues are zero. Where $\lambda_i$ and $v_i$ were computed, a
true eigenvalue lies within the residual $r_i = \lVert A v_i - \lambda_i v_i \rVert$ of
$\lambda_i$. Residuals are measured, for they depend on the matrix more than on its size:
of 3,000 rows they come to 3 to 17 $\epsilon \lambda_{\max}$ in either precision, but to
57 for a large constant plus a small diagonal. The product that measures them is itself
rounded by less than $\epsilon \lambda_{\max}$. Rounding of the entries moves eigenvalues
by less than that too. So the *cutoff* is $2 \epsilon \lambda_{\max}$ plus the largest
residual of those eigenvalues that may be zero, and eigenvalues up to it are zero to
rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyjax.typing import AnyArray

# By how much errors of the entries may move eigenvalues, in units of the rounding of the
# largest.
ALLOWANCE = 2


class Eigen(NamedTuple):
    """Eigendecomposition of a semidefinite matrix, and which eigenvalues are zero.

    Attributes:
        values: Ascending; rounding may make some negative.
        vectors: In columns.
        cutoff: Eigenvalues no larger are zero to rounding.
    """

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    cutoff: Float[Array, ""]


def eigh(matrix: Float[Array, "n n"]) -> Eigen:
    """Eigendecomposition of a symmetric positive semidefinite matrix.

    Args:
        matrix: The matrix; of an asymmetric one, the symmetric part.

    Returns:
        Eigenvalues, eigenvectors, and the measured cutoff, which has no derivative.

    Cost: that of `jax.numpy.linalg.eigh`, and one product of matrices.

    Example:
        >>> import jax.numpy as jnp
        >>> eigen = eigh(jnp.ones((2, 2)))  # of rank one
        >>> (eigen.values > eigen.cutoff).tolist()
        [False, True]
    """
    matrix = (matrix + matrix.T) / 2
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    cutoff = _cutoff(*jax.lax.stop_gradient((matrix, values, vectors)))
    return Eigen(values, vectors, cutoff)


def _cutoff(matrix: Array, values: Array, vectors: Array) -> Array:
    largest = values[-1]
    # Relative to the largest, so that no square over- or underflows.
    scale = jnp.where(largest > 0, largest, 1)
    residuals = dot(matrix, vectors) - vectors * values[None]
    residuals = jnp.linalg.norm(residuals / scale, axis=0)
    allowance = ALLOWANCE * float(jnp.finfo(values.dtype).eps)
    may_be_zero = values / scale <= allowance + jnp.max(residuals)
    return largest * (allowance + jnp.max(jnp.where(may_be_zero, residuals, 0)))


def condition(
    smallest: Float[Array, "*batch"],
    largest: Float[Array, "*batch"],
    num_dropped: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Condition of a matrix, infinite if directions are dropped.

    Args:
        smallest: Its smallest eigenvalue.
        largest: Its largest.
        num_dropped: How many are zero to rounding.

    Returns:
        The ratio.
    """
    is_regular = num_dropped == 0
    return jnp.where(is_regular, largest / jnp.where(is_regular, smallest, 1), jnp.inf)


def dot(first: AnyArray, second: AnyArray) -> Array:
    """Product of two matrices in the highest precision."""
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)
