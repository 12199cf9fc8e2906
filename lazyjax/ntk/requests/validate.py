"""Input validation for kernels."""

import functools
from typing import Any

import jax

from lazyjax._brief import brief
from lazyjax._checks import (
    check_apply_fn,
    check_flag,
    check_inputs,
    check_outputs_of,
    check_params,
    check_same_inputs,
)
from lazyjax.batches import rows_like
from lazyjax.callables.static import HashableCallable
from lazyjax.jaxpr.dependence import depends
from lazyjax.ntk.outputs import check_outputs
from lazyjax.ntk.requests.columns import AskedKernel, Columns
from lazyjax.typing import ApplyFn, Inputs, Outputs, Params


def check_arguments(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None,
    *,
    allow_explicit: bool = False,
) -> None:
    """Check what can be told from the arguments alone.

    Args:
        apply_fn: The network.
        params: Its parameters.
        x1: First batch.
        x2: Second batch, if there is one.
        allow_explicit: Whether arrays may be split over explicit axes of a mesh.

    Raises:
        TypeError: If `apply_fn` is not callable or a parameter is not floating point.
        ValueError: If a batch is empty, not finite or of other features than the other.
    """
    check_apply_fn(apply_fn, params)
    check_params("params", params, allow_complex=True, allow_explicit=allow_explicit)
    check_inputs("x1", x1, wait=False, allow_explicit=allow_explicit)
    if x2 is not None:
        check_inputs("x2", x2, wait=False, allow_explicit=allow_explicit)
        check_same_inputs("x1", x1, "x2", x2)


def check_options(precision: object, check_rows: object) -> None:
    """Check options that all kernels have.

    Raises:
        TypeError: If `check_rows` is no flag.
        ValueError: If JAX knows no such precision.
    """
    check_flag("check_rows", check_rows)
    try:
        with jax.default_matmul_precision(precision):  # pyright: ignore[reportArgumentType]
            pass
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`precision` must be 'highest', 'high', 'default' or another name that "
            f"`jax.default_matmul_precision` knows; got {brief(precision)}."
        ) from error


def check_network(
    apply_fn: ApplyFn, params: Params, x: Any, outputs: Outputs
) -> AskedKernel:
    """Check what tracing `apply_fn` tells: once per program, not once per call.

    Returns:
        The kernel that `outputs` asks for.

    Raises:
        TypeError: If an output is not floating point.
        ValueError: If an output is not `(n, *shape)` for any `n`, `outputs` does not fit,
            or no output depends on `params`.
    """
    f = jax.eval_shape(apply_fn, params, x)
    check_outputs_of(f, x)
    columns = Columns.of(f)
    check_outputs(outputs, columns.num_outputs)
    _check_single_row(apply_fn, params, x, columns)
    return AskedKernel(outputs, columns)


def checked_output(
    apply_fn: ApplyFn, params: Params, x: Inputs, outputs: Outputs
) -> AskedKernel:
    """Check a network as `check_network`; a second call of a function traces nothing.

    Returns:
        The kernel that `outputs` asks for.
    """
    fn = HashableCallable(apply_fn)
    return AskedKernel(
        outputs, Columns.of(_traced_output.eval_shape(fn, outputs, params, x))
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _traced_output(
    apply_fn: ApplyFn, outputs: Outputs, params: Params, x: Inputs
) -> Any:
    apply_fn = jax.jit(apply_fn)
    check_network(apply_fn, params, x, outputs)
    return apply_fn(params, x)


def _check_single_row(
    apply_fn: ApplyFn, params: Params, x: Any, columns: Columns
) -> None:
    """Check that one row gives one, and that it depends on `params`."""
    row = rows_like(x, 1)
    jaxpr = jax.make_jaxpr(apply_fn)(params, row)
    shapes = [result.shape for result in jaxpr.out_avals]
    if shapes != [(1, *array.shape) for array in columns.arrays]:
        raise ValueError(
            "`apply_fn` must return one row for each row of `x`; for one row it "
            f"returned shape {', '.join(map(str, shapes))}. Does it close over an array for "
            "a whole batch, such as outputs at the start? Compute it inside, from its own "
            "`x`."
        )
    is_param = [True] * len(jax.tree.leaves(params))
    if not depends(jaxpr, [*is_param, *(False for _ in jax.tree.leaves(row))]):
        raise ValueError(
            "`apply_fn` must depend on `params`; its output does not change with any "
            "of them. Does it close over parameters of its own?"
        )
