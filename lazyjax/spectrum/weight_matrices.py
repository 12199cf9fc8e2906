r"""Spectra of weight matrices: bulk, spikes, tail."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least, check_finite, check_params
from lazyjax.files.results import Storable
from lazyjax.spectrum.tails import PowerLaw, power_law
from lazyjax.trees import leaf_paths
from lazyjax.typing import AnyArray, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSpectrum(Storable):
    r"""Eigenvalues of $W^\top W / N$ of one matrix `(N, M)`, `N >= M`.

    Attributes:
        eigenvalues: Ascending, `M` of them.
        aspect: $M / N$.
        variance: Variance of independent entries with the same median eigenvalue.
        edges: Ends $\sigma^2 (1 \pm \sqrt{M / N})^2$ of the Marchenko-Pastur bulk, the
            spectrum of independent entries of that variance as sizes grow.
        num_spikes: Eigenvalues beyond the upper edge by more than its fluctuations, of
            the order $M^{-2/3}$.
        stable_rank: $\lVert W \rVert_F^2 / \lVert W \rVert_2^2$; NaN if the matrix is
            zero.
        tail: Power law fitted to the largest eigenvalues.
    """

    eigenvalues: Float[np.ndarray, " M"]
    aspect: float
    variance: float
    edges: tuple[float, float]
    num_spikes: int
    stable_rank: float
    tail: PowerLaw

    def bulk_density(
        self, points: Float[AnyArray, " points"]
    ) -> Float[np.ndarray, " points"]:
        """Marchenko-Pastur density at some points; it integrates to 1.

        Args:
            points: Where.

        Returns:
            The density, zero outside of `edges`.
        """
        points = np.asarray(points, np.float64)
        if self.variance == 0:
            return np.zeros_like(points)
        return _density(points / self.variance, self.aspect) / self.variance


def weights(params: Params, *, num_bootstrap: int = 0) -> dict[str, WeightSpectrum]:
    """Spectrum of every weight matrix of a network.

    Args:
        params: Parameters of a network.
        num_bootstrap: As in `power_law`.

    Returns:
        The spectra, by the path of each array of two or more axes, taken as a matrix with
        one column per entry of the last axis. They are computed in float64.

    Raises:
        ValueError: If a weight is not finite.
        TypeError: If parameters are not arrays of floating-point numbers.

    Example:
        >>> import jax, lazyjax
        >>> params = {"w": jax.random.normal(jax.random.key(0), (400, 100))}
        >>> found = lazyjax.spectrum.weights(params)["w"]
        >>> [round(edge, 1) for edge in found.edges], found.num_spikes
        ([0.3, 2.3], 0)

    References:
        Marchenko and Pastur (1967); Gavish and Donoho (2014), IEEE Trans. Inf. Theory 60,
        5040-5053, for the variance by the median.
    """
    check_params("params", params)
    check_at_least("num_bootstrap", num_bootstrap, 0)
    found = {}
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if leaf.ndim >= 2 and leaf.size:
            check_finite(f"params/{path}", leaf)
            matrix = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1])
            found[path] = _of_matrix(matrix, num_bootstrap)
    return found


def _of_matrix(matrix: np.ndarray, num_bootstrap: int) -> WeightSpectrum:
    larger, smaller = max(matrix.shape), min(matrix.shape)
    values = np.linalg.svd(matrix, compute_uv=False)[::-1] ** 2 / larger
    aspect = smaller / larger
    variance = float(np.median(values)) / _median(aspect)
    edges = tuple(variance * (1 + sign * aspect**0.5) ** 2 for sign in (-1, 1))
    # The largest eigenvalue fluctuates by this times a variable of Tracy and Widom's law
    # for real matrices, which is above 3.3 once in 1,000 times.
    roots = larger**0.5, smaller**0.5
    width = variance / larger * sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3)
    return WeightSpectrum(
        eigenvalues=values,
        aspect=aspect,
        variance=variance,
        edges=edges,
        num_spikes=int(np.sum(values > edges[1] + 3.3 * width)),
        stable_rank=float(np.sum(values) / values[-1]) if values[-1] > 0 else np.nan,
        tail=power_law(values, num_bootstrap=num_bootstrap),
    )


def _density(points: np.ndarray, aspect: float) -> np.ndarray:
    """Marchenko-Pastur density at unit variance."""
    low, high = ((1 + sign * aspect**0.5) ** 2 for sign in (-1, 1))
    inside = (points > low) & (points < high)
    safe = np.where(inside, points, 1)
    height = np.sqrt(np.where(inside, (high - safe) * (safe - low), 0))
    return height / (2 * np.pi * aspect * safe)


def _median(aspect: float) -> float:
    """Median of the Marchenko-Pastur law at unit variance."""
    low, high = ((1 + sign * aspect**0.5) ** 2 for sign in (-1, 1))
    # By the angle on the half circle, the density is smooth at its ends.
    angles = np.linspace(0, np.pi, 4097)
    points = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    mass = _density(points, aspect) * np.sin(angles)
    below = np.cumsum(mass[1:] + mass[:-1])
    return float(np.interp(below[-1] / 2, below, points[1:]))
