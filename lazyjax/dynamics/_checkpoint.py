"""A run in segments, kept on disk after each of them."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.dynamics._loop import (
    Problem,
    Segment,
    Settings,
    State,
    initial_state,
    run_segment,
)
from lazyjax.typing import AnyArray


def run_with_checkpoints(
    problem: Problem,
    observed_at: np.ndarray,
    settings: Settings,
    *,
    path: str | os.PathLike[str],
    every: int,
) -> Segment:
    """A whole run, of which every segment is kept, and none computed that was kept.

    Segments are the same whether or not they run in one process, and so is the result.

    Args:
        problem: Constants of the run.
        observed_at: Steps at which observers look.
        settings: As for the whole run.
        path: Folder of the checkpoints.
        every: Steps of a segment, a divisor of the number of steps.

    Returns:
        The run.

    Raises:
        TypeError: If values are not known, under `jax.jit` or `jax.vmap`.
        ValueError: If the folder holds another run.
    """
    num_steps = settings.num_steps
    fingerprint = _fingerprint(problem, observed_at, settings, every)
    settings = dataclasses.replace(settings, num_steps=every)
    state = initial_state(problem, settings=settings)
    state_leaves, state_tree = jax.tree.flatten(state)
    start, losses = 0, np.zeros(1)
    seen: list[np.ndarray] = []
    # An import of several seconds, which only those who keep checkpoints need.
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False
    )
    with ocp.CheckpointManager(Path(path).absolute(), options=options) as manager:
        latest = manager.latest_step()
        if latest is not None:
            kept = manager.restore(latest, args=ocp.args.StandardRestore())
            if np.asarray(kept["fingerprint"]).tobytes() != fingerprint:
                raise ValueError(
                    "`checkpoint` must be a folder of the same run; "
                    f"{os.fspath(path)!r} holds one with other data, parameters or "
                    "settings. Choose another folder, or remove it."
                )
            leaves = zip(_unlisted(kept["state"]), state_leaves, strict=True)
            state = state_tree.unflatten([_as_jax(*pair) for pair in leaves])
            start, losses = latest, np.asarray(kept["loss"])
            seen = _unlisted(kept.get("observations", {}))

        while start < num_steps:
            segment = _segment(problem, state, start, observed_at, settings)
            state, start = segment.state, start + every
            losses = np.concatenate([losses[:-1], np.asarray(segment.loss)])
            new = [np.asarray(leaf) for leaf in jax.tree.leaves(segment.observations)]
            if new:
                pairs = zip(seen or [leaf[:0] for leaf in new], new, strict=True)
                seen = [np.concatenate(pair) for pair in pairs]
            kept = {
                "fingerprint": np.frombuffer(fingerprint, np.uint8),
                "state": _listed(map(_as_numpy, jax.tree.leaves(state))),
                "loss": losses,
                # Orbax keeps no empty arrays.
                **({"observations": _listed(seen)} if seen else {}),
            }
            manager.save(start, args=ocp.args.StandardSave(kept))

    one = np.zeros(1, np.int32)
    structure = jax.tree.structure(
        jax.eval_shape(lambda: _segment(problem, state, 0, one, settings).observations)
    )
    observations = structure.unflatten([jnp.asarray(leaf) for leaf in seen])
    return Segment(state, jnp.asarray(losses), observations)


def _segment(
    problem: Problem,
    state: State,
    start: int,
    observed_at: np.ndarray,
    settings: Settings,
) -> Segment:
    """The segment from `start`, to which observations at its end belong, not its start."""
    stop = start + settings.num_steps
    is_inside = (observed_at > start) & (observed_at <= stop)
    inside = observed_at[is_inside | ((observed_at == 0) & (start == 0))]
    return run_segment(
        problem,
        state,
        jnp.asarray(start, jnp.int32),
        jnp.asarray(inside, jnp.int32),
        settings=settings,
        sees_start=bool(np.any(inside == 0)),
        sees_end=bool(np.any(inside == stop)),
    )


def _fingerprint(
    problem: Problem, observed_at: np.ndarray, settings: Settings, every: int
) -> bytes:
    """A number that two runs share only if all their arrays and numbers are the same."""
    digest = hashlib.sha256()
    numbers = (settings.num_steps, settings.batch_size, settings.sampling, every)
    names = tuple(name for name, _ in settings.observers)
    digest.update(repr((numbers, names, observed_at.tolist())).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(problem):
        try:
            array = _as_numpy(leaf)
        except jax.errors.TracerArrayConversionError as error:
            raise TypeError(
                "`checkpoint` cannot be used under `jax.jit` or `jax.vmap`, where "
                "values are not known."
            ) from error
        digest.update(repr((jax.tree_util.keystr(path), array.dtype)).encode())
        digest.update(repr(array.shape).encode() + array.tobytes())
    return digest.digest()


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


def _listed(leaves: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(index): leaf for index, leaf in enumerate(leaves)}


def _unlisted(kept: Mapping[str, Any]) -> list[np.ndarray]:
    return [np.asarray(kept[str(index)]) for index in range(len(kept))]
