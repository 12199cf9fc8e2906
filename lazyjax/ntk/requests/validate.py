"""Input validation for kernels."""

import functools

import jax
from jaxtyping import Array, Shaped

from lazyjax._brief import brief
from lazyjax._checks import (
    check_apply_fn,
    check_batch,
    check_flag,
    check_network_output,
    check_params,
    check_same_features,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.jaxpr.dependence import depends
from lazyjax.ntk.outputs import check_outputs
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params


def check_arguments(
    apply_fn: ApplyFn, params: Params, x1: AnyArray, x2: AnyArray | None
) -> None:
    """Check what can be told from the arguments alone.

    Raises:
        TypeError: If `apply_fn` is not callable or a parameter is not floating point.
        ValueError: If a batch is empty, not finite or of other features than the other.
    """
    check_apply_fn(apply_fn, params)
    check_params("params", params)
    check_batch("x1", x1, wait=False)
    if x2 is not None:
        check_batch("x2", x2, wait=False)
        check_same_features("x1", x1, "x2", x2)


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
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "n *d"], outputs: Outputs
) -> None:
    """Check what tracing `apply_fn` tells: once per program, not once per call.

    Raises:
        TypeError: If the output is not one real floating-point array.
        ValueError: If the output is not `(n, k)` for any `n`, `outputs` does not fit it,
            or it does not depend on `params`.
    """
    f = jax.eval_shape(apply_fn, params, x)
    check_network_output(f, x.shape)
    check_outputs(outputs, f.shape[1])
    _check_single_row(apply_fn, params, x, f)


def checked_output(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "n *d"], outputs: Outputs
) -> jax.ShapeDtypeStruct:
    """Check a network as `check_network`; a second call of a function traces nothing.

    Returns:
        The network's outputs, by shape.
    """
    return _traced_output.eval_shape(HashableCallable(apply_fn), outputs, params, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _traced_output(
    apply_fn: ApplyFn, outputs: Outputs, params: Params, x: Array
) -> Array:
    apply_fn = jax.jit(apply_fn)
    check_network(apply_fn, params, x, outputs)
    return apply_fn(params, x)


def _check_single_row(
    apply_fn: ApplyFn, params: Params, x: Array, f: jax.ShapeDtypeStruct
) -> None:
    """Check that one row gives one, and that it depends on `params`."""
    row = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    jaxpr = jax.make_jaxpr(apply_fn)(params, row)
    (result,) = jaxpr.out_avals
    if result.shape != (1, f.shape[1]):
        raise ValueError(
            "`apply_fn` must return one row for each row of `x`; for one row it "
            f"returned shape {result.shape}. Does it close over an array for a whole "
            "batch, such as outputs at the start? Compute it inside, from its own `x`."
        )
    if not depends(jaxpr, [*(True for _ in jax.tree.leaves(params)), False]):
        raise ValueError(
            "`apply_fn` must depend on `params`; its output does not change with any "
            "of them. Does it close over parameters of its own?"
        )
