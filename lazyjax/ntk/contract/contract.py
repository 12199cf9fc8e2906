"""Kernels of canonical factors, in a given order of contraction.

There are three: "gradient" forms the gradients, a slice at a time, and multiplies them.
The others go through pairs of positions: "kronecker" multiplies the products of
cotangents by those of operands; "chain" multiplies the products of operands into the
cotangents of one batch, and the result with the cotangents of the other.
"""

from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.factors import Factor
from lazyjax.ntk.contract.gradients import by_gradients
from lazyjax.ntk.contract.orders import Order
from lazyjax.ntk.contract.positions import by_chain, by_positions


def factor_kernel(
    contraction: Contraction, first: Factor, second: Factor, order: Order
) -> Array:
    """Kernel of the gradients of one factor, at two batches."""
    by_order = {"kronecker": by_positions, "chain": by_chain, "gradient": by_gradients}
    return by_order[order](contraction, first, second)
