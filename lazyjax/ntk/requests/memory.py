"""The memory that kernels may take, and refusals of what cannot fit into it."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

import jax
import jax.numpy as jnp

from lazyjax._brief import in_bytes
from lazyjax._checks import checked_bytes
from lazyjax.batches import num_rows
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Params

Devices: TypeAlias = frozenset[Any]  # of `jax.Device`


@dataclasses.dataclass(frozen=True)
class Budget:
    """Bytes that a kernel and what is needed to form it may take at once."""

    limit: int | None  # `None` if unknown, so that all is tried
    name: str  # what an error calls it

    def less(self, size: int) -> "Budget":
        """What is left beside so many bytes."""
        if self.limit is None:
            return self
        return dataclasses.replace(self, limit=max(self.limit - size, 0))

    def __str__(self) -> str:
        return f"{self.name}, which is {in_bytes(self.limit or 0)}"


def checked_memory(memory: int | str | None) -> int | None:
    """Bytes that `memory` states, if it does."""
    return None if memory is None else checked_bytes("memory", memory)


def budget_of(memory: int | str | None, devices: Devices) -> Budget:
    """The memory stated, or else what devices have free."""
    if memory is not None:
        return Budget(checked_memory(memory), "`memory`")
    return Budget(free_memory(devices), "free memory")


def devices_of(*trees: Params) -> Devices:
    """Devices that hold arrays: the first for NumPy's, all where that is not known."""
    found: set[Any] = set()
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array):
            try:
                found |= leaf.devices()
            except jax.errors.ConcretizationTypeError:
                return frozenset(jax.devices())
    return frozenset(found or jax.local_devices()[:1])


def free_memory(devices: Devices) -> int | None:
    """Bytes that devices have free together (processors share theirs), if known."""
    free = []
    for device in devices:
        stats = (device.memory_stats() if device.platform != "cpu" else None) or {}
        limit = stats.get("bytes_limit")
        free.append(limit and limit - stats.get("bytes_in_use", 0))
    if all(size is not None for size in free):
        return sum(free)
    if any(device.platform != "cpu" for device in devices):
        return None
    return _free_host_memory()


def _free_host_memory() -> int | None:
    try:
        text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def result_bytes(request: KernelRequest, num_kernels: int = 1) -> int:
    """Bytes of so many kernels."""
    entries = num_rows(request.x1) * num_rows(request.columns) * num_pairs(request)
    return num_kernels * entries * jnp.dtype(request.f.dtype).itemsize


def num_pairs(one: KernelRequest, two: KernelRequest | None = None) -> int:
    """Entries of a kernel, or of that of two functions, for each pair of examples."""
    counts = one.num_directions, (two or one).num_directions
    return {"full": counts[0] * counts[1], "diagonal": counts[0]}.get(one.pairs, 1)


def check_result_fits(
    request: KernelRequest, budget: Budget, *, num_kernels: int = 1
) -> None:
    """Check that so many kernels can be held at all."""
    size = result_bytes(request, num_kernels)
    if budget.limit is None or size <= budget.limit:
        return
    raise ValueError(
        f"The kernel must fit into {budget}; {_described(request)} takes "
        f"{in_bytes(size)}.{alternatives(request, size)}"
    )


def blocks_bytes(
    requests: Sequence[KernelRequest], pairs: Sequence[tuple[int, int]]
) -> int:
    """Bytes of the kernels of pairs of functions."""
    rows = [num_rows(request.x1) for request in requests]
    itemsize = max(jnp.dtype(request.f.dtype).itemsize for request in requests)
    return itemsize * sum(
        rows[i] * rows[j] * num_pairs(requests[i], requests[j]) for i, j in pairs
    )


def check_blocks_fit(
    requests: Sequence[KernelRequest],
    pairs: Sequence[tuple[int, int]],
    budget: Budget,
) -> None:
    """Check that the kernels of pairs of functions can be held at all."""
    size = blocks_bytes(requests, pairs)
    if budget.limit is not None and size > budget.limit:
        shapes = ", ".join(str(request.f.shape) for request in requests)
        raise ValueError(
            f"The blocks must fit into {budget}; those of functions with outputs "
            f"{shapes} take {in_bytes(size)}. Fewer examples take less, with the square "
            "of their number."
        )


def refuse_work(request: KernelRequest, method: str, budget: Budget) -> NoReturn:
    """Refuse a kernel of which not even one pair of examples can be formed."""
    size = result_bytes(request)
    cure = ' `method="structured"` may need less.' if method == "jacobian" else ""
    raise ValueError(
        f"There must be room in {budget}, for the kernel and what forms it; "
        f'{_described(request)} takes {in_bytes(size)}, and `method="{method}"` more '
        "than the rest for one example of each batch and one output at a time."
        f"{cure}{alternatives(request, size)}"
    )


def _described(request: KernelRequest) -> str:
    n1, n2 = num_rows(request.x1), num_rows(request.columns)
    form = f"`outputs={request.outputs!r}`"
    if request.along is not None:
        form = f"{request.num_directions} directions of each"
    return f"that of {n1} by {n2} examples with {request.f.shape[1]} outputs and {form}"


def alternatives(request: KernelRequest, size: int) -> str:
    """What may be asked for in place of a kernel of so many bytes."""
    ways = []
    if num_pairs(request) > 1:
        summed = size // num_pairs(request)
        ways.append(f'`outputs="trace"` takes {in_bytes(summed)}')
    some = min(10, request.num_directions // 2)
    if request.pairs == "full" and some:
        taken = in_bytes(size * some**2 // request.num_directions**2)
        ways.append(f"{some} outputs, as `outputs=range({some})`, take {taken}")
    ways += [
        "slices of the batches, as `x1[:8]`, give its tiles one by one",
        "`ntk_operator` multiplies by the kernel without forming it",
    ]
    return f" {'; '.join(ways)}."
