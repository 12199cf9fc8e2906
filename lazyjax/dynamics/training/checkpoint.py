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
    Problem,
    Segment,
    Settings,
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
_KIND = "training run"

# Prefixes of the names of arrays.
_STATE = "state/"
_SEEN = "observations/"


def run_with_checkpoints(
    problem: Problem,
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
    file = Path(path) / _FILE
    start, record = 0, Record(np.zeros(1), [])
    about, kept = {}, {}
    if os.path.exists(file):
        advice = "Delete it to start the run anew."
        about, kept = _archive.read_npz(file, _KIND, advice=advice)
        start = about["step"]
    if start < num_steps:
        check_folder("checkpoint", Path(path))
    fingerprint = _fingerprint(problem, observed_at, settings, every)
    if about:
        _check_same(file, about["fingerprint"], fingerprint)

    settings = dataclasses.replace(settings, num_steps=every)
    state = initial_state(problem, settings=settings)
    if about:
        leaves, tree = jax.tree.flatten(state)
        pairs = zip(_listed(kept, _STATE), leaves, strict=True)
        state = tree.unflatten([_as_jax(*pair) for pair in pairs])
        record = Record(kept["loss"], _listed(kept, _SEEN))
    while start < num_steps:
        segment = segment_from(
            problem, state, start, start + every, observed_at, settings, listener
        )
        state, start = segment.state, start + every
        record.add(segment, every)
        arrays = {"loss": record.loss} | _named(record.seen, _SEEN)
        arrays |= _named(map(_as_numpy, jax.tree.leaves(state)), _STATE)
        about = {"step": start, "fingerprint": fingerprint}
        _archive.write_npz(file, _KIND, about, arrays)
        if callback is not None:
            call_back(callback, segment, start - every, start, observed_at)

    one = np.zeros(1, np.int32)
    structure = jax.tree.structure(
        jax.eval_shape(
            lambda: segment_from(problem, state, 0, every, one, settings).observations
        )
    )
    return record.whole(state, structure)


def _fingerprint(
    problem: Problem, observed_at: np.ndarray, settings: Settings, every: int
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


def _check_same(file: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found != wanted:
        raise ValueError(
            "`checkpoint` must be a folder of the same run; "
            f"{os.fspath(file.parent)!r} holds one with another "
            f"{' and another '.join(differences(found, wanted))}. Choose another "
            f"folder, or delete {file} to start anew."
        )


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
