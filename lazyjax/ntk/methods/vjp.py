"""The kernel column by column, from products with vectors: least memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.methods.forward import tangent_outputs
from lazyjax.ntk.outputs import directions, symmetrized
from lazyjax.typing import ApplyFn, Outputs, Params


def vector_product_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Array,
    x2: Array | None,
    *,
    outputs: Outputs,
    precision: jax.lax.PrecisionLike,
) -> Array:
    """Kernel from one vjp per example of `x2` and one jvp over `x1` per direction."""
    # `k p` numbers beside one forward pass over `x1`, for the work of `n2 k` of them.
    f = jax.eval_shape(apply_fn, params, x1)
    cotangents, pairs = directions(outputs, f.shape[1], f.dtype)

    def column(x_j: Array) -> Array:
        f_j, vjp_fn = jax.vjp(lambda p: apply_fn(p, x_j[None])[0], params)

        def along(cotangent: Array) -> Array:
            (gradient,) = vjp_fn(cotangent.astype(f_j.dtype))
            return tangent_outputs(apply_fn, params, x1, gradient)

        tangents = jax.vmap(along)(cotangents)  # (c, n1, k)
        subscripts = "bik,ak->iab" if pairs == "full" else "bik,bk->ib"
        block = jnp.einsum(subscripts, tangents, cotangents, precision=precision)
        return jnp.sum(block, axis=-1) if pairs == "trace" else block

    columns = jax.lax.map(column, x1 if x2 is None else x2)
    ntk = jnp.moveaxis(columns, 0, 1)
    return symmetrized(ntk, outputs) if x2 is None else ntk
