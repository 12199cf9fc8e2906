"""Primitives that rearrange, repeat or create entries."""

import math

from lazyjax.jaxpr.axes import AxisAction, axes_of_operand
from lazyjax.jaxpr.labels import FIXED, EquationPair, Rows, Shape, without
from lazyjax.jaxpr.registry import describe, described_by_rows

_BROADCAST = AxisAction(
    frozenset({"broadcast_dimensions", "shape"}),
    lambda eqn, operands, result: [
        result.get(to)
        for axis, to in enumerate(eqn.params["broadcast_dimensions"])
        if axis in operands[0]
    ],
)
_RESHAPE = AxisAction(
    frozenset({"dimensions", "new_sizes"}), lambda eqn, *_: eqn.params["dimensions"]
)
_SQUEEZE = AxisAction(frozenset({"dimensions"}), lambda *_: None)


def _repeated(pair: EquationPair) -> Rows | None:
    """The varying axis of a result that is the same all along it."""
    first, second = pair.result()
    varying = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(varying) != 1 or pair.params.get("dimension") == varying[0]:
        return None
    (axis,) = varying
    if pair.name == "tile":
        return Rows(axis, pair.operand()[0][axis])
    # Any factor will do, as all entries are the same.
    return Rows(axis, max(1, first[axis] // pair.sizes[0]))


describe("expand_dims", dependence="every", entries="permuted")
describe("iota", batch_param="shape", created_rows=_repeated, follows_dtype=True)


@described_by_rows(
    "broadcast_in_dim",
    dependence="every",
    batch_param="shape",
    created_rows=_repeated,
    axis_action=_BROADCAST,
    entries="repeated",
)
def _broadcast_in_dim(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if rows is None or len(pair.labels) != 1:
        return None
    return Rows(int(pair.params["broadcast_dimensions"][rows.axis]), rows.inner)


@described_by_rows(
    "transpose",
    dependence="every",
    axis_action=axes_of_operand("permutation"),
    entries="permuted",
)
def _transpose(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if rows is None:
        return None
    return Rows(tuple(pair.params["permutation"]).index(rows.axis), rows.inner)


@described_by_rows(
    "squeeze", dependence="every", axis_action=_SQUEEZE, entries="permuted"
)
def _squeeze(pair: EquationPair) -> Rows | None:
    return without(pair.common, pair.params["dimensions"])


@described_by_rows(
    "reshape",
    dependence="every",
    batch_param="new_sizes",
    axis_action=_RESHAPE,
    entries="permuted",
)
def _reshape(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if rows is None or len(pair.labels) != 1:
        return None
    before = pair.operand()
    order = pair.params["dimensions"]
    if order is not None:  # transposed first
        before = tuple(tuple(shape[axis] for axis in order) for shape in before)
        rows = Rows(tuple(order).index(rows.axis), rows.inner)
    shapes = zip(before, pair.result(), pair.sizes, strict=True)
    first, second = (_reshaped(rows, old, new, n) for old, new, n in shapes)
    return first if first == second else None


def _reshaped(rows: Rows, before: Shape, after: Shape, n: int) -> Rows | None:
    """The axis after a reshape whose entries `n` rows enumerate."""
    if math.prod(before) == 0:
        return None
    # In the order of memory, the row changes every so many entries.
    stride = rows.inner * math.prod(before[rows.axis + 1 :])
    for axis, size in enumerate(after):
        inner, rest = divmod(stride, math.prod(after[axis + 1 :]))
        if inner and not rest and size % (inner * n) == 0:
            return Rows(axis, inner)
    return None


@described_by_rows("tile", batch_param="reps", created_rows=_repeated)
def _tile(pair: EquationPair) -> Rows | None:
    rows, reps = pair.common, pair.both("reps")
    if rows is None or reps[0] != reps[1]:
        return None
    return rows if reps[0][rows.axis] == 1 else None


@described_by_rows("stack")
def _stack(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if FIXED in pair.labels or rows is None:
        return None
    return Rows(rows.axis + (pair.params["axis"] <= rows.axis), rows.inner)


@described_by_rows("unstack")
def _unstack(pair: EquationPair) -> Rows | None:
    return without(pair.common, (pair.params["axis"],))
