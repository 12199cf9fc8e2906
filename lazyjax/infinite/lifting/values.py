"""Values of a network while it is lifted, and why there is no limit."""

import dataclasses
from typing import NamedTuple, TypeAlias

import numpy as np

from lazyjax.infinite.lifting.axes import Axes, axes_of_input
from lazyjax.infinite.lifting.functions import Elementwise
from lazyjax.jaxpr.labels import Rows, Shape


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
    """A function of the input alone: the number of its value, its shape and its rows."""

    number: int
    shape: Shape
    rows: Rows

    @property
    def axes(self) -> Axes:
        """Its axes: rows, and pixels."""
        return axes_of_input(self.shape, self.rows)


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


Value: TypeAlias = Constant | Known | Weight | Hidden
