"""Primitives that mix entries along an axis, which stays: scans, sorts, windows."""

from lazyjax.jaxpr.labels import FIXED, EquationPair, Rows, outside
from lazyjax.jaxpr.registry import describe, described_by_rows

describe("concatenate", "rev", dependence="every")
describe("rev", entries="permuted")
describe("split", entries="selected")
describe("select_and_scatter_add", follows_dtype=True)


@described_by_rows(
    *("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "split", "top_k")
)
def _along_axis(pair: EquationPair) -> Rows | None:
    last = len(pair.operand()[0]) - 1
    return outside(pair.common, (pair.params.get("axis", last),))


@described_by_rows("concatenate", "sort")
def _along_dimension(pair: EquationPair) -> Rows | None:
    if FIXED in pair.labels:
        return None
    return outside(pair.common, (pair.params["dimension"],))


@described_by_rows("rev")
def _rev(pair: EquationPair) -> Rows | None:
    return outside(pair.common, pair.params["dimensions"])


@described_by_rows("fft")
def _fft(pair: EquationPair) -> Rows | None:
    ndim, num_transformed = len(pair.operand()[0]), len(pair.params["fft_lengths"])
    return outside(pair.common, range(ndim - num_transformed, ndim))


def _window(pair: EquationPair) -> Rows | None:
    rows, params = pair.common, pair.params
    if rows is None:
        return None
    is_apart = (
        params["window_dimensions"][rows.axis] == 1
        and params["window_strides"][rows.axis] == 1
        and tuple(params["padding"][rows.axis]) == (0, 0)
        and params["base_dilation"][rows.axis] == 1
    )
    return rows if is_apart else None


described_by_rows(
    *("reduce_window_max", "reduce_window_min", "reduce_window_sum"),
    "select_and_gather_add",
)(_window)
described_by_rows("reduce_window", follows_dtype=False)(_window)
