"""The kernel column by column, from products with vectors: least memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.batches import batch_of
from lazyjax.ntk.methods.forward import tangent_outputs
from lazyjax.ntk.outputs import of_each
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Inputs


def vector_product_ntk(request: KernelRequest) -> Array:
    """Kernel from one vjp per example of `x2` and one jvp over `x1` per direction."""
    # `k p` numbers beside one forward pass over `x1`, for the work of `n2 k` of them.
    rows, others = request.cotangents
    pairs, own = request.pairs, "" if of_each(rows) is None else "i"
    subscripts = f"bik,{own}ak->iab" if pairs == "full" else f"bik,{own}bk->ib"

    def column(row: Inputs, along_j: Array) -> Array:
        one = batch_of(row)
        f_j, vjp_fn = jax.vjp(lambda p: request.apply_fn(p, one)[0], request.params)

        def along(cotangent: Array) -> Array:
            (gradient,) = vjp_fn(cotangent.astype(f_j.dtype))
            return tangent_outputs(
                request.apply_fn, request.params, request.x1, gradient
            )

        tangents = jax.vmap(along)(along_j)  # (c, n1, k)
        block = jnp.einsum(subscripts, tangents, rows, precision=request.precision)
        return jnp.sum(block, axis=-1) if pairs == "trace" else block

    if of_each(others) is None:
        columns = jax.lax.map(lambda x_j: column(x_j, others), request.columns)
    else:
        columns = jax.lax.map(lambda pair: column(*pair), (request.columns, others))
    return request.symmetrized(jnp.moveaxis(columns, 0, 1))
