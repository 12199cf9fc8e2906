"""The kernel from whole Jacobians: simple, exact, and as large as they are."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyjax.ntk.outputs import Pairs, directions, symmetrized
from lazyjax.typing import ApplyFn, Outputs, Params


def jacobian_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Array,
    x2: Array | None,
    *,
    outputs: Outputs,
    precision: jax.lax.PrecisionLike,
) -> Array:
    """Kernel by contracting the Jacobians of all examples, leaf by leaf."""
    jacobian1 = _jacobian(apply_fn, params, x1, outputs)
    jacobian2 = jacobian1 if x2 is None else _jacobian(apply_fn, params, x2, outputs)
    pairs: Pairs = outputs if outputs in ("full", "diagonal") else "trace"
    dtype = jax.eval_shape(apply_fn, params, x1).dtype
    terms = [
        _contract(leaf1, leaf2, pairs, precision).astype(dtype)
        for leaf1, leaf2 in zip(
            jax.tree.leaves(jacobian1), jax.tree.leaves(jacobian2), strict=True
        )
    ]
    ntk = functools.reduce(operator.add, terms)
    return symmetrized(ntk, outputs) if x2 is None else ntk


def _jacobian(
    apply_fn: ApplyFn, params: Params, x: Array, outputs: Outputs
) -> PyTree[Float[Array, "n c ..."]]:
    """Jacobian of each example along the directions of `outputs`."""

    def of_example(x_i: Array) -> Params:
        f_i, vjp_fn = jax.vjp(lambda p: apply_fn(p, x_i[None])[0], params)
        cotangents = directions(outputs, f_i.shape[0], f_i.dtype).cotangents
        return jax.vmap(lambda c: vjp_fn(c)[0])(cotangents)

    return jax.vmap(of_example)(x)


def _contract(
    leaf1: Float[Array, "n1 c *shape"],
    leaf2: Float[Array, "n2 c *shape"],
    pairs: Pairs,
    precision: jax.lax.PrecisionLike,
) -> Array:
    subscripts = {
        "full": "iap,jbp->ijab",
        "diagonal": "iap,jap->ija",
        "trace": "iap,jap->ij",
    }[pairs]
    rows1, rows2 = (leaf.reshape(*leaf.shape[:2], -1) for leaf in (leaf1, leaf2))
    return jnp.einsum(subscripts, rows1, rows2, precision=precision)
