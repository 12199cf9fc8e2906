"""Compiling programs and calling them, several at a time, within memory."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.files.archive import Arrays
from lazyjax.sweeps.files import flat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A program and the calls to make of it.

    Attributes:
        lower: Lowers the program, and those that its arguments are made by.
        arguments: From the members of a call and the latter programs to what the
            former takes.
        options: Of the compiler, for the latter.
        calls: Members of each call, by index.
        smaller: The job in calls that need a share of the memory, below 1; `None` if
            there are no smaller ones.
    """

    lower: Callable[[], tuple[jax.stages.Lowered, list[jax.stages.Lowered]]]
    arguments: Callable[[np.ndarray, list[jax.stages.Compiled]], tuple[Any, ...]]
    options: dict[str, Any] | None
    calls: Sequence[np.ndarray]
    smaller: Callable[[float], "Job | None"]


@dataclasses.dataclass(frozen=True)
class _Compiled:
    job: Job
    program: jax.stages.Compiled
    others: list[jax.stages.Compiled]
    num_bytes: int


def run_jobs(
    jobs: Sequence[Job], *, memory: int, num_workers: int
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """Results of all calls, as they are done; programs compile while others run.

    Args:
        jobs: The work; what comes first is begun first.
        memory: Bytes for all calls that run at the same time.
        num_workers: Largest number of such calls.

    Yields:
        The members of a call and what was recorded of each, by name.

    Raises:
        ValueError: If the smallest call needs more memory.
    """
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = _Room(memory)
    is_x64 = jnp.result_type(float) == jnp.float64

    def reporting(fn: Callable[..., Any], *args: Any) -> None:
        try:
            # Whether 64-bit types are enabled is a matter of each thread.
            with jax.enable_x64(is_x64):
                events.put(fn(*args))
        except BaseException as error:
            events.put(error)

    def compiled(
        job: Job, lowered: jax.stages.Lowered, others: list[jax.stages.Lowered]
    ) -> _Compiled:
        made = [other.compile(job.options) for other in others]
        program = lowered.compile()
        return _Compiled(job, program, made, _bytes_of(program))

    def called(ready: _Compiled, call: np.ndarray) -> tuple[np.ndarray, Arrays]:
        with room.taken(ready.num_bytes):
            arguments = ready.job.arguments(call, ready.others)
            return call, flat(jax.device_get(ready.program(*arguments)))

    # Fewer bytes than this, and all workers are busy.
    share = memory // num_workers
    num_left = sum(len(job.calls) for job in jobs)
    waiting = list(jobs)[::-1]
    compilers, workers = (ThreadPoolExecutor(num_workers) for _ in range(2))
    try:
        while num_left:
            if waiting:
                job = waiting.pop()
                compilers.submit(reporting, compiled, job, *job.lower())
            if waiting and events.empty():
                continue
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if not isinstance(event, _Compiled):
                num_left -= 1
                yield event
                continue
            smaller = event.job.smaller(share / max(event.num_bytes, 1))
            if event.num_bytes > share and smaller is not None:
                num_left += len(smaller.calls) - len(event.job.calls)
                waiting.append(smaller)
            elif event.num_bytes > memory:
                raise ValueError(
                    "`memory` must hold one member at least, which needs "
                    f"{event.num_bytes / 2**20:.1f} MiB; got "
                    f"{memory / 2**20:.1f} MiB."
                )
            else:
                for call in event.job.calls:
                    workers.submit(reporting, called, event, call)
    finally:
        # A program that compiles or runs cannot be cut short. When all is done, none
        # does; after an error or an interrupt, nobody is to wait for it.
        for pool in (compilers, workers):
            pool.shutdown(wait=not num_left, cancel_futures=True)


def _bytes_of(compiled: jax.stages.Compiled) -> int:
    """Bytes that a call occupies on each device, as its compiler says; 0 if it does not."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
    )


class _Room:
    """Memory that calls take and give back; a call waits until there is enough."""

    def __init__(self, num_bytes: int) -> None:
        self._free = num_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= num_bytes)
            self._free -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._changed.notify_all()
