"""Piecewise quadratic functions and their exact Gaussian moments, in NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Quadratic polynomials between edges.

    Attributes:
        edges: Ends of the pieces, increasing.
        coefficients: Of powers 0, 1, 2, one row for each piece.
    """

    edges: tuple[float, ...]
    coefficients: tuple[tuple[float, float, float], ...]

    def __call__(self, u: jax.Array) -> jax.Array:
        a, b, c = self.coefficients[0]
        value = a + b * u + c * u**2
        for edge, (a, b, c) in zip(self.edges, self.coefficients[1:], strict=True):
            value = jnp.where(u > edge, a + b * u + c * u**2, value)
        return value

    @property
    def slope(self) -> "Pieces":
        slopes = tuple((b, 2 * c, 0.0) for _, b, c in self.coefficients)
        return Pieces(self.edges, slopes)

    def numpy(self, u: np.ndarray) -> np.ndarray:
        a, b, c = np.array(self.coefficients)[np.searchsorted(self.edges, u)].T
        return (a + b * u.T + c * u.T**2).T

    def mean(self, centre: np.ndarray, std: float) -> np.ndarray:
        """Mean over a Gaussian with these means and this deviation."""
        total = np.zeros_like(centre)
        ends = [-np.inf, *self.edges, np.inf]
        for low, high, row in zip(ends[:-1], ends[1:], self.coefficients, strict=True):
            a, b = (low - centre) / std, (high - centre) / std
            share = np.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
            first = _density(a) - _density(b)
            second = share + _times_density(a) - _times_density(b)
            moments = (
                share,
                centre * share + std * first,
                centre**2 * share + 2 * centre * std * first + std**2 * second,
            )
            total += sum(c * m for c, m in zip(row, moments, strict=True))
        return total


def exact_moment(pieces: Pieces, q11: float, q12: float, q22: float) -> float:
    """E[f(u) f(v)]: over v by erf, over u by a rule split wherever that is steep."""
    s1, s2 = math.sqrt(q11), math.sqrt(q22)
    rho = q12 / (s1 * s2)
    if abs(rho) > 1 - 1e-15:
        rho = math.copysign(1.0, rho)
    sine = math.sqrt((1 - rho) * (1 + rho))
    ends = [*range(-12, 13), *(edge / s1 for edge in pieces.edges)]
    if rho:
        steep = sine / abs(rho) * np.array([-9, -6, -4, -2, -1, 0, 1, 2, 4, 6, 9])
        for edge in pieces.edges:
            ends += list(edge / (s2 * rho) + steep)
    ends = np.unique(np.clip(ends, -12, 12))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = np.diff(ends)[:, None] / 2
    g = ((ends[:-1] + ends[1:])[:, None] / 2 + half * nodes).ravel()
    weights = (half * weights).ravel() * _density(g)
    if sine == 0:
        other = pieces.numpy(np.sign(rho) * s2 * g)
    else:
        other = pieces.mean(rho * s2 * g, s2 * sine)
    return float(np.sum(weights * pieces.numpy(s1 * g) * other))


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _times_density(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0) * _density(x)


def random_pieces(seed: int) -> Pieces:
    """One to four pieces with jumps, kinks, or both."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.normal(size=rng.integers(1, 4)) * rng.choice([0.1, 1, 3]))
    rows = rng.normal(size=(len(edges) + 1, 3)) * (1, 1, rng.choice([0.0, 0.3]))
    if rng.random() < 0.5:  # continuous
        for i, edge in enumerate(edges):
            before = rows[i] @ (1, edge, edge**2)
            rows[i + 1, 0] = before - rows[i + 1, 1:] @ (edge, edge**2)
    return Pieces(tuple(edges.tolist()), tuple(map(tuple, rows.tolist())))
