"""Errors of kernel regression, and of wide networks, by the size of the training set."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_flag, known_numbers
from lazyjax.files.results import Storable
from lazyjax.forecast.modes import check_strength, modes
from lazyjax.forecast.points import Settings, point_of, points_of, start_of
from lazyjax.forecast.sampled import num_shown
from lazyjax.spectrum.operators import Kernel
from lazyjax.typing import AnyArray

# How far curves are extrapolated, in units of what is shown: as far as was tried.
FARTHEST = 8


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
        is_extrapolated: Whether each size is beyond what the sample shows.
        seed_variance: Variance of each output of a trained network on new examples, over
            initializations; `None` if `nngp` was not given.
    """

    sizes: tuple[int, ...]
    test_error: Float[np.ndarray, "sizes k"]
    train_error: Float[np.ndarray, "sizes k"]
    kappa: Float[np.ndarray, " sizes"]
    learned: Float[np.ndarray, " sizes"]
    overfitting: Float[np.ndarray, " sizes"]
    is_extrapolated: tuple[bool, ...]
    seed_variance: Float[np.ndarray, " sizes"] | None

    @property
    def network_error(self) -> Float[np.ndarray, "sizes k"]:
        """Test error of one wide network: that of the mean over seeds, and the variance.

        Raises:
            ValueError: If `nngp` was not given.
        """
        if self.seed_variance is None:
            raise ValueError(
                "`nngp` must be given to `learning_curve`: errors of single networks are "
                "not known without their variance at the start."
            )
        return self.test_error + self.seed_variance[:, None]


def learning_curve(
    kernel: Kernel,
    y: Float[AnyArray, "m k"],
    *,
    sizes: Sequence[int],
    ridge: float = 0.0,
    noise_sq: float = 0.0,
    population: bool = False,
    nngp: Kernel | None = None,
    extrapolate: bool = False,
) -> LearningCurve:
    r"""Expected error of kernel regression with training sets of several sizes.

    The `m` examples are a sample, of which errors on new examples are forecast. Or, with
    `population=True`, they are all points that there are, and errors are means over all
    of them.

    Outputs are each regressed on their targets with a mean of zero: subtract from `y`
    what the network gives at the start, or pass `nngp`. A wide network that starts at
    $f_0 \sim N(0, K)$ ends, at a new example, at the regression plus what is left of $f_0$
    once regression on its values at the training examples is taken away: the error of
    regression on $f_0$ itself, whose mean over $f_0$ is the variance over seeds.

    The equations hold as eigenvectors mix many modes. In one or two dimensions, without a
    ridge, errors are larger than they say: three times as large for the fourth and fifth
    modes of a circle learned from 16 points of it.

    A sample shows training sets of up to $m + \delta \operatorname{tr} K^{-1}$ examples, as
    a ridge $\delta$ covers what it does not tell of the smallest eigenvalues; and all, if
    the kernel has far fewer features than examples. Beyond, with `extrapolate=True`, errors
    go on as the power of the size that fits them from an eighth to nine tenths of that,
    down to a floor if one is clearly seen; so does the variance over seeds. That is a
    guess. On handwritten digits with three kernels, forecasts from samples of 100 to 800
    are on average 1.0 to 1.3 times what was measured, up to 8 times the sample; single
    samples scatter around that by 15 to 30 % if of 100 or 200, by 8 % if of 800. Samples
    of 50 say 1.3 to 2 times too much.

    Args:
        kernel: One number for each pair of examples, such as `infinite_ntk`: an array, a
            store or an operator.
        y: Targets, one row per example; noise that they hold counts as what cannot be
            learned.
        sizes: Numbers of training examples.
        ridge: $\delta$ of the regression $K (K + \delta)^{-1} y$, in the kernel's units,
            on training sets of every size.
        noise_sq: Variance of noise that is added to the targets.
        population: Whether the examples are all points of a population, drawn from
            uniformly and independently.
        nngp: Covariance of an output at the start, such as `infinite_nngp`, for
            `seed_variance`. Finite width adds to it.
        extrapolate: Whether sizes may be up to 8 times what the sample shows.

    Returns:
        The curve.

    Raises:
        ValueError: If shapes do not fit, something is not finite, a size is not positive
            or more than the sample shows, or `ridge` or `noise_sq` is negative; or if
            errors follow no such law, and so cannot be extrapolated.
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
        here; for networks at random starts, Lee et al. (2019), arXiv:1902.06720
        (equations not checked).
    """
    check_strength("ridge", ridge)
    check_strength("noise_sq", noise_sq)
    check_flag("population", population)
    check_flag("extrapolate", extrapolate)
    of = modes(kernel, y)
    shown = np.inf if population else num_shown(of, ridge)
    sizes = checked_sizes(sizes, of.values.size, shown, extrapolate)
    settings = Settings(ridge, noise_sq, population)
    variance = None
    if nngp is not None:
        of_seeds = Settings(ridge, 0.0, population, summed=True)
        variance = points_of(start_of(of, nngp), sizes, of_seeds)["test_error"][:, 0]
    return LearningCurve(
        sizes=sizes,
        is_extrapolated=tuple(size >= shown for size in sizes),
        seed_variance=variance,
        **points_of(of, sizes, settings),
    )


def optimal_ridge(
    kernel: Kernel,
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

    check_at_least("size", size, 1)
    check_strength("noise_sq", noise_sq)
    check_flag("population", population)
    of = modes(kernel, y)
    num_examples = of.values.size
    shown = np.inf if population else float(num_examples)
    (size,) = checked_sizes([size], num_examples, shown)

    def error(ridge: float) -> float:
        settings = Settings(ridge, noise_sq, population)
        return float(np.sum(point_of(of, size, settings).test_error))

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


def checked_sizes(
    sizes: Sequence[int], num_examples: int, shown: float, extrapolate: bool = False
) -> tuple[int, ...]:
    """Sizes of training sets, as integers.

    Args:
        sizes: Them.
        num_examples: Examples that the kernel is of.
        shown: What they must be below unless they are extrapolated.
        extrapolate: Whether they may be `FARTHEST` times as many.

    Returns:
        The sizes.

    Raises:
        ValueError: If there are none, or one is not positive, or too large.
        TypeError: If one is not an integer.
    """
    if known_numbers("sizes", sizes).ndim != 1:
        raise TypeError(f"`sizes` must be integers, one or more; got {brief(sizes)}.")
    sizes = tuple(int(s) if isinstance(s, np.integer) else s for s in sizes)
    if not sizes:
        raise ValueError("`sizes` must not be empty.")
    for size in sizes:
        check_at_least("sizes", size, 1)
        if size < shown or (extrapolate and size <= FARTHEST * shown):
            continue
        limit = (
            f"below the number of examples, {num_examples}, that the kernel is of"
            if shown == num_examples
            else f"below {shown:.0f}, as the kernel is of {num_examples} examples"
        )
        if extrapolate:
            raise ValueError(
                f"`sizes` must be at most {FARTHEST} times what the sample shows, which "
                f"is {limit}; got {size}."
            )
        raise ValueError(
            f"`sizes` must be {limit}; got {size}. The smallest eigenvalues, which decide "
            "beyond that, are not known from a sample: `learning_curve` guesses with "
            "`extrapolate=True`."
        )
    return sizes
