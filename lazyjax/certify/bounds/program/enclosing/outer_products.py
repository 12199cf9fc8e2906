r"""Rows of a Jacobian that are products of two vectors, never multiplied out.

The derivative of an output by the weights of a dense layer is $a b^\top$, with $a$ the
inputs of the layer and $b$ derivatives by its outputs. Then
$\langle a b^\top, c d^\top \rangle = \langle a, c\rangle \langle b, d\rangle$.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.extend.core as jex
import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.matrices import row_norms_upper, symmetric
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma, round_up
from lazyjax.certify.bounds.program.enclosing.enclosure import UP, Enclosure
from lazyjax.certify.bounds.program.enclosing.rules import num_terms
from lazyjax.jaxpr.equations import aval_of


@dataclasses.dataclass(frozen=True, eq=False)
class OuterRows:
    """Rows, each the product of two vectors.

    Attributes:
        first: First vector of each row.
        second: Second vector of each row.
        shape: Of a row, with axes of the first vector before those of the second.
        order: Of these axes, in rows.
    """

    first: Float[np.ndarray, "rows f"]
    second: Float[np.ndarray, "rows g"]
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def norms(self) -> Float[np.ndarray, " rows"]:
        """Upper bounds of the Euclidean norms of rows."""
        norms = [row_norms_upper(v, UNIT_ROUNDOFF) for v in (self.first, self.second)]
        return round_up(norms[0] * norms[1], 1, UNIT_ROUNDOFF)

    def gram(self) -> tuple[Float[np.ndarray, "rows rows"], float]:
        """Products of all rows with each other, and the norm of their error."""
        total = symmetric(self.first @ self.first.T)
        total *= symmetric(self.second @ self.second.T)
        # Entries are products of two sums, each off by gamma times a product of norms.
        terms = self.first.shape[1] + self.second.shape[1] + 1
        norms = self.norms
        error = gamma(terms, UNIT_ROUNDOFF) * (norms @ norms)
        return total, float(round_up(error, len(norms) + 2, UNIT_ROUNDOFF))

    def weighted(self, weights: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " _"]:
        """A weighted sum of rows."""
        total = (weights[:, None] * self.first).T @ self.second
        return total.reshape(self.shape).transpose(self.order).reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class OuterProduct:
    """An equation whose results are products of two vectors for each row.

    Attributes:
        eqn: The equation.
        order: Axes of its result, in the order of the array of rows; the first two are
            those of examples and outputs.
    """

    eqn: jex.JaxprEqn
    order: tuple[int, ...]

    def _labels(self, position: int) -> list[int | None]:
        """Axis of the result that each axis of an operand becomes, if it does."""
        contracted, batched = self.eqn.params["dimension_numbers"]
        ndims = [len(aval_of(v).shape) for v in self.eqn.invars]
        labels: list[int | None] = [None] * ndims[position]
        for label, axis in enumerate(batched[position]):
            labels[axis] = label
        start = len(batched[0])
        if position == 1:
            start = len(self.order) - (ndims[1] - len(contracted[1]) - start)
        left = [
            axis
            for axis in range(ndims[position])
            if axis not in (*contracted[position], *batched[position])
        ]
        for label, axis in enumerate(left, start):
            labels[axis] = label
        return labels

    def of_row(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape of a row, axes of the first vector before others; and their order."""
        shape = aval_of(self.eqn.outvars[0]).shape
        own = [axis for axis in range(len(shape)) if axis not in self.order[:2]]
        order = tuple(own.index(axis) for axis in self.order[2:])
        return tuple(shape[axis] for axis in own), order

    def vectors(self, position: int, known: np.ndarray) -> np.ndarray:
        """Vectors of all rows, as an array of examples, outputs and entries.

        Args:
            position: Which operand.
            known: Its numbers.

        Returns:
            The vectors.
        """
        labels = self._labels(position)
        shape = aval_of(self.eqn.outvars[0]).shape
        rows = [labels.index(v) if v in labels else None for v in self.order[:2]]
        kept = [axis for axis in rows if axis is not None]
        others = [axis for axis in range(len(labels)) if axis not in kept]
        moved = known.transpose(*kept, *others)
        sizes = [1 if axis is None else known.shape[axis] for axis in rows]
        moved = moved.reshape(*sizes, -1)
        wanted = [shape[label] for label in self.order[:2]]
        return np.broadcast_to(moved, (*wanted, moved.shape[2]))

    def error(self, first: Enclosure, second: Enclosure) -> float:
        """Upper bound of the Frobenius norm of errors of all rows."""
        sizes, spreads, errors = [], [], []
        for position, known in enumerate((first, second)):
            value = self.vectors(position, known.value)
            radius = np.broadcast_to(known.radius, known.value.shape)
            spread = self.vectors(position, radius)
            sizes.append(row_norms_upper(value, UNIT_ROUNDOFF))
            spreads.append(row_norms_upper(spread, UNIT_ROUNDOFF))
            repeats = value.size / max(known.value.size, 1)
            errors.append(known.error * math.sqrt(repeats))
        (a, b), (off_a, off_b) = sizes, spreads
        by_rows = a * off_b + off_a * (b + off_b)
        found = float(np.sqrt(np.sum(by_rows**2)))
        by_norms = float(np.max(a, initial=0.0)) * errors[1]
        by_norms += float(np.max(b + off_b, initial=0.0)) * errors[0]
        return (
            float(np.fmin(found * (1 + gamma(a.size + 8, UNIT_ROUNDOFF)), by_norms))
            * UP
        )


def outer_product_of(atom: Any, made_by: Mapping[Any, Any]) -> OuterProduct | None:
    """How an array of rows is made of products of two vectors, if it is.

    Args:
        atom: The array; its first two axes are those of examples and outputs.
        made_by: Equations, by the variables that they define.

    Returns:
        The products, or `None`.
    """
    order = tuple(range(len(aval_of(atom).shape)))
    while not isinstance(atom, jex.Literal) and atom in made_by:
        eqn = made_by[atom]
        if eqn.primitive.name == "dot_general":
            _, (batched, _) = eqn.params["dimension_numbers"]
            is_outer = num_terms(eqn) == 1 and set(range(len(batched))) <= {*order[:2]}
            return OuterProduct(eqn, order) if is_outer else None
        if eqn.primitive.name != "transpose":
            return None
        order = tuple(eqn.params["permutation"][axis] for axis in order)
        (atom,) = eqn.invars
    return None
