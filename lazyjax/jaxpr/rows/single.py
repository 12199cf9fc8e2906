"""Equations of the program of a single row, beside those of the program of a batch."""

import itertools
from collections.abc import Sequence

import jax.extend.core as jex

from lazyjax.jaxpr.axes import core
from lazyjax.jaxpr.equations import aval_of
from lazyjax.jaxpr.labels import FIXED, Label, Rows, Shape
from lazyjax.jaxpr.registry import primitive_of


def shape_of_row(label: Label, shape: Sequence[int], size: int) -> Shape:
    """Shape of what belongs to one row of a value of a batch of some size."""
    sizes = list(shape)
    if isinstance(label, Rows):
        sizes[label.axis] //= size
    return tuple(sizes)


def keeps_core(eqn: jex.JaxprEqn, operand: Shape, result: Shape) -> bool:
    """Whether an equation is known to change nothing but axes of length 1 of a row."""
    if primitive_of(eqn).entries not in ("permuted", "repeated"):
        return False
    if core(operand) != core(result):
        return False
    match eqn.primitive.name:
        case "reshape":
            return eqn.params.get("dimensions") is None
        case "rev":
            return all(operand[axis] == 1 for axis in eqn.params["dimensions"])
        case "transpose":
            kept = [axis for axis in eqn.params["permutation"] if operand[axis] != 1]
            return kept == sorted(kept)
    return True


def compared_params(eqn: jex.JaxprEqn) -> frozenset[str]:
    """Names of the parameters that `is_same_action` compares."""
    record = primitive_of(eqn)
    if record.axis_action is not None:
        return record.axis_action.params
    return frozenset({record.batch_param} if record.batch_param else ())


def is_same_action(
    eqns: tuple[jex.JaxprEqn, jex.JaxprEqn],
    shapes: tuple[Sequence[Shape], Sequence[Shape]],
    labels: tuple[Sequence[Label], Sequence[Label]],
    size: int,
) -> bool:
    """Whether an equation does to each row of a batch what another does to one row."""
    # Only shapes and the parameters of `compared_params` are compared; shapes and
    # labels are of operands and results of the first equation.
    record = primitive_of(eqns[0])
    operands, results = (
        [tuple(aval_of(v).shape) for v in some]
        for some in (eqns[1].invars, eqns[1].outvars)
    )
    if record.axis_action is not None:
        cores = [
            [core(s) for s in itertools.chain(*both)]
            for both in (shapes, (operands, results))
        ]
        actions = [
            record.axis_action.of(eqn, ins, outs[0])
            for eqn, ins, outs in zip(
                eqns, (shapes[0], operands), (shapes[1], results), strict=True
            )
        ]
        return cores[0] == cores[1] and actions[0] == actions[1]
    if [*shapes[0], *shapes[1]] != [*operands, *results]:
        return False
    key = record.batch_param
    if key is None:
        return True
    batch, single = (tuple(eqn.params[key]) for eqn in eqns)
    found = [label for label in labels[0] if label is not FIXED] or labels[1]
    axes = {label.axis for label in found if isinstance(label, Rows)}
    return len(batch) == len(single) and all(
        a == b or (axis in axes and a == size * b)
        for axis, (a, b) in enumerate(zip(batch, single, strict=True))
    )
