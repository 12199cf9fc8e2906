"""How single equations of a jaxpr keep the rows of a batch apart.

A value is known to be one of two things. FIXED: the same for every batch and batch
size. `Rows`: one axis of it enumerates rows, and what belongs to row r is one function,
the same for all rows and batch sizes, of row r of the batch. All else is UNKNOWN.

Each equation is seen twice, as traced with batches of two sizes: what holds the batch
size as a number, or as the length of an axis that no row belongs to, differs.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.extend.core as jex

from lazyjax.jaxpr.equations import ELEMENTWISE, aval_of


@dataclasses.dataclass(frozen=True)
class Rows:
    """Index `(a * n + r) * inner + b` along `axis` belongs to row r, of n.

    `inner` is not 1 if other axes have been merged into that of the batch.
    """

    axis: int
    inner: int = 1


class Other(enum.Enum):
    """What a value can be that is not enumerated by rows."""

    FIXED = "fixed"
    UNKNOWN = "unknown"


FIXED, UNKNOWN = Other.FIXED, Other.UNKNOWN
Label: TypeAlias = Rows | Other
Axes: TypeAlias = Sequence[Any]  # integers of Python or NumPy: JAX has both


@dataclasses.dataclass(frozen=True)
class Twins:
    """One equation at two batch sizes.

    Attributes:
        eqns: The equation as traced at each size.
        sizes: The two batch sizes.
        labels: What its operands are.
    """

    eqns: tuple[jex.JaxprEqn, jex.JaxprEqn]
    sizes: tuple[int, int]
    labels: Sequence[Label]

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.eqns[0].primitive.name

    @property
    def params(self) -> dict[str, Any]:
        """Parameters at the first size."""
        return self.eqns[0].params

    @property
    def common(self) -> Rows | None:
        """The label of all operands that are not FIXED, if they share one."""
        found = {label for label in self.labels if label is not FIXED}
        label = found.pop() if len(found) == 1 else None
        return label if isinstance(label, Rows) else None

    def operand(self, number: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of an operand at the two sizes."""
        first, second = (aval_of(eqn.invars[number]).shape for eqn in self.eqns)
        return first, second

    def result(self, number: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a result at the two sizes."""
        first, second = (aval_of(eqn.outvars[number]).shape for eqn in self.eqns)
        return first, second

    def both(self, key: str) -> tuple[Any, Any]:
        """A parameter at the two sizes."""
        return self.eqns[0].params[key], self.eqns[1].params[key]


def fits(
    label: Label, shapes: tuple[Sequence[int], Sequence[int]], sizes: tuple[int, int]
) -> bool:
    """Whether values of these shapes, at the two batch sizes, can be `label`."""
    if len(shapes[0]) != len(shapes[1]):
        return False
    varying = [i for i, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b]
    if not isinstance(label, Rows):
        return label is UNKNOWN or not varying
    if varying != [label.axis]:
        return False
    units = [n * label.inner for n in sizes]
    counts = [
        divmod(s[label.axis], unit) for s, unit in zip(shapes, units, strict=True)
    ]
    return counts[0] == counts[1] and counts[0][1] == 0


# Parameters that may hold the batch size: what they may say is checked by the rules,
# and by the shapes of the results.
SIZED = {
    "broadcast_in_dim": "shape",
    "dynamic_slice": "slice_sizes",
    "gather": "slice_sizes",
    "iota": "shape",
    "reshape": "new_sizes",
    "slice": "limit_indices",
    "tile": "reps",
}

# A rule is given FIXED operands and at least one enumerated by rows, and says how all
# results are, or `None` if that is not known.
Rule: TypeAlias = Callable[[Twins], Rows | None]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that enters a rule for the primitives `names`."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


@_rule(*ELEMENTWISE)
def _elementwise(eqn: Twins) -> Rows | None:
    # FIXED operands are scalars, or of length 1 along the axis: its length varies.
    return eqn.common


@_rule("bitcast_convert_type")
def _bitcast(eqn: Twins) -> Rows | None:
    # Between types of different width, an axis is added or taken away.
    return eqn.common if eqn.operand() == eqn.result() else None


def _apart(rows: Rows | None, axes: Axes) -> Rows | None:
    """`rows` if none of `axes`, along which entries meet, is theirs."""
    return None if rows is None or rows.axis in tuple(axes) else rows


def _without(rows: Rows | None, axes: Axes) -> Rows | None:
    """`rows` once `axes`, none of which is theirs, are gone."""
    axes = tuple(axes)
    if rows is None or rows.axis in axes:
        return None
    return Rows(rows.axis - sum(bool(axis < rows.axis) for axis in axes), rows.inner)


@_rule(
    *(f"reduce_{kind}" for kind in ("and", "max", "min", "or", "prod", "sum", "xor")),
    *("argmax", "argmin"),
)
def _reduce(eqn: Twins) -> Rows | None:
    return _without(eqn.common, eqn.params["axes"])


@_rule("reduce", "squeeze")
def _reduce_dimensions(eqn: Twins) -> Rows | None:
    return _without(eqn.common, eqn.params["dimensions"])


@_rule("stack")
def _stack(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if FIXED in eqn.labels or rows is None:
        return None
    return Rows(rows.axis + (eqn.params["axis"] <= rows.axis), rows.inner)


@_rule("unstack")
def _unstack(eqn: Twins) -> Rows | None:
    return _without(eqn.common, (eqn.params["axis"],))


@_rule("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "split", "top_k")
def _along_axis(eqn: Twins) -> Rows | None:
    last = len(eqn.operand()[0]) - 1
    return _apart(eqn.common, (eqn.params.get("axis", last),))


@_rule("concatenate", "sort")
def _along_dimension(eqn: Twins) -> Rows | None:
    if FIXED in eqn.labels:
        return None
    return _apart(eqn.common, (eqn.params["dimension"],))


@_rule("rev")
def _rev(eqn: Twins) -> Rows | None:
    return _apart(eqn.common, eqn.params["dimensions"])


@_rule("tile")
def _tile(eqn: Twins) -> Rows | None:
    rows, reps = eqn.common, eqn.both("reps")
    if rows is None or reps[0] != reps[1]:
        return None
    return rows if reps[0][rows.axis] == 1 else None


@_rule("fft")
def _fft(eqn: Twins) -> Rows | None:
    ndim, transformed = len(eqn.operand()[0]), len(eqn.params["fft_lengths"])
    return _apart(eqn.common, range(ndim - transformed, ndim))


@_rule("cholesky", "eigh", "geqrf", "householder_product", "lu", "qr", "svd")
def _matrix(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if FIXED in eqn.labels or rows is None:
        return None
    # Matrices are the last two axes, and those before them are the same everywhere.
    return rows if rows.axis < len(eqn.operand()[0]) - 2 else None


@_rule("lu_pivots_to_permutation")
def _permutation(eqn: Twins) -> Rows | None:
    return _apart(eqn.common, (len(eqn.operand()[0]) - 1,))


@_rule("triangular_solve")
def _triangular_solve(eqn: Twins) -> Rows | None:
    rows, ndim = eqn.common, len(eqn.operand()[1])
    if rows is None:
        return None
    if FIXED not in eqn.labels:
        return rows if rows.axis < ndim - 2 else None
    free = ndim - 1 if eqn.params["left_side"] else ndim - 2
    return rows if eqn.labels[0] is FIXED and rows.axis == free else None


# Changes of shape.


@_rule("broadcast_in_dim")
def _broadcast_in_dim(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if rows is None or len(eqn.labels) != 1:
        return None
    return Rows(int(eqn.params["broadcast_dimensions"][rows.axis]), rows.inner)


@_rule("transpose")
def _transpose(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if rows is None:
        return None
    return Rows(tuple(eqn.params["permutation"]).index(rows.axis), rows.inner)


@_rule("reshape")
def _reshape(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if rows is None or len(eqn.labels) != 1:
        return None
    before = eqn.operand()
    order = eqn.params["dimensions"]
    if order is not None:  # transposed first
        before = tuple([shape[axis] for axis in order] for shape in before)
        rows = Rows(tuple(order).index(rows.axis), rows.inner)
    shapes = zip(before, eqn.result(), eqn.sizes, strict=True)
    first, second = (_reshaped(rows, old, new, n) for old, new, n in shapes)
    return first if first == second else None


def _reshaped(
    rows: Rows, before: Sequence[int], after: Sequence[int], n: int
) -> Rows | None:
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


# Parts.


def _same_but(pair: tuple[Axes, Axes], axis: int) -> bool:
    first, second = (tuple(part) for part in pair)
    return (first[:axis], first[axis + 1 :]) == (second[:axis], second[axis + 1 :])


@_rule("slice")
def _slice(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if rows is None or not _same_but(eqn.both("limit_indices"), rows.axis):
        return None
    strides = eqn.params["strides"]
    is_whole = (
        eqn.params["start_indices"][rows.axis] == 0
        and (strides is None or strides[rows.axis] == 1)
        and _taken_whole(eqn, eqn.both("limit_indices"), rows.axis)
    )
    return rows if is_whole else None


@_rule("dynamic_slice")
def _dynamic_slice(eqn: Twins) -> Rows | None:
    rows, sizes = eqn.common, eqn.both("slice_sizes")
    if rows is None or not _same_but(sizes, rows.axis):
        return None
    # Where the slice starts is clamped: a whole axis is taken from its start.
    return rows if _taken_whole(eqn, sizes, rows.axis) else None


def _taken_whole(eqn: Twins, taken: tuple[Axes, Axes], axis: int) -> bool:
    return all(
        part[axis] == whole[axis]
        for part, whole in zip(taken, eqn.operand(), strict=True)
    )


@_rule("dynamic_update_slice")
def _dynamic_update_slice(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if rows is None or eqn.labels[0] is FIXED or eqn.labels[1] is FIXED:
        return None
    return rows if _taken_whole(eqn, eqn.operand(1), rows.axis) else None


@_rule("pad")
def _pad(eqn: Twins) -> Rows | None:
    rows = eqn.common
    if rows is None or eqn.labels[0] is FIXED:
        return None
    return rows if tuple(eqn.params["padding_config"][rows.axis]) == (0, 0, 0) else None


@_rule(
    *("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"),
    "select_and_gather_add",
)
def _window(eqn: Twins) -> Rows | None:
    rows, params = eqn.common, eqn.params
    if rows is None:
        return None
    is_apart = (
        params["window_dimensions"][rows.axis] == 1
        and params["window_strides"][rows.axis] == 1
        and tuple(params["padding"][rows.axis]) == (0, 0)
        and params["base_dilation"][rows.axis] == 1
    )
    return rows if is_apart else None


# Products.


@_rule("dot_general")
def _dot_general(eqn: Twins) -> Rows | None:
    contracted, batched = eqn.params["dimension_numbers"]
    if FIXED not in eqn.labels:
        lhs, rhs = eqn.labels
        return _paired(lhs, rhs, batched[0], batched[1], range(len(batched[0])))
    rows = eqn.common
    if rows is None:
        return None
    side = eqn.labels.index(rows)
    free = [
        [i for i in range(len(eqn.operand(number)[0])) if i not in gone]
        for number, gone in enumerate(
            (*c, *b) for c, b in zip(contracted, batched, strict=True)
        )
    ]
    if rows.axis not in free[side]:
        return None
    before = len(batched[0]) + (len(free[0]) if side == 1 else 0)
    return Rows(before + free[side].index(rows.axis), rows.inner)


def _paired(
    first: Label,
    second: Label,
    first_axes: Axes,
    second_axes: Axes,
    result_axes: Axes,
) -> Rows | None:
    """Rows of a result one of whose axes is an axis of each operand."""
    if not isinstance(first, Rows) or not isinstance(second, Rows):
        return None
    for *axes, result in zip(first_axes, second_axes, result_axes, strict=True):
        if axes == [first.axis, second.axis] and first.inner == second.inner:
            return Rows(int(result), first.inner)
    return None


@_rule("conv_general_dilated")
def _conv(eqn: Twins) -> Rows | None:
    rows, params = eqn.common, eqn.params
    numbers = params["dimension_numbers"]
    if rows is None or FIXED not in eqn.labels or params["batch_group_count"] != 1:
        return None
    if eqn.labels[1] is FIXED:
        is_batch = rows.axis == numbers.lhs_spec[0]
        return Rows(int(numbers.out_spec[0]), rows.inner) if is_batch else None
    is_output = rows.axis == numbers.rhs_spec[0] and params["feature_group_count"] == 1
    return Rows(int(numbers.out_spec[1]), rows.inner) if is_output else None


# Indexing.


@_rule("gather")
def _gather(eqn: Twins) -> Rows | None:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.both("slice_sizes")
    operand, indices = eqn.labels
    looked_up = [i for i in range(len(eqn.result()[0])) if i not in numbers.offset_dims]
    if isinstance(indices, Rows):
        if indices.axis >= len(looked_up) or sizes[0] != sizes[1]:
            return None
        if operand is FIXED:
            return Rows(looked_up[indices.axis], indices.inner)
        batched = numbers.start_indices_batching_dims
        axes = numbers.operand_batching_dims, batched, [looked_up[i] for i in batched]
        return _paired(operand, indices, *axes)
    if not isinstance(operand, Rows) or operand.axis in numbers.start_index_map:
        return None
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    offset = _without(operand, gone)
    if offset is None or not _same_but(sizes, operand.axis):
        return None
    if not _taken_whole(eqn, sizes, operand.axis):
        return None
    return Rows(int(numbers.offset_dims[offset.axis]), operand.inner)


@_rule(
    *("scatter", "scatter-add", "scatter_add", "scatter_sub", "scatter-sub"),
    *("scatter_mul", "scatter-mul", "scatter_min", "scatter-min"),
    *("scatter_max", "scatter-max"),
)
def _scatter(eqn: Twins) -> Rows | None:
    operand, indices, updates = eqn.labels
    numbers = eqn.params["dimension_numbers"]
    if not isinstance(operand, Rows) or not isinstance(updates, Rows):
        return None
    if operand.inner != updates.inner:
        return None
    window = numbers.update_window_dims
    if indices is FIXED:
        gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        place = _without(operand, gone)
        is_apart = (
            place is not None
            and operand.axis not in numbers.scatter_dims_to_operand_dims
            and window[place.axis] == updates.axis
            and all(
                update[updates.axis] == whole[operand.axis]
                for update, whole in zip(eqn.operand(2), eqn.operand(0), strict=True)
            )
        )
        return operand if is_apart else None
    looked_up = [i for i in range(len(eqn.operand(2)[0])) if i not in window]
    batched = numbers.scatter_indices_batching_dims
    axes = numbers.operand_batching_dims, batched, [looked_up[i] for i in batched]
    found = _paired(operand, indices, *axes)
    return operand if found == updates else None


def created(eqn: Twins) -> Label:
    """Label of a result made of FIXED operands, whose shape holds the batch size."""
    if eqn.name not in ("broadcast_in_dim", "iota", "tile"):
        return UNKNOWN
    first, second = eqn.result()
    varying = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(varying) != 1 or eqn.params.get("dimension") == varying[0]:
        return UNKNOWN
    (axis,) = varying
    if eqn.name == "tile":
        return Rows(axis, eqn.operand()[0][axis])
    # The same all along the axis, so that it may be enumerated in any way.
    return Rows(axis, max(1, first[axis] // eqn.sizes[0]))
