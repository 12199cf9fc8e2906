r"""Kernel regression with a kernel in memory: by the first factor that serves.

The ladder: Cholesky's factor; that of the matrix with the smallest jitter on its diagonal
for which it is regular to rounding; all eigenvectors; those of eigenvalues that are not
zero to rounding, which is the pseudo-inverse. What is regular, and what zero, is told by
the one rule of `lazyjax.linalg`.
"""

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import check_finite, check_floating, check_nonnegative
from lazyjax.grams.store import GramStore
from lazyjax.linalg import check_semidefinite, frobenius_norm, gram_matrix
from lazyjax.linalg.factor import (
    Factorization,
    apply_inverse,
    by_cholesky,
    by_eigenvectors,
    is_regular,
)
from lazyjax.typing import AnyArray

Rung: TypeAlias = Literal["cholesky", "eigenvectors", "pseudo-inverse"]

# Jitters that are tried are as many times the rounding of the largest eigenvalue.
_JITTERS = tuple(4.0**i for i in range(7))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GramFactor:
    """A kernel of training examples with its ridge, ready to predict with.

    Attributes:
        rung: What serves: "cholesky"; "eigenvectors", all of them; or "pseudo-inverse".
        jitter: What was added to the diagonal beside the ridge, so that Cholesky's factor
            served.
        num_dropped: Eigenvalues that are zero to rounding: what belongs to them is not
            fitted.
        condition: Largest eigenvalue over the smallest that is not dropped; of Cholesky's
            factor an estimate, by less than a factor of 2.
        dtype: Precision of the kernel, in which all is computed.
        factor: The factor itself.
    """

    rung: Rung
    jitter: float
    num_dropped: int
    condition: float
    dtype: np.dtype
    factor: Factorization = dataclasses.field(repr=False)

    @property
    def size(self) -> int:
        """Rows of the kernel."""
        return self.factor.matrix.shape[0]

    def solve(self, right: AnyArray) -> np.ndarray:
        """The inverse, or the pseudo-inverse, times some columns.

        Args:
            right: One column for each right-hand side, or a vector.

        Returns:
            As many columns, or a vector.

        Raises:
            ValueError: If rows are not those of the kernel, or values not finite.
        """
        columns = self._checked("right", right, axis=0)
        flat = columns.reshape(self.size, -1)
        with jax.enable_x64(self.dtype == np.float64):
            found = _apply_inverse(self.factor, flat)
        return np.asarray(found).reshape(columns.shape)

    def predict(self, cross: AnyArray, y: AnyArray) -> np.ndarray:
        r"""Kernel regression $K_* (K + \lambda)^{-1} y$: the mean of a Gaussian process.

        Args:
            cross: Kernel of test with training examples.
            y: Targets of training examples, a column for each output, or a vector.

        Returns:
            One row for each test example.

        Raises:
            ValueError: If shapes do not fit, or values are not finite.
        """
        return self._checked("cross", cross, axis=1) @ self.solve(y)

    def variance(self, cross: AnyArray, prior: AnyArray) -> np.ndarray:
        r"""Variance $K_{**} - K_* (K + \lambda)^{-1} K_*^\top$ of a Gaussian process.

        Args:
            cross: Kernel of test with training examples.
            prior: Kernel of each test example with itself.

        Returns:
            That of each test example's output without noise; not below 0.

        Raises:
            ValueError: If shapes do not fit, or values are not finite.
        """
        cross = self._checked("cross", cross, axis=1)
        prior = np.asarray(prior, self.dtype)
        if prior.shape != cross.shape[:1]:
            raise ValueError(
                f"`prior` must have shape {cross.shape[:1]}, one number for each test "
                f"example; got {prior.shape}."
            )
        explained = np.einsum("mn,nm->m", cross, self.solve(cross.T))
        return np.maximum(prior - explained, 0)

    def explain(self) -> str:
        """Which rung of the ladder served, in words.

        Returns:
            One line.
        """
        what = {
            "cholesky": "Cholesky's factor",
            "eigenvectors": "all eigenvectors",
            "pseudo-inverse": f"pseudo-inverse, without {self.num_dropped} directions",
        }[self.rung]
        jitter = f" with a jitter of {self.jitter:.3g}" if self.jitter else ""
        return f"{what}{jitter}; condition about {self.condition:.3g}"

    def _checked(self, name: str, array: AnyArray, *, axis: int) -> np.ndarray:
        check_floating(name, array)
        check_finite(name, array)
        if np.ndim(array) not in (2, 2 - (axis == 0)) or array.shape[axis] != self.size:
            raise ValueError(
                f"`{name}` must have {self.size} {('rows', 'columns')[axis]}, as many as "
                f"the kernel; got shape {np.shape(array)}."
            )
        return np.asarray(array, self.dtype)


