"""Values of a network while it is lifted, and the registers that hold their kernels."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lazyjax.activations.breakpoints import TooManyBreaksError
from lazyjax.infinite.lifting.axes import Axes
from lazyjax.infinite.lifting.functions import (
    Elementwise,
    Recognized,
    recognize,
)
from lazyjax.infinite.lifting.steps import (
    Activate,
    Apart,
    Combine,
    Detach,
    Step,
    Together,
)


class RefusalError(Exception):
    """Why there is no limit, as the end of a sentence about an operation.

    Attributes:
        operation: Which operation; None for the one that is looked at.
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
    """An array that is known while tracing; None if its numbers are not."""

    value: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Known:
    """A function of the input alone: the number of its value, and its axes."""

    number: int
    axes: Axes


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


@dataclasses.dataclass
class Register:
    """What is known of a register.

    Attributes:
        roots: Sites of parameters that its randomness comes from; values with other
            roots are independent of it.
        is_gaussian: Whether its units are Gaussian, of mean zero.
        is_zero: Whether it is 0 at initialization.
        units: Which of the classes of units it has.
    """

    roots: frozenset[int]
    is_gaussian: bool
    is_zero: bool
    units: int


class Registers:
    """The steps found so far, each kept once, and what they make."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.steps: list[Step] = []
        self.about: list[Register] = []
        self.sites = itertools.count()
        self.most_pixels = 1
        self.origins: dict[Elementwise, Operation] = {}
        self._combinations: dict[tuple[tuple[int, float], ...], int] = {}
        self._activations: dict[tuple[Elementwise, int], int] = {}
        self._recognized: dict[Elementwise, Recognized] = {}
        self._classes: list[int] = []
        self._summed: set[int] = set()

    def add(self, step: Step, about: Register) -> int:
        """A new register."""
        self.steps.append(step)
        self.about.append(about)
        return len(self.steps) - 1

    # Classes of units: an axis of a sum is one axis, of all of its terms.

    def new_units(self) -> int:
        """A class of units of its own."""
        self._classes.append(len(self._classes))
        return len(self._classes) - 1

    def root_of(self, units: int) -> int:
        """The class that this one has become a part of."""
        while self._classes[units] != units:
            units = self._classes[units]
        return units

    def same_units(self, registers: Sequence[int]) -> int:
        """The one class of all these registers."""
        roots = [self.root_of(self.about[register].units) for register in registers]
        for root in roots:
            self._classes[root] = roots[0]
            if root in self._summed:
                self._summed.add(roots[0])
        return roots[0]

    def sum_over_units(self, register: int) -> None:
        """Note that the units of a register are summed over, so that they are many."""
        self._summed.add(self.root_of(self.about[register].units))

    def is_summed(self, register: int) -> bool:
        """Whether units like these are summed over anywhere."""
        root = self.root_of(self.about[register].units)
        return any(self.root_of(units) == root for units in self._summed)

    # Values as registers.

    def of(self, value: Hidden) -> int:
        """The register that holds `value`.

        Args:
            value: The value.

        Returns:
            Its number.

        Raises:
            RefusalError: If it is a sum of values that are not independent.
        """
        if value.phi is not None:
            return self._activated(value.phi, value.source)
        if len(value.terms) == 1 and value.terms[0][1] == 1:
            return value.terms[0][0]
        if value.terms not in self._combinations:
            self._combinations[value.terms] = self._combined(value.terms)
        return self._combinations[value.terms]

    def _combined(self, terms: tuple[tuple[int, float], ...]) -> int:
        about = [self.about[register] for register, _ in terms]
        for first, second in itertools.combinations(about, 2):
            if first.roots & second.roots:
                raise RefusalError(
                    "reads a sum of two values that depend on the same weights in "
                    "different ways"
                )
        return self.add(
            Combine(terms),
            Register(
                roots=frozenset().union(*(a.roots for a in about)),
                is_gaussian=all(a.is_gaussian for a in about),
                is_zero=all(
                    a.is_zero or c == 0 for a, (_, c) in zip(about, terms, strict=True)
                ),
                units=self.same_units([register for register, _ in terms]),
            ),
        )

    def _activated(self, phi: Elementwise, source: int) -> int:
        key = (phi, source)
        if key not in self._activations:
            found = self._closed_form(phi)
            step = Activate(source, found.activation, found.factor)
            about = dataclasses.replace(self.about[source], is_gaussian=False)
            self._activations[key] = self.add(step, about)
        return self._activations[key]

    def _closed_form(self, phi: Elementwise) -> Recognized:
        if phi not in self._recognized:
            try:
                self._recognized[phi] = recognize(phi, self.dtype)
            except TooManyBreaksError as error:
                raise RefusalError(
                    "makes an activation with more kinks and jumps than can be told",
                    self.origins.get(phi),
                ) from error
        return self._recognized[phi]

    def argument(self, value: Hidden) -> tuple[Elementwise, int]:
        """`value` as an elementwise function of a Gaussian register.

        Args:
            value: The value.

        Returns:
            The function and the register.

        Raises:
            RefusalError: If it is none.
        """
        if value.phi is not None:
            return value.phi, value.source
        register = self.of(value)
        about = self.about[register]
        if not about.is_gaussian:
            raise RefusalError(
                "applies a nonlinear function to a sum or mean of activations, which "
                "is not Gaussian"
            )
        if about.is_zero:
            raise RefusalError(
                "applies a nonlinear function to a value that is 0 at initialization, "
                "by the variances of its weights"
            )
        return Elementwise(), register

    def ratio(self, value: Hidden, source: int) -> float | None:
        """The number by which a linear combination is `source`, if there is one."""
        step = self.steps[source]
        own = step.terms if isinstance(step, Combine) else ((source, 1.0),)
        for terms in (own, ((source, 1.0),)):
            if [r for r, _ in terms] == [r for r, _ in value.terms]:
                pairs = zip(value.terms, terms, strict=True)
                ratios = {c / of if of else math.nan for (_, c), (_, of) in pairs}
                if len(ratios) == 1:
                    return ratios.pop()
        return None

    def mapped(self, value: Hidden, axes: Axes, step: Apart | Together) -> Hidden:
        """A linear map of the pixels of `value`, which `step` says.

        Args:
            value: The value.
            axes: Axes of the result.
            step: The step, whose source is the register of `value`.

        Returns:
            The mapped value.
        """
        register = self.add(step, self.about[step.source])
        return Hidden(axes, ((register, 1.0),))

    def detached(self, value: Hidden) -> Hidden:
        """`value` as a constant for differentiation."""
        register = self.of(value)
        detached = self.add(Detach(register), self.about[register])
        return Hidden(value.axes, ((detached, 1.0),))


def added(
    first: tuple[tuple[int, float], ...], second: tuple[tuple[int, float], ...]
) -> tuple[tuple[int, float], ...]:
    """Sum of two linear combinations of registers."""
    total = dict(first)
    for register, coefficient in second:
        total[register] = total.get(register, 0.0) + coefficient
    nonzero = {register: c for register, c in total.items() if c != 0}
    return tuple(sorted((nonzero or total).items()))


def scaled(value: Hidden, factor: float) -> Hidden:
    """A linear combination times a number."""
    terms = tuple((register, c * factor) for register, c in value.terms)
    return Hidden(value.axes, terms)
