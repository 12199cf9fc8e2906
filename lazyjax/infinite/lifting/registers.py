"""Registers that hold the kernels of random values, and the steps that fill them."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array

from lazyjax.activations.breakpoints import TooManyBreaksError
from lazyjax.infinite.lifting.axes import Axes, sizes
from lazyjax.infinite.lifting.functions import Elementwise, Recognized, recognize
from lazyjax.infinite.lifting.pixels import PixelMap
from lazyjax.infinite.lifting.steps import (
    Activate,
    Combine,
    Detach,
    MapPixels,
    Multiply,
    Step,
)
from lazyjax.infinite.lifting.values import Hidden, Operation, RefusalError


@dataclasses.dataclass
class RegisterInfo:
    """What is known of a register."""

    # Sites of parameters that its randomness comes from; values of other sites are
    # independent of it.
    sites: frozenset[int]
    is_gaussian: bool  # whether its units are Gaussian, of mean zero
    is_zero: bool  # whether it is 0 at initialization
    units: int  # which of the classes of units it has


class Registers:
    """The steps found so far, each kept once, and what they make."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.steps: list[Step] = []
        self.infos: list[RegisterInfo] = []
        self.new_sites = itertools.count()
        self.most_pixels = 1
        self.origins: dict[Elementwise, Operation] = {}
        self._combinations: dict[tuple[tuple[int, float], ...], int] = {}
        self._activations: dict[tuple[Elementwise, int], int] = {}
        self._recognized: dict[Elementwise, Recognized] = {}
        self._classes: list[int] = []
        self._summed: set[int] = set()

    def add(self, step: Step, info: RegisterInfo) -> int:
        """A new register."""
        self.steps.append(step)
        self.infos.append(info)
        return len(self.steps) - 1

    # Classes of units: an axis of a sum is one axis, of all of its terms.

    def new_units(self) -> int:
        """A class of units of its own."""
        self._classes.append(len(self._classes))
        return len(self._classes) - 1

    def class_of(self, units: int) -> int:
        """The class that this one has become a part of."""
        while self._classes[units] != units:
            units = self._classes[units]
        return units

    def same_units(self, registers: Sequence[int]) -> int:
        """The one class of all these registers."""
        found = [self.class_of(self.infos[register].units) for register in registers]
        for units in found:
            self._classes[units] = found[0]
            if units in self._summed:
                self._summed.add(found[0])
        return found[0]

    def sum_over_units(self, register: int) -> None:
        """Note that the units of a register are summed over, so that they are many."""
        self._summed.add(self.class_of(self.infos[register].units))

    def is_summed(self, register: int) -> bool:
        """Whether units like these are summed over anywhere."""
        own = self.class_of(self.infos[register].units)
        return any(self.class_of(units) == own for units in self._summed)

    # Values as registers.

    def of(self, value: Hidden) -> int:
        """The register that holds `value`, unless its summands are dependent."""
        if value.phi is not None:
            return self._activated(value.phi, value.source)
        if len(value.terms) == 1 and value.terms[0][1] == 1:
            return value.terms[0][0]
        if value.terms not in self._combinations:
            self._combinations[value.terms] = self._combined(value.terms)
        return self._combinations[value.terms]

    def _combined(self, terms: tuple[tuple[int, float], ...]) -> int:
        infos = [self.infos[register] for register, _ in terms]
        for first, second in itertools.combinations(infos, 2):
            if first.sites & second.sites:
                raise RefusalError(
                    "reads a sum of two values that depend on the same weights in "
                    "different ways"
                )
        return self.add(
            Combine(terms),
            RegisterInfo(
                sites=frozenset().union(*(a.sites for a in infos)),
                is_gaussian=all(a.is_gaussian for a in infos),
                is_zero=all(
                    a.is_zero or c == 0 for a, (_, c) in zip(infos, terms, strict=True)
                ),
                units=self.same_units([register for register, _ in terms]),
            ),
        )

    def _activated(self, phi: Elementwise, source: int) -> int:
        key = (phi, source)
        if key not in self._activations:
            found = self._closed_form(phi)
            step = Activate(source, found.activation, found.factor)
            info = dataclasses.replace(self.infos[source], is_gaussian=False)
            self._activations[key] = self.add(step, info)
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
        """`value` as an elementwise function of a Gaussian register, if it is one."""
        if value.phi is not None:
            return value.phi, value.source
        register = self.of(value)
        info = self.infos[register]
        if not info.is_gaussian:
            raise RefusalError(
                "applies a nonlinear function to a sum, mean or product of activations, which "
                "is not Gaussian"
            )
        if info.is_zero:
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

    def product(self, values: Sequence[Hidden]) -> Hidden | None:
        """Product of two values, unit by unit, if they are independent."""
        first, second = map(self.of, values)
        infos = self.infos[first], self.infos[second]
        if infos[0].sites & infos[1].sites:
            return None
        info = RegisterInfo(
            sites=infos[0].sites | infos[1].sites,
            is_gaussian=False,
            is_zero=infos[0].is_zero or infos[1].is_zero,
            units=self.same_units([first, second]),
        )
        register = self.add(Multiply(first, second), info)
        return Hidden(values[0].axes, ((register, 1.0),))

    def map_pixels(
        self, value: Hidden, axes: Axes, fn: Callable[[Array], Array]
    ) -> Hidden:
        """A linear map of pixels, as a function of their axes and one more."""
        source = self.of(value)
        step = MapPixels(source, PixelMap(sizes(value.axes, "pixels"), fn))
        register = self.add(step, self.infos[source])
        return Hidden(axes, ((register, 1.0),))

    def new_weights(self, step: Step, variance: float) -> int:
        """A register of what weights or biases of some variance make."""
        return self.add(
            step,
            RegisterInfo(
                sites=frozenset({next(self.new_sites)}),
                is_gaussian=True,
                is_zero=variance == 0,
                units=self.new_units(),
            ),
        )

    def count_pixels(self, shape: Sequence[int]) -> None:
        """Note that an array has so many pixels."""
        self.most_pixels = max(self.most_pixels, math.prod(shape))

    def detached(self, value: Hidden) -> Hidden:
        """`value` as a constant for differentiation."""
        register = self.of(value)
        detached = self.add(Detach(register), self.infos[register])
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
