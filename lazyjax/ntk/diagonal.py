"""The kernel of each example with itself, without the rest of the kernel."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_at_least
from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.memory import Devices, devices_of
from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.output_chunks import in_chunks
from lazyjax.ntk.row_check import check_row_independence, nan_if_interacting
from lazyjax.ntk.validate import check_arguments, check_network
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params


def ntk_diagonal(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    *,
    outputs: Outputs = "full",
    batch_size: int | None = None,
    precision: jax.lax.PrecisionLike = "highest",
    check_rows: bool = True,
) -> Float[Array, "n *k"]:
    r"""Kernel blocks $\Theta(x_i, x_i)$, for the work of one Jacobian.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact. It should
            be the same object from call to call, or each call compiles again, as it does
            once what the function holds or names has changed.
        params: Point at which the network is linearized.
        x: Batch.
        outputs: As in `empirical_ntk`: "full" gives `(n, k, k)`, "diagonal" `(n, k)`,
            the others `(n,)`.
        batch_size: Examples whose Jacobians are held at a time; `None` means all.
        precision: Of matrix products, the network's own included where it sets none.
        check_rows: As in `empirical_ntk`.

    Returns:
        One block per example.

    Raises:
        ValueError: If the batch is empty or not finite, the output is not `(n, k)`,
            `outputs` is unknown, or `apply_fn` ignores `params` or its rows interact.
        TypeError: If a parameter or the output is not real floating point.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> lazyjax.ntk_diagonal(linear, jnp.ones((2, 1)), x, outputs="trace").tolist()
        [25.0, 1.0]
    """
    check_arguments(apply_fn, params, x, None)
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)
    x = jnp.asarray(x)
    check_network(apply_fn, params, x, outputs)
    interacts = check_row_independence(apply_fn, params, x) if check_rows else None
    with jax.default_matmul_precision(precision):
        blocks = _compiled(
            params,
            x,
            apply_fn=HashableCallable(apply_fn),
            outputs=outputs,
            batch_size=batch_size,
            precision=precision,
            devices=devices_of(params, x),
        )
    return nan_if_interacting(blocks, interacts)


@functools.partial(
    jax.jit,
    static_argnames=("apply_fn", "outputs", "batch_size", "precision", "devices"),
)
def _compiled(
    params: Params,
    x: Array,
    *,
    apply_fn: ApplyFn,
    outputs: Outputs,
    batch_size: int | None,
    precision: Any,
    devices: Devices,
) -> Array:
    def blocks(apply_fn: ApplyFn) -> Array:
        def block(x_i: Array) -> Array:
            ntk = jacobian_ntk(
                apply_fn, params, x_i[None], None, outputs=outputs, precision=precision
            )
            return ntk[0, 0]

        return jax.lax.map(block, x, batch_size=num_at_once)

    num_at_once = min(batch_size or x.shape[0], x.shape[0])
    return in_chunks(
        blocks,
        apply_fn,
        params,
        x,
        x[:1],  # a block for each example, as with one other
        outputs=outputs,
        method="jacobian",
        devices=devices,
        num_at_once=num_at_once,
    )
