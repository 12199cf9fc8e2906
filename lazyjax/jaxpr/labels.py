"""Labels that say how a value depends on the rows of a batch, and equations seen twice.

A value is FIXED if it is the same for every batch and batch size. It is `Rows` if one
axis of it enumerates rows, and what belongs to row r is one function, the same for all
rows and batch sizes, of row r of the batch. All else is UNKNOWN.

Each equation is traced with batches of two sizes: what holds the batch size as a number,
or as the length of an axis that no row belongs to, differs between the two.
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.extend.core as jex


@dataclasses.dataclass(frozen=True)
class Rows:
    """Index `(a * n + r) * inner + b` along `axis` belongs to row r, of n.

    `inner` is not 1 if other axes have been merged into that of the batch.
    """

    axis: int
    inner: int = 1


class Other(enum.Enum):
    """What a value can be that is not enumerated by rows."""

    FIXED = "fixed"
    UNKNOWN = "unknown"


FIXED, UNKNOWN = Other.FIXED, Other.UNKNOWN
Label: TypeAlias = Rows | Other
Axes: TypeAlias = Sequence[Any]  # integers of Python or NumPy: JAX has both
Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class EquationPair:
    """One equation at two batch sizes.

    Attributes:
        eqns: The equation as traced at each size.
        sizes: The two batch sizes.
        labels: Labels of its operands.
    """

    eqns: tuple[jex.JaxprEqn, jex.JaxprEqn]
    sizes: tuple[int, int]
    labels: Sequence[Label]

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.eqns[0].primitive.name

    @property
    def params(self) -> dict[str, Any]:
        """Parameters at the first size."""
        return self.eqns[0].params

    @property
    def common(self) -> Rows | None:
        """The label of all operands that are not FIXED, if they share one."""
        found = {label for label in self.labels if label is not FIXED}
        label = found.pop() if len(found) == 1 else None
        return label if isinstance(label, Rows) else None

    def operand(self, number: int = 0) -> tuple[Shape, Shape]:
        """Shapes of an operand at the two sizes."""
        first, second = (_shape(eqn.invars[number]) for eqn in self.eqns)
        return first, second

    def result(self, number: int = 0) -> tuple[Shape, Shape]:
        """Shapes of a result at the two sizes."""
        first, second = (_shape(eqn.outvars[number]) for eqn in self.eqns)
        return first, second

    def both(self, key: str) -> tuple[Any, Any]:
        """A parameter at the two sizes."""
        return self.eqns[0].params[key], self.eqns[1].params[key]

    def takes_whole(self, lengths: tuple[Axes, Axes], axis: int) -> bool:
        """Whether `lengths`, one for each axis, are all of the first operand's `axis`."""
        pairs = zip(lengths, self.operand(), strict=True)
        return all(part[axis] == whole[axis] for part, whole in pairs)


def _shape(atom: Any) -> Shape:
    return tuple(atom.aval.shape)


# A rule is given FIXED operands and at least one enumerated by rows. It returns the label
# of all results, or `None` if that is not known.
RowRule: TypeAlias = Callable[[EquationPair], Rows | None]


def common_rows(pair: EquationPair) -> Rows | None:
    """Rule of elementwise primitives."""
    # FIXED operands are of length 1 along the axis of the rows: its length varies.
    return pair.common


def outside(rows: Rows | None, axes: Axes) -> Rows | None:
    """`rows` if their axis is none of `axes`, along which entries interact."""
    return None if rows is None or rows.axis in tuple(axes) else rows


def without(rows: Rows | None, axes: Axes) -> Rows | None:
    """`rows` once `axes`, none of which is theirs, are gone."""
    rows = outside(rows, axes)
    if rows is None:
        return None
    return Rows(rows.axis - sum(bool(axis < rows.axis) for axis in axes), rows.inner)


def same_except(pair: tuple[Axes, Axes], axis: int) -> bool:
    """Whether two sequences differ at most at `axis`."""
    first, second = (tuple(part) for part in pair)
    return (first[:axis], first[axis + 1 :]) == (second[:axis], second[axis + 1 :])


def paired(
    first: Label, second: Label, first_axes: Axes, second_axes: Axes, result_axes: Axes
) -> Rows | None:
    """Rows of a result one of whose axes is an axis of each operand."""
    if not isinstance(first, Rows) or not isinstance(second, Rows):
        return None
    for *axes, result in zip(first_axes, second_axes, result_axes, strict=True):
        if axes == [first.axis, second.axis] and first.inner == second.inner:
            return Rows(int(result), first.inner)
    return None


def fits(label: Label, shapes: tuple[Shape, Shape], sizes: tuple[int, int]) -> bool:
    """Whether values of these shapes, at the two batch sizes, can be `label`."""
    if len(shapes[0]) != len(shapes[1]):
        return False
    varying = [i for i, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b]
    if not isinstance(label, Rows):
        return label is UNKNOWN or not varying
    if varying != [label.axis]:
        return False
    counts = [
        divmod(shape[label.axis], n * label.inner)
        for shape, n in zip(shapes, sizes, strict=True)
    ]
    return counts[0] == counts[1] and counts[0][1] == 0