def factorize(
    kernel: GramStore | AnyArray,
    *,
    ridge: int | float = 0.0,
    max_jitter: int | float | None = None,
) -> GramFactor:
    r"""A kernel of training examples in memory, ready for kernel regression.

    Tried in turn, until one serves: Cholesky's factor of $K + \lambda I$; with the smallest
    of some jitters on the diagonal; all eigenvectors; the pseudo-inverse.

    Args:
        kernel: Symmetric and positive semidefinite: what `lazyjax.gram` returns (with
            `outputs="full"`, rows are those of `linalg.gram_matrix`) or an array.
        ridge: $\lambda$, or the variance of noise.
        max_jitter: Largest jitter; `None` means some thousand roundings of the largest
            eigenvalue, 0 that none is tried: then solutions of singular systems are the
            smallest ones.

    Returns:
        The factor, which tells what served.

    Raises:
        ValueError: If the kernel is not square, finite, symmetric or positive
            semidefinite to rounding, or an option is out of range.
        TypeError: If the kernel is not of floating-point numbers.

    Example:
        >>> import numpy as np
        >>> from lazyjax.grams import factorize
        >>> found = factorize(np.array([[2.0, 1.0], [1.0, 2.0]]), ridge=1.0)
        >>> found.predict(np.array([[1.0, 0.0]]), np.array([8.0, 0.0])).round(6).tolist()
        [3.0]
        >>> twice = factorize(np.ones((2, 2)), max_jitter=0)  # one example, twice
        >>> twice.rung, twice.solve(np.array([1.0, 3.0])).round(6).tolist()
        ('pseudo-inverse', [1.0, 1.0])

    References:
        Rasmussen and Williams (2006), "Gaussian processes for machine learning",
        algorithm 2.1 (not checked).
    """
    matrix = _dense(kernel)
    check_nonnegative("ridge", ridge, infinity_allowed=False)
    if max_jitter is not None:
        check_nonnegative("max_jitter", max_jitter, infinity_allowed=False)
    with jax.enable_x64(matrix.dtype == np.float64):
        array = jnp.asarray(matrix)
        scale = frobenius_norm(array)
        asymmetry = frobenius_norm(array - array.T)
        check_semidefinite(
            "kernel", asymmetry=asymmetry, smallest=jnp.zeros_like(scale), scale=scale
        )
        array = _with_diagonal((array + array.T) / 2, ridge)
        found, jitter = _by_cholesky(array), 0.0
        rounding = float(found.cutoff)
        most = np.inf if max_jitter is None else max_jitter
        for more in (rounding * times for times in _JITTERS):
            if bool(is_regular(found)) or not more <= most:
                break
            found, jitter = _by_cholesky(_with_diagonal(array, more)), more
        if not bool(is_regular(found)):
            found, jitter = _by_eigenvectors(array), 0.0
        # Of Cholesky's factor, the estimate is never below the eigenvalue. A large ridge
        # leaves rounding of its own in it.
        check_semidefinite(
            "kernel",
            asymmetry=asymmetry,
            smallest=found.smallest.value - (ridge + jitter),
            scale=jnp.maximum(scale, ridge + jitter),
        )
    num_dropped = int(np.sum(found.is_dropped))
    rung: Rung = "pseudo-inverse" if num_dropped else "eigenvectors"
    largest = float(found.largest.value)
    smallest = float(found.smallest.value)
    if num_dropped:
        kept = np.asarray(found.inverses)
        smallest = 1 / kept.max() if kept.any() else np.nan
    return GramFactor(
        rung="cholesky" if bool(found.is_cholesky) else rung,
        jitter=jitter,
        num_dropped=num_dropped,
        condition=largest / smallest,
        dtype=matrix.dtype,
        # Arrays of NumPy, which keep float64 wherever they are sent.
        factor=jax.tree.map(np.asarray, found),
    )


_by_cholesky = jax.jit(by_cholesky)
_by_eigenvectors = jax.jit(by_eigenvectors)
_apply_inverse = jax.jit(apply_inverse)


def _with_diagonal(matrix: Array, number: int | float) -> Array:
    return matrix + jnp.asarray(number, matrix.dtype) * jnp.eye(
        len(matrix), dtype=matrix.dtype
    )


def _dense(kernel: Any) -> np.ndarray:
    if isinstance(kernel, GramStore):
        _ = kernel.flat_shape  # refuses what is no matrix
        kernel = np.asarray(gram_matrix(kernel.to_array()))
    check_floating("kernel", kernel)
    check_finite("kernel", kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.size:
        raise ValueError(
            f"`kernel` must be a square matrix, of one batch with itself; got "
            f"{brief(kernel)}."
        )
    array = np.asarray(kernel)
    # Half precision has no factors of its own.
    return array.astype(np.promote_types(array.dtype, np.float32))
