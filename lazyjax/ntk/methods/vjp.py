"""The kernel column by column, from products with vectors: least memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.batches import batch_of
from lazyjax.ntk.methods.forward import tangent_outputs
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Inputs


def vector_product_ntk(request: KernelRequest) -> Array:
    """Kernel from one vjp per example of `x2` and one jvp over `x1` per direction."""
    # `k p` numbers beside one forward pass over `x1`, for the work of `n2 k` of them.
    cotangents, pairs = request.directions

    def column(row: Inputs) -> Array:
        one = batch_of(row)
        f_j, vjp_fn = jax.vjp(lambda p: request.apply_fn(p, one)[0], request.params)

        def along(cotangent: Array) -> Array:
            (gradient,) = vjp_fn(cotangent.astype(f_j.dtype))
            return tangent_outputs(
                request.apply_fn, request.params, request.x1, gradient
            )

        tangents = jax.vmap(along)(cotangents)  # (c, n1, k)
        subscripts = "bik,ak->iab" if pairs == "full" else "bik,bk->ib"
        block = jnp.einsum(
            subscripts, tangents, cotangents, precision=request.precision
        )
        return jnp.sum(block, axis=-1) if pairs == "trace" else block

    columns = jax.lax.map(column, request.columns)
    return request.symmetrized(jnp.moveaxis(columns, 0, 1))
