r"""Gradients by the operands of single equations, as einsums.

In an equation $z = F(a, w)$ of an example value $a$ that is linear in a parameter value
$w$, the gradient of an output by $w$ is a contraction of the cotangent
$\delta = \partial f / \partial z$ with $a$. A rule says which: it names the axes of
$\delta$, $a$ and $w$ by labels, and the gradient is the `einsum` of these labels. Equal
labels in $\delta$ and $a$ that $w$ lacks are positions, summed over.

A rule that returns `None`, or a primitive without one, costs speed and nothing else:
the gradient is then taken by JAX's own differentiation of that equation.
"""

import dataclasses
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeAlias

import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.jaxpr.registry import described_by, primitive_of, register_primitive
from lazyjax.ntk.trace.windows import Windows

Labels: TypeAlias = tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The gradient by one operand of one equation, as an einsum over labelled axes."""

    delta: Labels  # a label for each axis of the equation's output
    # For each axis of the operand the labels that make it up, in order: one, or several
    # where an axis is a product (channels of a grouped convolution).
    weight: tuple[Labels, ...]
    # A label for each axis of the other operand, once prepared; `None` if the gradient
    # does not depend on it (as in a sum).
    act: Labels | None = None
    act_position: int | None = None  # position of the other operand in the equation
    # What is done to the other operand of one example first.
    prepare: Callable[[Array], Array] | None = None
    # Shape that the output is given before its axes are labelled.
    delta_shape: tuple[int, ...] | None = None
    # The label of `weight` that the other operand, an array of integers, selects along:
    # it stands for its one-hot encoding along that label, with negative integers for
    # none.
    index_into: Hashable | None = None
    sign: int = 1  # factor of the gradient, 1 or -1
    # Where the other operand is an image, what `prepare` reads of it.
    windows: Windows | None = None


Rule: TypeAlias = Callable[[jex.JaxprEqn, int], Form | None]


def register_rule(primitive_name: str) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule of a primitive.

    The function gets the equation and the position of the operand in question, and
    returns the `Form` of the gradient, or `None` if it does not know it. It may assume
    that this one operand depends on parameters only, and at least one other on the
    input. It takes effect as `lazyjax.jaxpr.register_primitive` says, which makes more
    than gradients known.

    Args:
        primitive_name: Name of the primitive, as jaxprs show it.

    Returns:
        The decorator, which returns the function as it is.

    Example:
        >>> @register_rule("my_primitive")
        ... def _(eqn, position):
        ...     return None  # always by JAX's own differentiation
    """

    def register(rule: Rule) -> Rule:
        register_primitive(primitive_name, gradient=rule)
        return rule

    return register


_rule = partial(described_by, "gradient")


def form_of(eqn: jex.JaxprEqn, position: int) -> Form | None:
    """The form of the gradient by operand `position` of `eqn`, if a rule knows it."""
    rule = primitive_of(eqn).gradient
    return None if rule is None or len(eqn.outvars) != 1 else rule(eqn, position)


def shape_of(atom: Any) -> tuple[int, ...]:
    """Shape of an operand or result of an equation."""
    return tuple(atom.aval.shape)


def _split(labels: Labels) -> tuple[Labels, ...]:
    return tuple((label,) for label in labels)


@_rule("dot_general")
def _dot_general(eqn: jex.JaxprEqn, position: int) -> Form:
    contracting, batch = eqn.params["dimension_numbers"]
    axes = []
    for side in (0, 1):
        labels: list[Hashable] = [
            ("free", side, axis) for axis in range(len(shape_of(eqn.invars[side])))
        ]
        for name, dims in (("contracted", contracting), ("batch", batch)):
            for number, axis in enumerate(dims[side]):
                labels[axis] = (name, number)
        axes.append(labels)
    free = [[x for x in labels if x[0] == "free"] for labels in axes]
    shared = [("batch", number) for number in range(len(batch[0]))]
    other = 1 - position
    return Form(
        delta=(*shared, *free[0], *free[1]),
        weight=_split(tuple(axes[position])),
        act=tuple(axes[other]),
        act_position=other,
    )


def _elementwise(eqn: jex.JaxprEqn, atom: Any) -> list[int | None] | None:
    # For each axis of an operand the axis of the output, or none where it is repeated.
    shape, out = shape_of(atom), shape_of(eqn.outvars[0])
    if shape == ():
        return []
    if len(shape) != len(out):
        return None
    return [axis if size == out[axis] else None for axis, size in enumerate(shape)]


@_rule("mul")
def _mul(eqn: jex.JaxprEqn, position: int) -> Form | None:
    form = _add(eqn, position)
    act = _elementwise(eqn, eqn.invars[1 - position])
    if form is None or act is None:
        return None
    labels = (("unit", n) if axis is None else axis for n, axis in enumerate(act))
    return dataclasses.replace(form, act=tuple(labels), act_position=1 - position)


