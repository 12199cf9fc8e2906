"""The kernel from whole Jacobians: simple, exact, and as large as they are."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Params

_SUBSCRIPTS = {
    "full": "iap,jbp->ijab",
    "diagonal": "iap,jap->ija",
    "trace": "iap,jap->ij",
}


def jacobian_ntk(request: KernelRequest) -> Array:
    """Kernel by contracting the Jacobians of all examples, leaf by leaf."""
    jacobian1 = _jacobian(request, request.x1)
    jacobian2 = jacobian1 if request.x2 is None else _jacobian(request, request.x2)
    leaves = zip(*map(jax.tree.leaves, (jacobian1, jacobian2)), strict=True)
    terms = [_contract(request, *pair).astype(request.f.dtype) for pair in leaves]
    return request.symmetrized(functools.reduce(operator.add, terms))


def _jacobian(request: KernelRequest, x: Array) -> PyTree[Float[Array, "n c ..."]]:
    """Jacobian of each example along the directions of `outputs`."""

    def of_example(x_i: Array) -> Params:
        _, vjp_fn = jax.vjp(lambda p: request.apply_fn(p, x_i[None])[0], request.params)
        return jax.vmap(lambda c: vjp_fn(c)[0])(request.directions.cotangents)

    return jax.vmap(of_example)(x)


def _contract(
    request: KernelRequest,
    leaf1: Float[Array, "n1 c *shape"],
    leaf2: Float[Array, "n2 c *shape"],
) -> Array:
    subscripts = _SUBSCRIPTS[request.pairs]
    rows1, rows2 = (leaf.reshape(*leaf.shape[:2], -1) for leaf in (leaf1, leaf2))
    return jnp.einsum(subscripts, rows1, rows2, precision=request.precision)
