r"""Training with optax in one compiled program, observed at chosen steps."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_network_output,
    check_params,
    check_targets,
)
from lazyjax._static import as_static
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.observers import Observer, Snapshot
from lazyjax.typing import AnyArray, ApplyFn, LossFn, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What came of training; under `jax.vmap`, every array has the mapped axes first.

    Attributes:
        params: Parameters after the last step.
        loss: Loss at every step, from before the first update to after the last:
            `num_steps + 1` values.
        observed_at: Steps at which the observers looked.
        observations: What each observer saw, by name, stacked along those steps.
        diverged_at: First step at which the loss was not finite; -1 if there was none.
    """

    params: Params
    loss: Float[Array, "*batch num_losses"]
    observed_at: Int[Array, "*batch num_observed"]
    observations: dict[str, PyTree[Any]]
    diverged_at: Int[Array, "*batch"]


def train(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    loss_fn: LossFn = square_loss,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
) -> Run:
    r"""Full-batch training of `apply_fn` from `params`, in one compiled program.

    With `optax.sgd` it is gradient descent $w \leftarrow w - \eta \nabla L(w)$ on
    $L = \tfrac12 \lVert f - y \rVert^2$, summed over examples and outputs. A loss
    $c L$ has the same run at `learning_rate / c`. The step is stable for the linear
    model while $\eta < 2 / \lambda_{\max}(H)$.

    Observers see the network between updates and change nothing; several of them share
    one evaluation of the outputs and the kernel. `params` is not overwritten. Seeds
    train together under `jax.vmap` over `params`.

    Args:
        apply_fn: Network `(params, x) -> f`. A second call with the same functions and
            shapes reuses the compiled program, so all functions passed must be pure;
            one that is not hashable is compiled on every call.
        params: Parameters at step 0.
        x: Training inputs.
        y: Training targets, in the dtype of the network's outputs.
        optimizer: From optax; loss, gradient and loss function are passed on to those
            that use them.
        num_steps: Number of updates.
        loss_fn: Loss `(f, y) -> scalar`.
        observe: Observers, known by their `__name__`, or a mapping from names; see
            `lazyjax.dynamics.observers`.
        observe_at: Increasing steps, from 0 to `num_steps`, at which the observers
            look; `None` means the first and the last.

    Returns:
        The trained parameters, all losses and all observations. Divergence is a result
        (`diverged_at`), not an error.

    Raises:
        TypeError: If an argument is not of its kind, or not floating point.
        ValueError: If `x` or `y` is empty, of the wrong shape or not finite, the output
            is not `(n, k)`, or `num_steps`, `observe` or `observe_at` is out of range.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from lazyjax.dynamics import observers
        >>> run = train(
        ...     lambda w, x: x @ w,
        ...     jnp.zeros((2, 1)),
        ...     jnp.array([[1.0, 0.0], [0.0, 2.0]]),
        ...     jnp.array([[1.0], [4.0]]),
        ...     optimizer=optax.sgd(0.25),
        ...     num_steps=20,
        ...     observe=[observers.ntk_eig_min, observers.parameter_distance],
        ... )
        >>> [round(loss, 6) for loss in run.loss[:3].tolist()]
        [8.5, 0.28125, 0.158203]
        >>> run.observations["ntk_eig_min"].tolist(), run.diverged_at.item()
        ([1.0, 1.0], -1)
    """
    for name, function in {"apply_fn": apply_fn, "loss_fn": loss_fn}.items():
        if not callable(function):
            raise TypeError(f"`{name}` must be callable; got {function!r}.")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "`optimizer` must be an optax gradient transformation, such as "
            f"`optax.sgd(0.1)`; got {optimizer!r}."
        )
    check_at_least("num_steps", num_steps, 0)
    observers = _named(observe)
    observed_at = _checked_steps(observe_at, num_steps)
    check_params("params", params)
    params = jax.tree.map(_strongly_typed, params)
    x, y = _strongly_typed(x), _strongly_typed(y)
    check_batch("x", x)
    _check_problem(apply_fn, params, x, y, loss_fn)
    return _compiled(
        params,
        x,
        y,
        jnp.asarray(observed_at, jnp.int32),
        apply_fn=as_static(apply_fn),
        optimizer=_static_optimizer(optimizer),
        loss_fn=as_static(loss_fn),
        observers=tuple((name, as_static(fn)) for name, fn in observers.items()),
        num_steps=num_steps,
        from_start=int(observed_at[0]) == 0,
        to_end=int(observed_at[-1]) == num_steps,
    )


