"""Forecasts of single sizes of the training set, inside and outside of a sample."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lazyjax.forecast.eigenlearning import regression
from lazyjax.forecast.modes import Modes, eigensystem
from lazyjax.forecast.power_laws import PowerLaws
from lazyjax.forecast.sampled import reading_for
from lazyjax.spectrum.operators import Kernel


class Settings(NamedTuple):
    """What the regression is, beside its kernel and targets; see `learning_curve`."""

    ridge: float
    noise_sq: float
    population: bool


class Point(NamedTuple):
    """What is forecast for one size."""

    test_error: np.ndarray
    train_error: np.ndarray
    kappa: float
    learned: float
    overfitting: float


def points_of(
    of: Modes, sizes: Sequence[int], beyond: Sequence[bool], settings: Settings
) -> dict[str, np.ndarray]:
    """Forecasts for several sizes.

    Args:
        of: Modes of the sample, or the population.
        sizes: Numbers of training examples.
        beyond: Whether each is beyond the sample.
        settings: Of the regression.

    Returns:
        The fields of points, one row for each size.
    """
    # Of fewer modes than examples, all are learned, and more examples change nothing
    # that is not known.
    rank = int(np.count_nonzero(of.values))
    is_known = settings.ridge == 0 and rank <= of.values.size // 2
    laws = _laws(of, settings) if any(beyond) and not is_known else None
    points = [
        _extrapolated(laws, size, settings)
        if laws is not None and is_beyond
        else point_of(of, size, settings)
        for size, is_beyond in zip(sizes, beyond, strict=True)
    ]
    columns = map(np.array, zip(*points, strict=True))
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
    ridge, noise_sq, population = settings
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
    train_error = _train_error(test_error, size, ridge, kappa)
    return Point(test_error, train_error, kappa, learned, overfitting)


def _laws(of: Modes, settings: Settings) -> PowerLaws:
    """How forecasts, without added noise, go on beyond the sample."""
    m = of.values.size
    inside = np.unique(np.linspace(m / 2, 0.9 * m, 6).round().astype(int))
    inside = inside[(inside > 0) & (inside < m)]
    quiet = settings._replace(noise_sq=0.0)
    points = [point_of(of, int(size), quiet) for size in inside]
    series = {
        name: np.array([np.atleast_1d(getattr(point, name)) for point in points])
        for name in ("test_error", "kappa", "learned", "overfitting")
    }
    # The error of all outputs must fall; each may do what it will.
    series["total"] = np.sum(series["test_error"], axis=1, keepdims=True)
    return PowerLaws.through(inside, series, falling="total")


def _extrapolated(laws: PowerLaws, size: int, settings: Settings) -> Point:
    kappa, learned, overfitting = (
        float(laws.at(size, name)[0]) for name in ("kappa", "learned", "overfitting")
    )
    test_error = laws.at(size, "test_error") + settings.noise_sq * overfitting
    train_error = _train_error(test_error, size, settings.ridge, kappa)
    return Point(test_error, train_error, kappa, learned, overfitting)


def _train_error(
    test_error: np.ndarray, size: int, ridge: float, kappa: float
) -> np.ndarray:
    # Without a ridge, zero also where the test error is infinite.
    if ridge == 0:
        return np.zeros_like(test_error)
    return test_error * (ridge / (size * kappa)) ** 2


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
