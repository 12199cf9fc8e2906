"""The kernel of each example with itself, without the rest of the kernel."""

import dataclasses

import jax
from jaxtyping import Array

from lazyjax._checks import check_at_least
from lazyjax.batches import batch_of, num_rows, rows_at
from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.output_chunks import in_output_chunks
from lazyjax.ntk.requests.compiled import KernelProgram, run_program
from lazyjax.ntk.requests.memory import Devices
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import ApplyFn, Inputs, Kernel, Outputs, Params


def ntk_diagonal(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    *,
    outputs: Outputs = "full",
    batch_size: int | None = None,
    precision: jax.lax.PrecisionLike = "highest",
    check_rows: bool = True,
) -> Kernel:
    r"""Kernel blocks $\Theta(x_i, x_i)$, for the work of one Jacobian.

    Args:
        apply_fn: Network `(params, x) -> f`, as in `empirical_ntk`.
        params: Point at which the network is linearized.
        x: Batch.
        outputs: As in `empirical_ntk`: "full" and "flat" give `(n, k, k)`, "diagonal"
            `(n, k)`, the others `(n,)`.
        batch_size: Examples whose Jacobians are held at a time; `None` means all.
        precision: Of matrix products, the network's own included where it sets none.
        check_rows: As in `empirical_ntk`.

    Returns:
        One block per example.

    Raises:
        ValueError: If `batch_size` is not positive, or as `empirical_ntk` says.
        TypeError: If `batch_size` is no integer, or as `empirical_ntk` says.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> lazyjax.ntk_diagonal(linear, jnp.ones((2, 1)), x, outputs="trace").tolist()
        [25.0, 1.0]
    """
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)
    program = _Diagonal(outputs=outputs, precision=precision, batch_size=batch_size)
    return run_program(program, apply_fn, params, x, check_rows=check_rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Diagonal(KernelProgram):
    """Kernels of batches of one."""

    batch_size: int | None

    def compute(self, request: KernelRequest, devices: Devices) -> Array:
        num_examples = num_rows(request.x1)
        num_at_once = min(self.batch_size or num_examples, num_examples)

        def blocks(request: KernelRequest) -> Array:
            def block(row: Inputs) -> Array:
                own = dataclasses.replace(request, x1=batch_of(row), x2=None)
                return jacobian_ntk(own)[0, 0]

            return jax.lax.map(block, request.x1, batch_size=num_at_once)

        return in_output_chunks(
            blocks,
            # As large as the kernel with one other example.
            dataclasses.replace(request, x2=rows_at(request.x1, slice(0, 1))),
            method="jacobian",
            devices=devices,
            num_at_once=num_at_once,
        )
