"""Positive semidefinite systems, with derivatives in the matrix."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyjax.linalg.eigen import condition, dot
from lazyjax.linalg.factor import (
    Extreme,
    Factorization,
    apply_inverse,
    factorize,
    project_dropped,
)
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Semidefinite:
    """A symmetric positive semidefinite matrix, ready to solve with; see `factorized`.

    Its methods have derivatives in the matrix and in their arguments: of every order
    while no direction is dropped; else of first order, while the number of dropped
    directions stays the same.

    Attributes:
        matrix: The matrix.
        factor: What it was factorized into.
    """

    matrix: Float[Array, "n n"]
    factor: Any

    def solve(self, right: Float[AnyArray, "n m"]) -> Float[Array, "n m"]:
        """The inverse times `right`; the pseudo-inverse, if directions are dropped.

        Args:
            right: Right-hand sides, in columns.

        Returns:
            Solutions, the smallest that there are.
        """
        return _solve(self.matrix, self.factor, self._cast(right))

    def dropped_part(self, of: Float[AnyArray, "n m"]) -> Float[Array, "n m"]:
        """Part of each column that lies in dropped directions.

        Args:
            of: Columns.

        Returns:
            The part, zero for a regular matrix.
        """
        return _dropped_part(self.matrix, self.factor, self._cast(of))

    def log_det(self) -> Float[Array, ""]:
        """Logarithm of the determinant; eigenvalues below the cutoff count as the cutoff.

        Returns:
            The logarithm.
        """
        return _log_det(self.matrix, self.factor)

    @property
    def cutoff(self) -> Float[Array, ""]:
        """Up to which eigenvalues are zero to rounding."""
        return self.factor.cutoff

    @property
    def num_dropped(self) -> Int[Array, ""]:
        """Number of eigenvalues that are zero to rounding."""
        return jnp.sum(self.factor.is_dropped)

    @property
    def smallest(self) -> Float[Array, ""]:
        """Smallest eigenvalue; an estimate from above, where Cholesky's factor serves."""
        return self._eigenvalue(self.factor.smallest)

    @property
    def condition(self) -> Float[Array, ""]:
        """Largest over smallest eigenvalue, infinite if directions are dropped.

        Where Cholesky's factor serves it is an estimate from below, by a few steps of
        power iteration: seldom off by a tenth, and by less than a factor of 2.
        """
        return condition(
            self.smallest,
            self._eigenvalue(self.factor.largest),
            self.num_dropped,
        )

    def _cast(self, array: AnyArray) -> Array:
        return jnp.asarray(array, self.matrix.dtype)

    def _eigenvalue(self, extreme: Extreme) -> Array:
        # The quadratic form gives the derivative only: it is rounded like the largest value.
        form = extreme.vector @ dot(self.matrix, extreme.vector[:, None])[:, 0]
        return extreme.value + form - jax.lax.stop_gradient(form)


def factorized(matrix: Float[AnyArray, "n n"]) -> Semidefinite:
    """A symmetric positive semidefinite matrix, ready to solve with.

    By Cholesky's factor if the matrix is regular to rounding, else by eigenvectors. Call
    it under `jax.jit`; under `jax.vmap`, matrices are factorized one after the other, each
    in its own way.

    Args:
        matrix: The matrix; of an asymmetric one, the symmetric part.

    Returns:
        The matrix and its factor.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix = factorized(jnp.array([[2.0, 0.0], [0.0, 0.0]]))
        >>> matrix.solve(jnp.ones((2, 1)))[:, 0].tolist(), matrix.num_dropped.item()
        ([0.5, 0.0], 1)
    """
    matrix = jnp.asarray(matrix)
    matrix = (matrix + matrix.T) / 2
    return Semidefinite(matrix=matrix, factor=factorize(jax.lax.stop_gradient(matrix)))


def _solve(matrix: Array, factor: Factorization, right: Array) -> Array:
    apply = functools.partial(apply_inverse, factor)

    def rotation() -> Array:
        """Rotation of the dropped directions with the matrix: zero, but for derivatives."""
        change = matrix - jax.lax.stop_gradient(matrix)
        of_dropped = apply(apply(dot(change, project_dropped(factor, right))))
        # The square of the inverse alone may overflow.
        scale = jnp.where(factor.largest.value > 0, factor.largest.value, 1)
        to_dropped = dot(change, apply(scale * apply(right)))
        return of_dropped + project_dropped(factor, to_dropped) / scale

    solution = jax.lax.custom_linear_solve(
        lambda v: dot(matrix, v), right, lambda _, v: apply(v), symmetric=True
    )
    return solution + _if_singular(factor, rotation, right)


def _dropped_part(matrix: Array, factor: Factorization, of: Array) -> Array:
    def rotation() -> Array:
        change = matrix - jax.lax.stop_gradient(matrix)
        part = project_dropped(factor, of)
        of_dropped = apply_inverse(factor, dot(change, part))
        to_dropped = project_dropped(factor, dot(change, apply_inverse(factor, of)))
        return part - of_dropped - to_dropped

    return _if_singular(factor, rotation, of)


def _if_singular(factor: Factorization, of: Callable[[], Array], like: Array) -> Array:
    is_singular = jnp.any(factor.is_dropped)
    return jax.lax.cond(is_singular, of, lambda: jnp.zeros_like(like))


@jax.custom_jvp
def _log_det(matrix: Array, factor: Factorization) -> Array:
    return factor.log_det


@_log_det.defjvp
def _log_det_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    matrix, factor = primals
    return factor.log_det, jnp.trace(_solve(matrix, factor, tangents[0]))
