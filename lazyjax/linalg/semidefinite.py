r"""Positive semidefinite matrices in floating point: what is zero in them, and solving.

One rule says which eigenvalues are zero. Where $\lambda_i$ and $v_i$ were computed, a
true eigenvalue lies within the residual $r_i = \lVert A v_i - \lambda_i v_i \rVert$ of
$\lambda_i$. Residuals are measured, for they depend on the matrix more than on its size:
of 3,000 rows they come to 3 to 17 $\epsilon \lambda_{\max}$ in either precision, but to
57 for a large constant plus a small diagonal. The product that measures them is itself
rounded by less than $\epsilon \lambda_{\max}$. Rounding of the entries moves eigenvalues
by less than that too. So the *cutoff* is $2 \epsilon \lambda_{\max}$ plus the largest
residual of those eigenvalues that may be zero, and eigenvalues up to it are zero to
rounding.

Where a solve is all that is needed, Cholesky's factor serves if its smallest eigenvalue
is estimated beyond $2 \epsilon \lambda_{\max}$. Of singular matrices it was 1/4 at most,
where there was a factor at all; and of regular ones it was right to a fifth, though the
residual of eigenvectors was far larger. Solutions are 3 to 20 times as accurate as from
eigenvectors; a step of iterative refinement in the same precision gained nothing.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lazyjax.typing import AnyArray

# Of the largest eigenvalue, in units of its rounding: by how much errors of the entries
# may move the others.
_ALLOWANCE = 2

# Vectors, and products with each, by which extreme eigenvalues are estimated.
_NUM_STARTS = 4
_NUM_ITERATIONS = 16

# Progress in a time, of an eigenvalue that may be anything up to the cutoff, beyond which
# what became of it is unknown.
_SMALL_PROGRESS = 0.01

# Share of the targets beyond which dropping it is worth a warning.
_SMALL_SHARE = 1e-3


class SingularKernelWarning(UserWarning):
    """Targets have a part that a singular kernel cannot fit, and that was dropped."""


class Eigen(NamedTuple):
    """Eigendecomposition of a semidefinite matrix, and what is zero in it.

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
    residuals = _dot(matrix, vectors) - vectors * values[None]
    residuals = jnp.linalg.norm(residuals / scale, axis=0)
    allowance = _ALLOWANCE * float(jnp.finfo(values.dtype).eps)
    may_be_zero = values / scale <= allowance + jnp.max(residuals)
    return largest * (allowance + jnp.max(jnp.where(may_be_zero, residuals, 0)))


class _Extreme(NamedTuple):
    """An eigenvalue at one end of the spectrum, and its unit eigenvector."""

    value: Array
    vector: Array


class _Factor(NamedTuple):
    """What a matrix was factorized into, which has no derivative of its own.

    Attributes:
        matrix: Cholesky's lower factor, or eigenvectors in columns.
        inverses: Inverses of the eigenvalues; 0 for those that are dropped, and ones
            beside Cholesky's factor.
        is_dropped: Eigenvalues that are zero to rounding.
        is_cholesky: What `matrix` is.
        cutoff: Up to which eigenvalues are zero to rounding.
        log_det: Logarithm of the determinant, eigenvalues raised to the cutoff.
        smallest: One end of the spectrum.
        largest: The other.
    """

    matrix: Array
    inverses: Array
    is_dropped: Array
    is_cholesky: Array
    cutoff: Array
    log_det: Array
    smallest: _Extreme
    largest: _Extreme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Semidefinite:
    """A symmetric positive semidefinite matrix, ready to solve with; see `factorized`.

    Its methods have derivatives in the matrix and in their arguments: of every order
    while nothing is dropped; else of first order, as long as no more and no fewer
    directions are.

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
        """Part of each column that lies in directions that are dropped.

        Args:
            of: Columns.

        Returns:
            The part, zero for a regular matrix.
        """
        return _dropped_part(self.matrix, self.factor, self._cast(of))

    def log_det(self) -> Float[Array, ""]:
        """Logarithm of the determinant, of eigenvalues raised to the cutoff.

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

    def _eigenvalue(self, extreme: _Extreme) -> Array:
        # Of the quadratic form only the derivative: its value is rounded as the largest.
        form = extreme.vector @ _dot(self.matrix, extreme.vector[:, None])[:, 0]
        return extreme.value + form - jax.lax.stop_gradient(form)


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


