"""The kernel by the method that is modelled to take the least time."""

import jax
from jaxtyping import Array

from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.structured import build_problem, contracted
from lazyjax.ntk.methods.vjp import vector_product_ntk
from lazyjax.ntk.plan import plan_of
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
    """Kernel by the method of `ntk_plan`, structured unless another is far better.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: Form of the kernel.
        precision: Of all contractions.

    Returns:
        The kernel in the form `outputs`.
    """
    task = build_problem(apply_fn, params, x1, x2, outputs)
    plan = plan_of(task.parts, task.sizes, params)
    arguments = (apply_fn, params, x1, x2)
    if plan.method == "jacobian":
        return jacobian_ntk(*arguments, outputs=outputs, precision=precision)
    if plan.method == "vjp":
        try:
            return vector_product_ntk(*arguments, outputs=outputs, precision=precision)
        except TypeError:  # the network cannot be differentiated forwards
            pass
    return contracted(task, params, x1, x2, outputs=outputs, precision=precision)
