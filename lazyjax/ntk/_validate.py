"""Refusals: what is asked of a network before its kernel means anything."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import (
    check_batch,
    check_network_output,
    check_params,
    check_same_features,
)
from lazyjax.ntk.outputs import check_outputs
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

# Rows that do not interact agree to the last bit; this allows for reordered sums.
_ROW_TOLERANCE_IN_SQRT_EPS = 30


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
        ValueError: If the output is not `(n, k)`, `outputs` does not fit it, or it does
            not depend on `params`.
    """
    f = jax.eval_shape(apply_fn, params, x)
    check_network_output(f, num_examples=x.shape[0])
    check_outputs(outputs, f.shape[1])
    _check_depends_on_params(apply_fn, params, x)


def _check_depends_on_params(apply_fn: ApplyFn, params: Params, x: Array) -> None:
    """Check that some gradient depends on the cotangent, by reading the program."""

    def gradient(params: Params, cotangent: Array) -> Params:
        return jax.vjp(lambda p: apply_fn(p, x[:1]), params)[1](cotangent)

    f = jax.eval_shape(apply_fn, params, x[:1])
    jaxpr = jax.make_jaxpr(gradient)(params, jnp.zeros(f.shape, f.dtype)).jaxpr
    reached = {jaxpr.invars[-1]}
    for eqn in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in reached for v in eqn.invars):
            reached.update(eqn.outvars)
    if not any(not hasattr(v, "val") and v in reached for v in jaxpr.outvars):
        raise ValueError(
            "`apply_fn` must depend on `params`; its output does not change with any "
            "of them. Does it close over parameters of its own?"
        )


def row_interaction(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "n *d"]
) -> Float[Array, ""]:
    """How much a row's output moves, relative to all, when other rows are replaced.

    The outputs and their derivative along a fixed direction of parameters are looked
    at, on the first few rows: exactly 0 for networks whose rows do not interact.

    Args:
        apply_fn: Network.
        params: Its parameters.
        x: A batch.

    Returns:
        The largest change over the largest value; 0 if there is a single row.
    """
    rows = x[: min(x.shape[0], 4)]
    leaves, treedef = jax.tree.flatten(params)
    # Another factor for each leaf: a difference of two equal copies must not cancel.
    direction = treedef.unflatten(
        [leaf * float(np.cos(1.0 + i)) for i, leaf in enumerate(leaves)]
    )

    def first_row(batch: Array) -> Array:
        f, df = jax.jvp(lambda p: apply_fn(p, batch), (params,), (direction,))
        return jnp.stack([f[0], df[0]])

    own = first_row(rows)
    alone = first_row(jnp.broadcast_to(rows[:1], rows.shape))
    scale = jnp.maximum(jnp.max(jnp.abs(own)), jnp.finfo(own.dtype).tiny)
    return jnp.max(jnp.abs(own - alone)) / scale


def refuse_interaction(interaction: Float[Array, ""]) -> None:
    """Refusal of a network whose rows interact, where the value is known.

    Args:
        interaction: From `row_interaction`.

    Raises:
        ValueError: If it is larger than rounding explains.
    """
    try:
        value = float(interaction)
    except jax.errors.ConcretizationTypeError:
        return
    eps = float(jnp.finfo(interaction.dtype).eps)
    if value > _ROW_TOLERANCE_IN_SQRT_EPS * eps**0.5:
        raise ValueError(
            "`apply_fn` must treat the rows of `x` independently; the first row's "
            f"output moves by {value:.2g} of its size when other rows are replaced. "
            "Put batch normalization into inference mode and remove reductions over "
            "the batch."
        )
