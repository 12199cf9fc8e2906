"""A run in segments, kept on disk after each of them."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.dynamics.training.fingerprint import (
    differences,
    functions_of,
    shapes_digest,
    tree_digest,
    versions,
)
from lazyjax.dynamics.training.loop import (
    Segment,
    Settings,
    State,
    TrainingProblem,
    initial_state,
)
from lazyjax.dynamics.training.segments import (
    Callback,
    Record,
    call_back,
    segment_from,
)
from lazyjax.files import archive as _archive
from lazyjax.files.writing import check_folder
from lazyjax.progress import Listener
from lazyjax.typing import AnyArray

_FILE = "run.npz"

# Prefixes of the names of arrays.
_STATE = "state/"
_SEEN = "observations/"


def run_with_checkpoints(
    problem: TrainingProblem,
    observed_at: np.ndarray,
    settings: Settings,
    *,
    path: str | os.PathLike[str],
    every: int,
    listener: Listener | None = None,
    callback: Callback | None = None,
) -> Segment:
    """A whole run, of which every segment is kept, and none computed that was kept.

    Segments are the same whether or not they run in one process, and so is the result.

    Args:
        problem: Constants of the run.
        observed_at: Steps at which observers look.
        settings: As for the whole run.
        path: Folder of the checkpoints.
        every: Steps of a segment, a divisor of the number of steps.
        listener: Whom to report to.
        callback: Called for the observed steps of each segment, once that is kept.

    Returns:
        The run.

    Raises:
        TypeError: If values are not known, under `jax.jit` or `jax.vmap`.
        ValueError: If the folder holds another run, or a file that cannot be read, or
            cannot be written to.
    """
    num_steps = settings.num_steps
    file = RunFile(path, "training run")
    if file.step < num_steps:
        check_folder("checkpoint", Path(path))
    file.claim(fingerprint_of(problem, observed_at, settings, every))

    settings = dataclasses.replace(settings, num_steps=every)
    state = file.state(initial_state(problem, settings=settings))
    start, record = file.step, Record(file.loss, file.seen)
    while start < num_steps:
        segment = segment_from(
            problem, state, start, start + every, observed_at, settings, listener
        )
        state, start = segment.state, start + every
        record.add(segment, every)
        file.write(start, state, record.loss, record.seen)
        if callback is not None:
            call_back(callback, segment, start - every, start, observed_at)

    one = np.zeros(1, np.int32)
    structure = jax.tree.structure(
        jax.eval_shape(
            lambda: segment_from(problem, state, 0, every, one, settings).observations
        )
    )
    return record.whole(state, structure)


class RunFile:
    """The file in which one run is kept, and no other.

    Attributes:
        step: Updates that it holds; 0 if there is no file.
        loss: Losses so far.
        seen: Leaves of the observations so far, stacked.
        about: What else was written of the run.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self._file, self._kind = Path(path) / _FILE, kind
        self._fingerprint: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self._kept: Mapping[str, np.ndarray] = {}
        if os.path.exists(self._file):
            advice = "Delete it to start the run anew."
            self.about, self._kept = _archive.read_npz(self._file, kind, advice=advice)
        self.step: int = self.about.get("step", 0)
        self.loss = self._kept.get("loss", np.zeros(1))
        self.seen = _listed(self._kept, _SEEN)

    def claim(self, fingerprint: dict[str, Any]) -> None:
        """Say what run this is; a file of another is refused."""
        if self.about and self.about["fingerprint"] != fingerprint:
            others = differences(self.about["fingerprint"], fingerprint)
            raise ValueError(
                "`checkpoint` must be a folder of the same run; "
                f"{os.fspath(self._file.parent)!r} holds one with another "
                f"{' and another '.join(others)}. Choose another folder, or delete "
                f"{self._file} to start anew."
            )
        self._fingerprint = fingerprint

    def state(self, initial: State) -> State:
        """The state that was kept, of the types of `initial`; or else `initial`."""
        if not self.about:
            return initial
        leaves, tree = jax.tree.flatten(initial)
        pairs = zip(_listed(self._kept, _STATE), leaves, strict=True)
        return tree.unflatten([_as_jax(*pair) for pair in pairs])

    def write(
        self,
        step: int,
        state: State,
        loss: np.ndarray,
        seen: Iterable[np.ndarray],
        **about: Any,
    ) -> None:
        """Keep a run up to a step, in place of what was kept before."""
        arrays = {"loss": loss} | _named(seen, _SEEN)
        arrays |= _named(map(_as_numpy, jax.tree.leaves(state)), _STATE)
        about |= {"step": step, "fingerprint": self._fingerprint}
        _archive.write_npz(self._file, self._kind, about, arrays)


def fingerprint_of(
    problem: TrainingProblem, observed_at: np.ndarray, settings: Settings, every: int
) -> dict[str, Any]:
    """What the result depends on, by argument of `train`, as JSON can hold it."""
    try:
        arrays = {name: tree_digest(part) for name, part in problem._asdict().items()}
        functions = functions_of(
            settings.apply_fn,
            settings.loss_fn,
            lambda: settings.optimizer,
            dict(settings.observers),
            problem.params,
            problem.x,
            problem.y,
            batch_size=settings.batch_size,
        )
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            "`checkpoint` cannot be used under `jax.jit` or `jax.vmap`, where values "
            "are not known."
        ) from error
    return {
        "versions": versions(),
        "shapes": shapes_digest(problem.params, problem.x, problem.y),
        **functions,
        **arrays,
        "num_steps": settings.num_steps,
        "batch_size": settings.batch_size,
        "sampling": settings.sampling,
        "observe_at": observed_at.tolist(),
        "checkpoint_every": every,
    }


def _as_numpy(leaf: AnyArray) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)


def _as_jax(kept: np.ndarray, like: AnyArray) -> AnyArray:
    """What was kept, as an array of the kind of `like`."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(like)
        return jax.random.wrap_key_data(jnp.asarray(kept), impl=impl)
    return jnp.asarray(kept, like.dtype)


def _named(leaves: Iterable[np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}{index}": leaf for index, leaf in enumerate(leaves)}


def _listed(kept: Mapping[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in kept)
    return [kept[f"{prefix}{index}"] for index in range(count)]
