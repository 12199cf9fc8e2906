r"""Training on batches that come from outside, one by one."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from lazyjax._checks import check_at_least, check_function
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.problem import named_observers
from lazyjax.dynamics.snapshot import Observer, Snapshot
from lazyjax.dynamics.training.arguments import (
    as_limit,
    check_checkpoint,
    check_eval_batches,
    checked_optimizer,
    checked_steps,
)
from lazyjax.dynamics.training.checkpoint import RunFile, fingerprint_of
from lazyjax.dynamics.training.fingerprint import tree_digest
from lazyjax.dynamics.training.loop import (
    Segment,
    Settings,
    State,
    TrainingProblem,
    initial_state,
    updated,
)
from lazyjax.dynamics.training.reader import BatchReader
from lazyjax.dynamics.training.segments import Callback, call_back
from lazyjax.dynamics.training.train import Run
from lazyjax.files.writing import check_folder
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.progress import Progress, program_listener, tell
from lazyjax.typing import AnyArray, ApplyFn, LossFn, Params


def train_on_batches(
    apply_fn: ApplyFn,
    params: Params,
    batches: Iterable[Sequence[Any]],
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    loss_fn: LossFn = square_loss,
    target_loss: float | Float[AnyArray, ""] | None = None,
    max_loss: float | Float[AnyArray, ""] | None = None,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
    eval_batch_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool | Progress = False,
    callback: Callback | None = None,
) -> Run:
    r"""Training on batches that an iterator yields, for data larger than a device.

    Each batch is moved to the device when its turn comes, and takes one jitted step;
    while the device works, the next is fetched. All that `train` says of losses, stop
    rules and observers holds, but that observers are given the first batch as their
    data. Of a test set, `observers.on_inputs(observers.loss, x_test, y_test)` is the
    loss. Batches of a new shape compile the step once more.

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
        checkpoint: Folder to keep the run in, as in `train`. A call with the same arguments
            and an iterable that begins anew takes as many batches as the run had taken,
            which must be the same, and goes on with the next.
        checkpoint_every: Number of steps between checkpoints; must divide `num_steps`.
        progress: As in `train`.
        callback: As in `train`.

    Returns:
        The run. Its losses are those of each step's batch before the update; the last is
        that of the last batch after it.

    Raises:
        TypeError: If an argument is not of its kind, `batches` yields something else
            than pairs, or an array is not floating point.
        ValueError: If `batches` ends before `num_steps`, an array is empty, of the wrong
            shape or not finite, an argument is out of range, or `checkpoint` holds another
            run, or one on other batches.

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
    if checkpoint is not None or checkpoint_every is not None:
        check_checkpoint(checkpoint, checkpoint_every, num_steps)
    if callback is not None:
        check_function("callback", callback, "(step, metrics) -> None")
    reader = BatchReader(apply_fn, params, loss_fn, batches)
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
    problem = TrainingProblem(
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
    losses: list[Any] = []
    kept = None
    if checkpoint is not None and num_steps > 0:
        of_all = dataclasses.replace(settings, num_steps=num_steps)
        kept = _Kept(checkpoint, checkpoint_every, problem, steps, of_all, reader)
        state, losses = kept.resumed(state, look)
    observed = set(steps.tolist())
    with program_listener(progress, "train", num_steps) as listener:
        for step in range(len(losses), num_steps + 1):
            if kept is not None:
                kept.before(step, state, losses, look)
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
    losses += [losses[-1]] * (num_steps + 1 - len(losses))
    if kept is not None:
        kept.before(num_steps + 1, state, losses, look)
    loss = jnp.stack(losses)
    is_over = (state.stopped_at >= 0) & (jnp.arange(num_steps + 1) > state.stopped_at)
    return Run(
        params=state.params,
        loss=jnp.where(is_over, state.stopped_loss, loss),
        observed_at=jnp.asarray(steps, jnp.int32),
        observations=jax.tree.map(lambda *leaves: jnp.stack(leaves), *look.seen),
        stopped_at=state.stopped_at,
        diverged_at=state.diverged_at,
    )


def _loss_at(problem: TrainingProblem, settings: Settings) -> Callable[[Params], Array]:
    x, y = problem.x, problem.y
    return lambda params: settings.loss_fn(settings.apply_fn(params, x), y)


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
@with_quick_convolutions
def _step(
    problem: TrainingProblem, state: State, step: Array, *, settings: Settings
) -> tuple[State, Array]:
    loss_at = _loss_at(problem, settings)
    return updated(problem, state, step, loss_at, settings.optimizer)


@functools.partial(jax.jit, static_argnames="settings")
def _last(
    problem: TrainingProblem, state: State, step: Array, *, settings: Settings
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

    def __init__(self, settings: Settings, problem: TrainingProblem) -> None:
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
        self.seen.append(jax.tree.map(copied, self._inspect(snapshot)))
        return self.seen[-1]

    def _inspect(self, snapshot: Snapshot) -> dict[str, Any]:
        return {name: fn(snapshot) for name, fn in self._observers}

    def stacked(self) -> list[np.ndarray]:
        """Leaves of what was seen."""
        if not self.seen:
            return []
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *self.seen)
        return jax.tree.leaves(stacked)

    def restore(self, stacked: Sequence[np.ndarray]) -> None:
        """Take up what was seen in the run that goes on."""
        shapes = jax.eval_shape(lambda: self._inspect(self._initial))
        structure = jax.tree.structure(shapes)
        rows = zip(*stacked, strict=True)
        self.seen = [structure.unflatten(map(jnp.asarray, row)) for row in rows]


class _Kept:
    """A run that is kept on disk, with a digest of the batches that it has taken."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int | None,
        problem: TrainingProblem,
        observed_at: np.ndarray,
        settings: Settings,
        reader: BatchReader,
    ) -> None:
        assert every is not None
        self._every, self._reader = every, reader
        self._num_losses = settings.num_steps + 1
        self._file = RunFile(path, "training run on batches")
        if self._file.step < self._num_losses:
            check_folder("checkpoint", Path(path))
        parts = fingerprint_of(problem, observed_at, settings, every)
        for name in ("x", "y", "batch_size", "sampling"):
            del parts[name]
        first = reader.digest = tree_digest((problem.x, problem.y))
        self._file.claim(parts | {"batches": first})

    def resumed(self, initial: State, look: "_Looks") -> tuple[State, list[Any]]:
        """State and losses to go on from; the batches of the steps before are taken."""
        file = self._file
        if not file.step:
            return initial, []
        if file.step < self._num_losses:
            for step in range(1, file.step):
                self._reader.next(step)
            if self._reader.digest != file.about["batches"]:
                raise ValueError(
                    "`batches` must begin with those that the run in `checkpoint` has "
                    f"taken; among the first {file.step} there is another."
                )
        if file.seen:
            look.restore(file.seen)
        return file.state(initial), list(file.loss)

    def before(
        self, step: int, state: State, losses: Sequence[Any], look: "_Looks"
    ) -> None:
        """Keep the run before a step, or after all, where it is time."""
        is_over = step == self._num_losses
        is_due = step % self._every == 0 and step < self._num_losses - 1
        if step > self._file.step and (is_over or is_due):
            loss = np.stack(jax.device_get(list(losses)))
            digest = self._reader.digest
            self._file.write(step, state, loss, look.stacked(), batches=digest)
