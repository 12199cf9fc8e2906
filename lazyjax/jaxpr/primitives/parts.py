"""Primitives that cut out, overwrite or pad parts of an array."""

from lazyjax.jaxpr.labels import FIXED, EquationPair, Rows, same_except
from lazyjax.jaxpr.registry import describe, described_by_rows

describe("dynamic_slice", "pad", "slice", dependence="every")
describe("slice", entries="selected")


@described_by_rows("slice", batch_param="limit_indices")
def _slice(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if rows is None or not same_except(pair.both("limit_indices"), rows.axis):
        return None
    strides = pair.params["strides"]
    is_whole = (
        pair.params["start_indices"][rows.axis] == 0
        and (strides is None or strides[rows.axis] == 1)
        and pair.takes_whole(pair.both("limit_indices"), rows.axis)
    )
    return rows if is_whole else None


@described_by_rows("dynamic_slice", batch_param="slice_sizes")
def _dynamic_slice(pair: EquationPair) -> Rows | None:
    rows, sizes = pair.common, pair.both("slice_sizes")
    if rows is None or not same_except(sizes, rows.axis):
        return None
    # Where the slice starts is clamped: a whole axis is taken from its start.
    return rows if pair.takes_whole(sizes, rows.axis) else None


@described_by_rows("dynamic_update_slice")
def _dynamic_update_slice(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if rows is None or FIXED in pair.labels[:2]:
        return None
    return rows if pair.takes_whole(pair.operand(1), rows.axis) else None


@described_by_rows("pad")
def _pad(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if rows is None or pair.labels[0] is FIXED:
        return None
    padding = pair.params["padding_config"][rows.axis]
    return rows if tuple(padding) == (0, 0, 0) else None
