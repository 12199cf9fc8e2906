"""The loop over strips: tiles are computed here or by workers, and written at once."""

import collections
import contextlib
import ctypes
import functools
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax._brief import brief
from lazyjax.grams.kernels import GramKernel, GramShape, TileProgram
from lazyjax.grams.plan import GramPlan
from lazyjax.grams.strips import Strip, blocks_of, compute, strips, tiles_of
from lazyjax.grams.tile_files import Place, TileFiles
from lazyjax.progress import Progress

# Tiles that are being written while others are computed.
_WRITES = 2
# Tasks that are handed out before their results are asked for, and on which side of a
# matrix a task spans at most so large a share.
_MOST_TASKS = 512
_SHARES = 8


def write_tiles(
    files: TileFiles,
    places: Sequence[Place],
    computed: Generator[tuple[Place, np.ndarray], None, None],
    report: Progress,
) -> None:
    """Write tiles as they come.

    Raises:
        OSError: If one cannot be written. Those before it are kept.
    """
    writes: collections.deque[tuple[Place, Any]] = collections.deque()
    total, start = len(places), time.perf_counter()
    done, trimmed = 0, start

    def finish(most: int) -> None:
        nonlocal done, trimmed
        while len(writes) > most:
            place, write = writes.popleft()
            try:
                write.result()
            except Exception as error:
                raise OSError(
                    f"Tile {place} cannot be written to {files.path}: "
                    f"{_reason(error)}. The other tiles are kept: once that is mended, "
                    "the same call goes on from them."
                ) from error
            done += 1
            now = time.perf_counter()
            if now - trimmed > 1:  # of small tiles, each time would cost a third of all
                _hand_back_memory()
                trimmed = now
            speed = done / (now - start)
            left = (total - done) / speed
            report(
                done / total,
                f"tile {done} of {total}, {speed:.3g} tiles/s, {left:.0f} s left",
            )

    try:
        with contextlib.closing(computed):  # whatever happens, so that tasks are let go
            for place, tile in computed:
                finish(_WRITES - 1)
                writes.append((place, files.write(place, tile)))
        finish(0)
    finally:
        # Nothing is written any more once others may.
        for _, write in writes:
            write.exception()


def computed_here(
    kernel: GramKernel,
    program: TileProgram,
    shape: GramShape,
    batches: tuple[np.ndarray, np.ndarray],
    places: Sequence[Place],
    plan: GramPlan,
) -> Generator[tuple[Place, np.ndarray], None, None]:
    """Tiles computed in this process, a block row or several at a time."""
    blocks = blocks_of(batches, shape.tile)
    for strip in strips(places, plan.num_rows_held):
        yield from tiles_of(kernel, program, shape, blocks, strip, plan.memory)


def computed_by(
    executor: Executor,
    kernel: GramKernel,
    shape: GramShape,
    batches: tuple[np.ndarray, np.ndarray],
    places: Sequence[Place],
    plan: GramPlan,
    memory: int,
    name: str,
) -> Generator[tuple[Place, np.ndarray], None, None]:
    """Tiles computed by an executor, in the order in which its tasks end."""
    blocks = blocks_of(batches, shape.tile)
    num_blocks = max(max(place) for place in places) + 1
    side = min(plan.num_rows_held, max(1, num_blocks // _SHARES))
    tasks = iter(strips(places, side, side))
    bytes_of_task = plan.gigabytes * 1e9 / plan.num_tiles * side**2
    most = int(min(_MOST_TASKS, max(2, memory // bytes_of_task)))
    is_x64 = jax.dtypes.canonicalize_dtype(jnp.float64) == jnp.float64
    pending: set[Future] = set()

    def submit(strip: Strip) -> None:
        # A task has all that it needs: it may run anywhere.
        own = (
            {number: blocks[0][number] for number in strip.rows},
            {number: blocks[1][number] for number in strip.columns},
        )
        pending.add(
            executor.submit(compute, kernel, shape, own, strip, memory, name, is_x64)
        )

    try:
        for strip in tasks:
            submit(strip)
            while len(pending) >= most or any(task.done() for task in pending):
                yield from _ended(pending)
        while pending:
            yield from _ended(pending)
    finally:
        for task in pending:
            task.cancel()


def _ended(pending: set[Future]) -> Iterator[tuple[Place, np.ndarray]]:
    """Results of tasks that have ended, once there are any."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    pending -= done
    for task in done:
        yield from task.result()


def _hand_back_memory() -> None:
    """Give freed memory back to the system: glibc's allocator keeps it, in pieces."""
    # Without, a budget of 512 MiB was exceeded by 200, in the course of 300 tiles.
    if trim := _trim():
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _reason(error: Exception) -> str:
    """The part of a message of tensorstore that is for users."""
    text = str(error)
    for word in ("No space left on device", "Read-only file system", "File too large"):
        if word in text:
            return word.lower()
    return brief(text)
