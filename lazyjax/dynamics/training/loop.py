"""The compiled loop of training: updates, minibatches, stop rules, observers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from lazyjax.batches import num_rows, rows_at
from lazyjax.dynamics.snapshot import Observer, Snapshot
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.progress import Listener, tell
from lazyjax.typing import ApplyFn, LossFn, Params

Sampling: TypeAlias = Literal["shuffle", "replacement", "subset"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that a program is compiled for.

    Attributes:
        apply_fn: Network.
        optimizer: From optax.
        loss_fn: Loss.
        observers: Names and functions.
        num_steps: Number of updates.
        batch_size: Examples of a minibatch; `None` for all of them.
        sampling: How minibatches are drawn.
        eval_batch_size: Examples that observers evaluate at a time; `None` for all.
        stops_early: Whether the loop ends once every run that is mapped has stopped.
    """

    apply_fn: ApplyFn
    optimizer: optax.GradientTransformation
    loss_fn: LossFn
    observers: tuple[tuple[str, Observer], ...]
    num_steps: int
    batch_size: int | None
    sampling: Sampling
    eval_batch_size: int | None
    stops_early: bool


class TrainingProblem(NamedTuple):
    """Arrays that do not change during a run.

    Attributes:
        params: Parameters at step 0.
        x: Training inputs.
        y: Training targets.
        key: Source of minibatches.
        target_loss: Loss at which the run stops; may be negative infinity.
        max_loss: Loss beyond which it has diverged; may be infinity.
    """

    params: Params
    x: Array
    y: Array
    key: Key[Array, ""] | None
    target_loss: Float[Array, ""]
    max_loss: Float[Array, ""]


class State(NamedTuple):
    """All that the rest of a run depends on, beside the problem and the step.

    Attributes:
        params: Parameters.
        opt_state: State of the optimizer.
        stopped_at: First step at which a stop rule held, or -1.
        diverged_at: First step at which the loss was not finite or too large, or -1.
        stopped_loss: Loss at the first of these; 0 before.
    """

    params: Params
    opt_state: PyTree
    stopped_at: Int[Array, ""]
    diverged_at: Int[Array, ""]
    stopped_loss: Float[Array, ""]

    def after(self, problem: TrainingProblem, step: Array, loss: Array) -> "State":
        """This state, with the loss at `step` known to the stop rules."""
        diverges = ~jnp.isfinite(loss) | (loss > problem.max_loss)
        is_new = (self.stopped_at < 0) & (diverges | (loss <= problem.target_loss))
        step = jnp.asarray(step, jnp.int32)
        return self._replace(
            stopped_at=jnp.where(is_new, step, self.stopped_at),
            diverged_at=jnp.where(is_new & diverges, step, self.diverged_at),
            stopped_loss=jnp.where(is_new, loss, self.stopped_loss),
        )


class Segment(NamedTuple):
    """What came of some steps of a run.

    Attributes:
        state: State after the last.
        loss: Loss before every update, and after the last.
        observations: What each observer saw, stacked.
    """

    state: State
    loss: Float[Array, "num_losses"]
    observations: dict[str, PyTree[Any]]


class _Carry(NamedTuple):
    state: State
    losses: Array
    order: Array | None


@functools.partial(jax.jit, static_argnames="settings")
def initial_state(problem: TrainingProblem, *, settings: Settings) -> State:
    """State at step 0."""
    never = jnp.full((), -1, jnp.int32)
    opt_state = settings.optimizer.init(problem.params)
    no_loss = jnp.zeros_like(problem.target_loss)
    return State(problem.params, opt_state, never, never, no_loss)


