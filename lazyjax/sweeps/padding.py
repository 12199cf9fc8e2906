"""Whether members may be padded: what else reads parameters must not see the zeros."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lazyjax.dynamics import observers
from lazyjax.dynamics.observers import Observer
from lazyjax.typing import Params

# They use parameters through the network, or sum over all of them.
_OBSERVERS = (
    observers.outputs,
    observers.residual_norm,
    observers.parameter_distance,
    observers.ntk,
    observers.ntk_eig_min,
    observers.ntk_eig_max,
    observers.ntk_drift,
    observers.ntk_drift_norm,
)
_OPTIMIZERS = (optax.sgd, optax.adam, optax.adamw, optax.rmsprop)


def observer_ignores_padding(observer: Observer) -> bool:
    """Whether an observer is known to see the same of a padded network."""
    return observer in _OBSERVERS


def optimizer_ignores_padding(
    factory: Callable[[Any], optax.GradientTransformation],
) -> bool:
    """Whether an optimizer treats each entry alike, and those without gradient not at all.

    Noise, factored moments and orthogonalized updates depend on the shape of
    parameters; they are found out by two updates of a small array, alone and padded.

    Args:
        factory: Optimizer of a learning rate.

    Returns:
        Whether the updates are the same, and zero where it was padded.
    """
    made_by = factory.func if isinstance(factory, functools.partial) else factory
    if made_by in _OPTIMIZERS:
        return True
    small = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
    padded = np.pad(small, ((0, 1), (0, 2)))

    @jax.jit
    def updates(leaf: Params) -> Params:
        optimizer = optax.with_extra_args_support(factory(jnp.float32(0.125)))
        params = {"first": leaf, "second": -leaf}
        state = optimizer.init(params)
        made = []
        for scale in (1.0, -0.5):
            grads = jax.tree.map(lambda p, c=scale: c * jnp.sin(3 * p), params)
            value_fn = lambda p: sum(jnp.sum(jnp.square(q)) for q in jax.tree.leaves(p))
            change, state = optimizer.update(
                grads,
                state,
                params,
                value=value_fn(params),
                grad=grads,
                value_fn=value_fn,
            )
            params = optax.apply_updates(params, change)
            made.append(change)
        return made

    pairs = zip(
        jax.tree.leaves(updates(small)), jax.tree.leaves(updates(padded)), strict=True
    )
    return all(
        np.allclose(np.pad(alone, ((0, 1), (0, 2))), beside, rtol=1e-4, atol=1e-7)
        for alone, beside in pairs
    )
