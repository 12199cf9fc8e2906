"""Checks that kernels fit into the memory of devices, before they are computed."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from lazyjax._brief import in_bytes
from lazyjax.batches import num_rows
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.trees import tree_size
from lazyjax.typing import Method, Params

Devices: TypeAlias = frozenset[Any]  # of `jax.Device`


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


def memory_of(devices: Devices) -> int | None:
    """Bytes that devices have together (processors share theirs); `None` if unknown."""
    limits = []
    for device in devices:
        stats = device.memory_stats() if device.platform != "cpu" else None
        limits.append((stats or {}).get("bytes_limit"))
    if all(limits):
        return sum(limits)
    if any(device.platform != "cpu" for device in devices):
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def check_result_fits(
    request: KernelRequest, devices: Devices, *, num_kernels: int = 1
) -> None:
    """Check that devices can hold so many kernels at all."""
    n1, n2 = num_rows(request.x1), num_rows(request.columns)
    outputs, num_outputs = request.outputs, request.f.shape[1]
    num_pairs = _num_pairs(request, request)
    itemsize = jnp.dtype(request.f.dtype).itemsize
    size = num_kernels * n1 * n2 * num_pairs * itemsize
    memory = memory_of(devices)
    if memory is None or size <= memory:
        return
    smaller = f'`outputs="trace"` takes {in_bytes(size // num_pairs)}, '
    raise ValueError(
        f"The kernel must fit into memory, which is {in_bytes(memory)}; that of {n1} by "
        f"{n2} examples with {num_outputs} outputs and `outputs={outputs!r}` takes "
        f"{in_bytes(size)}. {smaller if num_pairs > 1 else ''}fewer examples at a time "
        "take in proportion, and `ntk_operator` multiplies by the kernel without "
        "forming it."
    )


def check_blocks_fit(
    requests: Sequence[KernelRequest],
    pairs: Sequence[tuple[int, int]],
    devices: Devices,
) -> None:
    """Check that devices can hold the kernels of pairs of functions at all."""
    rows = [num_rows(request.x1) for request in requests]
    itemsize = max(jnp.dtype(request.f.dtype).itemsize for request in requests)
    size = itemsize * sum(
        rows[i] * rows[j] * _num_pairs(requests[i], requests[j]) for i, j in pairs
    )
    memory = memory_of(devices)
    if memory is not None and size > memory:
        shapes = ", ".join(str(request.f.shape) for request in requests)
        raise ValueError(
            f"The blocks must fit into memory, which is {in_bytes(memory)}; those of "
            f"functions with outputs {shapes} take {in_bytes(size)}. Fewer examples take "
            "less, with the square of their number."
        )


def _num_pairs(one: KernelRequest, two: KernelRequest) -> int:
    """Entries of the kernel of two functions for each pair of examples."""
    counts = one.f.shape[1], two.f.shape[1]
    return {"full": counts[0] * counts[1], "diagonal": counts[0]}.get(
        str(one.outputs), 1
    )


def check_work_fits(
    request: KernelRequest,
    method: Method,
    num_examples: int,
    num_directions: int,
    devices: Devices,
) -> None:
    """Check that devices can hold what a method needs beside the kernel."""
    # Examples, of both batches, and directions in output space are those taken at a
    # time.
    size = num_directions * jnp.dtype(request.f.dtype).itemsize
    if method == "jacobian":
        size *= num_examples * tree_size(request.params)
    elif method == "vjp":
        size *= tree_size(request.params)
    else:
        size *= num_examples * request.f.shape[1]
    memory = memory_of(devices)
    if memory is None or size <= memory:
        return
    cure = ' or `method="structured"`' if method == "jacobian" else ""
    raise ValueError(
        f'`method="{method}"` must hold {in_bytes(size)} at once, for {num_examples} '
        f"examples and {num_directions} outputs at a time, and memory is "
        f"{in_bytes(memory)}. Take fewer examples at a time{cure}."
    )
