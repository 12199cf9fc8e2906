"""What a kernel will cost, before it is computed."""

from lazyjax.batches import as_arrays, rows_like
from lazyjax.ntk.methods.plan import Plan, build_plan
from lazyjax.ntk.methods.structured import build_problem
from lazyjax.ntk.outputs import checked_form
from lazyjax.ntk.requests.columns import in_real_numbers
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.ntk.requests.validate import check_arguments, check_network
from lazyjax.typing import ApplyFn, Inputs, Outputs, Params


def ntk_plan(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    outputs: Outputs = "full",
) -> Plan:
    """Plan of a kernel: site, order and cost of each parameter leaf.

    Operations of the structured method are counted site by site, and modelled times of
    all methods compared: `plan.method` is what `method="auto"` will be. Nothing is
    computed; only shapes and dtypes of `params` and the batches are used.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.

    Returns:
        The plan, which prints as a table.

    Raises:
        ValueError: If `outputs` is unknown, a batch is empty or not finite, features
            differ, an output is not `(n, *shape)`, or `apply_fn` ignores `params`.
        TypeError: If a parameter or an output is neither floating point nor complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.ntk import ntk_plan
        >>> w, x = jnp.ones((784, 10)), jnp.ones((50, 784))
        >>> print(ntk_plan(lambda w, x: x @ w, w, x))
        parameter               shape   sites        order       GFLOP   MB
                                784x10  dot_general  kronecker   0.005  1.9
        outputs and cotangents                                   0.009
        total                                        structured  0.014  1.9
        floor                                                    0.014
    """
    check_arguments(apply_fn, params, x1, x2)
    outputs = checked_form(outputs)
    asked = check_network(apply_fn, params, rows_like(as_arrays(x1), 1), outputs)
    real_fn, real = in_real_numbers(apply_fn, params, asked.columns)
    request = KernelRequest(
        apply_fn=asked.network(real_fn),
        params=real,
        x1=x1,
        x2=x2,
        outputs=asked.of_columns,
    )
    return build_plan(build_problem(request))
