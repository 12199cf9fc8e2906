"""Where weights meet values: products, convolutions and biases."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.infinite.layers import Scales
from lazyjax.infinite.lifting.axes import (
    Axes,
    Axis,
    axis_of,
    has,
    positions,
    sizes,
)
from lazyjax.infinite.lifting.known import ROWS
from lazyjax.infinite.lifting.pixels import PixelMap, filter_sums
from lazyjax.infinite.lifting.steps import (
    Apart,
    Bias,
    Moments,
    Together,
    Weigh,
    summed_pixels,
)
from lazyjax.infinite.lifting.values import (
    Hidden,
    Known,
    RefusalError,
    Register,
    Registers,
    Weight,
    added,
)
from lazyjax.jaxpr.equations import aval_of


class Leaves:
    """The leaves of the parameters: their variances, and which entries are used."""

    def __init__(self, names: Sequence[str], variances: Sequence[float]) -> None:
        self.names = names
        self.variances = variances
        self._used: dict[int, np.ndarray] = {}

    def claim(self, leaf: int, entries: np.ndarray, size: int) -> None:
        """Use entries of a leaf, each once in the whole network.

        Raises:
            RefusalError: If one is used already.
        """
        now = np.zeros(size, bool)
        now[entries.ravel()] = True
        used = self._used.setdefault(leaf, np.zeros(size, bool))
        if now.sum() != entries.size or (now & used).any():
            raise RefusalError(
                f"uses entries of `params` at {self.names[leaf]} a second time; shared "
                "weights have no rule"
            )
        used |= now


class Meetings:
    """Rules of weights."""

    def __init__(self, registers: Registers, leaves: Leaves, sizes: list[int]) -> None:
        self.registers = registers
        self.leaves = leaves
        self.leaf_sizes = sizes
        self.features: list[tuple[int, Callable[[Array], Array]]] = []

    def dot(self, eqn: Any, first: Any, second: Any) -> Hidden:
        """A product of a value and weights."""
        contracted, batched = eqn.params["dimension_numbers"]
        if batched[0]:
            raise RefusalError("multiplies by other weights at each pixel")
        side = 1 if isinstance(second, Weight) else 0
        weight, value = (first, second) if side == 0 else (second, first)
        source, axes, num_units = self._moments(value, contracted[1 - side])
        units = tuple(
            axis_of("units", size)
            for i, size in enumerate(weight.entries.shape)
            if i not in contracted[side]
        )
        register = self._weigh(source, weight, num_units)
        return Hidden(axes + units if side else units + axes, ((register, 1.0),))

    def convolve(self, eqn: Any, value: Any, weight: Weight) -> Hidden:
        """A convolution by weights."""
        params = eqn.params
        if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
            raise RefusalError("convolves each hidden channel by itself, or in groups")
        if any(d != 1 for d in params["lhs_dilation"]):
            raise RefusalError("is a transposed convolution")
        pads = tuple((int(low), int(high)) for low, high in params["padding"])
        if any(pad < 0 for pair in pads for pad in pair):
            raise RefusalError("crops its input")
        numbers = params["dimension_numbers"]
        lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
        space = [value.axes[i] for i in lhs[2:]]
        if any(len(axis) > 1 or has(axis, "rows") for axis in space):
            raise RefusalError("moves over an axis of several kinds of pixels")
        if any(has(axis, "units") for axis in space):
            raise RefusalError("moves over hidden units")
        source, axes, num_units = self._moments(value, [lhs[1]])
        # Pixels as axes, those of the batch axis and single ones too.
        kept = [i for i in range(len(value.axes)) if i != lhs[1]]
        shape: list[int] = []
        place: dict[int, int] = {}
        for i, axis in zip(kept, axes, strict=True):
            place[i] = len(shape)
            shape += [a.size for a in axis if a.kind == "pixels"]
            if i in lhs[2:] and not axis:
                shape.append(1)
        along = tuple(place[i] for i in lhs[2:])
        step = Together(
            source,
            tuple(shape),
            filter_sums(
                along,
                tuple(weight.entries.shape[i] for i in rhs[2:]),
                tuple(params["window_strides"]),
                pads,
                tuple(params["rhs_dilation"]),
            ),
        )
        self._count(shape)
        about = self.registers.about[source]
        mapped = self.registers.add(step, about)
        result = aval_of(eqn.outvars[0]).shape
        for axis, i in zip(along, out[2:], strict=True):
            shape[axis] = result[i]
        self._count(shape)
        register = self._weigh(mapped, weight, num_units)
        # The order of pixels is that of the input's axes, which may not be the output's.
        axes_out: list[Axis] = [()] * len(result)
        axes_out[out[0]] = value.axes[lhs[0]]
        axes_out[out[1]] = axis_of("units", result[out[1]])
        numbered = {out[0]: lhs[0]}
        for i, o in zip(lhs[2:], out[2:], strict=True):
            axes_out[o] = axis_of("pixels", result[o])
            numbered[o] = i
        order = [numbered[o] for o in sorted(numbered)]
        if order != sorted(order):
            ends = [*place.values(), len(shape)]
            spans = {
                i: range(start, end)
                for i, start, end in zip(place, ends, ends[1:], strict=False)
            }
            moved = [axis for i in order for axis in spans[i]]
            permute = PixelMap(
                tuple(shape),
                lambda array: jnp.transpose(array, (*moved, array.ndim - 1)),
            )
            about = self.registers.about[register]
            register = self.registers.add(Apart(register, permute), about)
        return Hidden(tuple(axes_out), ((register, 1.0),))

    def bias(self, value: Hidden, weight: Weight, sign: float) -> Hidden:
        """Parameters added to a hidden value."""
        if weight.entries.ndim == 0:
            entries = weight.entries.reshape((1,) * len(value.axes))
            weight = dataclasses.replace(weight, entries=entries)
        split: list[int] = []
        for size, axis in zip(weight.entries.shape, value.axes, strict=True):
            split += [a.size if size > 1 else 1 for a in axis]
        entries = weight.entries.reshape(split)
        kinds = [a for axis in value.axes for a in axis]
        is_shared: list[bool] = []
        for index, atom in enumerate(kinds):
            start = entries.take([0], axis=index)
            constant = entries.shape[index] == 1 or bool((entries == start).all())
            if constant:
                entries = start
            if atom.kind == "rows" and not constant:
                raise RefusalError(ROWS)
            if atom.kind == "units" and constant:
                raise RefusalError("adds one parameter to all units of a layer")
            if atom.kind == "pixels":
                is_shared.append(constant)
        scales = self._scales(weight, entries, 1, is_bias=True)
        shape = sizes(value.axes, "pixels")
        self._count(shape)
        about = Register(
            roots=frozenset({next(self.registers.sites)}),
            is_gaussian=True,
            is_zero=scales.b_sq == 0,
            units=self.registers.new_units(),
        )
        register = self.registers.add(Bias(shape, tuple(is_shared), scales), about)
        terms = value.terms
        if value.phi is not None:
            terms = ((self.registers.of(value), 1.0),)
        return Hidden(value.axes, added(terms, ((register, sign),)))

    def _moments(
        self, value: Any, contracted: Sequence[SupportsIndex]
    ) -> tuple[int, Axes, int]:
        """Second moments summed over some axes.

        Args:
            value: A known or hidden value.
            contracted: Axes to be summed over.

        Returns:
            The register, the axes left, and how many units each of its numbers stands
            for.

        Raises:
            RefusalError: If sums over these axes have no limit.
        """
        axes = value.axes
        left = tuple(axis for i, axis in enumerate(axes) if i not in contracted)
        if any(has(axes[i], "rows") for i in contracted):
            raise RefusalError(ROWS)
        if isinstance(value, Known):
            self.features.append((value.number, _reader(axes, contracted)))
            about = Register(frozenset(), False, False, self.registers.new_units())
            self._count(sizes(left, "pixels"))
            step = Moments(len(self.features) - 1)
            return self.registers.add(step, about), left, 1
        if any(has(axis, "units") for axis in left):
            raise RefusalError(
                "multiplies weights by a hidden value without summing over its units"
            )
        num_units = math.prod(sizes(axes, "units"))
        if num_units == 1:
            raise RefusalError(
                "reads a layer of one unit; for a limit, layers must have several"
            )
        register = self.registers.of(value)
        self.registers.sum_over_units(register)
        shape = sizes(axes, "pixels")
        summed = positions(axes, contracted, "pixels")
        self._count(shape)
        if summed:
            step = Together(register, shape, summed_pixels(shape, summed))
            register = self.registers.add(step, self.registers.about[register])
        return register, left, num_units

    def _weigh(self, source: int, weight: Weight, num_units: int) -> int:
        scales = self._scales(weight, weight.entries, num_units, is_bias=False)
        about = Register(
            roots=frozenset({next(self.registers.sites)}),
            is_gaussian=True,
            is_zero=scales.w_sq == 0,
            units=self.registers.new_units(),
        )
        return self.registers.add(Weigh(source, scales), about)

    def _scales(
        self, weight: Weight, entries: np.ndarray, num_units: int, is_bias: bool
    ) -> Scales:
        self.leaves.claim(weight.leaf, entries, self.leaf_sizes[weight.leaf])
        own = weight.scale**2 * num_units
        variance = own * self.leaves.variances[weight.leaf]
        if is_bias:
            return Scales(0.0, variance, 0.0, own, weight.is_trained)
        return Scales(variance, 0.0, own, 0.0, weight.is_trained)

    def _count(self, shape: Sequence[int]) -> None:
        most = self.registers.most_pixels
        self.registers.most_pixels = max(most, math.prod(shape))


def _reader(
    axes: Axes, contracted: Sequence[SupportsIndex]
) -> Callable[[Array], Array]:
    """Function from a value of two equal rows to (pixels, features) of one."""
    split: list[int] = []
    rows: list[int] = []
    pixels: list[int] = []
    features: list[int] = []
    for i, axis in enumerate(axes):
        for atom in axis:
            place = len(split)
            split.append(atom.size)
            if atom.kind == "rows":
                rows.append(place)
            else:
                (features if i in contracted else pixels).append(place)
    num_pixels = math.prod(
        a.size
        for i, axis in enumerate(axes)
        if i not in contracted
        for a in axis
        if a.kind != "rows"
    )

    def read(array: Array) -> Array:
        array = array.reshape(split).transpose(*rows, *pixels, *features)
        return (array[0] if rows else array).reshape(num_pixels, -1)

    return read
