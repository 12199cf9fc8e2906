"""Matrix products and convolutions."""

from typing import Any

import jax.extend.core as jex

from lazyjax.jaxpr.axes import AxisAction
from lazyjax.jaxpr.labels import FIXED, EquationPair, Rows, paired
from lazyjax.jaxpr.registry import described_by_rows


def _dot_axes(eqn: jex.JaxprEqn, operands: list[dict[int, int]], _: Any) -> Any:
    return [
        [
            [operands[side][axis] for axis in axes if axis in operands[side]]
            for side, axes in enumerate(pair)
        ]
        for pair in eqn.params["dimension_numbers"]
    ]


@described_by_rows(
    "dot_general",
    dependence="every",
    axis_action=AxisAction(frozenset({"dimension_numbers"}), _dot_axes),
)
def _dot_general(pair: EquationPair) -> Rows | None:
    contracted, batched = pair.params["dimension_numbers"]
    if FIXED not in pair.labels:
        lhs, rhs = pair.labels
        return paired(lhs, rhs, batched[0], batched[1], range(len(batched[0])))
    rows = pair.common
    if rows is None:
        return None
    side = pair.labels.index(rows)
    free = [
        [i for i in range(len(pair.operand(number)[0])) if i not in gone]
        for number, gone in enumerate(
            (*c, *b) for c, b in zip(contracted, batched, strict=True)
        )
    ]
    if rows.axis not in free[side]:
        return None
    before = len(batched[0]) + (len(free[0]) if side == 1 else 0)
    return Rows(before + free[side].index(rows.axis), rows.inner)


@described_by_rows("conv_general_dilated", dependence="every")
def _conv(pair: EquationPair) -> Rows | None:
    rows, params = pair.common, pair.params
    numbers = params["dimension_numbers"]
    if rows is None or FIXED not in pair.labels or params["batch_group_count"] != 1:
        return None
    if pair.labels[1] is FIXED:
        is_batch = rows.axis == numbers.lhs_spec[0]
        return Rows(int(numbers.out_spec[0]), rows.inner) if is_batch else None
    is_output = rows.axis == numbers.rhs_spec[0] and params["feature_group_count"] == 1
    return Rows(int(numbers.out_spec[1]), rows.inner) if is_output else None
