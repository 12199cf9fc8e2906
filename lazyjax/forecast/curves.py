"""Errors of kernel regression by the size of the training set."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least, check_nonnegative
from lazyjax.files.results import Storable
from lazyjax.forecast.eigenlearning import regression
from lazyjax.forecast.modes import Modes, modes
from lazyjax.forecast.sampled import reading_for
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve(Storable):
    r"""Expected errors of kernel regression; see `learning_curve`.

    Errors are mean squares over examples, one column an output.

    Attributes:
        sizes: Numbers of training examples.
        test_error: On examples that were not trained on.
        train_error: On those that were.
        kappa: Effective ridge, in the kernel's units.
        learned: Number of modes that are learned, $\sum_i L_i$.
        overfitting: $e_0$, the factor by which fitting what cannot be learned adds to the
            error.
    """

    sizes: tuple[int, ...]
    test_error: Float[np.ndarray, "sizes k"]
    train_error: Float[np.ndarray, "sizes k"]
    kappa: Float[np.ndarray, " sizes"]
    learned: Float[np.ndarray, " sizes"]
    overfitting: Float[np.ndarray, " sizes"]


def learning_curve(
    kernel: Float[AnyArray, "m m"],
    y: Float[AnyArray, "m k"],
    *,
    sizes: Sequence[int],
    ridge: float = 0.0,
    noise_sq: float = 0.0,
    population: bool = False,
) -> LearningCurve:
    r"""Expected error of kernel regression with training sets of several sizes.

    The `m` examples are a sample, of which errors on new examples are forecast for
    training sets of up to `m - 1`. Or, with `population=True`, they are all points that
    there are, and errors are means over all of them.

    Outputs are each regressed on their targets with a mean of zero: subtract from `y`
    what the network gives at the start.

    The equations hold as eigenvectors mix many modes. In one or two dimensions, without a
    ridge, errors are larger than they say: three times as large for the fourth and fifth
    modes of a circle learned from 16 points of it.

    Args:
        kernel: One number for each pair of examples, such as `infinite_ntk`.
        y: Targets, one row per example; noise that they hold counts as what cannot be
            learned.
        sizes: Numbers of training examples.
        ridge: $\delta$ of the regression $K (K + \delta)^{-1} y$, in the kernel's units,
            on training sets of every size.
        noise_sq: Variance of noise that is added to the targets.
        population: Whether the examples are all points of a population, drawn from
            uniformly and independently.

    Returns:
        The curve.

    Raises:
        ValueError: If shapes do not fit, something is not finite, a size is not positive
            or (of a sample) not below `m`, or `ridge` or `noise_sq` is negative.
        TypeError: If an argument is not an array of floating-point numbers, or a size not
            an integer.

    Example:
        >>> import numpy as np
        >>> from lazyjax import forecast
        >>> kernel, y = np.eye(100), np.ones((100, 1))  # nothing can be learned
        >>> curve = forecast.learning_curve(kernel, y, sizes=[10, 50])
        >>> curve.test_error[:, 0].round(6).tolist()
        [1.0, 1.0]

    References:
        Simon, Dickens, Karkada and DeWeese (2023), arXiv:2110.03922, for a population;
        for a sample, Wei, Hu and Steinhardt (2022), "More than a toy", arXiv:2203.06176,
        forecast by generalized cross-validation, in whose place each example is left out
        here (equations not checked).
    """
    check_nonnegative("ridge", ridge, infinity_allowed=False)
    check_nonnegative("noise_sq", noise_sq, infinity_allowed=False)
    of = modes(kernel, y)
    sizes = checked_sizes(sizes, None if population else of.values.size)
    points = [_point(of, size, ridge, noise_sq, population) for size in sizes]
    names = ("test_error", "train_error", "kappa", "learned", "overfitting")
    columns = map(np.array, zip(*points, strict=True))
    return LearningCurve(sizes=sizes, **dict(zip(names, columns, strict=True)))


def optimal_ridge(
    kernel: Float[AnyArray, "m m"],
    y: Float[AnyArray, "m k"],
    *,
    size: int,
    noise_sq: float = 0.0,
    population: bool = False,
) -> tuple[float, LearningCurve]:
    """The ridge at which the error, summed over outputs, is expected to be least.

    Args:
        kernel: As in `learning_curve`.
        y: As in `learning_curve`.
        size: Number of training examples.
        noise_sq: As in `learning_curve`.
        population: As in `learning_curve`.

    Returns:
        The ridge, 0 if every ridge adds to the error; and the curve there.

    Raises:
        ValueError: As `learning_curve` says.
        TypeError: As `learning_curve` says.

    Example:
        >>> import numpy as np
        >>> from lazyjax import forecast
        >>> kernel, y = np.ones((50, 50)) + np.eye(50), np.ones((50, 1))
        >>> ridge, curve = forecast.optimal_ridge(kernel, y, size=20)
        >>> ridge
        0.0
    """
    from scipy.optimize import minimize_scalar  # takes a while, which few need

    check_nonnegative("noise_sq", noise_sq, infinity_allowed=False)
    of = modes(kernel, y)
    (size,) = checked_sizes([size], None if population else of.values.size)

    def error(ridge: float) -> float:
        return float(np.sum(_point(of, size, ridge, noise_sq, population)[0]))

    scale = np.sum(of.values) / of.values.size * size
    logs = np.log(scale or 1.0) + np.arange(-30.0, 8.0)
    errors = [error(float(np.exp(log))) for log in logs]
    best = int(np.argmin(errors))
    ridge = 0.0
    if 0 < best < logs.size - 1:
        around = (logs[best - 1], logs[best + 1])
        found = minimize_scalar(
            lambda log: error(float(np.exp(log))), bounds=around, method="bounded"
        )
        ridge = float(np.exp(found.x))
    elif best:
        ridge = float(np.exp(logs[best]))
    if error(0.0) <= error(ridge) * (1 + 1e-9):  # no less, to rounding
        ridge = 0.0
    curve = learning_curve(
        kernel, y, sizes=[size], ridge=ridge, noise_sq=noise_sq, population=population
    )
    return ridge, curve


def checked_sizes(sizes: Sequence[int], num_examples: int | None) -> tuple[int, ...]:
    """Sizes of training sets, as integers.

    Args:
        sizes: Them.
        num_examples: Of a sample; `None` for a population.

    Returns:
        The sizes.

    Raises:
        ValueError: If there are none, or one is not positive, or not below
            `num_examples`.
        TypeError: If one is not an integer.
    """
    sizes = tuple(int(s) if isinstance(s, np.integer) else s for s in sizes)
    if not sizes:
        raise ValueError("`sizes` must not be empty.")
    for size in sizes:
        check_at_least("sizes", size, 1)
        if num_examples is not None and size >= num_examples:
            raise ValueError(
                f"`sizes` must be below the number of examples, {num_examples}, that the "
                f"kernel is of; got {size}. The smallest eigenvalues, which decide beyond "
                "that, are not known from a sample."
            )
    return sizes


def _point(
    of: Modes, size: int, ridge: float, noise_sq: float, population: bool
) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """Test and train error, kappa, learned modes and overfitting of one size."""
    num_points = of.values.size
    if population:
        kappa, learnability, overfitting = regression(
            of.values / num_points, size, ridge
        )
        power = np.sum((1 - learnability)[:, None] ** 2 * of.coefficients**2, axis=0)
        unlearned = power / num_points
        learned = float(np.sum(learnability))
    else:
        kappa, learned, squared, unlearned = reading_for(of, size, ridge)
        overfitting = size / (size - squared) if size > squared else np.inf
    # Below the rounding of the coefficients, everything is learned.
    rounding = 1e-26 * np.mean(of.coefficients**2, axis=0)
    unlearned = np.where(unlearned <= rounding, 0, unlearned) + noise_sq
    test_error = np.zeros_like(unlearned)
    np.multiply(unlearned, overfitting, out=test_error, where=unlearned != 0)
    train_share = (ridge / (size * kappa)) ** 2 if ridge else 0.0
    train_error = np.zeros_like(unlearned)
    np.multiply(test_error, train_share, out=train_error, where=train_share > 0)
    return test_error, train_error, kappa, learned, overfitting
