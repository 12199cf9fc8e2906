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
    """An array that is known while tracing.

    Attributes:
        values: The array for each of the two batches; None where its numbers are not
            known.
    """

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
    """Entries of a leaf of the parameters, times a constant.

    Attributes:
        leaf: Number of the leaf.
        entries: Which of its entries stand where.
        scale: The constant.
        is_trained: Whether it is differentiated by.
    """

    leaf: int
    entries: np.ndarray
    scale: float
    is_trained: bool


@dataclasses.dataclass(frozen=True)
class View:
    """A selection of pixels.

    Attributes:
        parent: Register that they are selected from.
        parent_axes: Axes of the value in it.
        axis: Axis along which they are selected.
        indices: Which pixels of that axis; -1 for zeros.
    """

    parent: int
    parent_axes: Axes
    axis: int
    indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A random value: units that are independent of each other and alike.

    Attributes:
        axes: Its axes.
        terms: Registers and coefficients of which it is the sum; or
        phi: the elementwise function of
        source: this Gaussian register which it is.
        view: What it is a selection of, if it is nothing more.
    """

    axes: Axes
    terms: tuple[tuple[int, float], ...] = ()
    phi: Elementwise | None = None
    source: int = -1
    view: View | None = None


Value: TypeAlias = Constant | Known | Weight | Hidden
