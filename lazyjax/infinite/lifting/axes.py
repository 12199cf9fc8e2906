"""What the axes of a value enumerate: examples, pixels, or units of a layer.

An axis is a tuple of atoms in row-major order, so that reshapes can be followed. Pixels
of a value, and its units, are always in the order in which its atoms stand.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, SupportsIndex, TypeAlias

from lazyjax.jaxpr.labels import Rows

Kind: TypeAlias = Literal["rows", "pixels", "units"]


class Atom(NamedTuple):
    """One factor of an axis."""

    kind: Kind
    size: int


Axis: TypeAlias = tuple[Atom, ...]
Axes: TypeAlias = tuple[Axis, ...]


# Batches that networks are traced with, to tell rows from all else.
BATCH_SIZES = (2, 3)


class AxesError(Exception):
    """What cannot be said of axes, as the end of a sentence."""


def axis_of(kind: Kind, size: int) -> Axis:
    """An axis of one atom, or of none if it has a single entry."""
    return (Atom(kind, size),) if size != 1 else ()


def axes_of_input(shape: Sequence[int], rows: Rows) -> Axes:
    """Axes of a function of the input, whose rows are where the label says."""
    num_rows = BATCH_SIZES[0]
    outer = shape[rows.axis] // (num_rows * rows.inner)
    axes = [axis_of("pixels", size) for size in shape]
    axes[rows.axis] = (
        *axis_of("pixels", outer),
        Atom("rows", num_rows),
        *axis_of("pixels", rows.inner),
    )
    return tuple(axes)


def sizes(axes: Axes, kind: Kind) -> tuple[int, ...]:
    """Extents of the atoms of one kind, in order."""
    return tuple(atom.size for axis in axes for atom in axis if atom.kind == kind)


def lengths(axes: Axes) -> tuple[int, ...]:
    """Lengths of axes."""
    return tuple(math.prod(atom.size for atom in axis) for axis in axes)


def merged(axes: Axes) -> Axes:
    """Axes with neighbouring atoms of one kind as one atom."""
    result = []
    for axis in axes:
        groups = itertools.groupby(axis, lambda atom: atom.kind)
        runs = [list(run) for _, run in groups]
        sizes = [math.prod(atom.size for atom in run) for run in runs]
        pairs = zip(runs, sizes, strict=True)
        result.append(tuple(Atom(run[0].kind, size) for run, size in pairs))
    return tuple(result)


def has(axis: Axis, kind: Kind) -> bool:
    """Whether an axis enumerates, among other things, `kind`."""
    return any(atom.kind == kind for atom in axis)


def positions(axes: Axes, chosen: Sequence[SupportsIndex], kind: Kind) -> list[int]:
    """Which of the atoms of `kind` belong to the chosen axes, by their number."""
    found, number = [], 0
    for index, axis in enumerate(axes):
        for atom in axis:
            if atom.kind == kind:
                if index in chosen:
                    found.append(number)
                number += 1
    return found


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes after a reshape to `shape`, which must not split an axis of examples."""
    left = [atom for axis in axes for atom in axis]
    result = []
    for size in shape:
        axis: list[Atom] = []
        missing = size
        while missing != 1:
            atom = left.pop(0)
            if missing % atom.size == 0:
                axis.append(atom)
                missing //= atom.size
            elif atom.size % missing == 0 and atom.kind != "rows":
                axis.append(Atom(atom.kind, missing))
                left.insert(0, Atom(atom.kind, atom.size // missing))
                missing = 1
            else:
                raise AxesError("regroups entries of different examples or pixels")
        result.append(tuple(axis))
    return tuple(result)


def transposed(axes: Axes, order: Sequence[SupportsIndex]) -> tuple[Axes, list[int]]:
    """Axes in another order, and for each pixel atom its number before."""
    numbered: list[list[tuple[Atom, int]]] = []
    counts = {"rows": 0, "pixels": 0, "units": 0}
    for axis in axes:
        numbered.append([])
        for atom in axis:
            numbered[-1].append((atom, counts[atom.kind]))
            counts[atom.kind] += 1
    moved = [pair for index in order for pair in numbered[index]]
    units = [number for atom, number in moved if atom.kind == "units"]
    if units != sorted(units):
        raise AxesError("puts hidden units into another order")
    pixels = [number for atom, number in moved if atom.kind == "pixels"]
    return tuple(axes[index] for index in order), pixels


def broadcast(
    axes: Axes, shape: Sequence[int], dimensions: Sequence[SupportsIndex]
) -> Axes | None:
    """Axes after `broadcast_in_dim`; None if entries are repeated."""
    if math.prod(shape) != math.prod(lengths(axes)):
        return None
    places: list[Axis] = [()] * len(shape)
    for axis, place in zip(axes, dimensions, strict=True):
        places[place] = axis
    return tuple(places)
