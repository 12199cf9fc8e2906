"""Forecasts of single sizes of the training set, inside and outside of a sample."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lazyjax.forecast.eigenlearning import regression
from lazyjax.forecast.modes import Modes, eigensystem
from lazyjax.forecast.power_laws import power_laws
from lazyjax.forecast.sampled import num_shown, reading_for
from lazyjax.spectrum.operators import Kernel

# By how much errors may be off the law that they are continued with, in the root mean
# square of logarithms.
MISFIT = 0.05
# By how much laws with and without a floor may differ if both fit.
APART = 1.3


class Settings(NamedTuple):
    """What the regression is, beside its kernel and targets; see `learning_curve`.

    Attributes:
        ridge: Ridge.
        noise_sq: Variance of noise that is added to targets.
        population: Whether the examples are all there are.
        summed: Whether errors of all outputs are summed.
    """

    ridge: float
    noise_sq: float
    population: bool
    summed: bool = False


class Point(NamedTuple):
    """What is forecast for one size."""

    test_error: Float[np.ndarray, " k"]
    train_error: Float[np.ndarray, " k"]
    kappa: float
    learned: float
    overfitting: float


def points_of(
    of: Modes, sizes: Sequence[int], settings: Settings
) -> dict[str, np.ndarray]:
    """Forecasts for several sizes.

    Args:
        of: Modes of the sample, or the population.
        sizes: Numbers of training examples.
        settings: Of the regression.

    Returns:
        The fields of points, one row for each size.

    Raises:
        ValueError: If errors that are to be continued follow no law.
    """
    shown = np.inf if settings.population else num_shown(of, settings.ridge)
    beyond = [size for size in sizes if size >= shown]
    points = {size: point_of(of, size, settings) for size in sizes if size < shown}
    if beyond:
        points |= _continued(of, beyond, shown, settings)
    columns = map(np.array, zip(*(points[size] for size in sizes), strict=True))
    return dict(zip(Point._fields, columns, strict=True))


def point_of(of: Modes, size: int, settings: Settings) -> Point:
    """Forecast for one size that the sample shows.

    Args:
        of: Modes of the sample, or the population.
        size: Number of training examples.
        settings: Of the regression.

    Returns:
        The forecast.
    """
    ridge, noise_sq, population, summed = settings
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
    if summed:
        unlearned = np.sum(unlearned, keepdims=True)
    test_error = np.zeros_like(unlearned)
    np.multiply(unlearned, overfitting, out=test_error, where=unlearned != 0)
    train_error = _train_error(test_error, size, ridge, kappa)
    return Point(test_error, train_error, kappa, learned, overfitting)


def start_of(of: Modes, nngp: Kernel) -> Modes:
    """Modes with one output for each direction of the network's start.

    Args:
        of: Modes of the kernel.
        nngp: Covariance of outputs at the start.

    Returns:
        The modes: sums over outputs are means over starts.

    Raises:
        ValueError: If `nngp` is of other examples, or no kernel.
    """
    values, vectors = eigensystem(nngp, name="nngp")
    if values.size != of.values.size:
        raise ValueError(
            f"`nngp` must be of the {of.values.size} examples that `kernel` is of; it is "
            f"of {values.size}."
        )
    directions = vectors * np.sqrt(values)
    return of._replace(coefficients=of.vectors.T @ directions)


def _continued(
    of: Modes, sizes: Sequence[int], shown: float, settings: Settings
) -> dict[int, Point]:
    """Forecasts beyond what the sample shows, from those that it does show."""
    inside = np.unique(np.floor(np.geomspace(shown / 8, 0.9 * shown, 12)))
    inside = inside[inside > 0]
    if inside.size < 3:
        raise ValueError(
            "`extrapolate` needs a kernel of at least 5 examples, of whose errors a law "
            f"can be seen; got {of.values.size}."
        )
    quiet = settings._replace(noise_sq=0.0)
    points = [point_of(of, int(size), quiet) for size in inside]
    errors, _, kappa, learned, overfitting = map(np.array, zip(*points, strict=True))
    if not np.all(np.isfinite(errors)):
        raise ValueError(
            "`extrapolate` needs finite errors; without a `ridge`, with as many examples "
            f"as the kernel has rank, {np.count_nonzero(of.values)}, they are infinite."
        )
    at = np.array(sizes, np.float64)
    laws = power_laws(inside, np.sum(errors, axis=1))
    if laws[0].misfit > MISFIT:
        raise ValueError(
            "`extrapolate` needs errors that fall like a power of the size, down to a "
            f"floor; from {inside[0]:.0f} to {inside[-1]:.0f} examples, which the kernel "
            f"shows, they are off such a law by {laws[0].misfit:.0%}. Pass a `ridge`, or "
            "a larger sample."
        )
    apart = np.max(laws[0].at(at) / laws[-1].at(at)) if len(laws) > 1 else 1.0
    if apart > APART:
        raise ValueError(
            "`extrapolate` needs errors that tell whether they fall to a floor or to zero; "
            f"for {max(sizes)} examples, laws with and without one differ {apart:.1f} "
            "fold. Pass a `ridge`, a larger sample, or smaller `sizes`."
        )

    def go_on(values: np.ndarray) -> np.ndarray:
        return power_laws(inside, values)[0].at(at)

    test_error = np.stack([go_on(error) for error in errors.T], axis=1)
    factor = 1 + go_on(overfitting - 1)
    if settings.ridge:
        learned = at * go_on(learned / inside)
        kappa = settings.ridge / (at - learned)
    else:
        learned, kappa = at, go_on(kappa)
    found = {}
    for i, size in enumerate(sizes):
        test = test_error[i] + settings.noise_sq * factor[i]
        train = _train_error(test, size, settings.ridge, kappa[i])
        found[size] = Point(test, train, kappa[i], learned[i], factor[i])
    return found


def _train_error(
    test_error: np.ndarray, size: int, ridge: float, kappa: float
) -> np.ndarray:
    # Without a ridge, zero also where the test error is infinite.
    if ridge == 0:
        return np.zeros_like(test_error)
    return test_error * (ridge / (size * kappa)) ** 2
