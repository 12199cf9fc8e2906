"""Forward mode, with a message of our own where a network forbids it."""

import jax
from jaxtyping import Array

from lazyjax.typing import ApplyFn, Params


def tangent_outputs(
    apply_fn: ApplyFn, params: Params, x: Array, tangent: Params
) -> Array:
    """Derivative of the outputs along a direction of the parameters.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Point of differentiation.
        x: Batch.
        tangent: Direction, a pytree like `params`.

    Returns:
        One row per row of `x`.

    Raises:
        TypeError: If the network contains a `jax.custom_vjp`, which has no forward mode.
    """
    try:
        return jax.jvp(lambda p: apply_fn(p, x), (params,), (tangent,))[1]
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "`apply_fn` contains a function with `jax.custom_vjp`, which cannot be "
            "differentiated forwards. Define it with `jax.custom_jvp`, or use "
            "`empirical_ntk` with a method that needs the backward pass only, such as "
            '"jacobian".'
        ) from error
