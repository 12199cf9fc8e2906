"""Refusals: what is asked of a network before its kernel means anything."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import (
    check_batch,
    check_network_output,
    check_params,
    check_same_features,
)
from lazyjax._static import as_static
from lazyjax.ntk._dependence import depends
from lazyjax.ntk._rows import rows_are_independent
from lazyjax.ntk.outputs import check_outputs
from lazyjax.trees import tree_add, tree_distance, tree_norm, tree_zeros_like
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

# Gradients of rows that do not interact differ by rounding only, in units of sqrt(eps).
_ROW_TOLERANCE = 10


def check_arguments(
    apply_fn: ApplyFn, params: Params, x1: AnyArray, x2: AnyArray | None
) -> None:
    """Check what can be told from the arguments alone.

    Raises:
        TypeError: If `apply_fn` is not callable or a parameter is not floating point.
        ValueError: If a batch is empty, not finite or of other features than the other.
    """
    if not callable(apply_fn):
        raise TypeError(f"`apply_fn` must be callable; got {apply_fn!r}.")
    check_params("params", params)
    check_batch("x1", x1)
    if x2 is not None:
        check_batch("x2", x2)
        check_same_features("x1", x1, "x2", x2)


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
    check_network_output(f, num_examples=x.shape[0])
    check_outputs(outputs, f.shape[1])
    _check_single_row(apply_fn, params, x, f)


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


def check_rows(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[Array, "n1 *d"],
    x2: Shaped[Array, "n2 *d"] | None = None,
) -> None:
    """Check that rows do not interact, outside of the program of the kernel.

    Raises:
        ValueError: If rows interact, where values are known.
    """
    apply_fn = as_static(apply_fn)
    interaction = _compiled_interaction(apply_fn, params, x1, x2)
    refuse_interaction(interaction, jax.eval_shape(apply_fn, params, x1).dtype)


def row_interaction(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[Array, "n1 *d"],
    x2: Shaped[Array, "n2 *d"] | None,
) -> Float[Array, ""]:
    """How much rows interact, by numbers only if it is not proven that they do not.

    Args:
        apply_fn: Network.
        params: Its parameters.
        x1: First batch.
        x2: Second batch or `None`.

    Returns:
        0 if rows are proven not to interact, else as `measured_interaction`.
    """
    larger = x1 if x2 is None or x2.shape[0] < x1.shape[0] else x2
    if rows_are_independent(apply_fn, params, larger):
        return jnp.zeros(())
    return measured_interaction(apply_fn, params, x1, x2)


_compiled_interaction = jax.jit(row_interaction, static_argnames="apply_fn")


def measured_interaction(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[Array, "n1 *d"],
    x2: Shaped[Array, "n2 *d"] | None,
) -> Float[Array, ""]:
    """How much outputs and gradients at a few rows differ from those at each alone.

    Args:
        apply_fn: Network.
        params: Its parameters.
        x1: First batch.
        x2: Second batch or `None`.

    Returns:
        The distance of the gradient of a fixed combination of outputs of up to four
        rows, taken in one batch, from the sum of those of batches of one, relative to
        the latter's norms; or that of the outputs, if larger. Infinite if only one of
        the two is zero or not finite; 0 if both are, or if there is a single row.
    """
    rows = x1[:4] if x2 is None else jnp.concatenate([x1[:2], x2[:2]])
    if rows.shape[0] == 1:
        return jnp.zeros(())
    f = jax.eval_shape(apply_fn, params, rows)
    # No two equal, and no sum zero: differences between rows must not cancel.
    cotangents = jnp.cos(jnp.arange(1, f.size + 1, dtype=f.dtype)).reshape(f.shape)

    def at(batch: Array, cotangent: Array) -> tuple[Array, Params]:
        f, vjp_fn = jax.vjp(lambda p: apply_fn(p, batch), params)
        return f, vjp_fn(cotangent)[0]

    def add(total: tuple, row: tuple[Array, Array]) -> tuple[tuple, Array]:
        f, gradient = at(*(part[None] for part in row))
        return (tree_add(total[0], gradient), total[1] + tree_norm(gradient)), f[0]

    start = (tree_zeros_like(params), jnp.zeros_like(tree_norm(params)))
    (alone, size), f_alone = jax.lax.scan(add, start, (rows, cotangents))
    f_together, together = at(rows, cotangents)
    # Outputs may be zero by design; gradients times parameters are of their order.
    f_size = jnp.max(jnp.abs(f_alone)) + (size * tree_norm(params)).astype(f.dtype)
    return jnp.maximum(
        _relative(tree_distance(together, alone), size, tree_norm(together)),
        _relative(jnp.max(jnp.abs(f_together - f_alone)), f_size, f_size),
    )


def _relative(distance: Array, size: Array, other_size: Array) -> Float[Array, ""]:
    """Relative distance; infinite if one of the two only is zero or not finite."""
    relative = distance / size
    relative = jnp.where(jnp.isfinite(relative), relative, jnp.inf)
    is_nowhere = (size == 0) & (other_size == 0)
    is_undefined = ~jnp.isfinite(size) & ~jnp.isfinite(other_size)
    relative = jnp.where(is_nowhere | is_undefined, 0, relative)
    return relative.astype(jnp.result_type(float))


def refuse_interaction(interaction: Float[Array, ""], dtype: jnp.dtype) -> None:
    """Refusal of a network whose rows interact, where the value is known.

    Args:
        interaction: From `row_interaction`.
        dtype: That of the network's outputs.

    Raises:
        ValueError: If it is larger than rounding explains.
    """
    try:
        value = float(interaction)
    except jax.errors.ConcretizationTypeError:
        return
    if value > _ROW_TOLERANCE * float(jnp.finfo(dtype).eps) ** 0.5:
        raise ValueError(
            "`apply_fn` must treat the rows of `x` independently; at a few rows together, "
            f"it differs by {value:.2g} of its size from what it is at each row alone. "
            "Put batch normalization into inference mode and remove what mixes "
            "or counts rows."
        )
