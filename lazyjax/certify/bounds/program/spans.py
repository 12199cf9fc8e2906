"""What is known of a value at the centre of a ball: sizes of it, for each example."""

import dataclasses
import functools
import hashlib
import math

import numpy as np

from lazyjax.certify.arithmetic.matrices import spectral_norm_upper
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.program.enclosing.enclosure import Enclosure, leads

# Spectral norms are found of matrices with no more rows, or columns, than this.
_MOST_ROWS = 4096

# Spectral norms that were found last, by a digest of the matrix. Weights meet in many
# products, once for each chunk of examples.
_MOST_NORMS = 1024
_spectral_norms: dict[tuple, float] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """Bounds of a value of every example; of one, if all examples share it.

    Attributes:
        known: The value; its first axis is that of examples.
        is_shared: Whether there is one entry along that axis, for all examples.
    """

    known: Enclosure
    is_shared: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value of one example."""
        return self.known.value.shape[1:]

    def _flat(self, array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, self.known.value.shape).reshape(
            len(self.known.value), -1
        )

    @functools.cached_property
    def low(self) -> np.ndarray:
        """Least lower bound of an entry."""
        return np.min(self._flat(self.known.low), axis=1, initial=math.inf)

    @functools.cached_property
    def high(self) -> np.ndarray:
        """Largest upper bound of an entry."""
        return np.max(self._flat(self.known.high), axis=1, initial=-math.inf)

    @functools.cached_property
    def largest(self) -> np.ndarray:
        """Largest absolute value of an entry."""
        return np.max(self._flat(self.known.size), axis=1, initial=0.0)

    @functools.cached_property
    def smallest(self) -> np.ndarray:
        """Smallest absolute value of an entry; negative if nothing is known."""
        gap = np.abs(self.known.value) * (1 - 2.0**-50) - self.known.radius
        return np.min(self._flat(gap), axis=1, initial=math.inf)

    def distance(self, other: "Span") -> np.ndarray:
        """How far all entries are from those of another value, at least.

        Args:
            other: The other value, of the same shape, unless one is a single number.

        Returns:
            The bounds; negative if nothing is known.
        """
        num_axes = max(len(self.shape), len(other.shape))
        (a, of_a), (b, of_b) = self._padded(num_axes), other._padded(num_axes)
        gap = np.abs(a - b) * (1 - 2.0**-50) - (of_a + of_b) * (1 + 2.0**-50)
        return np.min(gap.reshape(len(gap), -1), axis=1, initial=math.inf)

    def lead(self, axis: int) -> np.ndarray:
        """By how much the largest entry along an axis exceeds all others, at least."""
        value, radius = self._padded(len(self.shape))
        gap = leads(value, radius, axis + 1)
        return np.min(gap.reshape(len(gap), -1), axis=1, initial=math.inf)

    def _padded(self, num_axes: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and radii, with as many axes beside that of examples."""
        value, radius = self.known.value, self.known.radius
        ones = (1,) * (num_axes - len(self.shape))
        shape = (len(value), *ones, *self.shape)
        return value.reshape(shape), np.broadcast_to(radius, value.shape).reshape(shape)

    @functools.cached_property
    def norm(self) -> np.ndarray:
        """Euclidean norm of all entries."""
        size = self._flat(self.known.size)
        slack = 1 + gamma(size.shape[1] + 4, UNIT_ROUNDOFF)
        return np.sqrt(np.sum(size * size, axis=1)) * slack

    def norm_along(self, axes: tuple[int, ...]) -> np.ndarray:
        """Largest Euclidean norm of entries along axes of one example."""
        key = "along", axes
        if key not in self._operator_norms:
            along = tuple(axis + 1 for axis in axes)
            size = np.broadcast_to(self.known.size, self.known.value.shape)
            number = math.prod(self.shape[axis] for axis in axes)
            slack = 1 + gamma(number + 4, UNIT_ROUNDOFF)
            norms = np.sqrt(np.sum(size * size, axis=along)) * slack
            norms = norms.reshape(len(size), -1)
            self._operator_norms[key] = np.max(norms, axis=1, initial=0.0)
        return self._operator_norms[key]

    @functools.cached_property
    def _operator_norms(self) -> dict[tuple, np.ndarray]:
        return {}

    def operator_norm(
        self, batch: tuple[int, ...], rows: tuple[int, ...]
    ) -> np.ndarray:
        """Largest spectral norm of the matrices that a value is a batch of.

        Args:
            batch: Axes of the batch.
            rows: Axes that make up rows; all others make up columns.

        Returns:
            The bounds.
        """
        key = batch, rows
        if key not in self._operator_norms:
            self._operator_norms[key] = self._operator_norm(batch, rows)
        return self._operator_norms[key]

    def _operator_norm(
        self, batch: tuple[int, ...], rows: tuple[int, ...]
    ) -> np.ndarray:
        others = [a for a in range(len(self.shape)) if a not in (*batch, *rows)]
        order = (0, *(a + 1 for a in (*batch, *rows, *others)))
        sizes = [
            math.prod(self.shape[a] for a in axes) for axes in (batch, rows, others)
        ]

        def arranged(array: np.ndarray) -> np.ndarray:
            whole = np.broadcast_to(array, self.known.value.shape)
            return whole.transpose(order).reshape(len(whole), *sizes)

        size = arranged(self.known.size)
        slack = 1 + gamma(max(sizes) + math.prod(sizes[1:]) + 8, UNIT_ROUNDOFF)
        by_entries = np.sqrt(np.sum(size * size, axis=(2, 3)))
        by_sums = np.sqrt(
            np.max(np.sum(size, axis=2), axis=2, initial=0.0)
            * np.max(np.sum(size, axis=3), axis=2, initial=0.0)
        )
        bound = np.max(np.minimum(by_entries, by_sums) * slack, axis=1, initial=0.0)
        few = sizes[0] == 1 and 1 < min(sizes[1:]) <= _MOST_ROWS
        if self.is_shared and few:
            value, radius = arranged(self.known.value), arranged(self.known.radius)
            by_spectrum = _spectral_norm(value[0, 0])
            by_spectrum += float(np.sqrt(np.sum(radius[0, 0] ** 2))) * slack
            bound = np.minimum(bound, by_spectrum * (1 + 2.0**-50))
        return bound


def _spectral_norm(matrix: np.ndarray) -> float:
    """Upper bound of the spectral norm, kept for the next time."""
    digest = hashlib.blake2b(matrix.tobytes()).digest()
    key = matrix.shape, digest
    if key not in _spectral_norms:
        while len(_spectral_norms) >= _MOST_NORMS:
            _spectral_norms.pop(next(iter(_spectral_norms)))
        _spectral_norms[key] = spectral_norm_upper(matrix, UNIT_ROUNDOFF)
    return _spectral_norms[key]
