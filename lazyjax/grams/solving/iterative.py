r"""Linear systems with Gram matrices that are not held in memory, by conjugate gradients."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from lazyjax._brief import brief
from lazyjax._checks import (
    check_at_least,
    check_finite,
    check_floating,
    check_nonnegative,
    check_positive,
)
from lazyjax.files.results import Storable
from lazyjax.grams.solving.conjugate_gradients import Status, refined
from lazyjax.grams.solving.preconditioners import nystrom_preconditioner
from lazyjax.grams.solving.products import products_with
from lazyjax.grams.store import GramStore
from lazyjax.ntk import NTKOperator
from lazyjax.progress import Progress, progress_reporter
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class GramSolution(Storable):
    """What conjugate gradients came to.

    Attributes:
        solution: One column for each right-hand side.
        residuals: Norm of each column's residual over that of its right-hand side, before
            the first step and after each. The last ones are true ones, of the solution
            multiplied in double precision; others may be those that recursion keeps.
        status: "converged", if all of the last residuals are within the tolerance; "out
            of steps"; "indefinite", if a direction was met along which the matrix with
            its ridge is not positive, as it may be by rounding; or "stalled", if rounding
            of products keeps residuals from falling: compute in double precision, or
            with a larger ridge.
        tolerance: Residual that was asked for.
    """

    _derived: ClassVar[tuple[str, ...]] = ("num_steps",)

    solution: np.ndarray
    residuals: np.ndarray
    status: Status
    tolerance: float

    @property
    def num_steps(self) -> int:
        """Steps that were taken, with one product each; true residuals take more."""
        return len(self.residuals) - 1

    def explain(self) -> str:
        """The same in words.

        Returns:
            One line.
        """
        return (
            f"{self.status} after {self.num_steps} steps: residual "
            f"{np.max(self.residuals[-1]):.3g} of {self.tolerance:.3g}"
        )


def solve(
    matrix: GramStore | NTKOperator | AnyArray,
    right: AnyArray,
    *,
    ridge: int | float = 0.0,
    tolerance: int | float = 1e-6,
    max_steps: int = 1000,
    rank: int = 0,
    progress: bool | Progress = False,
) -> GramSolution:
    r"""Solution of $(K + \lambda I) a = y$ by conjugate gradients, many $y$ at once.

    Vectors are held in double precision. A store reads each tile once a step; an operator
    multiplies without forming the matrix, in its own precision. Residuals are computed
    anew, in double precision, whenever they have fallen by the root of that precision, and
    at the end: what has converged has a residual within the tolerance.

    Args:
        matrix: A symmetric positive semidefinite matrix: what `lazyjax.gram` returns
            (with `outputs="full"`, rows are those of `linalg.gram_matrix`), what
            `ntk_operator` returns, or an array.
        right: One column for each right-hand side, or a vector.
        ridge: What is added to the diagonal.
        tolerance: Largest residual, over the norm of the right-hand side.
        max_steps: Most steps.
        rank: Of an approximation that preconditions, the randomized one of Nystrom, for
            which so many columns are multiplied at once beforehand; 0 means none.
        progress: Whether a bar is shown on a terminal, or a function of the share done
            and a message.

    Returns:
        The solution, with its status and the history of residuals: nothing is raised if
        it did not converge.

    Raises:
        ValueError: If shapes do not fit, the matrix is not symmetric, `right` is not
            finite, or an option is out of range.
        TypeError: If `matrix` or `right` is not of real floating-point numbers.

    Example:
        >>> import numpy as np
        >>> from lazyjax.grams import solve
        >>> found = solve(np.diag([1.0, 2.0]), np.array([3.0, 4.0]), ridge=1.0)
        >>> found.solution[:, 0].round(6).tolist(), found.status
        ([1.5, 1.333333], 'converged')

    References:
        Hestenes and Stiefel (1952); the preconditioner is that of Frangella, Tropp and
        Udell (2021), arXiv:2110.02820 (algorithm not checked).
    """
    size = _size(matrix)
    check_floating("right", right)
    check_finite("right", right)
    columns = np.asarray(right, np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or len(columns) != size or not columns.size:
        raise ValueError(
            f"`right` must have {size} rows, those of `matrix`; got {np.shape(right)}."
        )
    check_nonnegative("ridge", ridge, infinity_allowed=False)
    check_positive("tolerance", tolerance)
    check_at_least("max_steps", max_steps, 1)
    check_at_least("rank", rank, 0)
    products = products_with(matrix, columns.shape[1])
    eps = float(jnp.finfo(matrix.dtype).eps)
    invert = nystrom_preconditioner(
        products.quick, size, min(rank, size), float(ridge), eps
    )
    with progress_reporter(progress, "solve") as report:
        found = refined(
            products,
            columns,
            invert,
            ridge=float(ridge),
            tolerance=float(tolerance),
            max_steps=max_steps,
            tell=lambda step, residual: report(
                step / max_steps, f"step {step}, residual {residual:.3g}"
            ),
        )
    return GramSolution(**found._asdict(), tolerance=float(tolerance))


def _size(matrix: Any) -> int:
    """Rows of a matrix, if it can be symmetric."""
    if isinstance(matrix, GramStore):
        shape = matrix.flat_shape
        is_symmetric = matrix.files.is_symmetric
    elif isinstance(matrix, NTKOperator):
        shape, is_symmetric = matrix.shape, matrix.x1 is matrix.x2
    else:
        check_floating("matrix", matrix)
        shape = matrix.shape
        is_symmetric = len(shape) == 2 and shape[0] == shape[1]
        is_symmetric = is_symmetric and np.allclose(
            matrix, np.transpose(matrix), equal_nan=True
        )
    if not is_symmetric:
        raise ValueError(
            f"`matrix` must be symmetric, of one batch with itself; got {brief(matrix)}."
        )
    return shape[0]
