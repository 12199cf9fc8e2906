"""What training and gradient flow ask of their arguments."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import (
    check_batch,
    check_network_output,
    check_params,
    check_targets,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.snapshot import Observer
from lazyjax.typing import AnyArray, ApplyFn, LossFn, Params


def named_observers(
    observe: Sequence[Observer] | Mapping[str, Observer],
) -> tuple[tuple[str, Observer], ...]:
    """Observers and their names, hashable."""
    if isinstance(observe, Mapping):
        pairs = list(observe.items())
    elif isinstance(observe, Sequence):
        pairs = [(getattr(fn, "__name__", None), fn) for fn in observe]
    else:
        raise TypeError(
            "`observe` must be a sequence of observers or a mapping from names to "
            f"them; got {observe!r}."
        )
    named: dict[str, Observer] = {}
    for name, fn in pairs:
        if not callable(fn):
            raise TypeError(
                "`observe` must hold functions of a snapshot, such as "
                f"`observers.ntk_eig_min`; got {fn!r}."
            )
        if not isinstance(name, str):
            raise TypeError(
                f"`observe` must name every observer, and {fn!r} has no name of its "
                "own; pass a mapping {name: observer}."
            )
        if name in named:
            raise ValueError(
                f"`observe` must not name two observers alike; got {name!r} twice. Pass "
                "a mapping {name: observer}."
            )
        named[name] = fn
    return tuple((name, HashableCallable(fn)) for name, fn in named.items())


def checked_problem(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    loss_fn: LossFn,
) -> tuple[Params, Array, Array, jnp.dtype]:
    """Parameters, inputs and targets, as arrays that keep their type in loops; loss dtype."""
    for name, function in {"apply_fn": apply_fn, "loss_fn": loss_fn}.items():
        if not callable(function):
            raise TypeError(f"`{name}` must be callable; got {function!r}.")
    check_params("params", params)
    params = jax.tree.map(_strongly_typed, params)
    x, y = _strongly_typed(x), _strongly_typed(y)
    check_batch("x", x)
    f = jax.eval_shape(apply_fn, params, x)
    check_network_output(f, num_examples=x.shape[0])
    check_targets("y", y, *f.shape)
    if y.dtype != f.dtype:
        raise TypeError(
            f"`y` must have the dtype of the outputs, {f.dtype}; got {y.dtype}."
        )
    loss = jax.eval_shape(loss_fn, f, y)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(
        loss.dtype, jnp.floating
    ):
        raise TypeError(
            f"`loss_fn` must return a real floating-point scalar; got {loss}."
        )
    return params, x, y, loss.dtype


def _strongly_typed(leaf: AnyArray) -> Array:
    # Weakly typed leaves would change type in the loop, and compile once more.
    return jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype)
