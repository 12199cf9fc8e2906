r"""Schedules of learning rates, and the time that passes under them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lazyjax._brief import brief
from lazyjax._checks import check_nonnegative
from lazyjax.typing import AnyArray

# One rate for all steps; or that of each step from 0 on, as an array or, in the manner of
# optax, as a function of the step.
LearningRate: TypeAlias = (
    float
    | Float[AnyArray, ""]
    | Float[AnyArray, "num_rates"]
    | Sequence[float]
    | Callable[[Any], Any]
)


def flow_times(
    learning_rate: LearningRate, step: int | Int[AnyArray, "*steps"]
) -> Float[Array, "*steps"]:
    r"""Times $t_s = \sum_{r < s} \eta_r$ of gradient flow that steps of descent amount to.

    Under a schedule $\eta(t)$, the flow $\dot w = -\eta(t) \nabla L(w)$ is the plain one at
    another time. So `gradient_flow`, `linearized_flow` and `linear_dynamics(...)
    .gradient_flow` at these times, without friction, are what `train` with
    `optax.sgd(learning_rate)` tends to as all rates shrink.

    Args:
        learning_rate: One rate; or those of steps 0, 1, ..., as an array or as a function
            of the step, such as a schedule of optax.
        step: One or more numbers of updates.

    Returns:
        The times, in the dtype of an array of rates, else in JAX's default. Where rates
        are zero, times repeat, which flows refuse: leave such steps out.

    Raises:
        TypeError: If `step` does not hold integers, `learning_rate` holds integers or is a
            function that returns no number, or `step` is not known although it is a
            function.
        ValueError: If a rate is negative or not finite, or there are fewer than steps.

    Example:
        >>> import optax
        >>> from lazyjax.dynamics import flow_times
        >>> schedule = optax.piecewise_constant_schedule(0.5, {2: 0.5})
        >>> flow_times(schedule, jnp.arange(5)).tolist()
        [0.0, 0.5, 1.0, 1.25, 1.5]
    """
    steps = checked_steps(step)
    dtype = jnp.result_type(float)
    if isinstance(learning_rate, np.ndarray | jax.Array) and learning_rate.ndim:
        dtype = jax.dtypes.canonicalize_dtype(learning_rate.dtype)
    rates = checked_learning_rates(learning_rate, steps, dtype)
    if not rates.ndim:
        return steps.astype(dtype) * rates
    ends = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(rates)])
    return at_steps(ends, steps)


def checked_learning_rates(
    learning_rate: LearningRate, steps: Int[Array, "*steps"], dtype: jnp.dtype
) -> Float[Array, "*num_rates"]:
    """One rate, or those of all steps before the last, checked as far as known."""
    if callable(learning_rate):
        num_steps = _largest(steps)
        if num_steps is None:
            raise TypeError(
                "`step` must be known where `learning_rate` is a function, not under "
                "`jax.jit` or `jax.vmap`. Pass the rates as an array."
            )
        # Schedules of optax mix types.
        with jax.numpy_dtype_promotion("standard"):
            learning_rate = _evaluated(learning_rate, num_steps, dtype)
    check_nonnegative("learning_rate", learning_rate, infinity_allowed=False)
    rates = jnp.asarray(learning_rate)
    if rates.ndim == 0:
        return rates.astype(dtype)
    if rates.ndim > 1:
        raise ValueError(
            "`learning_rate` must be one number, or one for each step in one dimension; "
            f"got shape {rates.shape}."
        )
    if not jnp.issubdtype(rates.dtype, jnp.floating):
        raise TypeError(
            "`learning_rate` must be floating point where it holds a rate for each step; "
            f"got dtype {rates.dtype}."
        )
    num_steps = _largest(steps)
    if num_steps is not None and num_steps > rates.size:
        raise ValueError(
            f"`learning_rate` must hold a rate for each of {num_steps} steps; got "
            f"{rates.size}."
        )
    return rates.astype(dtype)


def at_steps(
    values: Float[Array, "num_rows *shape"], step: Int[Array, "*steps"]
) -> Float[Array, "..."]:
    """Rows of a table with one row for each step; NaN beyond it."""
    is_known = (step >= 0) & (step < values.shape[0])
    rows = values[jnp.where(is_known, step, 0)]
    is_known = is_known.reshape(*step.shape, *(1,) * (values.ndim - 1))
    return jnp.where(is_known, rows, jnp.nan)


def checked_steps(step: int | Int[AnyArray, "*steps"]) -> Int[Array, "*steps"]:
    """Numbers of updates, checked: none is wrapped round."""
    if isinstance(step, jax.Array):
        _check_integers(step.dtype)
        check_nonnegative("step", step)
        return step
    steps = np.asarray(step)
    # Integers beyond NumPy's own are kept as objects.
    if steps.dtype != object or not all(isinstance(s, int) for s in steps.flat):
        _check_integers(steps.dtype)
    smallest, largest = int(steps.min(initial=0)), int(steps.max(initial=0))
    limit = int(jnp.iinfo(jax.dtypes.canonicalize_dtype(int)).max)
    if smallest < 0:
        raise ValueError(f"`step` must be zero or positive; got {smallest}.")
    if largest > limit:
        raise ValueError(
            f"`step` must be at most {limit}, the largest of JAX's integers; got "
            f"{largest}. Enable 64-bit types, for example with `jax.enable_x64(True)`, "
            "or take gradient flow at infinite time."
        )
    return jnp.asarray(steps)


def _check_integers(dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"`step` must hold integers; got dtype {dtype}.")


def _largest(steps: Array) -> int | None:
    try:
        return int(np.asarray(steps).max(initial=0))
    except jax.errors.TracerArrayConversionError:
        return None


def _evaluated(
    schedule: Callable[[Any], Any], num_steps: int, dtype: jnp.dtype
) -> Float[Array, "num_steps"]:
    def rate(step: Array) -> Array:
        value = jnp.asarray(schedule(step))
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.number):
            raise TypeError(
                "`learning_rate` must return one number for a step; got "
                f"{brief(value)}."
            )
        return value.astype(dtype)

    return jax.vmap(rate)(jnp.arange(num_steps, dtype=jnp.int32))
