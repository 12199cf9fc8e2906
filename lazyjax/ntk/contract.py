"""Kernels of canonical factors, in a given order of contraction.

There are three: "gradient" forms the gradients, a slice at a time, and multiplies them.
The others go through pairs of positions: "kronecker" multiplies the products of
cotangents by those of operands; "chain" multiplies the products of operands into the
cotangents of one batch, and the result with the cotangents of the other.
"""

from jaxtyping import Array

from lazyjax.ntk.contract_factors import Factor
from lazyjax.ntk.contract_gradients import by_gradients
from lazyjax.ntk.contract_kernel import Contraction
from lazyjax.ntk.contract_orders import Order
from lazyjax.ntk.contract_positions import by_positions, chained


def kernel_of(
    contraction: Contraction, first: Factor, second: Factor, order: Order
) -> Array:
    """Kernel of the gradients of one factor, at two batches."""
    by_order = {"kronecker": by_positions, "chain": chained, "gradient": by_gradients}
    return by_order[order](contraction, first, second)
