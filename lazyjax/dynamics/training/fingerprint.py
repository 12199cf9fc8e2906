"""What a training run is of, part by part, so that another run is told from it."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lazyjax.batches import as_arrays, num_rows, rows_like
from lazyjax.dynamics.snapshot import Observer, Snapshot
from lazyjax.dynamics.training.program_digest import content_digest, program_digest
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params

# Programs can be compared only where these parts are the same: what they are traced by.
_TRACED = ("versions", "shapes", "batch_size")
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "apply_fn": _TRACED,
    "loss_fn": _TRACED,
    "network": (*_TRACED, "widths"),
    "optimizer": (*_TRACED, "widths", "network"),
    "observe": (*_TRACED, "widths", "network", "apply_fn", "loss_fn"),
}


def versions() -> dict[str, str]:
    """Versions that a run may depend on."""
    return {"JAX": jax.__version__, "lazyjax": version("lazyjax")}


def shapes_digest(*trees: Any) -> str:
    """Digest of structure, shapes and types of pytrees."""
    return tree_digest(jax.tree.map(lambda leaf: (str(leaf.dtype), leaf.shape), trees))


def tree_digest(tree: Any) -> str:
    """Digest of structure and content of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return content_digest([(jax.tree_util.keystr(path), leaf) for path, leaf in leaves])


def functions_of(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    optimizer: Callable[[], optax.GradientTransformation],
    observers: Mapping[str, Observer],
    params: Params,
    x: Inputs,
    y: AnyArray,
    *,
    batch_size: int | None = None,
) -> dict[str, str]:
    """Digests of the functions of a run, with the gradients that it takes of them."""
    size = num_rows(x) if batch_size is None else batch_size
    x_batch, y_batch = rows_like(x, size), rows_like(y, size)
    f = jax.eval_shape(apply_fn, params, x_batch)
    number = jax.eval_shape(loss_fn, f, y_batch)

    def network(params: Params, x: Inputs, cotangents: AnyArray) -> Any:
        outputs, pullback = jax.vjp(lambda p: apply_fn(p, as_arrays(x)), params)
        return outputs, pullback(cotangents)

    def value_fn(params: Params) -> AnyArray:
        # In place of the loss, which has a digest of its own.
        squares = (jnp.sum(leaf**2).real for leaf in jax.tree.leaves(params))
        return sum(
            (square.astype(number.dtype) for square in squares),
            jnp.zeros((), number.dtype),
        )

    def update(grads: Params, params: Params, value: AnyArray) -> Any:
        made = optax.with_extra_args_support(optimizer())
        state = made.init(params)
        return state, made.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )

    def inspect(params: Params, later: Params, x: Inputs, y: AnyArray) -> Any:
        first = Snapshot(
            apply_fn=apply_fn,
            params=params,
            x=x,
            y=y,
            step=jnp.zeros((), jnp.int32),
            loss_fn=loss_fn,
        )
        second = first.following(later, jnp.ones((), jnp.int32))
        seen = [
            {name: fn(at) for name, fn in observers.items()} for at in (first, second)
        ]
        return jax.tree.map(jnp.asarray, seen)

    return {
        "apply_fn": program_digest(network, params, x_batch, f),
        "loss_fn": program_digest(jax.value_and_grad(loss_fn), f, y_batch),
        "optimizer": program_digest(update, params, params, number),
        "observe": content_digest(
            list(observers), program_digest(inspect, params, params, x, y)
        ),
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Parts in which two runs differ, in words, leaving out what follows from others."""
    differing = {
        name
        for name in wanted.keys() | found.keys()
        if wanted.get(name) != found.get(name)
    }
    told = [
        name
        for name in wanted
        if name in differing and not differing.intersection(_NEEDS.get(name, ()))
    ]
    words = [f"`{name}`" for name in told if name not in ("versions", "shapes")]
    if "versions" in differing:
        now, then = wanted["versions"], found.get("versions", {})
        words = [
            f"version of {name} ({then.get(name)}; this is {now[name]})"
            for name in now
            if now[name] != then.get(name)
        ] + words
    return words or sorted(differing)
