"""A sweep at work: one program for each width, called for a chunk of members at a time."""

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
from jaxtyping import Array

from lazyjax._brief import in_bytes
from lazyjax.files.archive import Arrays
from lazyjax.files.writing import check_folder
from lazyjax.progress import Progress
from lazyjax.sweeps.checkpoint import Checkpoint
from lazyjax.sweeps.csv_files import flat
from lazyjax.sweeps.ensemble import Ensemble, History
from lazyjax.sweeps.program import MEMBERS, Members, train_chunk
from lazyjax.sweeps.result import Sweep

# The arrays of all members that a core trains side by side are to fit into its cache.
_CACHE_BYTES = 2**19

# Halves the time of compiling what initializes, which then runs for milliseconds.
_QUICK_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


class _Program(NamedTuple):
    init: jax.stages.Compiled
    train: jax.stages.Compiled
    chunk_size: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Execution:
    """An ensemble on some devices, within some memory."""

    ensemble: Ensemble

    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]
    memory: int  # bytes for programs, on each device
    # Largest number of members of a chunk; `None` means as many as fit into the cache
    # of a core, or into half the memory of an accelerator.
    chunk_size: int | None

    def run(self, checkpoint: Checkpoint | None, report: Progress) -> Sweep:
        """The result, after training the members that the checkpoint has no records of."""
        history: History = {}
        if checkpoint is not None:
            for members, records in checkpoint.read():
                _record(history, members, records)
        widths = [
            width
            for width in reversed(self.ensemble.axes["width"])  # the longest work first
            if any(m not in history for m in self.ensemble.members_of(width))
        ]
        if checkpoint is not None and widths:
            check_folder("checkpoint", checkpoint.folder)
        report(0.0, "compiling")
        programs = self._compile(widths)
        chunks = [
            (width, chunk)
            for width, program in programs.items()
            for chunk in _split(self.ensemble.members_of(width), program.chunk_size)
            if any(member not in history for member in chunk)
        ]
        for members, records in self._train(programs, chunks, report):
            _record(history, members, records)
            if checkpoint is not None:
                checkpoint.write(members, records)
        return self.ensemble.collect(history)

    @property
    def _num_workers(self) -> int:
        """Chunks that are trained at the same time: on a processor, one for each core."""
        is_processor = self.devices[0].platform == "cpu" and len(self.devices) == 1
        return _num_cores() if is_processor else 1

    # --- compiling ---

    def _compile(self, widths: Sequence[int]) -> dict[int, _Program]:
        """Programs that fit into memory; traced one by one, compiled side by side."""
        programs = {}
        share = self.memory // self._num_workers
        with _threads(_num_cores()) as submit:
            futures = {w: self._lower(w, self._first_size(w), submit) for w in widths}
            for width in widths:
                program = futures[width].result()
                while program.num_bytes > share and program.chunk_size > self._least:
                    size = int(program.chunk_size * share / program.num_bytes)
                    size = min(size, program.chunk_size - self._least)
                    program = self._lower(width, size, submit).result()
                if program.num_bytes > self.memory:
                    raise ValueError(
                        "`memory` must hold one member at least, which needs "
                        f"{in_bytes(program.num_bytes)}; got {in_bytes(self.memory)}."
                    )
                programs[width] = program
        return programs

    @property
    def _least(self) -> int:
        """Members of the smallest chunk, which has one for each device."""
        return len(self.devices)

    def _first_size(self, width: int) -> int:
        """Members of a chunk by estimate, evened out so that all chunks are full."""
        room = self.memory // self._num_workers
        is_cpu = self.devices[0].platform == "cpu"
        room = min(_CACHE_BYTES, room) if is_cpu else room // 2
        per_device = math.ceil(math.prod(self.ensemble.shape[1:]) / self._least)
        largest = min(
            room // self.ensemble.member_bytes(width),
            math.ceil(per_device / self._num_workers),
            (self.chunk_size or sys.maxsize) // self._least,
        )
        if is_cpu and self.ensemble.networks[width].architecture.is_convolutional:
            # Side by side, members are groups of each convolution, which is slower.
            largest = 1
        num_chunks = math.ceil(per_device / max(1, largest))
        return math.ceil(per_device / num_chunks) * self._least

    def _lower(
        self, width: int, chunk_size: int, submit: Callable[..., Future]
    ) -> Future[_Program]:
        """The programs of one width, which are compiled in a thread."""
        # They are traced in this thread, whose settings of JAX hold for them.
        chunk_size = max(1, chunk_size // self._least) * self._least
        network = self.ensemble.networks[width]
        init = jax.jit(network.init).lower(*self._init_arguments(width, 0))
        number: Any = jax.ShapeDtypeStruct((), self.ensemble.y.dtype)
        members = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (chunk_size, *leaf.shape), leaf.dtype, sharding=self._shardings[0]
            ),
            Members(init.out_info, number, number),
        )
        train = train_chunk.lower(
            members,
            *self._shared_data,
            network=network,
            settings=self.ensemble.settings,
            mesh=self._mesh,
        )
        options = _QUICK_COMPILE if self.devices[0].platform == "cpu" else None

        def compile_both() -> _Program:
            program = train.compile()
            return _Program(
                init.compile(options), program, chunk_size, _num_bytes(program)
            )

        return submit(compile_both)

    # --- calling ---

    def _train(
        self,
        programs: Mapping[int, _Program],
        chunks: Sequence[tuple[int, np.ndarray]],
        report: Progress,
    ) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Members and records of each chunk, as they are done."""

        def train(width: int, chunk: np.ndarray) -> Arrays:
            program = programs[width]
            start = lambda seed: program.init(*self._init_arguments(width, seed))
            members = self.ensemble.select(chunk, lambda s: jax.device_get(start(s)))
            members = jax.device_put(members, self._shardings[0])
            return flat(jax.device_get(program.train(members, *self._shared_data)))

        largest = max((program.num_bytes for program in programs.values()), default=1)
        num_workers = min(self._num_workers, self.memory // max(1, largest))
        sizes = [np.unique(chunk).size for _, chunk in chunks]
        work = np.array([width for width, _ in chunks]) * sizes
        with _threads(num_workers) as submit:
            futures = {submit(train, *each): each for each in chunks}
            for count, future in enumerate(as_completed(futures)):
                report(
                    work[:count].sum() / work.sum(),
                    f"training width {chunks[count][0]}: "
                    f"{sum(sizes[:count])}/{sum(sizes)} members",
                )
                yield futures[future][1], future.result()
        report(1.0, f"{sum(sizes)}/{sum(sizes)} members")

    def _init_arguments(self, width: int, seed: int) -> tuple[Array, Array]:
        key = self.ensemble.member_key(width, seed)
        return jax.device_put((key, self.ensemble.x), self.devices[0])

    @functools.cached_property
    def _mesh(self) -> Mesh | None:
        if len(self.devices) == 1:
            return None
        return Mesh(np.array(self.devices), (MEMBERS,))

    @functools.cached_property
    def _shardings(self) -> tuple[Sharding, Sharding]:
        """Of what each member has, and of what all share."""
        if self._mesh is None:
            alone = SingleDeviceSharding(self.devices[0])
            return alone, alone
        return (
            NamedSharding(self._mesh, PartitionSpec(MEMBERS)),
            NamedSharding(self._mesh, PartitionSpec()),
        )

    @functools.cached_property
    def _shared_data(self) -> tuple[Array, Array]:
        return jax.device_put((self.ensemble.x, self.ensemble.y), self._shardings[1])


def _record(history: History, members: np.ndarray, records: Arrays) -> None:
    for row, member in enumerate(members.tolist()):
        rows = {name: np.asarray(array[row]) for name, array in records.items()}
        history[member] = rows


def _split(members: np.ndarray, size: int) -> np.ndarray:
    """Chunks of one size, along the first axis; the last repeats a member to fill up."""
    num_missing = -len(members) % size
    filled = np.concatenate([members, np.repeat(members[-1:], num_missing)])
    return filled.reshape(-1, size)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _num_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that a call occupies on each device, as its compiler says; 0 if it does not."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
    )


@contextmanager
def _threads(number: int) -> Iterator[Callable[..., Future]]:
    """Function `submit(fn, *args)` of a pool of threads, which are joined at the end."""
    # After an error or an interrupt they are not: what they compile or run cannot be cut
    # short, and nobody is to wait for it.
    is_x64 = jnp.result_type(float) == jnp.float64

    def call(fn: Callable[..., Any], *args: Any) -> Any:
        # Whether 64-bit types are enabled is a matter of each thread.
        with jax.enable_x64(is_x64):
            return fn(*args)

    pool = ThreadPoolExecutor(number)
    is_done = False
    try:
        yield functools.partial(pool.submit, call)
        is_done = True
    finally:
        pool.shutdown(wait=is_done, cancel_futures=True)
