"""The kernel by the method that is modelled to take the least time."""

import jax
from jaxtyping import Array

from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.plan import build_plan
from lazyjax.ntk.methods.structured import build_problem, contract
from lazyjax.ntk.methods.vjp import vector_product_ntk
from lazyjax.typing import ApplyFn, Outputs, Params


def auto_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Array,
    x2: Array | None,
    *,
    outputs: Outputs,
    precision: jax.lax.PrecisionLike,
) -> Array:
    """Kernel by the method of `ntk_plan`, structured unless another is far better."""
    problem = build_problem(apply_fn, params, x1, x2, outputs)
    method = build_plan(problem, params).method
    arguments = (apply_fn, params, x1, x2)
    if method == "jacobian":
        return jacobian_ntk(*arguments, outputs=outputs, precision=precision)
    if method == "vjp":
        try:
            return vector_product_ntk(*arguments, outputs=outputs, precision=precision)
        except TypeError:  # the network cannot be differentiated forwards
            pass
    return contract(problem, params, x1, x2, precision=precision)
