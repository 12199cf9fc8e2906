"""Where parameter values come from: views of other values, and boxes of leaves."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import jax.extend.core as jex
import jax.numpy as jnp

from lazyjax.jaxpr.axes import core
from lazyjax.jaxpr.labels import Shape
from lazyjax.jaxpr.registry import described_by, primitive_of
from lazyjax.ntk.trace.rules import Labels
from lazyjax.ntk.trace.sites import ParamStep, TracedNetwork

Box: TypeAlias = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class View:
    """A parameter value as a root whose axes are relabelled, scaled by constants."""

    root: int  # number of the parameter value that the view is of
    # For each axis of the root, the labels that make it up, in order.
    labels: tuple[Labels, ...]
    # Numbers of the scalar parameter values that it is multiplied by, with the power, 1
    # or -1.
    scales: tuple[tuple[int, int], ...] = ()
    sign: int = 1  # further factor, 1 or -1


@dataclasses.dataclass(frozen=True)
class Origin:
    """A root as a rearranged, scaled box of one leaf."""

    leaf: int  # which leaf
    box: Box  # start and end along each axis of the leaf
    scales: tuple[tuple[int, int], ...]  # as in `View`
    sign: int  # as in `View`
    # What makes the root of the box once it is cut out and scaled, in order: these
    # steps only rearrange.
    steps: tuple[ParamStep, ...]

    def overlaps(self, other: "Origin") -> bool:
        """Whether the two boxes, of the same leaf, have an entry in common."""
        pairs = zip(self.box, other.box, strict=True)
        return all(max(a[0], b[0]) < min(a[1], b[1]) for a, b in pairs)


def view_of(network: TracedNetwork, value: int, labels: Sequence[Labels]) -> View:
    """The view that parameter value `value`, whose axes are labelled, is of its root."""
    view = View(value, tuple(labels))
    while (step := network.producers.get(view.root)) is not None:
        before = _before(network, step, view)
        if before is None:
            break
        view = before
    return view


def origin_of(network: TracedNetwork, root: int) -> Origin | None:
    """The box of a leaf that `root` is, if it is one."""
    value, scales, sign = root, (), 1
    box: list[tuple[int, int]] | None = None
    steps: list[ParamStep] = []
    while (step := network.producers.get(value)) is not None:
        name, stacked = step.eqn.primitive.name, step.num_stacked
        shape = network.avals[step.inputs[0]].shape
        if _is_scaling(network, step):
            value, more, factor = _scaling(network, step)
            scales, sign = scales + more, sign * factor
            continue
        if name in ("slice", "split"):
            piece = _piece(step, value, shape)
            if piece is None:
                return None
            if box is None:
                box = [(0, end - start) for start, end in piece]
            box = [
                (start + a, start + b)
                for (start, _), (a, b) in zip(piece, box, strict=True)
            ]
        elif box is not None or primitive_of(step.eqn).entries != "permuted":
            return None
        else:
            steps.append(step)
        if len(shape) < stacked or not network.depends_on[step.inputs[0]]:
            return None
        value = step.inputs[0]
    if value not in network.leaves:
        return None
    whole = [(0, size) for size in network.avals[value].shape]
    leaf = network.leaves.index(value)
    return Origin(leaf, tuple(box or whole), scales, sign, tuple(reversed(steps)))


def bounding_box(boxes: Sequence[Box]) -> Box:
    """The smallest box that contains all of them."""
    return tuple(
        (min(start for start, _ in axis), max(end for _, end in axis))
        for axis in zip(*boxes, strict=True)
    )


def _before(network: TracedNetwork, step: ParamStep, view: View) -> View | None:
    # The same view in terms of the operand of the step that makes its root.
    if _is_scaling(network, step):
        value, scales, sign = _scaling(network, step)
        return View(value, view.labels, view.scales + scales, view.sign * sign)
    relabel = primitive_of(step.eqn).relabel
    if relabel is None or len(step.inputs) != 1:
        return None
    stacked, own = view.labels[: step.num_stacked], view.labels[step.num_stacked :]
    before, after = (
        network.avals[value].shape[step.num_stacked :]
        for value in (step.inputs[0], view.root)
    )
    labels = relabel(step.eqn, own, before, after)
    if labels is None:
        return None
    return View(step.inputs[0], (*stacked, *labels), view.scales, view.sign)


# How labels of a result's axes become those of its operand's, in equations that permute
# or repeat entries; `None` if they do not.
_relabels = partial(described_by, "relabel")


@_relabels("transpose")
def _transposed(
    eqn: jex.JaxprEqn, own: Sequence[Labels], before: Shape, after: Shape
) -> list[Labels]:
    labels: list[Labels] = [()] * len(own)
    for label, axis in zip(own, eqn.params["permutation"], strict=True):
        labels[axis] = label
    return labels


@_relabels("broadcast_in_dim")
def _broadcast(
    eqn: jex.JaxprEqn, own: Sequence[Labels], before: Shape, after: Shape
) -> list[Labels]:
    places = enumerate(eqn.params["broadcast_dimensions"])
    return [own[to] if after[to] == before[axis] else () for axis, to in places]


@_relabels("reshape")
def _reshaped(
    eqn: jex.JaxprEqn, own: Sequence[Labels], before: Shape, after: Shape
) -> list[Labels] | None:
    if core(before) != core(after):
        return None
    kept = iter(label for label, size in zip(own, after, strict=True) if size != 1)
    return [() if size == 1 else next(kept) for size in before]


@_relabels("squeeze")
def _squeezed(
    eqn: jex.JaxprEqn, own: Sequence[Labels], before: Shape, after: Shape
) -> list[Labels]:
    gone = {axis % len(before) for axis in eqn.params["dimensions"]}
    kept = iter(own)
    return [() if axis in gone else next(kept) for axis in range(len(before))]


def _is_scaling(network: TracedNetwork, step: ParamStep) -> bool:
    name = step.eqn.primitive.name
    weights = [value for value in step.inputs if network.depends_on[value]]
    if len(weights) != 1:
        return False
    # Not of real numbers as complex ones: their gradients are real parts of others.
    for value in (weights[0], step.outputs[0]):
        if not jnp.issubdtype(network.avals[value].dtype, jnp.floating):
            return False
    if network.avals[weights[0]].shape != network.avals[step.outputs[0]].shape:
        return False
    if name in ("neg", "convert_element_type", "copy"):
        return True
    others = [value for value in step.inputs if value not in weights]
    if name not in ("mul", "div") or len(others) != 1 or network.avals[others[0]].shape:
        return False
    return name == "mul" or step.inputs[0] == weights[0]


def _scaling(network: TracedNetwork, step: ParamStep) -> tuple[int, Any, int]:
    (weight,) = (value for value in step.inputs if network.depends_on[value])
    others = [value for value in step.inputs if value != weight]
    power = -1 if step.eqn.primitive.name == "div" else 1
    sign = -1 if step.eqn.primitive.name == "neg" else 1
    return weight, tuple((other, power) for other in others), sign


def _piece(
    step: ParamStep, value: int, shape: Sequence[int]
) -> list[tuple[int, int]] | None:
    params, stacked = step.eqn.params, step.num_stacked
    piece = [(0, size) for size in shape]
    if step.eqn.primitive.name == "split":
        axis, sizes = params["axis"] + stacked, params["sizes"]
        start = sum(sizes[: step.outputs.index(value)])
        piece[axis] = (start, start + sizes[step.outputs.index(value)])
        return [(int(a), int(b)) for a, b in piece]
    if params["strides"] is not None and set(params["strides"]) != {1}:
        return None
    bounds = zip(params["start_indices"], params["limit_indices"], strict=True)
    piece[stacked:] = [(int(a), int(b)) for a, b in bounds]
    return piece
