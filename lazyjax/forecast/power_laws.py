"""Quantities that fall like a power of the size of the training set, down to a floor."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Floors that are tried, as shares of the least value.
FLOORS = np.linspace(0, 0.98, 50)
# Misfits up to which there is no floor, and beyond which there must be one.
STRAIGHT, BENT = 0.015, 0.04


class PowerLaw(NamedTuple):
    r"""The law $c + e^{a} n^{-b}$.

    Attributes:
        floor: $c$.
        log_level: $a$.
        exponent: $b$, not negative.
        misfit: Root mean square of the logarithm of what it was fitted to, over the law.
    """

    floor: float
    log_level: float
    exponent: float
    misfit: float

    def at(self, sizes: Float[np.ndarray, "*_"]) -> Float[np.ndarray, "*_"]:
        """The law at other sizes."""
        return self.floor + np.exp(self.log_level - self.exponent * np.log(sizes))


def power_laws(
    sizes: Float[np.ndarray, " sizes"], values: Float[np.ndarray, " sizes"]
) -> list[PowerLaw]:
    """Laws through values at several sizes, by least squares of logarithms.

    Args:
        sizes: At least three.
        values: One for each, not negative.

    Returns:
        The law; constant where values do not fall, and of infinite misfit if some are zero
        but not all. It is followed by the one without a floor if that may be as right.
    """
    if not np.any(values):
        return [PowerLaw(0.0, -np.inf, 0.0, 0.0)]
    if not np.all(values > 0):
        return [PowerLaw(0.0, float(np.log(np.mean(values))), 0.0, np.inf)]
    fits = [_fit(sizes, values, share * float(np.min(values))) for share in FLOORS]
    plain, best = fits[0], min(fits, key=lambda fit: fit.misfit)
    # Floors count most far out and are hardly seen: few values can be bent to one.
    if plain.misfit <= STRAIGHT or best.misfit > plain.misfit / 2:
        return [plain]
    is_clear = plain.misfit > BENT and best.misfit < plain.misfit / 3
    return [best] if is_clear else [best, plain]


def _fit(sizes: np.ndarray, values: np.ndarray, floor: float) -> PowerLaw:
    logs, heights = np.log(sizes), np.log(values - floor)
    centred = logs - np.mean(logs)
    exponent = max(0.0, -float(centred @ heights / (centred @ centred)))
    level = float(np.mean(heights) + exponent * np.mean(logs))
    law = PowerLaw(floor, level, exponent, 0.0)
    misfit = np.sqrt(np.mean(np.log(law.at(sizes) / values) ** 2))
    return law._replace(misfit=float(misfit))
