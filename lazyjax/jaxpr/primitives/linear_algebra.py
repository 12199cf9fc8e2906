"""Decompositions and solutions of matrices, which are the last two axes."""

from lazyjax.jaxpr.labels import FIXED, EquationPair, Rows, outside
from lazyjax.jaxpr.registry import described_by_rows


@described_by_rows(
    "cholesky", "eigh", "geqrf", "householder_product", "lu", "qr", "svd"
)
def _decomposition(pair: EquationPair) -> Rows | None:
    rows = pair.common
    if FIXED in pair.labels or rows is None:
        return None
    # The axes before the matrices are the same in all operands and results.
    return rows if rows.axis < len(pair.operand()[0]) - 2 else None


@described_by_rows("lu_pivots_to_permutation")
def _permutation(pair: EquationPair) -> Rows | None:
    return outside(pair.common, (len(pair.operand()[0]) - 1,))


@described_by_rows("triangular_solve")
def _triangular_solve(pair: EquationPair) -> Rows | None:
    rows, ndim = pair.common, len(pair.operand()[1])
    if rows is None:
        return None
    if FIXED not in pair.labels:
        return rows if rows.axis < ndim - 2 else None
    free = ndim - 1 if pair.params["left_side"] else ndim - 2
    return rows if pair.labels[0] is FIXED and rows.axis == free else None
