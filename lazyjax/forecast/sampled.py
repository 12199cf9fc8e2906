r"""Learning curves from a sample, by errors of leaving one out.

Of a population that is only known by `m` examples, the smallest eigenvalues of their
kernel are off, and its eigenvectors near unusual examples are not spread out as the
eigenlearning equations have it. What those need is a function of $\kappa$ alone: what is
not learned, $B(\kappa) = \sum_i (1 - L_i)^2 v_i^2 + \sigma^2$, and $\sum_i L_i^2$. The
sample has any $\kappa$ at some ridge $\mu$, where regression on `m - 1` examples has a
known error: leaving each example out once is a formula. So $B$ is that error over
$e_0$ of the sample, and the error at any other size and ridge follows.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lazyjax.forecast.modes import Modes


class Reading(NamedTuple):
    r"""What regression on the whole sample with a ridge $\mu$ learns and leaves.

    Attributes:
        kappa: Effective ridge.
        learned: $\sum_i L_i$.
        learned_squared: $\sum_i L_i^2$.
        unlearned: $B$, for each output.
    """

    kappa: float
    learned: float
    learned_squared: float
    unlearned: Float[np.ndarray, " k"]


def reading(of: Modes, mu: float) -> Reading:
    """What regression on the whole sample with one ridge learns and leaves.

    Args:
        of: Its modes.
        mu: The ridge, positive.

    Returns:
        The reading.
    """
    size = of.values.size
    inverse = 1 / (of.values + mu)
    kappa, learned = _kappa(inverse, mu)
    # Derivative of the equation for kappa by the ridge, with learned' from its own sum.
    slope = np.sum((kappa * inverse) ** 2)
    squared = learned - (1 / slope - mu / kappa)
    left_out = (of.vectors @ (of.coefficients * inverse[:, None])) / (
        of.vectors**2 @ inverse
    )[:, None]
    unlearned = np.mean(left_out**2, axis=0) * (size - squared) / size
    return Reading(kappa, learned, squared, unlearned)


def num_shown(of: Modes, ridge: float) -> float:
    r"""Number of training examples below which the sample shows what is learned.

    Larger training sets have a smaller effective ridge than the sample has at any ridge.
    With a ridge $\delta$ these are $m + \delta \operatorname{tr} K^{-1}$.

    Args:
        of: Modes of the sample.
        ridge: Added to the diagonal of the training kernel.

    Returns:
        The number; infinite if the kernel's features are far fewer than the examples, so
        that these show them all.
    """
    positive, num_examples = of.values[of.values > 0], of.values.size
    if positive.size <= num_examples // 2:
        return np.inf
    return num_examples + ridge * float(
        np.sum(1 / np.maximum(of.values, positive[0])) if ridge else 0.0
    )


def reading_for(of: Modes, size: int, ridge: float) -> Reading:
    """The same at the ridge which gives the effective ridge of another training set.

    Args:
        of: Modes of the sample.
        size: Of the training set, below `num_shown`.
        ridge: Added to the diagonal of its kernel.

    Returns:
        The reading.
    """
    from scipy.optimize import brentq  # takes a while, which few need

    positive = of.values[of.values > 0]
    if ridge == 0 and size >= positive.size:
        # All modes are learned, as in the limit of small ridges.
        limit = reading(of, 1e-6 * positive[0] if positive.size else 1.0)
        rank = float(positive.size)
        return limit._replace(kappa=0.0, learned=rank, learned_squared=rank)
    num_left_out = of.values.size - size

    def excess_at(log_mu: float) -> float:
        mu = np.exp(log_mu)
        kappa, _ = _kappa(1 / (of.values + mu), mu)
        return float((mu - ridge) / kappa - num_left_out)

    # (mu - ridge) / kappa is below m, and grows with mu.
    scale = np.log(np.sum(of.values) + ridge)
    low, high = scale - 1, scale + 1
    while excess_at(low) > 0 and low > scale - 80:
        low -= 2
    while excess_at(high) < 0:
        high += 2
    if excess_at(low) > 0:
        return reading(of, float(np.exp(low)))
    found: Any = brentq(excess_at, low, high, xtol=1e-12)
    return reading(of, float(np.exp(found)))


def _kappa(inverse: np.ndarray, mu: float) -> tuple[float, float]:
    r"""Effective ridge, and $\sum_i L_i$, from the eigenvalues of $(K + \mu)^{-1}$."""
    kappa = float(1 / np.sum(inverse))
    return kappa, inverse.size - mu / kappa