def factorized(matrix: Float[AnyArray, "n n"]) -> Semidefinite:
    """A symmetric positive semidefinite matrix, ready to solve with.

    By Cholesky's factor if the matrix is regular to rounding, else by eigenvectors.
    Call it under `jax.jit`; under `jax.vmap`, matrices are taken one after the other, so
    that none pays for the way that it does not go.

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
    return Semidefinite(
        matrix=matrix, factor=_factor_of_one(jax.lax.stop_gradient(matrix))
    )


@jax.custom_batching.sequential_vmap
def _factor_of_one(matrix: Array) -> _Factor:
    size, dtype = matrix.shape[0], matrix.dtype
    lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    largest = _extreme(lambda v: _dot(matrix, v), size, dtype)
    grown = _extreme(lambda v: _cholesky_solve(lower, v), size, dtype)
    smallest = _Extreme(1 / grown.value, grown.vector)
    cutoff = largest.value * (_ALLOWANCE * float(jnp.finfo(dtype).eps))

    def by_cholesky() -> _Factor:
        return _Factor(
            matrix=lower,
            inverses=jnp.ones(size, dtype),
            is_dropped=jnp.zeros(size, bool),
            is_cholesky=jnp.array(True),
            cutoff=cutoff,
            log_det=2 * jnp.sum(jnp.log(jnp.diagonal(lower))),
            smallest=smallest,
            largest=largest,
        )

    def by_eigenvectors() -> _Factor:
        values, vectors, cutoff = eigh(matrix)
        is_dropped = values <= cutoff
        floor = jnp.maximum(cutoff, jnp.finfo(dtype).tiny)
        return _Factor(
            matrix=vectors,
            inverses=jnp.where(is_dropped, 0, 1 / jnp.where(is_dropped, 1, values)),
            is_dropped=is_dropped,
            is_cholesky=jnp.array(False),
            cutoff=floor,
            log_det=jnp.sum(jnp.log(jnp.maximum(values, floor))),
            smallest=_Extreme(values[0], vectors[:, 0]),
            largest=_Extreme(values[-1], vectors[:, -1]),
        )

    # False where there is no factor, but NaN.
    return jax.lax.cond(smallest.value > cutoff, by_cholesky, by_eigenvectors)


def _extreme(
    product: Callable[[Array], Array], size: int, dtype: jnp.dtype
) -> _Extreme:
    """The largest eigenvalue by power iteration, from below, and its vector."""
    start = jax.random.normal(jax.random.key(0), (size, _NUM_STARTS), dtype)
    vectors, _ = _unit(start)
    vectors = jax.lax.fori_loop(
        0, _NUM_ITERATIONS, lambda _, v: _unit(product(v))[0], vectors
    )
    vectors, growth = _unit(product(vectors))
    best = jnp.argmax(growth)
    return _Extreme(growth[best], vectors[:, best])


def _unit(vectors: Array) -> tuple[Array, Array]:
    """Columns divided by their norms, and the norms; squares do not overflow."""
    largest = jnp.max(jnp.abs(vectors), axis=0)
    vectors = vectors / largest[None]
    norms = jnp.linalg.norm(vectors, axis=0)
    return vectors / norms[None], largest * norms


def _solve(matrix: Array, factor: _Factor, right: Array) -> Array:
    apply = functools.partial(_apply, factor)

    def turned() -> Array:
        """Directions that are dropped turn with the matrix; zero, but for derivatives."""
        change = matrix - jax.lax.stop_gradient(matrix)
        of_dropped = apply(apply(_dot(change, _project(factor, right))))
        # The square of the inverse alone may overflow.
        scale = jnp.where(factor.largest.value > 0, factor.largest.value, 1)
        to_dropped = _dot(change, apply(scale * apply(right)))
        return of_dropped + _project(factor, to_dropped) / scale

    solution = jax.lax.custom_linear_solve(
        lambda v: _dot(matrix, v), right, lambda _, v: apply(v), symmetric=True
    )
    return solution + _if_singular(factor, turned, right)


def _dropped_part(matrix: Array, factor: _Factor, of: Array) -> Array:
    def turned() -> Array:
        change = matrix - jax.lax.stop_gradient(matrix)
        part = _project(factor, of)
        of_dropped = _apply(factor, _dot(change, part))
        to_dropped = _project(factor, _dot(change, _apply(factor, of)))
        return part - of_dropped - to_dropped

    return _if_singular(factor, turned, of)


def _if_singular(factor: _Factor, of: Callable[[], Array], like: Array) -> Array:
    is_singular = jnp.any(factor.is_dropped)
    return jax.lax.cond(is_singular, of, lambda: jnp.zeros_like(like))


def _apply(factor: _Factor, right: Array) -> Array:
    """The pseudo-inverse as it was factorized: linear, and without a derivative."""

    def by_cholesky() -> Array:
        # Where both ways are gone, under `vmap`, this one must not divide by zero.
        eye = jnp.eye(factor.matrix.shape[0], dtype=factor.matrix.dtype)
        return _cholesky_solve(jnp.where(factor.is_cholesky, factor.matrix, eye), right)

    def by_eigenvectors() -> Array:
        shares = _dot(factor.matrix.T, right)
        return _dot(factor.matrix, factor.inverses[:, None] * shares)

    return jax.lax.cond(factor.is_cholesky, by_cholesky, by_eigenvectors)


def _project(factor: _Factor, of: Array) -> Array:
    """The part that is dropped, as it was factorized; by eigenvectors only."""
    shares = _dot(factor.matrix.T, of)
    return _dot(factor.matrix, jnp.where(factor.is_dropped[:, None], shares, 0))


@jax.custom_jvp
def _log_det(matrix: Array, factor: _Factor) -> Array:
    return factor.log_det


@_log_det.defjvp
def _log_det_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    matrix, factor = primals
    return factor.log_det, jnp.trace(_solve(matrix, factor, tangents[0]))


def _cholesky_solve(lower: Array, right: Array) -> Array:
    half = jax.lax.linalg.triangular_solve(lower, right, left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(
        lower, half, left_side=True, lower=True, transpose_a=True
    )


def _dot(first: Array, second: Array) -> Array:
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)


def share_of(
    part: Float[Array, "*batch n m"], whole: Float[AnyArray, "*batch n m"]
) -> Float[Array, "*batch"]:
    """Share of the sum of squares of `whole` that `part` has.

    Args:
        part: The part.
        whole: The whole.

    Returns:
        The share, between 0 and 1; 0 if both are zero.
    """
    largest = jnp.max(jnp.abs(jnp.asarray(whole)), axis=(-2, -1), keepdims=True)
    scale = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    squares = [jnp.sum(jnp.square(a / scale), axis=(-2, -1)) for a in (part, whole)]
    return squares[0] / jnp.where(squares[1] > 0, squares[1], 1)


def is_long(
    time: Float[Array, "*times"], cutoff: Float[Array, "*batch"]
) -> Bool[Array, "*times"]:
    """Whether a time of gradient flow is too long for eigenvalues up to the cutoff.

    What they belong to may have decayed by then or not; as at infinite time, it is
    taken not to have moved.

    Args:
        time: The time, which may be infinite.
        cutoff: Eigenvalues no larger are zero to rounding.

    Returns:
        Whether it is.
    """
    # Of a kernel of zeros the cutoff is 0.
    return jnp.isinf(time) | (
        jnp.where(jnp.isinf(time), 0, time) * cutoff > _SMALL_PROGRESS
    )


def check_semidefinite(
    name: str,
    *,
    asymmetry: Float[Array, ""],
    smallest: Float[Array, ""],
    scale: Float[Array, ""],
) -> None:
    """Check that a kernel is one but for rounding, where values are known: not in `jit`.

    Args:
        name: The kernel's.
        asymmetry: Frobenius norm of its difference from its transpose.
        smallest: Its smallest eigenvalue.
        scale: Its Frobenius norm.

    Raises:
        ValueError: If it is clearly not symmetric, or not positive semidefinite.
    """
    tolerance = float(jnp.finfo(scale.dtype).eps) ** 0.5
    if _known_false(asymmetry <= tolerance * scale):
        raise ValueError(
            f"`{name}` must be symmetric, a kernel of the training points with "
            f"themselves; it differs from its transpose by {asymmetry:.2g} in Frobenius "
            "norm."
        )
    if _known_false(smallest >= -tolerance * scale):
        raise ValueError(
            f"`{name}` must be positive semidefinite; its smallest eigenvalue is "
            f"{smallest:.2g}, beyond what rounding explains."
        )


def _known_false(condition: Array) -> bool:
    """Whether `condition` is false, where its value is known: not under `jit`."""
    try:
        return not bool(condition)
    except jax.errors.ConcretizationTypeError:
        return False


def warn_of_dropped(
    name: str,
    num_dropped: Int[Array, ""],
    share: Float[Array, ""],
    *,
    remedy: str,
    stacklevel: int,
) -> None:
    """Warn of targets that are not fitted, where values are known: not under `jit`.

    Args:
        name: The kernel's.
        num_dropped: Its directions that are dropped.
        share: Share of the targets' squares that lies in them.
        remedy: What to do, if they should be fitted.
        stacklevel: Of the public function's caller.
    """
    try:
        known_share, known_number = float(share), int(num_dropped)
    except jax.errors.ConcretizationTypeError:
        return
    if known_share > _SMALL_SHARE:
        warnings.warn(
            f"`{name}` is singular to rounding: {known_number} of its directions are "
            f"dropped, and with them {known_share:.2g} of the targets' sum of squares, "
            f"which is not fitted. {remedy}",
            SingularKernelWarning,
            stacklevel=stacklevel + 1,
        )