@_rule("div")
def _div(eqn: jex.JaxprEqn, position: int) -> Form | None:
    form = _mul(eqn, position) if position == 0 else None
    return form and dataclasses.replace(form, prepare=jnp.reciprocal)


@_rule("add", "add_any")
def _add(eqn: jex.JaxprEqn, position: int) -> Form | None:
    weight = _elementwise(eqn, eqn.invars[position])
    if weight is None:
        return None
    delta = tuple(range(len(shape_of(eqn.outvars[0]))))
    labels = tuple(() if axis is None else (axis,) for axis in weight)
    return Form(delta=delta, weight=labels)


@_rule("sub")
def _sub(eqn: jex.JaxprEqn, position: int) -> Form | None:
    form = _add(eqn, position)
    return form and dataclasses.replace(form, sign=1 if position == 0 else -1)


@_rule("gather")
def _gather(eqn: jex.JaxprEqn, position: int) -> Form | None:
    # Rows of a table: one axis indexed by one integer, all other axes taken whole.
    if position != 0:
        return None
    table, indices = map(shape_of, eqn.invars)
    numbers = eqn.params["dimension_numbers"]
    sizes = tuple(eqn.params["slice_sizes"])
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = numbers.start_index_map
    rows = (*table[:axis], 1, *table[axis + 1 :])
    if tuple(numbers.collapsed_slice_dims) != (axis,) or sizes != rows:
        return None
    delta: list[Hashable] = []
    taken = iter(label for label in range(len(table)) if label != axis)
    places = iter(range(len(indices) - 1))
    for dim in range(len(shape_of(eqn.outvars[0]))):
        offset = dim in numbers.offset_dims
        delta.append(next(taken) if offset else ("place", next(places)))
    clips = "clip" in str(eqn.params["mode"]).lower()

    def prepare(indices: Array) -> Array:
        index = lax.index_in_dim(indices, 0, axis=-1, keepdims=False)
        index = index.astype(jnp.int32)
        if clips:
            return jnp.clip(index, 0, table[axis] - 1)
        outside = (index < 0) | (index >= table[axis])
        return jnp.where(outside, jnp.full_like(index, -1), index)

    return Form(
        delta=tuple(delta),
        weight=_split(tuple(range(len(table)))),
        act=tuple(("place", number) for number in range(len(indices) - 1)),
        act_position=1,
        prepare=prepare,
        index_into=axis,
    )


@_rule("conv_general_dilated")
def _conv_general_dilated(eqn: jex.JaxprEqn, position: int) -> Form | None:
    params = eqn.params
    if position != 1 or params["batch_group_count"] != 1:
        return None
    numbers = params["dimension_numbers"]
    lhs_spec, rhs_spec, out_spec = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    kernel = shape_of(eqn.invars[1])
    out = shape_of(eqn.outvars[0])
    groups = params["feature_group_count"]
    num_spatial = len(kernel) - 2
    taps = tuple(kernel[axis] for axis in rhs_spec[2:])
    places = tuple(out[axis] for axis in out_spec[2:])

    def lay_out(image: Array) -> Array:
        image = lax.transpose(image, (lhs_spec[0], *lhs_spec[2:], lhs_spec[1]))
        padding = [
            (low, high, dilation - 1)
            for (low, high), dilation in zip(
                params["padding"], params["lhs_dilation"], strict=True
            )
        ]
        zero = jnp.zeros((), image.dtype)
        return lax.pad(image, zero, [(0, 0, 0), *padding, (0, 0, 0)])

    windows = Windows(
        lay_out, taps, places, params["window_strides"], params["rhs_dilation"]
    )

    def prepare(image: Array) -> Array:
        patches = windows.patches(lay_out(image))
        return patches.reshape(patches.shape[0], *places, *taps, groups, -1)

    space = tuple(("space", number) for number in range(num_spatial))
    taps_labels = tuple(("tap", number) for number in range(num_spatial))
    weight: list[Labels] = [()] * len(kernel)
    weight[rhs_spec[0]] = ("group", "out")
    weight[rhs_spec[1]] = ("in",)
    for label, axis in zip(taps_labels, rhs_spec[2:], strict=True):
        weight[axis] = (label,)
    delta: list[Labels] = [()] * len(out)
    delta[out_spec[0]] = ("batch",)
    delta[out_spec[1]] = ("group", "out")
    for label, axis in zip(space, out_spec[2:], strict=True):
        delta[axis] = (label,)
    features = (groups, kernel[rhs_spec[0]] // groups)
    delta_shape = [
        size
        for axis, labels in enumerate(delta)
        for size in (features if len(labels) == 2 else (out[axis],))
    ]
    return Form(
        delta=tuple(label for labels in delta for label in labels),
        delta_shape=tuple(delta_shape),
        weight=tuple(weight),
        act=("batch", *space, *taps_labels, "group", "in"),
        act_position=0,
        prepare=prepare,
        windows=windows,
    )
