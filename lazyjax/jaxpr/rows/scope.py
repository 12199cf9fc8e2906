"""What is known of the variables of programs that are walked together."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from lazyjax.jaxpr.axes import core
from lazyjax.jaxpr.equations import aval_of
from lazyjax.jaxpr.labels import FIXED, UNKNOWN, Label, Rows, Shape, fits
from lazyjax.jaxpr.rows.single import shape_of_row


class StructureMismatchError(Exception):
    """Programs that are not known to be the same but for the batch size."""


def require(condition: bool) -> None:
    """Raise `StructureMismatchError` unless a condition holds."""
    if not condition:
        raise StructureMismatchError


class PairScope:
    """Variables of the jaxprs of two batches, with their labels."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.sizes = sizes
        self.known: dict[Any, Label] = {}
        # By the variable of the second program: that of the first.
        self.first: dict[Any, Any] = {}

    def bind(self, pair: Sequence[Any], label: Label) -> None:
        """Enter the variables of the two batches that have this label."""
        first, second = pair
        shapes = (first.aval.shape, second.aval.shape)
        require(first.aval.dtype == second.aval.dtype)
        require(fits(label, shapes, self.sizes))
        self.known[first], self.first[second] = label, first

    def label(self, atom: Any) -> Label:
        """Label of an atom of the first program."""
        return FIXED if isinstance(atom, jex.Literal) else self.known[atom]

    def read(self, first: Any, second: Any) -> Label:
        """Label of operands of both batches, which are the same."""
        if isinstance(first, jex.Literal):
            require(isinstance(second, jex.Literal))
            require(same_values(first.val, second.val))
            return FIXED
        require(not isinstance(second, jex.Literal) and self.first[second] is first)
        return self.known[first]


class Scope(PairScope):
    """Variables of jaxprs of two batches and of a single row."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        super().__init__(sizes)
        # By the variable of the first program: what its part for one row is in the
        # program of a single row.
        self.single: dict[Any, Any] = {}
        # By the variable of a single row: what it is a view of, but for axes of length 1.
        self.viewed: dict[Any, Any] = {}

    def bind(self, pair: Sequence[Any], label: Label) -> None:
        """Enter the variables of the two batches that have this label, which is known."""
        require(label is not UNKNOWN)
        super().bind(pair, label)

    def bind_single(self, first: Any, single: Any) -> None:
        """Enter what a variable is in the program of a single row."""
        require(core(self.shape(first)) == core(single.aval.shape))
        require(first.aval.dtype == single.aval.dtype)
        self.single[first] = self.source(single)

    def source(self, single: Any) -> Any:
        """What an atom of the program of a single row is, but for axes of length 1."""
        if isinstance(single, jex.Literal):
            return single
        return self.viewed.get(single, single)

    def shape(self, atom: Any) -> Shape:
        """Shape of what belongs to one row."""
        return shape_of_row(self.label(atom), aval_of(atom).shape, self.sizes[0])

    def is_single(self, first: Any, single: Any) -> bool:
        """Whether an operand is, for one row, that of the program of a single row."""
        if not isinstance(first, jex.Literal):
            first = self.single[first]
        single = self.source(single)
        if isinstance(first, jex.Literal) and isinstance(single, jex.Literal):
            return same_values(np.ravel(first.val), np.ravel(single.val))
        return first is single


def constant_label(*values: Any) -> Label:
    """Label of a constant of the program, from its values at several batch sizes."""
    first, *others = values
    if all(same_values(first, other) for other in others):
        return FIXED
    shapes = [np.shape(value) for value in values]
    if len({len(shape) for shape in shapes}) > 1:
        return UNKNOWN
    varying = [
        axis
        for axis, sizes in enumerate(zip(*shapes, strict=True))
        if len(set(sizes)) > 1
    ]
    if len(varying) != 1 or 0 in shapes[0]:
        return UNKNOWN
    (axis,) = varying
    # The same for all rows, and for every number of them.
    row = np.asarray(first).take([0], axis=axis)
    is_same = all(
        same_values(value, np.broadcast_to(row, shape))
        for value, shape in zip(values, shapes, strict=True)
    )
    return Rows(axis) if is_same else UNKNOWN


def same_values(a: Any, b: Any) -> bool:
    """Whether two constants are equal to the bit; False if that cannot be told."""
    if a is b:
        return True
    try:
        a, b = np.asarray(a), np.asarray(b)
    except (TypeError, ValueError, jax.errors.ConcretizationTypeError):
        return False
    is_alike = a.shape == b.shape and a.dtype == b.dtype and a.dtype != object
    return is_alike and a.tobytes() == b.tobytes()
