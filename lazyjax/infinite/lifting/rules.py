"""What operations other than products with weights do to random values."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.infinite.lifting.axes import (
    Axes,
    axis_of,
    broadcast,
    has,
    positions,
    reshaped,
    sizes,
    transposed,
)
from lazyjax.infinite.lifting.functions import Elementwise, applied
from lazyjax.infinite.lifting.known import ROWS, check_same_rows, is_constant_along
from lazyjax.infinite.lifting.pixels import PixelMap, take, window_sums
from lazyjax.infinite.lifting.steps import Apart
from lazyjax.infinite.lifting.values import (
    Constant,
    Hidden,
    Known,
    Operation,
    RefusalError,
    Registers,
    Value,
    View,
    Weight,
    added,
    scaled,
)
from lazyjax.jaxpr.equations import aval_of

ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bessel_i0e",
        "bessel_i1e",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "pow",
        "real",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)
_UNITS = (
    "combines the units of a hidden layer (a mean, a norm, a softmax, a normalization)"
)


def uniform(constant: Constant) -> np.generic | None:
    """The number of which all entries of a constant are copies, if they are."""
    if constant.value is None or constant.value.size == 0:
        return None
    first = constant.value.reshape(-1)[0]
    return first if bool((constant.value == first).all()) else None


def _factor(name: str, by: Any) -> Any:
    """What an operation with a constant multiplies by.

    Args:
        name: "mul" or "div".
        by: The constant.

    Returns:
        The factor.

    Raises:
        RefusalError: If that is not finite.
    """
    if not np.isfinite(by).all() or (name == "div" and (by == 0).any()):
        raise RefusalError("multiplies by a number that is not finite, or divides by 0")
    factor = by if name == "mul" else 1 / by
    return float(factor) if factor.ndim == 0 else factor


class Rules:
    """Rules of values that are linear in weights, or elementwise functions of those."""

    def __init__(self, registers: Registers, dtype: Any) -> None:
        self.registers = registers
        self.dtype = np.dtype(dtype)
        self.operation: Operation | None = None

    # Parameters.

    def of_weight(self, eqn: Any, operands: Sequence[Value]) -> Weight:
        """A parameter reshaped, selected, or times a number."""
        name, params = eqn.primitive.name, eqn.params
        weights = [operand for operand in operands if isinstance(operand, Weight)]
        (weight, *others) = weights
        entries = weight.entries
        if (
            name in ("mul", "div")
            and not others
            and isinstance(operands[0], Weight | Constant)
        ):
            (other,) = (operand for operand in operands if operand is not weight)
            assert isinstance(other, Constant)
            number = uniform(other)
            if number is not None and (name == "mul" or operands[0] is weight):
                scale = weight.scale * _factor(name, number)
                entries = np.broadcast_to(entries, aval_of(eqn.outvars[0]).shape)
                return dataclasses.replace(weight, scale=scale, entries=entries)
        if len(operands) == 1:
            if name == "neg":
                return dataclasses.replace(weight, scale=-weight.scale)
            if name == "stop_gradient":
                return dataclasses.replace(weight, is_trained=False)
            if name in ("copy", "copy_p") or self._is_float_cast(eqn):
                return weight
            moved = _rearranged(name, params, entries)
            if moved is not None:
                return dataclasses.replace(weight, entries=moved)
        raise RefusalError(
            "changes parameters in another way than by a constant factor, before they "
            "meet a value as weights or biases"
        )

    def _is_float_cast(self, eqn: Any) -> bool:
        if eqn.primitive.name != "convert_element_type":
            return False
        kinds = (aval_of(atom).dtype for atom in (eqn.invars[0], eqn.outvars[0]))
        return all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)

    # Hidden values, entry by entry.

    def elementwise(self, eqn: Any, operands: Sequence[Value]) -> Hidden:
        """An elementwise operation on hidden values and constants."""
        name = eqn.primitive.name
        hidden = [operand for operand in operands if isinstance(operand, Hidden)]
        if not hidden:
            raise RefusalError(
                "combines parameters with a function of the input entry by entry"
            )
        if any(isinstance(operand, Known) for operand in operands):
            raise RefusalError(
                "combines a hidden value with a function of the input that did not go "
                "through weights"
            )
        if any(isinstance(operand, Weight) for operand in operands):
            raise RefusalError(
                "combines a hidden value with parameters entry by entry, other than as "
                "biases"
            )
        axes = hidden[0].axes
        if any(value.axes != axes for value in hidden):
            raise RefusalError(
                "combines two hidden values whose examples, pixels or units stand in "
                "different places"
            )
        if len(operands) == 1:
            if name in ("copy", "copy_p") or self._is_float_cast(eqn):
                return hidden[0]
            if name == "neg" and hidden[0].phi is None:
                return scaled(hidden[0], -1.0)
            if name == "stop_gradient":
                return self.registers.detached(hidden[0])
        if len(operands) == 2 and len(hidden) == 1:
            found = self._with_constant(name, operands, hidden[0])
            if found is not None:
                return found
        if name in ("add", "sub") and len(hidden) == 2:
            return self._sum(eqn, hidden, -1.0 if name == "sub" else 1.0)
        return self._function(eqn, operands)

    def _with_constant(
        self, name: str, operands: Sequence[Value], value: Hidden
    ) -> Hidden | None:
        """A linear operation with a constant, if it is one."""
        (constant,) = (o for o in operands if isinstance(o, Constant))
        check_same_rows(constant, value.axes)
        number = uniform(constant)
        is_first = operands[0] is value
        is_product = name == "mul" or (name == "div" and is_first)
        if number is not None:
            if name in ("add", "sub") and number == 0 and (name == "add" or is_first):
                return value
            if is_product and value.phi is None:
                return scaled(value, _factor(name, number))
            return None
        if not is_product:
            raise RefusalError(
                "adds or compares with a constant that is not one number"
            )
        array = constant.value
        assert array is not None
        if not is_constant_along(array, value.axes, "units"):
            raise RefusalError("treats hidden units differently, by a constant")
        return self._by_pixel(value, _factor(name, array))

    def _by_pixel(self, value: Hidden, array: np.ndarray) -> Hidden:
        """A hidden value times a number for each pixel."""
        kinds = [a for axis in value.axes for a in axis]
        shape = np.broadcast_shapes(
            array.shape, tuple(int(np.prod([a.size for a in x])) for x in value.axes)
        )
        whole = np.broadcast_to(array, shape).reshape([a.size for a in kinds])
        for index, atom in enumerate(kinds):
            if atom.kind != "pixels":
                whole = whole.take([0], axis=index)
        extents = sizes(value.axes, "pixels")
        factors = whole.reshape(*extents, 1).astype(self.dtype)
        step = PixelMap(extents, lambda a: a * jnp.asarray(factors, a.dtype))
        register = self.registers.of(value)
        return self.registers.mapped(value, value.axes, Apart(register, step))

    def _sum(self, eqn: Any, values: Sequence[Hidden], sign: float) -> Hidden:
        if self._same_argument(values):
            return self._function(eqn, values)
        terms = [
            value.terms if value.phi is None else ((self.registers.of(value), 1.0),)
            for value in values
        ]
        signed = tuple((register, sign * c) for register, c in terms[1])
        return Hidden(values[0].axes, added(terms[0], signed))

    def _same_argument(self, values: Sequence[Hidden]) -> bool:
        """Whether values are functions of one Gaussian, and not all are linear in it."""
        sources = {value.source for value in values if value.phi is not None}
        if len(sources) != 1:
            return False
        (source,) = sources
        return all(
            v.phi is not None or self.registers.ratio(v, source) is not None
            for v in values
        )

    def _function(self, eqn: Any, operands: Sequence[Value]) -> Hidden:
        """A nonlinear function of one Gaussian value."""
        hidden = [operand for operand in operands if isinstance(operand, Hidden)]
        sources = {value.source for value in hidden if value.phi is not None}
        if not sources:
            sources = {self.registers.argument(hidden[0])[1]}
        source = sources.pop()
        arguments: list[Elementwise | np.generic] = []
        for operand in operands:
            if isinstance(operand, Constant):
                arguments.append(self._constant(operand))
                continue
            assert isinstance(operand, Hidden)
            if operand.phi is not None and operand.source == source:
                arguments.append(operand.phi)
                continue
            ratio = None
            if operand.phi is None:
                ratio = self.registers.ratio(operand, source)
            if ratio is None:
                raise RefusalError(
                    "is not linear in two hidden values at once, as gating, attention "
                    "and activations of sums of activations are not"
                )
            linear = Elementwise()
            if ratio != 1:
                factor = self.dtype.type(ratio)
                (times,) = jax.make_jaxpr(jax.lax.mul)(factor, factor).jaxpr.eqns
                linear = applied(times.primitive, times.params, [linear, factor])
            arguments.append(linear)
        params = dict(eqn.params)
        if jnp.issubdtype(params.get("new_dtype", bool), jnp.floating):
            params["new_dtype"] = self.dtype
        try:
            phi = applied(eqn.primitive, params, arguments)
        except TypeError:  # parameters that cannot be compared
            raise RefusalError("has parameters that are not understood") from None
        if self.operation is not None:
            self.registers.origins.setdefault(phi, self.operation)
        return Hidden(hidden[0].axes, phi=phi, source=source)

    def _constant(self, constant: Constant) -> np.generic:
        number = uniform(constant)
        if number is None:
            raise RefusalError("reads a constant that is not one number, or not known")
        if jnp.issubdtype(number.dtype, jnp.floating):
            return self.dtype.type(number)
        return number

    # Hidden values, pixel by pixel.

    def structural(self, eqn: Any, operands: Sequence[Value]) -> Hidden | None:
        """An operation that moves, selects or sums entries; None if it is none."""
        name, params = eqn.primitive.name, eqn.params
        shape = aval_of(eqn.outvars[0]).shape
        if name == "concatenate":
            return self._concatenate(params["dimension"], operands)
        value = operands[0]
        if not isinstance(value, Hidden):
            return None
        if name in ("reshape", "squeeze"):
            axes = reshaped(value.axes, shape)
            return dataclasses.replace(value, axes=axes, view=None)
        if name == "broadcast_in_dim":
            axes = broadcast(value.axes, shape, params["broadcast_dimensions"])
            if axes is None:
                raise RefusalError("repeats hidden values")
            return dataclasses.replace(value, axes=axes, view=None)
        if name == "transpose":
            axes, order = transposed(value.axes, params["permutation"])
            if order == sorted(order):
                return dataclasses.replace(value, axes=axes, view=None)
            return self._map(value, axes, lambda a: a.transpose(*order, a.ndim - 1))
        if name in ("slice", "pad", "rev"):
            return self._selected(eqn, value, operands[1:])
        if name == "reduce_sum":
            summed = params["axes"]
            if any(has(value.axes[i], "rows") for i in summed):
                raise RefusalError(ROWS)
            if any(has(value.axes[i], "units") for i in summed):
                raise RefusalError(_UNITS)
            pixels = tuple(positions(value.axes, summed, "pixels"))
            axes = tuple(a for i, a in enumerate(value.axes) if i not in summed)
            return self._map(value, axes, lambda a: jnp.sum(a, axis=pixels))
        if name == "reduce_window_sum":
            return self._windows(eqn, value)
        return None

    def _map(self, value: Hidden, axes: Axes, fn: Any) -> Hidden:
        step = PixelMap(sizes(value.axes, "pixels"), fn)
        register = self.registers.of(value)
        return self.registers.mapped(value, axes, Apart(register, step))

    def _pixel(self, axes: Axes, index: int) -> int:
        """Number of the pixel atom that is the whole of an axis."""
        axis = axes[index]
        if has(axis, "rows"):
            raise RefusalError(ROWS)
        if has(axis, "units"):
            raise RefusalError("selects, pads or reorders hidden units")
        if len(axis) != 1:
            raise RefusalError(
                "selects or pads along an axis of several kinds of pixels"
            )
        return positions(axes, [index], "pixels")[0]

    def _selected(self, eqn: Any, value: Hidden, rest: Sequence[Value]) -> Hidden:
        """Slices, zero padding and reversals of pixels."""
        if rest:
            (fill,) = rest
            if not isinstance(fill, Constant) or uniform(fill) != 0:
                raise RefusalError("pads by something else than zeros")
        for axis in range(len(value.axes)):
            before = aval_of(eqn.invars[0]).shape[axis]
            indices = _indices(eqn.primitive.name, eqn.params, axis, before)
            if not np.array_equal(indices, np.arange(before)):
                if before == 1:
                    raise RefusalError("pads an axis of one pixel, or of one unit")
                register = self.registers.of(value)
                value = self._take(register, value.axes, axis, indices)
        return value

    def _take(
        self, parent: int, parent_axes: Axes, axis: int, indices: np.ndarray
    ) -> Hidden:
        number = self._pixel(parent_axes, axis)
        axes = list(parent_axes)
        axes[axis] = axis_of("pixels", indices.size)
        step = PixelMap(sizes(parent_axes, "pixels"), take(number, indices))
        taken = self.registers.add(Apart(parent, step), self.registers.about[parent])
        view = View(parent, parent_axes, axis, indices)
        return Hidden(tuple(axes), ((taken, 1.0),), view=view)

    def _concatenate(self, axis: int, operands: Sequence[Value]) -> Hidden:
        """Selections of one value, put side by side."""
        candidates: list[dict[int, View]] = []
        for operand in operands:
            if not isinstance(operand, Hidden):
                raise RefusalError("puts a hidden value beside something else")
            found: dict[int, View] = {}
            if operand.view is not None and operand.view.axis == axis:
                found[operand.view.parent] = operand.view
            if operand.axes[axis]:
                register = self.registers.of(operand)
                size = math.prod(a.size for a in operand.axes[axis])
                whole = View(register, operand.axes, axis, np.arange(size))
                found.setdefault(register, whole)
            candidates.append(found)
        for parent in candidates[0]:
            if all(parent in found for found in candidates):
                views = [found[parent] for found in candidates]
                indices = np.concatenate([view.indices for view in views])
                return self._take(parent, views[0].parent_axes, axis, indices)
        raise RefusalError("puts different hidden values side by side")

    def _windows(self, eqn: Any, value: Hidden) -> Hidden:
        """Sums over windows of pixels."""
        params = eqn.params
        if any(d != 1 for d in params["base_dilation"]):
            raise RefusalError("spreads pixels apart")
        names = ("window_dimensions", "window_strides", "padding", "window_dilation")
        per_axis = list(zip(*(params[name] for name in names), strict=True))
        result = aval_of(eqn.outvars[0]).shape
        axes = list(value.axes)
        chosen: dict[int, tuple] = {}
        for i, (window, stride, pad, dilation) in enumerate(per_axis):
            if (window, stride, tuple(pad)) == (1, 1, (0, 0)):
                continue
            if not axes[i]:
                raise RefusalError("pools an axis of one pixel, or of one unit")
            if has(axes[i], "units"):
                raise RefusalError(_UNITS)
            chosen[self._pixel(value.axes, i)] = (window, stride, tuple(pad), dilation)
            axes[i] = axis_of("pixels", result[i])
        idle = (1, 1, (0, 0), 1)
        count = len(sizes(value.axes, "pixels"))
        columns = zip(*(chosen.get(i, idle) for i in range(count)), strict=True)
        return self._map(value, tuple(axes), window_sums(*columns))


def _rearranged(name: str, params: Any, entries: np.ndarray) -> np.ndarray | None:
    """Entries of a parameter, moved or selected."""
    if name == "reshape":
        return entries.reshape(params["new_sizes"])
    if name == "transpose":
        return entries.transpose(params["permutation"])
    if name == "squeeze":
        return entries.squeeze(tuple(params["dimensions"]))
    if name == "broadcast_in_dim":
        shape = params["shape"]
        sizes = [1] * len(shape)
        for axis, place in enumerate(params["broadcast_dimensions"]):
            sizes[place] = entries.shape[axis]
        return np.broadcast_to(entries.reshape(sizes), shape)
    if name in ("slice", "rev"):
        for axis, size in enumerate(entries.shape):
            entries = entries.take(_indices(name, params, axis, size), axis=axis)
        return entries
    return None


def _indices(name: str, params: Any, axis: int, size: int) -> np.ndarray:
    """Which entries along an axis a slice, a pad or a reversal selects; -1 for none."""
    whole = np.arange(size)
    if name == "rev":
        return whole[::-1] if axis in params["dimensions"] else whole
    if name == "slice":
        strides = params["strides"] or (1,) * (axis + 1)
        start, stop = params["start_indices"][axis], params["limit_indices"][axis]
        return whole[start : stop : strides[axis]]
    low, high, interior = params["padding_config"][axis]
    spread = np.full(max((size - 1) * (interior + 1) + 1, 0), -1)
    spread[:: interior + 1] = whole
    padded = np.concatenate(
        [np.full(max(low, 0), -1), spread, np.full(max(high, 0), -1)]
    )
    return padded[max(-low, 0) : padded.size - max(-high, 0)]
