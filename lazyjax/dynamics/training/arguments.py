"""Arguments of training, checked, in the form that its programs take."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_key, checked_path, known_numbers
from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.requests.row_check import check_row_independence
from lazyjax.typing import AnyArray, ApplyFn, Inputs, Params


def checked_optimizer(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """The optimizer, hashable."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "`optimizer` must be an optax gradient transformation, such as "
            f"`optax.sgd(0.1)`; got {brief(optimizer)}."
        )
    return type(optimizer)(*(HashableCallable(fn) for fn in optimizer))


def check_batches(batch_size: int | None, key: object, num_examples: int) -> None:
    """Check the size of minibatches and where they come from."""
    if (batch_size is None) != (key is None):
        missing = "key" if key is None else "batch_size"
        raise ValueError(
            f"`batch_size` and `key` must be given together; `{missing}` is missing."
        )
    if batch_size is None:
        return
    check_key("key", key)
    check_at_least("batch_size", batch_size, 1)
    if batch_size > num_examples:
        raise ValueError(
            f"`batch_size` must be at most the number of examples, {num_examples}; got "
            f"{batch_size}."
        )


def check_eval_batches(
    eval_batch_size: int | None, apply_fn: ApplyFn, params: Params, x: Inputs
) -> None:
    """Check that a network can be evaluated on so many examples at a time."""
    if eval_batch_size is not None:
        check_at_least("eval_batch_size", eval_batch_size, 1)
        # Else outputs would depend on the size; under `jax.jit` that is not known.
        check_row_independence(apply_fn, params, x)


def as_limit(
    name: str, value: float | AnyArray | None, default: float, dtype: jnp.dtype
) -> Array:
    """A limit of the loss, in its dtype."""
    if np.isnan(known_numbers(name, default if value is None else value)).any():
        raise ValueError(f"`{name}` must be a number or infinite; got {value}.")
    limit = jnp.asarray(default if value is None else value)
    if limit.ndim:
        raise ValueError(f"`{name}` must be one number; got shape {limit.shape}.")
    return limit.astype(dtype)


def check_checkpoint(path: object, every: int | None, num_steps: int) -> None:
    """Check where and how often a run is kept."""
    if path is None or every is None:
        missing = "checkpoint" if path is None else "checkpoint_every"
        raise ValueError(
            "`checkpoint` and `checkpoint_every` must be given together; "
            f"`{missing}` is missing."
        )
    checked_path("checkpoint", path)
    check_at_least("checkpoint_every", every, 1)
    if num_steps % every:
        raise ValueError(
            f"`checkpoint_every` must divide `num_steps` = {num_steps}; got {every}."
        )


def checked_steps(
    observe_at: Sequence[int] | AnyArray | None, num_steps: int
) -> np.ndarray:
    """Steps at which observers look, checked; by default the first and the last."""
    if observe_at is None:
        return np.unique([0, num_steps])
    steps = known_numbers("observe_at", observe_at)
    if steps.ndim != 1 or steps.size == 0 or not np.issubdtype(steps.dtype, np.integer):
        raise ValueError(
            "`observe_at` must be one or more integer steps in one dimension; got "
            f"{brief(observe_at)}."
        )
    if steps[0] < 0 or steps[-1] > num_steps or np.any(np.diff(steps) <= 0):
        raise ValueError(
            f"`observe_at` must increase strictly, from 0 or later to `num_steps` = "
            f"{num_steps} or earlier; got {brief(observe_at)}."
        )
    return steps
