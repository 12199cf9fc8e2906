r"""Linear systems with Gram matrices that are not held in memory, by conjugate gradients."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from lazyjax._brief import brief
from lazyjax._checks import (
    check_array,
    check_at_least,
    check_nonnegative,
    check_positive,
)
from lazyjax.files.results import Storable
from lazyjax.grams.solving.preconditioners import (
    nystrom_preconditioner,
    product_with,
)
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
            the first step and after each.
        status: "converged"; "out of steps"; or "indefinite", if a direction was met along
            which the matrix with its ridge is not positive, as it may be by rounding.
        tolerance: Residual that was asked for.
    """

    _derived: ClassVar[tuple[str, ...]] = ("num_steps",)

    solution: np.ndarray
    residuals: np.ndarray
    status: Literal["converged", "out of steps", "indefinite"]
    tolerance: float

    @property
    def num_steps(self) -> int:
        """Steps that were taken, with one product each."""
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

    Vectors are held in double precision; of the matrix, a store reads each tile once a
    step, and an operator multiplies without forming it, in its own precision.

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
        ValueError: If shapes do not fit, the matrix is not symmetric, or an option is out
            of range.

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
    check_array("right", right)
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
    multiply = product_with(matrix)
    eps = float(jnp.finfo(matrix.dtype).eps)
    invert = nystrom_preconditioner(multiply, size, min(rank, size), float(ridge), eps)
    with progress_reporter(progress, "solve") as report:
        return _conjugate_gradients(
            lambda v: multiply(v) + ridge * v,
            columns,
            invert,
            float(tolerance),
            max_steps,
            report,
        )


def _conjugate_gradients(
    multiply: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
    invert: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    max_steps: int,
    report: Progress,
) -> GramSolution:
    scale = np.linalg.norm(right, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    solution, residual = np.zeros_like(right), right.copy()
    precise = invert(residual)
    direction, energy = precise.copy(), _dots(residual, precise)
    history = [np.linalg.norm(residual, axis=0) / scale]
    status: Literal["converged", "out of steps", "indefinite"] = "out of steps"
    for step in range(max_steps + 1):
        is_open = history[-1] > tolerance
        if not is_open.any():
            status = "converged"
            break
        if step == max_steps:
            break
        product = multiply(direction)
        curvature = _dots(direction, product)
        if not (curvature[is_open] > 0).all():  # also where it is not a number
            status = "indefinite"
            break
        # Columns that have converged stay as they are.
        length = np.where(is_open, energy / np.where(is_open, curvature, 1.0), 0.0)
        solution += length * direction
        residual -= length * product
        precise = invert(residual)
        last, energy = energy, _dots(residual, precise)
        direction = precise + energy / np.where(last > 0, last, 1.0) * direction
        history.append(np.linalg.norm(residual, axis=0) / scale)
        report(step / max_steps, f"step {step + 1}, residual {history[-1].max():.3g}")
    return GramSolution(
        solution=solution,
        residuals=np.stack(history),
        status=status,
        tolerance=tolerance,
    )


def _size(matrix: Any) -> int:
    """Rows of a matrix, if it can be symmetric."""
    if isinstance(matrix, GramStore):
        shape = matrix.flat_shape
        is_symmetric = matrix.files.is_symmetric
    elif isinstance(matrix, NTKOperator):
        shape, is_symmetric = matrix.shape, matrix.x1 is matrix.x2
    else:
        check_array("matrix", matrix)
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


def _dots(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.einsum("nm,nm->m", one, two)
