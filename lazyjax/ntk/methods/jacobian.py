"""The kernel from whole Jacobians: simple, exact, and as large as they are."""

import functools
import operator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyjax.batches import batch_of
from lazyjax.ntk.contract.factors import working_dtype
from lazyjax.ntk.outputs import Pairs, of_each
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Inputs, Params

Jacobian: TypeAlias = PyTree[Float[Array, "_ _ ..."]]

_SUBSCRIPTS = {
    "full": "iap,jbp->ijab",
    "diagonal": "iap,jap->ija",
    "trace": "iap,jap->ij",
}


def jacobian_ntk(request: KernelRequest) -> Array:
    """Kernel by contracting the Jacobians of all examples, leaf by leaf."""
    rows, columns = request.cotangents
    first = jacobian(request, request.x1, rows)
    second = first
    if request.x2 is not None:
        second = jacobian(request, request.x2, columns)
    return request.symmetrized(
        contracted(first, second, request.pairs, request.precision, request.f.dtype)
    )


def contracted(
    first: Jacobian, second: Jacobian, pairs: Pairs, precision: Any, dtype: Any
) -> Array:
    """Kernel of two Jacobians by the same parameters."""

    def of_leaf(*leaves: Array) -> Array:
        rows = (leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves)
        term = jnp.einsum(
            _SUBSCRIPTS[pairs],
            *rows,
            precision=precision,
            preferred_element_type=working_dtype(leaves[0].dtype),
        )
        return term.astype(working_dtype(dtype))

    terms = jax.tree.leaves(jax.tree.map(of_leaf, first, second))
    return functools.reduce(operator.add, terms).astype(dtype)


def jacobian(request: KernelRequest, x: Inputs, cotangents: Array) -> Jacobian:
    """Jacobian of each example along directions in output space."""

    def of_example(row: Inputs, along: Array) -> Params:
        one = batch_of(row)
        _, vjp_fn = jax.vjp(lambda p: request.apply_fn(p, one)[0], request.params)
        return jax.vmap(lambda c: vjp_fn(c)[0])(along)

    return jax.vmap(of_example, in_axes=(0, of_each(cotangents)))(x, cotangents)
