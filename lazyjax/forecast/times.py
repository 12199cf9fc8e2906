r"""Times of gradient flow on $\tfrac12 \lVert f - y \rVert^2$, from a kernel and targets."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least, check_number, check_positive
from lazyjax.files.results import Storable
from lazyjax.forecast.modes import modes
from lazyjax.spectrum.operators import Kernel
from lazyjax.typing import AnyArray


def training_time(
    kernel: Kernel, y: Float[AnyArray, "m k"], *, target: float
) -> Float[np.ndarray, " k"]:
    r"""Time at which gradient flow has brought the error of each output down to `target`.

    The error is the mean of squares over training examples, of the linear model with this
    kernel. Time is that of $\dot f = -K (f - y)$, as in `linear_dynamics`: of the loss
    $\tfrac12 \lVert f - y \rVert^2$, summed over examples.

    Args:
        kernel: One number for each pair of training examples.
        y: Targets, less what the network gives at the start.
        target: Mean squared error to be reached, per output.

    Returns:
        The time for each output: its difficulty. Zero if it is there at the start,
        infinite if what the kernel cannot learn is more.

    Raises:
        ValueError: If shapes do not fit, something is not finite, or `target` is not
            positive.
        TypeError: If an argument is not an array of floating-point numbers.

    Example:
        >>> import numpy as np
        >>> from lazyjax import forecast
        >>> y = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> time = forecast.training_time(np.diag([1.0, 10.0]), y, target=0.5 * np.exp(-2))
        >>> time.round(6).tolist()
        [1.0, 0.1]
    """
    from scipy.optimize import brentq  # takes a while, which few need

    check_number("target", target)
    check_positive("target", target)
    of = modes(kernel, y)
    rates = of.values

    def time_of(power: np.ndarray) -> float:
        def excess(log_time: float) -> float:
            return float(np.sum(power * np.exp(-2 * rates * np.exp(log_time)))) - target

        if np.sum(power) <= target:
            return 0.0
        if np.sum(power[rates == 0]) >= target:
            return np.inf
        positive = rates[rates > 0]
        enough = np.log(np.sum(power) / (target - np.sum(power[rates == 0])))
        high = np.log(enough / (2 * positive[0])) + 1e-9
        # Until then, even the quickest mode alone has not decayed.
        low = np.log(np.log(np.sum(power) / target) / (2 * positive[-1])) - 1e-9
        found: Any = brentq(excess, low, high)
        return float(np.exp(found))

    power = of.coefficients**2 / of.values.size
    return np.array([time_of(column) for column in power.T])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping(Storable):
    """When to stop, as it is forecast from training examples alone.

    Attributes:
        time: At which the error on new examples is expected to be least; infinite if
            training never hurts.
        test_error: Expected then, for each output.
        final_test_error: Expected at the end of training.
        times: Times that were looked at.
        test_errors: Expected at each, summed over outputs.
    """

    time: float
    test_error: Float[np.ndarray, " k"]
    final_test_error: Float[np.ndarray, " k"]
    times: Float[np.ndarray, " times"]
    test_errors: Float[np.ndarray, " times"]


def early_stopping(
    kernel: Kernel, y: Float[AnyArray, "m k"], *, num_times: int = 200
) -> EarlyStopping:
    r"""Time of gradient flow at which the error on new examples is expected to be least.

    The outputs on training examples are $S y$, $S = 1 - e^{-K t}$. Without example $i$,
    its error would be $(y_i - f_i) / (1 - S_{ii})$: exactly so for ridge regression, about
    so for gradient flow. Their mean squares are compared over times.

    Args:
        kernel: One number for each pair of training examples.
        y: Targets, noise and all, less what the network gives at the start.
        num_times: Number of times that are looked at, from before the largest
            eigenvalue is learned until after the smallest is.

    Returns:
        The forecast.

    Raises:
        ValueError: If shapes do not fit, something is not finite, the kernel is zero, or
            `num_times` is below 2.
        TypeError: If an argument is not an array of floating-point numbers, or
            `num_times` not an integer.

    Example:
        >>> import numpy as np
        >>> from lazyjax import forecast
        >>> x = np.linspace(-1, 1, 30)
        >>> kernel = np.exp(-2 * (x[:, None] - x) ** 2)
        >>> noise = np.random.default_rng(0).normal(size=(30, 1))
        >>> stop = forecast.early_stopping(kernel, np.sin(3 * x)[:, None] + noise / 2)
        >>> bool(stop.test_error[0] < stop.final_test_error[0])
        True
    """
    check_at_least("num_times", num_times, 2)
    of = modes(kernel, y)
    rates = of.values
    positive = rates[rates > 0]
    if not positive.size:
        raise ValueError("`kernel` must not be zero: nothing is ever learned.")
    times = np.geomspace(0.01 / positive[-1], 30 / positive[0], num_times)
    squares = of.vectors**2

    def errors(time: float) -> np.ndarray:
        left = np.exp(-rates * time)
        residual = of.vectors @ (left[:, None] * of.coefficients)
        # Relative to the largest, so that neither underflows at late times.
        return np.mean((residual / (squares @ left)[:, None]) ** 2, axis=0)

    each = np.array([errors(time) for time in times])
    total = np.sum(each, axis=1)
    best = int(np.argmin(total))
    is_last = best == num_times - 1
    return EarlyStopping(
        time=np.inf if is_last else float(times[best]),
        test_error=each[best],
        final_test_error=each[-1],
        times=times,
        test_errors=total,
    )