@functools.partial(jax.jit, static_argnames=("settings", "sees_start", "sees_end"))
@with_quick_convolutions
def run_segment(
    problem: TrainingProblem,
    state: State | None,
    start: Int[Array, ""],
    observed_at: Int[Array, "num_observed"],
    *,
    settings: Settings,
    sees_start: bool,
    sees_end: bool,
    length: Int[Array, ""] | None = None,
    listener: Listener | None = None,
) -> Segment:
    """Run of `settings.num_steps` steps from `start`, or fewer.

    Args:
        problem: Constants of the run.
        state: State at `start`; `None` is that of step 0.
        start: Number of updates so far.
        observed_at: Steps at which observers look, from `start` to the last.
        settings: What is compiled.
        sees_start: Whether `start` is one of those steps; only allowed at step 0.
        sees_end: Whether the last step is.
        length: Number of steps; `None` means all. Losses beyond are of no meaning.
        listener: Whom to report to, about a hundred times.

    Returns:
        The state at the end, losses and observations.
    """
    before = initial_state(problem, settings=settings) if state is None else state
    num_steps = settings.num_steps
    end = start + (num_steps if length is None else length)
    batches = _Batches(problem, settings)

    def update(step: Array, carry: _Carry) -> _Carry:
        state, losses, order = carry
        order = batches.order_at(step, order)
        loss_at = batches.loss_fn(step, order)
        state, loss = updated(problem, state, step, loss_at, settings.optimizer)
        losses = jax.lax.dynamic_update_index_in_dim(losses, loss, step - start, 0)
        return _Carry(state, losses, order)

    def advance_silently(first: Array, last: Array, carry: _Carry) -> _Carry:
        if not settings.stops_early:
            return jax.lax.fori_loop(first, last, update, carry)
        goes_on = lambda at: (at[0] < last) & ~_in_all_runs(at[1].state.stopped_at >= 0)
        body = lambda at: (at[0] + 1, update(*at))
        return jax.lax.while_loop(goes_on, body, (first, carry))[1]

    def on_segment(step: Array, metrics: dict[str, Array]) -> None:
        """Called about a hundred times, between updates, by steps that are behind."""
        tell(listener, step, "step", **jax.tree.map(_mean_of_runs, metrics))

    def advance(first: Array, last: Array, carry: _Carry) -> _Carry:
        if listener is None:
            return advance_silently(first, last, carry)
        size = jnp.maximum(1, listener.total.astype(jnp.int32) // 100)

        # Reports stand between loops, not in them, lest updates be compiled otherwise.
        def stretch(at: tuple[Array, _Carry]) -> tuple[Array, _Carry]:
            stop = jnp.minimum(at[0] + size, last)
            carry = advance_silently(at[0], stop, at[1])
            on_segment(stop, {"loss": carry.losses[stop - start - 1]})
            return stop, carry

        return jax.lax.while_loop(lambda at: at[0] < last, stretch, (first, carry))[1]

    def inspect(snapshot: Snapshot) -> dict[str, Any]:
        return {
            name: jax.tree.map(jnp.asarray, fn(snapshot))
            for name, fn in settings.observers
        }

    order = batches.first_order(start)
    losses = jnp.zeros(num_steps + 1, problem.target_loss.dtype)
    carry = _Carry(before, losses, order)
    observations: dict[str, Any] = {}
    is_unobserved = not settings.observers or not observed_at.size
    is_silent = not settings.stops_early and listener is None
    if is_unobserved and is_silent and length is None:
        # A known number of steps, through which gradients can be taken.
        bounds = np.int32(0), np.int32(num_steps)
        carry = jax.lax.fori_loop(*bounds, lambda i, c: update(start + i, c), carry)
    elif is_unobserved:
        carry = advance(start, end, carry)
    else:
        initial = Snapshot(
            apply_fn=settings.apply_fn,
            params=problem.params,
            x=problem.x,
            y=problem.y,
            step=jnp.zeros((), jnp.int32),
            loss_fn=settings.loss_fn,
            batch_size=settings.eval_batch_size,
        )
        # Looking before the loop, even if step 0 is not asked for, evaluates what the
        # observers need of the start once and outside; what they do not, XLA drops.
        first = inspect(initial)

        def interval(carry: _Carry, ends: tuple[Array, Array]) -> tuple:
            carry = advance(*ends, carry)
            return carry, inspect(initial.following(carry.state.params, ends[1]))

        seen = [jax.tree.map(lambda leaf: leaf[None], first)] if sees_start else []
        stops = observed_at[1:] if sees_start else observed_at
        if stops.size:
            starts = jnp.concatenate([start[None], stops[:-1]])
            carry, later = jax.lax.scan(interval, carry, (starts, stops))
            seen.append(later)
        if not sees_end:
            carry = advance(observed_at[-1], end, carry)
        observations = jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen)

    state, losses, order = carry
    order = batches.order_at(end, order)
    loss = batches.loss_fn(end, order)(state.params)
    state = state.after(problem, end, loss)
    steps = start + jnp.arange(num_steps + 1, dtype=jnp.int32)
    is_over = (state.stopped_at >= 0) & (steps > state.stopped_at)
    losses = jnp.where(is_over, state.stopped_loss, losses.at[end - start].set(loss))
    return Segment(state, losses, observations)


