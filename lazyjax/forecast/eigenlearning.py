r"""Kernel regression on samples of a known population: the eigenlearning equations.

With eigenvalues $\lambda_i$ of the kernel's integral operator, a training set of $n$
examples and a ridge $\delta$, the effective ridge $\kappa$ solves

$$\sum_i \frac{\lambda_i}{\lambda_i + \kappa} + \frac{\delta}{\kappa} = n,$$

mode $i$ is learned to the part $L_i = \lambda_i / (\lambda_i + \kappa)$, and the mean
squared error over the population is $e_0 (\sum_i (1 - L_i)^2 v_i^2 + \sigma^2)$, $e_0 = n
/ (n - \sum_i L_i^2)$, for targets of coefficients $v_i$ and noise of variance $\sigma^2$.
Without a ridge, the $L_i$ add up to $n$: learning is conserved.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least
from lazyjax.forecast.modes import check_strength, eigensystem
from lazyjax.spectrum.operators import Kernel


class Regression(NamedTuple):
    r"""Kernel regression on random training sets of one size.

    Attributes:
        kappa: Effective ridge $\kappa$.
        learnability: $L_i$ of each mode.
        overfitting: $e_0$: by how much fitting noise, and what cannot be learned, adds
            to the error; infinite where $n$ modes are all there are.
    """

    kappa: float
    learnability: Float[np.ndarray, " m"]
    overfitting: float


def regression(
    eigenvalues: Float[np.ndarray, " m"], size: int, ridge: float
) -> Regression:
    """Solve the equations for one training set size.

    Args:
        eigenvalues: Of the integral operator, not negative.
        size: Number of training examples.
        ridge: Added to the diagonal of the training kernel.

    Returns:
        The solution.
    """
    from scipy.optimize import brentq  # takes a while, which few need

    positive = eigenvalues[eigenvalues > 0]
    if ridge == 0 and size >= positive.size:
        learned = (eigenvalues > 0).astype(np.float64)
        excess = size - positive.size
        return Regression(0.0, learned, size / excess if excess else np.inf)

    def excess_at(log_kappa: float) -> float:
        kappa = np.exp(log_kappa)
        return float(np.sum(positive / (positive + kappa)) + ridge / kappa - size)

    # The sum is at most (trace + ridge) / kappa, and at least half of that of the modes
    # above kappa.
    high = np.log((np.sum(positive) + ridge) / size)
    low = high - 1
    while excess_at(low) < 0:
        low -= 2 * (high - low)
    found: Any = brentq(excess_at, low, high + 1e-9, xtol=1e-14)
    kappa = float(np.exp(found))
    learned = eigenvalues / (eigenvalues + kappa)
    return Regression(kappa, learned, float(size / (size - np.sum(learned**2))))


def learnabilities(
    kernel: Kernel, *, size: int, ridge: float = 0.0
) -> Float[np.ndarray, " m"]:
    r"""How much of each eigenvector of a kernel regression on `size` examples learns.

    Args:
        kernel: One number for each pair of points, of all points there are or of a sample
            of them.
        size: Number of training examples, drawn from the points.
        ridge: Added to the diagonal of the training kernel.

    Returns:
        Between 0 and 1 for each eigenvector, the largest eigenvalue's first. Without a
        ridge they add up to `size`, if there are as many positive eigenvalues.

    Raises:
        ValueError: If `kernel` is not a square matrix of finite numbers, `size` is not
            positive, or `ridge` is negative.
        TypeError: If `kernel` is not an array of floating-point numbers, or `size` not an
            integer.

    Example:
        >>> import numpy as np
        >>> from lazyjax import forecast
        >>> forecast.learnabilities(np.diag([2.0, 2.0, 0.0, 0.0]), size=1).tolist()
        [0.5, 0.5, 0.0, 0.0]

    References:
        Simon, Dickens, Karkada and DeWeese (2023), "The eigenlearning framework",
        arXiv:2110.03922 (equations not checked).
    """
    check_at_least("size", size, 1)
    check_strength("ridge", ridge)
    values, _ = eigensystem(kernel)
    return regression(values / values.size, size, ridge).learnability[::-1]
