"""Values of a network while it is lifted, and why there is no limit."""

import dataclasses
from typing import NamedTuple, TypeAlias

import numpy as np

from lazyjax.infinite.lifting.axes import Axes, axes_of_input
from lazyjax.infinite.lifting.functions import Elementwise
from lazyjax.jaxpr.labels import Rows, Shape

NOT_GAUSSIAN = (
    "applies a nonlinear function to a sum, mean or product of activations, which is not "
    "Gaussian"
)


class RefusalError(Exception):
    """Why there is no limit, as the end of a sentence about an operation.

    Attributes:
        operation: Which operation; None for the present one.
    """

    def __init__(self, reason: str, operation: "Operation | None" = None) -> None:
        super().__init__(reason)
        self.operation = operation


class Operation(NamedTuple):
    """An operation of a network, for messages."""

    name: str
    place: str | None


@dataclasses.dataclass(frozen=True)
class Constant:
    """An array that is known while tracing."""

    # The array for each of the two batches; None where its numbers are not known.
    values: tuple[np.ndarray | None, np.ndarray | None]

    @property
    def array(self) -> np.ndarray | None:
        """The array for the first batch."""
        return self.values[0]

    @property
    def number(self) -> np.generic | None:
        """The number of which all entries are copies, if they are."""
        array = self.array
        if array is None or array.size == 0:
            return None
        first = array.reshape(-1)[0]
        return first if bool((array == first).all()) else None


@dataclasses.dataclass(frozen=True)
class Known:
    """A function of the input alone."""

    number: int  # of its value
    shape: Shape
    rows: Rows
    alike: frozenset[int] = frozenset()  # axes along which all entries are equal
    # Fewest units that a mean over units in it is of; 0 if there is none.
    units: int = 0
    # If the program has a sum, of so many entries, where the value is their mean.
    undivided: int = 0
    is_zero: bool = False  # whether it is known to be 0
    # Whether it is made of means over units that may be 0, as those of odd functions are:
    # of a finite network they fluctuate around it.
    may_vanish: bool = False

    @property
    def axes(self) -> Axes:
        """Its axes: rows, and pixels."""
        return axes_of_input(self.shape, self.rows)

    def divided(self) -> "Known":
        """The mean that a sum is a multiple of."""
        return dataclasses.replace(self, undivided=0)


@dataclasses.dataclass(frozen=True)
class Weight:
    """Entries of a leaf of the parameters, times a constant."""

    leaf: int  # number of the leaf
    entries: np.ndarray  # which of its entries stand where
    scale: float
    is_trained: bool  # whether it is differentiated by


@dataclasses.dataclass(frozen=True)
class PixelSelection:
    """A selection of pixels."""

    parent: int  # register that they are selected from
    parent_axes: Axes  # axes of the value in it
    axis: int  # axis along which they are selected
    indices: np.ndarray  # which pixels of that axis; -1 for zeros


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A random value: units that are independent of each other and alike."""

    axes: Axes
    # Registers and coefficients of which it is the sum, if it is not:
    terms: tuple[tuple[int, float], ...] = ()
    phi: Elementwise | None = None  # an elementwise function
    source: int = -1  # of this Gaussian register
    view: PixelSelection | None = (
        None  # what it is a selection of, if it is nothing more
    )


@dataclasses.dataclass(frozen=True)
class Squared:
    """The square of a random value, of which means over units are known."""

    of: Hidden

    @property
    def axes(self) -> Axes:
        """Its axes."""
        return self.of.axes


@dataclasses.dataclass(frozen=True)
class KnownWeight:
    """A function of the input times parameters, before they scale a hidden value."""

    known: Known
    weight: Weight
    operation: Operation | None  # which made it


Value: TypeAlias = Constant | Known | Weight | Hidden | Squared | KnownWeight