def updated(
    problem: TrainingProblem,
    state: State,
    step: Array,
    loss_at: Callable[[Params], Array],
    optimizer: optax.GradientTransformation,
) -> tuple[State, Array]:
    """State after one update, unless the run has stopped, and the loss before it."""
    params, opt_state = state.params, state.opt_state
    loss, grads = jax.value_and_grad(loss_at)(params)
    updates, new_opt_state = optax.with_extra_args_support(optimizer).update(
        grads, opt_state, params, value=loss, grad=grads, value_fn=loss_at
    )
    state = state.after(problem, step, loss)
    has_stopped = state.stopped_at >= 0
    # Updates are dropped, not undone: that costs no copy of the parameters.
    updates = jax.tree.map(lambda u: jnp.where(has_stopped, 0, u), updates)
    keep = functools.partial(jnp.where, has_stopped)
    state = state._replace(
        params=optax.apply_updates(params, updates),
        opt_state=jax.tree.map(keep, opt_state, new_opt_state),
    )
    return state, loss


class _Batches:
    """The loss as a function of parameters, on the examples of each step."""

    def __init__(self, problem: TrainingProblem, settings: Settings) -> None:
        self.problem = problem
        self.settings = settings
        self.num_examples = num_rows(problem.x)
        self.per_epoch = self.num_examples // (settings.batch_size or 1)

    @property
    def _has_order(self) -> bool:
        settings = self.settings
        return settings.batch_size is not None and settings.sampling == "shuffle"

    def _permutation(self, step: Array) -> Array:
        assert self.problem.key is not None
        of_epoch = jax.random.fold_in(self.problem.key, step // self.per_epoch)
        return jax.random.permutation(of_epoch, self.num_examples)

    def first_order(self, start: Array) -> Array | None:
        """Order of examples in the epoch of `start`, if there is one."""
        return self._permutation(start) if self._has_order else None

    def order_at(self, step: Array, order: Array | None) -> Array | None:
        """Order at `step`, given that of the step before: new with each epoch."""
        if order is None:
            return None
        return jax.lax.cond(
            step % self.per_epoch == 0, self._permutation, lambda _: order, step
        )

    def loss_fn(self, step: Array, order: Array | None) -> Any:
        """Loss on the examples of `step`."""
        (_, x, y, key, *_), settings = self.problem, self.settings
        size = settings.batch_size
        if size is not None:
            assert key is not None
            if order is None:
                of_step = jax.random.fold_in(key, step)
                if settings.sampling == "subset":
                    chosen = jax.random.permutation(of_step, self.num_examples)[:size]
                else:
                    chosen = jax.random.randint(of_step, (size,), 0, self.num_examples)
            else:
                first = step % self.per_epoch * size
                chosen = jax.lax.dynamic_slice_in_dim(order, first, size)
            x, y = rows_at(x, chosen), y[chosen]
        return lambda params: settings.loss_fn(settings.apply_fn(params, x), y)


def _over_runs(reduce: Callable[..., Array]) -> Callable[[Array], Array]:
    """A number of all runs that are mapped, made of one of each; of one run, its own."""

    @jax.custom_batching.custom_vmap
    def over_runs(value: Array) -> Array:
        return value

    @over_runs.def_vmap
    def _(axis_size: int, in_batched: list[bool], value: Array) -> tuple[Array, bool]:
        del axis_size, in_batched
        return over_runs(reduce(value, axis=0)), False

    return over_runs


# A loop with one condition stays one loop, whose buffers are not copied each step.
_in_all_runs = _over_runs(jnp.all)
_mean_of_runs = _over_runs(jnp.mean)
