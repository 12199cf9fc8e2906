"""Primitives that reduce axes to one entry, or to none."""

from lazyjax.jaxpr.axes import axes_of_operand
from lazyjax.jaxpr.labels import EquationPair, Rows, without
from lazyjax.jaxpr.registry import describe, described_by_rows

_KINDS = [
    f"reduce_{kind}" for kind in ("and", "max", "min", "or", "prod", "sum", "xor")
]

describe(*_KINDS, axis_action=axes_of_operand("axes"))
describe("reduce_max", "reduce_min", "reduce_sum", dependence="every")


@described_by_rows(*_KINDS, "argmax", "argmin")
def _reduce(pair: EquationPair) -> Rows | None:
    return without(pair.common, pair.params["axes"])


@described_by_rows("reduce", follows_dtype=False)
def _reduce_by_program(pair: EquationPair) -> Rows | None:
    return without(pair.common, pair.params["dimensions"])
