"""Equations of the program of one row, beside those of the program of a batch.

JAX has other programs for axes of length 1: it does not broadcast along them, and takes
them away before matrix products. So shapes and axes are compared as they are once axes
of length 1 are left out.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.extend.core as jex

from lazyjax.jaxpr.equations import ELEMENTWISE, aval_of
from lazyjax.jaxpr.row_rules import (
    FIXED,
    SIZED,
    Label,
    Rows,
)

Shape = tuple[int, ...]

# Parameters that name axes or shapes, and which `_action` restates.
_RESTATED = {
    "broadcast_in_dim": {"broadcast_dimensions", "shape"},
    "dot_general": {"dimension_numbers"},
    "reshape": {"dimensions", "new_sizes"},
    "squeeze": {"dimensions"},
    "transpose": {"permutation"},
    **{
        f"reduce_{kind}": {"axes"}
        for kind in ("and", "max", "min", "or", "prod", "sum", "xor")
    },
    **{name: set() for name in ELEMENTWISE - {"bitcast_convert_type"}},
}
_VIEWS = frozenset({"broadcast_in_dim", "reshape", "squeeze", "transpose"})


def shape_of_row(label: Label, shape: Sequence[int], size: int) -> Shape:
    """Shape of what belongs to one row of a value of a batch of some size."""
    sizes = list(shape)
    if isinstance(label, Rows):
        sizes[label.axis] //= size
    return tuple(sizes)


def core(shape: Sequence[int]) -> Shape:
    """A shape without its axes of length 1."""
    return tuple(size for size in shape if size != 1)


def is_view(eqn: jex.JaxprEqn, operand: Shape, result: Shape) -> bool:
    """Whether an equation changes nothing but axes of length 1.

    Args:
        eqn: The equation.
        operand: Shape of its only operand, for one row.
        result: Shape of its result, for one row.

    Returns:
        Whether that is known.
    """
    if eqn.primitive.name not in _VIEWS or core(operand) != core(result):
        return False
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        return False
    if eqn.primitive.name != "transpose":
        return True
    kept = [axis for axis in eqn.params["permutation"] if operand[axis] != 1]
    return kept == sorted(kept)


def is_same_action(
    eqns: tuple[jex.JaxprEqn, jex.JaxprEqn],
    shapes: tuple[Sequence[Shape], Sequence[Shape]],
    labels: tuple[Sequence[Label], Sequence[Label]],
    size: int,
) -> bool:
    """Whether an equation does to each row of a batch what another does to one row.

    Parameters that neither name axes nor hold the size of the batch are not compared.

    Args:
        eqns: Of the program of a batch, and of one row.
        shapes: Shapes, for one row, of operands and results of the first.
        labels: Labels of operands and results of the first.
        size: Number of rows of the batch.

    Returns:
        Whether that is known.
    """
    name = eqns[0].primitive.name
    operands, results = (
        [tuple(aval_of(v).shape) for v in some]
        for some in (eqns[1].invars, eqns[1].outvars)
    )
    if name in _RESTATED:
        cores = [
            [core(s) for s in itertools.chain(*both)]
            for both in (shapes, (operands, results))
        ]
        actions = [
            _action(eqn, ins, outs[0])
            for eqn, ins, outs in zip(
                eqns, (shapes[0], operands), (shapes[1], results), strict=True
            )
        ]
        return cores[0] == cores[1] and actions[0] == actions[1]
    if [*shapes[0], *shapes[1]] != [*operands, *results]:
        return False
    key = SIZED.get(name)
    if key is None:
        return True
    sized, single = (tuple(eqn.params[key]) for eqn in eqns)
    found = [label for label in labels[0] if label is not FIXED] or labels[1]
    axes = {label.axis for label in found if isinstance(label, Rows)}
    return len(sized) == len(single) and all(
        a == b or (axis in axes and a == size * b)
        for axis, (a, b) in enumerate(zip(sized, single, strict=True))
    )


def named(eqn: jex.JaxprEqn) -> set[str]:
    """Names of the parameters that `is_same_action` compares."""
    name = eqn.primitive.name
    return _RESTATED.get(name, {SIZED[name]} if name in SIZED else set())


def _action(eqn: jex.JaxprEqn, operands: Sequence[Shape], result: Shape) -> Any:
    """What is done to axes, which are numbered as they are without those of length 1."""
    name, params = eqn.primitive.name, eqn.params
    numbers = [_numbers(shape) for shape in operands]
    if name == "dot_general":
        return [
            [
                [numbers[side][axis] for axis in axes if axis in numbers[side]]
                for side, axes in enumerate(pair)
            ]
            for pair in params["dimension_numbers"]
        ]
    if name.startswith("reduce_") and "axes" in params:
        return [numbers[0][axis] for axis in params["axes"] if axis in numbers[0]]
    if name == "transpose":
        order = params["permutation"]
        return [numbers[0][axis] for axis in order if axis in numbers[0]]
    if name == "reshape":
        return params["dimensions"]
    of_result = _numbers(result)
    if name == "broadcast_in_dim":
        placed = enumerate(params["broadcast_dimensions"])
        return [of_result.get(to) for axis, to in placed if axis in numbers[0]]
    if name == "squeeze":
        return None
    return [[of_result.get(axis) for axis in of_operand] for of_operand in numbers]


def _numbers(shape: Shape) -> dict[int, int]:
    """Axes that are not of length 1, and their numbers among them."""
    return {axis: i for i, axis in enumerate(a for a, s in enumerate(shape) if s != 1)}
