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

    def contracted(*leaves: Array) -> Array:
        rows = (leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves)
        subscripts = _SUBSCRIPTS[request.pairs]
        term = jnp.einsum(subscripts, *rows, precision=request.precision)
        return term.astype(request.f.dtype)

    terms = jax.tree.leaves(jax.tree.map(contracted, jacobian1, jacobian2))
    return request.symmetrized(functools.reduce(operator.add, terms))


def _jacobian(request: KernelRequest, x: Array) -> PyTree[Float[Array, "n c ..."]]:
    """Jacobian of each example along the directions of `outputs`."""

    def of_example(x_i: Array) -> Params:
        _, vjp_fn = jax.vjp(lambda p: request.apply_fn(p, x_i[None])[0], request.params)
        return jax.vmap(lambda c: vjp_fn(c)[0])(request.directions.cotangents)

    return jax.vmap(of_example)(x)
