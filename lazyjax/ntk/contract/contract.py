"""Kernels of canonical factors, in a given order of contraction.

"gradient" forms per-example gradients, a slice at a time, and multiplies them. The others
go through pairs of positions: "kronecker" multiplies the products of cotangents by those
of operands; "chain" multiplies the products of operands by the cotangents of one batch,
and the result by the cotangents of the other.
"""

from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.factors import Factor
from lazyjax.ntk.contract.gradients import by_gradients
from lazyjax.ntk.contract.orders import Order
from lazyjax.ntk.contract.positions import by_chain, by_kronecker


def factor_kernel(
    contraction: Contraction, first: Factor, second: Factor, order: Order
) -> Array:
    """Kernel of one factor between two batches, in an arrangement of accumulators."""
    by_order = {"kronecker": by_kronecker, "chain": by_chain, "gradient": by_gradients}
    return by_order[order](contraction, first, second)