@functools.partial(
    jax.jit,
    static_argnames=(
        "apply_fn",
        "optimizer",
        "loss_fn",
        "observers",
        "num_steps",
        "from_start",
        "to_end",
    ),
)
def _compiled(
    params: Params,
    x: Array,
    y: Array,
    observed_at: Array,
    *,
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn,
    observers: tuple[tuple[str, Observer], ...],
    num_steps: int,
    from_start: bool,
    to_end: bool,
) -> Run:
    """The whole run; `from_start` and `to_end` say which ends `observed_at` holds."""
    optimizer = optax.with_extra_args_support(optimizer)

    def loss_at(params: Params) -> Array:
        return loss_fn(apply_fn(params, x), y)

    def update(step: Array, state: tuple) -> tuple:
        params, opt_state, losses = state
        loss, grads = jax.value_and_grad(loss_at)(params)
        updates, opt_state = optimizer.update(
            grads, opt_state, params, value=loss, grad=grads, value_fn=loss_at
        )
        losses = jax.lax.dynamic_update_index_in_dim(losses, loss, step, 0)
        return optax.apply_updates(params, updates), opt_state, losses

    def look(snapshot: Snapshot) -> dict[str, Any]:
        return {name: jax.tree.map(jnp.asarray, fn(snapshot)) for name, fn in observers}

    loss_dtype = jax.eval_shape(loss_at, params).dtype
    losses = jnp.zeros(num_steps + 1, loss_dtype)
    state = (params, optimizer.init(params), losses)
    observations: dict[str, Any] = {}
    if not observers:
        state = jax.lax.fori_loop(0, num_steps, update, state)
    else:
        initial = Snapshot(
            apply_fn=apply_fn, params=params, x=x, y=y, step=jnp.zeros((), jnp.int32)
        )
        # Looking before the loop, even if step 0 is not asked for, evaluates what the
        # observers need of the start once and outside; what they do not, XLA drops.
        first = look(initial)

        def interval(state: tuple, ends: tuple[Array, Array]) -> tuple:
            state = jax.lax.fori_loop(*ends, update, state)
            return state, look(initial.following(state[0], ends[1]))

        seen = [jax.tree.map(lambda leaf: leaf[None], first)] if from_start else []
        stops = observed_at[1:] if from_start else observed_at
        if stops.size:
            starts = jnp.concatenate([jnp.zeros(1, jnp.int32), stops[:-1]])
            state, later = jax.lax.scan(interval, state, (starts, stops))
            seen.append(later)
        if not to_end:
            state = jax.lax.fori_loop(observed_at[-1], num_steps, update, state)
        observations = jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen)
    params, _, losses = state
    losses = losses.at[num_steps].set(loss_at(params))
    bad = ~jnp.isfinite(losses)
    first_bad = jnp.argmax(bad).astype(jnp.int32)
    return Run(
        params=params,
        loss=losses,
        observed_at=observed_at,
        observations=observations,
        diverged_at=jnp.where(jnp.any(bad), first_bad, -1),
    )


def _named(
    observe: Sequence[Observer] | Mapping[str, Observer],
) -> dict[str, Observer]:
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
    return named


def _checked_steps(
    observe_at: Sequence[int] | AnyArray | None, num_steps: int
) -> np.ndarray:
    if observe_at is None:
        return np.unique([0, num_steps])
    steps = np.asarray(observe_at)
    if steps.ndim != 1 or steps.size == 0 or not np.issubdtype(steps.dtype, np.integer):
        raise ValueError(
            "`observe_at` must be one or more integer steps in one dimension; got "
            f"{observe_at!r}."
        )
    if steps[0] < 0 or steps[-1] > num_steps or np.any(np.diff(steps) <= 0):
        raise ValueError(
            f"`observe_at` must increase strictly, from 0 or later to `num_steps` = "
            f"{num_steps} or earlier; got {observe_at!r}."
        )
    return steps


def _check_problem(
    apply_fn: ApplyFn, params: Params, x: Array, y: Array, loss_fn: LossFn
) -> None:
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


def _strongly_typed(leaf: AnyArray) -> Array:
    # Weakly typed leaves would change type in the loop, and compile once more.
    return jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype)


def _static_optimizer(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    return type(optimizer)(*(as_static(fn) for fn in optimizer))
