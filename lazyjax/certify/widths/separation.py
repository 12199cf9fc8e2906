r"""How separate inputs are: what convergence theorems assume of the data.

All theorems on infinitely wide networks need inputs that can be told apart, each in its
own sense: no two parallel (Du et al.), all at a distance $\delta$ (Allen-Zhu et al.), or
those of different classes at a distance $\phi$ (Zou et al.).
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_batch, check_floating, check_targets
from lazyjax.certify.statements import Assumption
from lazyjax.files.results import Storable
from lazyjax.typing import AnyArray

# Inputs that were normalized in single precision have unit norm to about this.
_NORM_TOLERANCE = 1e-6

# Entries of a matrix of distances that are held at once.
_BLOCK = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separation(Storable):
    r"""Distances between inputs, each with the assumption that it decides.

    Attributes:
        distance: $\delta = \min_{i \ne j} \lVert x_i - x_j\rVert$; infinite for one input.
        closest: The two inputs at that distance, or nothing.
        class_distance: $\phi$, the same over inputs with different targets; infinite
            if all targets are equal, or none were given.
        closest_classes: The two inputs at that distance, or nothing.
        angle: Smallest angle between the lines through two inputs, in radians; 0 if an
            input is zero, $\pi/2$ at most and for one input.
        closest_lines: The two inputs at that angle, or nothing.
        norm_error: $\max_i |\lVert x_i\rVert - 1|$.
        resolution: Distances and angles up to this may be due to the rounding of the
            inputs.
    """

    distance: float
    closest: tuple[int, ...]
    class_distance: float
    closest_classes: tuple[int, ...]
    angle: float
    closest_lines: tuple[int, ...]
    norm_error: float
    resolution: float

    @property
    def unit_norm(self) -> Assumption:
        """That all inputs have norm 1, to single precision."""
        return Assumption(
            name="unit norm",
            statement="every input has norm 1",
            holds=self.norm_error <= _NORM_TOLERANCE,
            detail=f"off by {self.norm_error:.3g} at most",
        )

    @property
    def not_parallel(self) -> Assumption:
        """That no two inputs are parallel or opposite."""
        statement = "no two inputs are parallel or opposite"
        found = self.angle, self.closest_lines
        return self._apart("not parallel", statement, "smallest angle", *found)

    @property
    def separated(self) -> Assumption:
        """That all inputs are different."""
        statement = "delta > 0: all inputs differ"
        found = self.distance, self.closest
        return self._apart("separated", statement, "delta =", *found)

    @property
    def classes_separated(self) -> Assumption:
        """That inputs with different targets are different."""
        statement = "phi > 0: inputs of different classes differ"
        found = self.class_distance, self.closest_classes
        return self._apart("classes separated", statement, "phi =", *found)

    def _apart(
        self, name: str, statement: str, what: str, value: float, at: tuple[int, ...]
    ) -> Assumption:
        noun = "input" if len(at) == 1 else "inputs"
        where = f" at {noun} {' and '.join(map(str, at))}" if at else ""
        return Assumption(
            name=name,
            statement=statement,
            holds=value > self.resolution,
            detail=f"{what} {value:.3g}{where}",
        )


def separation(
    x: Float[AnyArray, "n *d"], y: Float[AnyArray, "n k"] | None = None
) -> Separation:
    r"""Distances and angles between inputs, in double precision.

    Args:
        x: Inputs; features are flattened.
        y: Targets, or labels; rows that differ are different classes.

    Returns:
        The distances. They are those of actual pairs, and above the smallest ones by
        about $10^{-8}$ times the largest norm at most.

    Raises:
        TypeError: If an array is not floating point.
        ValueError: If `x` is empty, `y` does not have one row per input, or one is not
            finite.

    Cost: O(n² d) time, O(n d + 2**22) memory.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> found = separation(x, np.array([[1.0], [-1.0], [1.0]]))
        >>> round(found.distance, 3), round(found.class_distance, 3), found.angle
        (0.894, 0.894, 0.0)
        >>> found.unit_norm.holds, found.not_parallel.holds
        (True, False)

    References:
        Allen-Zhu, Li and Song (2019), arXiv:1811.03962, for delta; Zou, Cao, Zhou and
        Gu (2018), arXiv:1811.08888, for phi (neither checked against the paper).
    """
    check_floating("x", x)
    check_batch("x", x)
    n = x.shape[0]
    rows = np.asarray(x, np.float64).reshape(n, -1)
    labels = None
    if y is not None:
        check_targets("y", y, n, y.shape[1] if y.ndim == 2 else 1)
        labels = np.unique(np.asarray(y), axis=0, return_inverse=True)[1].reshape(-1)
    norms = np.linalg.norm(rows, axis=1)
    distance, closest = _closest(rows, None)
    class_distance, closest_classes = math.inf, ()
    if labels is not None:
        class_distance, closest_classes = _closest(rows, labels)
    angle, closest_lines = _smallest_angle(rows, norms)
    return Separation(
        distance=distance,
        closest=closest,
        class_distance=class_distance,
        closest_classes=closest_classes,
        angle=angle,
        closest_lines=closest_lines,
        norm_error=float(np.max(np.abs(norms - 1))),
        resolution=4 * float(np.finfo(np.asarray(x).dtype).eps),
    )


def _closest(
    rows: np.ndarray, labels: np.ndarray | None
) -> tuple[float, tuple[int, ...]]:
    """Smallest distance between two rows, of different labels if there are any."""
    norms_sq = np.sum(rows**2, axis=1)

    def gap_sq(i: np.ndarray) -> np.ndarray:
        gaps = norms_sq[i, None] + norms_sq[None] - 2 * rows[i] @ rows.T
        if labels is not None:
            gaps[labels[i, None] == labels[None]] = np.inf
        return gaps

    pairs = _candidates(len(rows), gap_sq)
    if not pairs.size:
        return math.inf, ()
    # Differences of squares lose half the digits; those of the candidates do not.
    exact = np.linalg.norm(rows[pairs[:, 0]] - rows[pairs[:, 1]], axis=1)
    return _least(exact, pairs)


def _smallest_angle(
    rows: np.ndarray, norms: np.ndarray
) -> tuple[float, tuple[int, ...]]:
    """Smallest angle between the lines through two rows."""
    if not norms.all():
        return 0.0, (int(np.argmin(norms)),)
    units = rows / norms[:, None]
    pairs = _candidates(len(rows), lambda i: -np.abs(units[i] @ units.T))
    if not pairs.size:
        return math.pi / 2, ()
    first, second = units[pairs[:, 0]], units[pairs[:, 1]]
    # The chord is accurate for small angles, where the arc cosine is not.
    chord = np.minimum(
        np.linalg.norm(first - second, axis=1), np.linalg.norm(first + second, axis=1)
    )
    return _least(2 * np.arcsin(np.minimum(chord / 2, 1)), pairs)


def _candidates(n: int, gap_fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """For each row the other row of the smallest gap, if there is one at all."""
    block = max(1, _BLOCK // n)
    pairs = []
    for start in range(0, n, block):
        i = np.arange(start, min(n, start + block))
        gaps = gap_fn(i)
        gaps[np.arange(len(i)), i] = np.inf
        j = np.argmin(gaps, axis=1)
        known = np.isfinite(gaps[np.arange(len(i)), j])
        pairs.append(np.stack([i, j], axis=1)[known])
    return np.concatenate(pairs)


def _least(values: np.ndarray, pairs: np.ndarray) -> tuple[float, tuple[int, ...]]:
    at = int(np.argmin(values))
    return float(values[at]), tuple(sorted(map(int, pairs[at])))
