"""A run in segments, between which the host may act: keep it, or call back."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.dynamics.training.loop import (
    Segment,
    Settings,
    State,
    TrainingProblem,
    run_segment,
)
from lazyjax.files.tables import OBSERVED, observed
from lazyjax.progress import Listener

# Called with the step, and numbers by name, as loggers take them.
Callback: TypeAlias = Callable[[int, Mapping[str, float]], None]


def segment_from(
    problem: TrainingProblem,
    state: State | None,
    start: int,
    stop: int,
    observed_at: np.ndarray,
    settings: Settings,
    listener: Listener | None = None,
) -> Segment:
    """The segment from `start` to `stop`, at whose end observers look, not at its start.

    Args:
        problem: Constants of the run.
        state: State at `start`; `None` is that of step 0.
        start: Number of updates so far.
        stop: Number of updates after it, at most `settings.num_steps` more.
        observed_at: Steps of the whole run at which observers look.
        settings: What is compiled.
        listener: Whom to report to.

    Returns:
        The segment, with losses of `settings.num_steps` steps.
    """
    inside = _observed_in(start, stop, observed_at)
    is_whole = stop - start == settings.num_steps
    return run_segment(
        problem,
        state,
        jnp.asarray(start, jnp.int32),
        jnp.asarray(inside, jnp.int32),
        settings=settings,
        sees_start=bool(np.any(inside == 0)),
        sees_end=bool(np.any(inside == stop)),
        length=None if is_whole else jnp.asarray(stop - start, jnp.int32),
        listener=listener,
    )


def _observed_in(start: int, stop: int, observed_at: np.ndarray) -> np.ndarray:
    is_inside = (observed_at > start) & (observed_at <= stop)
    return observed_at[is_inside | ((observed_at == 0) & (start == 0))]


class Record:
    """Losses and observations of all segments so far, on the host.

    Attributes:
        loss: One number for each step, from before the first to after the last.
        seen: Leaves of the observations, stacked.
    """

    def __init__(self, loss: np.ndarray, seen: list[np.ndarray]) -> None:
        self.loss = loss
        self.seen = seen

    def add(self, segment: Segment, length: int) -> None:
        """Add a segment of `length` steps; its first loss is the last so far."""
        loss = np.asarray(segment.loss)[: length + 1]
        self.loss = np.concatenate([self.loss[:-1].astype(loss.dtype), loss])
        new = [np.asarray(leaf) for leaf in jax.tree.leaves(segment.observations)]
        if new:
            pairs = zip(self.seen or [leaf[:0] for leaf in new], new, strict=True)
            self.seen = [np.concatenate(pair) for pair in pairs]

    def whole(self, state: State, structure: Any) -> Segment:
        """The whole run as one segment, with observations of this structure."""
        observations = structure.unflatten(map(jnp.asarray, self.seen))
        return Segment(state, jnp.asarray(self.loss), observations)


def run_with_callback(
    problem: TrainingProblem,
    observed_at: np.ndarray,
    settings: Settings,
    callback: Callback,
    *,
    listener: Listener | None = None,
) -> Segment:
    """A whole run, in segments from one observed step to the next.

    Args:
        problem: Constants of the run.
        observed_at: Steps at which observers look.
        settings: As for the whole run.
        callback: Called at each of these steps, until the run has stopped.
        listener: Whom to report to.

    Returns:
        The run.

    Raises:
        TypeError: If values are not known, under `jax.jit` or `jax.vmap`.
    """
    stops = np.unique([*observed_at, settings.num_steps])
    ends = stops[stops > 0] if settings.num_steps else stops
    starts = [0, *ends[:-1].tolist()]
    settings = dataclasses.replace(settings, num_steps=int(np.max(ends - starts)))
    record, state, structure = Record(np.zeros(1), []), None, None
    for start, stop in zip(starts, ends.tolist(), strict=True):
        segment = segment_from(
            problem, state, start, stop, observed_at, settings, listener
        )
        state = segment.state
        with _known_values():
            record.add(segment, stop - start)
        if _observed_in(start, stop, observed_at).size:
            structure = jax.tree.structure(segment.observations)
        call_back(callback, segment, start, stop, observed_at)
    assert state is not None
    return record.whole(state, structure)


def call_back(
    callback: Callback,
    segment: Segment,
    start: int,
    stop: int,
    observed_at: np.ndarray,
) -> None:
    """Call back for each observed step of a segment, but not beyond the run's end.

    Args:
        callback: The function.
        segment: What came of the steps from `start` to `stop`.
        start: Its first step.
        stop: Its last.
        observed_at: Steps of the whole run at which observers look.
    """
    stopped_at = int(segment.state.stopped_at)
    seen = observed(segment.observations, (OBSERVED,))
    loss = np.asarray(segment.loss)
    for index, step in enumerate(_observed_in(start, stop, observed_at).tolist()):
        before = observed_at[observed_at < step]
        if 0 <= stopped_at <= (before[-1] if before.size else -1):
            return
        numbers = {
            name: float(array[index])
            for name, (axes, array) in seen.items()
            if len(axes) == 1 and array.dtype.kind in "biuf"
        }
        try:
            callback(step, {"loss": float(loss[step - start]), **numbers})
        except Exception as error:
            error.add_note(f"It was raised by `callback` at step {step} of `train`.")
            raise


@contextlib.contextmanager
def _known_values() -> Iterator[None]:
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            "`callback` cannot be used under `jax.jit`, `jax.vmap` or `jax.grad`, where "
            "values are not known. Call it with what `observe` has recorded, afterwards."
        ) from error
