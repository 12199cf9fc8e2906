"""Kernels of canonical factors, in a given order of contraction.

There are three: "gradient" forms the gradients, a slice at a time, and multiplies them.
The others go through pairs of positions: "kronecker" multiplies the products of
cotangents by those of operands; "chain" multiplies the products of operands into the
cotangents of one batch, and the result with the cotangents of the other.
"""

from jaxtyping import Array

from lazyjax.ntk.contract_factors import Factor
from lazyjax.ntk.contract_gradients import by_gradients
from lazyjax.ntk.contract_orders import Order
from lazyjax.ntk.contract_panels import Contraction, Panels
from lazyjax.ntk.contract_positions import by_positions, chained, products_of_operands


def kernel_of(
    contraction: Contraction, first: Factor, second: Factor, order: Order
) -> Panels:
    """Kernel of the gradients of one factor, at two batches."""
    by_order = {"kronecker": by_positions, "chain": chained, "gradient": by_gradients}
    return by_order[order](contraction, first, second)


def weighted(
    contraction: Contraction, kernel: Panels, first: Factor, second: Factor
) -> Panels:
    """Products of cotangents times those of operands, for a single position."""
    if first.act is None:
        return kernel
    weights = products_of_operands(contraction, first, second)[:, :, 0, 0, 0]
    return tuple(
        _weighted(
            contraction, panel, weights[start:end, contraction.first_column(start) :]
        )
        for panel, (start, end) in zip(kernel, contraction.ends, strict=True)
    )


def _weighted(contraction: Contraction, kernel: Array, weights: Array) -> Array:
    # Each block of a pair of examples times the weight of the pair.
    if contraction.arrangement != "pairs":
        return kernel * (weights if kernel.ndim == 2 else weights[None])
    n1, n2 = weights.shape
    seeds = contraction.seeds
    blocks = kernel.reshape(n1, seeds, n2, seeds)
    return (blocks * weights[:, None, :, None]).reshape(kernel.shape)
