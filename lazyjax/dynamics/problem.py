"""What training and gradient flow ask of their arguments."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import (
    check_apply_fn,
    check_array,
    check_function,
    check_inputs,
    check_network_output,
    check_params,
    check_targets,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import one_hot_rows, takes_labels
from lazyjax.dynamics.snapshot import Observer
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params, Targets


def named_observers(
    observe: Sequence[Observer] | Mapping[str, Observer],
) -> tuple[tuple[str, Observer], ...]:
    """Observers and their names, hashable."""
    if isinstance(observe, Mapping):
        pairs = list(observe.items())
    elif isinstance(observe, Sequence):
        pairs = [(getattr(fn, "__name__", None), fn) for fn in observe]
    else:
        hint = " Put it in a list." if callable(observe) else ""
        raise TypeError(
            "`observe` must be a sequence of observers or a mapping from names to "
            f"them; got {brief(observe)}.{hint}"
        )
    named: dict[str, Observer] = {}
    for name, fn in pairs:
        if not callable(fn):
            raise TypeError(
                "`observe` must hold functions of a snapshot, such as "
                f"`observers.ntk_eig_min`; got {brief(fn)}."
            )
        if not isinstance(name, str):
            raise TypeError(
                f"`observe` must name every observer, and {brief(fn)} has no name of "
                "its own; pass a mapping {name: observer}."
            )
        if name in named:
            raise ValueError(
                f"`observe` must not name two observers alike; got {brief(name)} "
                "twice. Pass a mapping {name: observer}."
            )
        named[name] = fn
    return tuple((name, HashableCallable(fn)) for name, fn in named.items())


def checked_problem(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    y: Targets,
    loss_fn: LossFn,
) -> tuple[Params, Inputs, Array, jnp.dtype]:
    """Parameters, inputs and targets, as arrays that keep their type in loops; loss dtype."""
    check_apply_fn(apply_fn, params)
    check_function("loss_fn", loss_fn, "(f, y) -> scalar")
    check_params("params", params)
    params = jax.tree.map(_strongly_typed, params)
    check_inputs("x", x)
    x = jax.tree.map(_strongly_typed, x)
    f = jax.eval_shape(apply_fn, params, x)
    check_network_output(f, x)
    y = _strongly_typed(checked_targets(y, f.shape, f.dtype, loss_fn))
    if y.dtype != f.dtype:
        raise TypeError(
            f"`y` must have the dtype of the outputs, {f.dtype}; got {y.dtype}."
        )
    return params, x, y, loss_dtype(loss_fn, f, y)


def loss_dtype(
    loss_fn: LossFn, f: jax.ShapeDtypeStruct, y: AnyArray | jax.ShapeDtypeStruct
) -> jnp.dtype:
    """Dtype of a loss, which is checked to be a number."""
    loss = jax.eval_shape(loss_fn, f, y)
    is_number = getattr(loss, "shape", None) == ()
    if not is_number or not jnp.issubdtype(loss.dtype, jnp.floating):
        hint = " Sum it over examples and outputs." if getattr(loss, "ndim", 0) else ""
        raise TypeError(
            "`loss_fn` must return a real floating-point scalar; got "
            f"{brief(loss)}.{hint}"
        )
    return loss.dtype


def checked_targets(
    y: AnyArray, shape: tuple[int, int], dtype: jnp.dtype, loss_fn: LossFn
) -> AnyArray:
    """Targets of outputs of a shape and dtype; class labels become one-hot rows."""
    check_array("y", y)
    is_labels = y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)
    if is_labels and y.shape[0] == shape[0] and takes_labels(loss_fn):
        return one_hot_rows("y", y, shape[1], dtype)
    if is_labels and shape[1] > 1:
        raise ValueError(
            f"`y` must have shape {shape}; got integers of shape {y.shape}, as of class "
            f"labels. Make them one-hot, `jax.nn.one_hot(y, {shape[1]})`; or choose "
            "`lazyjax.dynamics.losses.cross_entropy_loss`, which takes labels."
        )
    check_targets("y", y, *shape)
    return y


def _strongly_typed(leaf: AnyArray) -> Array:
    # Weakly typed leaves would change type in the loop, and compile once more.
    return jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype)
