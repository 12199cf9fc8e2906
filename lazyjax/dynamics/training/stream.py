r"""Training on batches that come from outside, one by one."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_batch, check_function
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.problem import checked_problem, checked_targets, named_observers
from lazyjax.dynamics.snapshot import Observer, Snapshot
from lazyjax.dynamics.training.arguments import (
    as_limit,
    check_eval_batches,
    checked_optimizer,
    checked_steps,
)
from lazyjax.dynamics.training.loop import (
    Problem,
    Segment,
    Settings,
    State,
    initial_state,
    updated,
)
from lazyjax.dynamics.training.segments import Callback, call_back
from lazyjax.dynamics.training.train import Run
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.progress import Progress, program_listener, tell
from lazyjax.typing import AnyArray, ApplyFn, LossFn, Params


def train_on_batches(
    apply_fn: ApplyFn,
    params: Params,
    batches: Iterable[Sequence[AnyArray]],
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    loss_fn: LossFn = square_loss,
    target_loss: float | Float[AnyArray, ""] | None = None,
    max_loss: float | Float[AnyArray, ""] | None = None,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
    eval_batch_size: int | None = None,
    progress: bool | Progress = False,
    callback: Callback | None = None,
) -> Run:
    r"""Training on batches that an iterator yields, for data larger than a device.

    Each batch is moved to the device when its turn comes, and takes one jitted step;
    while the device works, the next is fetched. All that `train` says of losses, stop
    rules and observers holds, but that observers are given the first batch as their
    data. Of a test set, `observers.on_inputs(observers.loss, x_test, y_test)` is the
    loss. Such a run cannot be resumed: where an iterator stands is not known. Batches of
    a new shape compile the step once more.

    Args:
        apply_fn: Network `(params, x) -> f`, as in `train`.
        params: Parameters at step 0.
        batches: Any iterable of pairs `(x, y)`, such as a generator, or a loader of grain
            or PyTorch whose arrays are NumPy's. One pair is taken for each step, and no
            more: an endless iterable is fine.
        optimizer: From optax.
        num_steps: Number of updates.
        loss_fn: Loss `(f, y) -> scalar`, of one batch.
        target_loss: The run stops before the first update whose loss is at most this,
            and takes no further batch.
        max_loss: A larger loss counts as divergence.
        observe: Observers, as in `train`.
        observe_at: Increasing steps, from 0 to `num_steps`, at which the observers look.
        eval_batch_size: As in `train`.
        progress: As in `train`.
        callback: As in `train`.

    Returns:
        The run. Its losses are those of each step's batch before the update; the last is
        that of the last batch after it.

    Raises:
        TypeError: If an argument is not of its kind, `batches` yields something else
            than pairs, or an array is not floating point.
        ValueError: If `batches` ends before `num_steps`, an array is empty, of the wrong
            shape or not finite, or an argument is out of range.

    Example:
        >>> import itertools, jax.numpy as jnp, optax
        >>> pairs = [(jnp.ones((2, 1)), jnp.ones((2, 1))), (jnp.eye(1), jnp.eye(1))]
        >>> run = train_on_batches(
        ...     lambda w, x: x @ w,
        ...     jnp.zeros((1, 1)),
        ...     itertools.cycle(pairs),
        ...     optimizer=optax.sgd(0.25),
        ...     num_steps=2,
        ... )
        >>> run.loss.tolist()
        [1.0, 0.125, 0.0703125]
    """
    optimizer = checked_optimizer(optimizer)
    check_at_least("num_steps", num_steps, 0)
    steps = checked_steps(observe_at, num_steps)
    if callback is not None:
        check_function("callback", callback, "(step, metrics) -> None")
    reader = _Reader(apply_fn, params, loss_fn, batches)
    x, y = reader.first()
    check_eval_batches(eval_batch_size, apply_fn, reader.params, x)
    settings = Settings(
        apply_fn=HashableCallable(apply_fn),
        optimizer=optimizer,
        loss_fn=HashableCallable(loss_fn),
        observers=named_observers(observe),
        num_steps=1,
        batch_size=None,
        sampling="shuffle",
        eval_batch_size=eval_batch_size,
        stops_early=target_loss is not None or max_loss is not None,
    )
    problem = Problem(
        params=reader.params,
        x=x,
        y=y,
        key=None,
        target_loss=as_limit("target_loss", target_loss, -jnp.inf, reader.loss_dtype),
        max_loss=as_limit("max_loss", max_loss, jnp.inf, reader.loss_dtype),
    )
    look = _Looks(settings, problem)
    # Steps overwrite their state, which must not be the caller's parameters.
    state = jax.tree.map(jnp.copy, initial_state(problem, settings=settings))
    losses: list[Array] = []
    observed = set(steps.tolist())
    with program_listener(progress, "train", num_steps) as listener:
        for step in range(num_steps + 1):
            if 0 < step < num_steps:
                problem = problem._replace(**reader.next(step))
            seen = look(state.params, step) if step in observed else None
            take = _last if step == num_steps else _step
            problem = problem._replace(params=None)
            state, loss = take(problem, state, np.int32(step), settings=settings)
            losses.append(loss)
            if callback is not None and seen is not None:
                _call_back(callback, state, loss, seen, step)
            if listener and step and step % max(1, num_steps // 100) == 0:
                tell(listener, jnp.float32(step), "step", loss=losses[step - 1])
            if settings.stops_early and int(state.stopped_at) >= 0:
                break
    for step in steps[steps >= len(losses)].tolist():
        look(state.params, step)
    loss = jnp.stack(losses + [losses[-1]] * (num_steps + 1 - len(losses)))
    is_over = (state.stopped_at >= 0) & (jnp.arange(num_steps + 1) > state.stopped_at)
    return Run(
        params=state.params,
        loss=jnp.where(is_over, state.stopped_loss, loss),
        observed_at=jnp.asarray(steps, jnp.int32),
        observations=jax.tree.map(lambda *leaves: jnp.stack(leaves), *look.seen),
        stopped_at=state.stopped_at,
        diverged_at=state.diverged_at,
    )


def _loss_at(problem: Problem, settings: Settings) -> Callable[[Params], Array]:
    x, y = problem.x, problem.y
    return lambda params: settings.loss_fn(settings.apply_fn(params, x), y)


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
@with_quick_convolutions
def _step(
    problem: Problem, state: State, step: Array, *, settings: Settings
) -> tuple[State, Array]:
    loss_at = _loss_at(problem, settings)
    return updated(problem, state, step, loss_at, settings.optimizer)


@functools.partial(jax.jit, static_argnames="settings")
def _last(
    problem: Problem, state: State, step: Array, *, settings: Settings
) -> tuple[State, Array]:
    loss = _loss_at(problem, settings)(state.params)
    return state.after(problem, step, loss), loss


def _call_back(
    callback: Callback, state: State, loss: Array, seen: dict[str, Any], step: int
) -> None:
    if 0 <= int(state.stopped_at) < step:
        return
    stacked = jax.tree.map(lambda leaf: leaf[None], seen)
    segment = Segment(state, jnp.stack([loss, loss]), stacked)
    call_back(callback, segment, max(0, step - 1), step, np.array([step]))


class _Looks:
    """What observers saw, at one step after the other."""

    def __init__(self, settings: Settings, problem: Problem) -> None:
        self.seen: list[dict[str, Any]] = []
        self._observers = settings.observers
        self._initial = Snapshot(
            apply_fn=HashableCallable(jax.jit(settings.apply_fn)),
            params=problem.params,
            x=problem.x,
            y=problem.y,
            step=jnp.int32(0),
            loss_fn=settings.loss_fn,
            batch_size=settings.eval_batch_size,
        )

    def __call__(self, params: Params, step: int) -> dict[str, Any]:
        snapshot = self._initial
        if step:
            snapshot = snapshot.following(params, jnp.int32(step))
        # Copied, for the next step overwrites the parameters that observers may return.
        copied = functools.partial(jnp.array, copy=True)
        self.seen.append(
            {name: jax.tree.map(copied, fn(snapshot)) for name, fn in self._observers}
        )
        return self.seen[-1]


class _Reader:
    """Batches as checked arrays.

    Attributes:
        params: Parameters at step 0, as arrays that keep their type in loops.
        loss_dtype: Of the loss.
    """

    def __init__(
        self, apply_fn: ApplyFn, params: Params, loss_fn: LossFn, batches: object
    ) -> None:
        if not isinstance(batches, Iterable):
            raise TypeError(
                "`batches` must be an iterable of pairs (x, y), such as a generator; got "
                f"{brief(batches)}."
            )
        self.params, self._apply_fn, self._loss_fn = params, apply_fn, loss_fn
        self.loss_dtype: Any = None
        self._iterator = iter(batches)
        self._known: dict[Any, jax.ShapeDtypeStruct] = {}

    def first(self) -> tuple[Array, Array]:
        """The first batch."""
        batch = self.next(0)
        return jnp.asarray(batch["x"]), jnp.asarray(batch["y"])

    def next(self, step: int) -> dict[str, AnyArray]:
        """The batch of `step`, which is the next; `x` and `y`."""
        try:
            x, y = self._pair(step)
            like = np.shape(x), x.dtype, np.shape(y), y.dtype
            if like not in self._known:
                self.params, x, y, self.loss_dtype = checked_problem(
                    self._apply_fn, self.params, x, y, self._loss_fn
                )
                f = jax.eval_shape(self._apply_fn, self.params, x)
                self._known[like] = f
            else:
                f = self._known[like]
                check_batch("x", x)
                y = checked_targets(y, f.shape, f.dtype, self._loss_fn)
        except (TypeError, ValueError) as error:
            error.add_note(f"It was raised by the batch of step {step}.")
            raise
        return {"x": x, "y": y}

    def _pair(self, step: int) -> Sequence[AnyArray]:
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"`batches` must yield one pair for each of `num_steps`; it ended after "
                f"{step}. `itertools.cycle` repeats a list."
            ) from None
        is_pair = isinstance(batch, tuple | list) and len(batch) == 2
        if not is_pair or not all(hasattr(part, "dtype") for part in batch):
            raise TypeError(
                f"`batches` must yield pairs (x, y) of arrays; got {brief(batch)}."
            )
        return batch
