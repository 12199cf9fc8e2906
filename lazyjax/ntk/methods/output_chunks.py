"""Kernels of many outputs, some of the outputs at a time."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.ntk.memory import (
    Devices,
    check_result_fits,
    check_work_fits,
)
from lazyjax.trees import tree_size
from lazyjax.typing import ApplyFn, Method, Outputs, Params

# Where cotangents of all outputs and examples hold more, outputs are taken in chunks...
_MANY_BYTES = 2**27
# ...whose cotangents hold so much: less is quicker, but the forward pass is each chunk's.
_CHUNK_BYTES = 2**24


def outputs_at_a_time(
    outputs: Outputs,
    f: jax.ShapeDtypeStruct,
    num_examples: int,
    num_params: int,
    method: Method,
) -> int:
    """How many directions in output space are taken at a time.

    Args:
        outputs: Form of the kernel.
        f: Outputs of the network, by shape.
        num_examples: Examples that are taken at a time.
        num_params: Number of parameters that count.
        method: "jacobian" holds all gradients too.

    Returns:
        All that there are, unless their cotangents would take much memory and the form
        of the kernel needs no pairs of different outputs.
    """
    num_outputs = f.shape[1]
    if outputs == "full":
        return num_outputs
    if outputs not in ("diagonal", "trace"):
        return 1
    of_one = num_examples * max(4, jnp.dtype(f.dtype).itemsize)
    if of_one * num_outputs**2 <= _MANY_BYTES:
        return num_outputs
    held = of_one * (num_outputs + (num_params if method == "jacobian" else 0))
    most = max(1, _CHUNK_BYTES // held)
    return math.ceil(num_outputs / math.ceil(num_outputs / most))


def in_chunks(
    kernels_of: Callable[[ApplyFn], Any],
    apply_fn: ApplyFn,
    params: Params,
    x1: Array,
    x2: Array | None,
    *,
    outputs: Outputs,
    method: Method,
    devices: Devices,
    num_kernels: int = 1,
    num_at_once: int | None = None,
) -> Any:
    """Kernels of a network from those of parts of its outputs, if memory can hold them.

    Args:
        kernels_of: Kernels, one or a pytree of them, of a network of any outputs.
        apply_fn: Network `(params, x) -> f`.
        params: Its parameters.
        x1: First batch.
        x2: Second batch, or `None`.
        outputs: Form of the kernels.
        method: What `kernels_of` does.
        devices: What is to hold the kernels.
        num_kernels: How many there are.
        num_at_once: Examples that are taken at a time; `None` means all.

    Returns:
        The kernels of the whole network.
    """
    f = jax.eval_shape(apply_fn, params, x1)
    num_outputs = f.shape[1]
    if num_at_once is None:
        num_at_once = x1.shape[0] + (0 if x2 is None else x2.shape[0])
    size = outputs_at_a_time(outputs, f, num_at_once, tree_size(params), method)
    check_result_fits(x1, x2, f, outputs, devices, num_kernels=num_kernels)
    check_work_fits(method, params, num_at_once, size, f, devices)
    if outputs not in ("diagonal", "trace") or size >= num_outputs:
        return kernels_of(apply_fn)
    number = math.ceil(num_outputs / size)

    def chunk(start: Array) -> Any:
        def some(params: Params, x: Array) -> Array:
            f = apply_fn(params, x)
            # Outputs that are made up to fill the last chunk are constant.
            f = jnp.pad(f, ((0, 0), (0, number * size - num_outputs)))
            return lax.dynamic_slice_in_dim(f, start, size, axis=1)

        return kernels_of(some)

    starts = size * jnp.arange(number)
    if outputs == "diagonal":
        kernels = lax.map(chunk, starts)
        return jax.tree.map(lambda k: _joined(k)[..., :num_outputs], kernels)
    zeros = jax.tree.map(
        lambda k: jnp.zeros(k.shape, k.dtype), jax.eval_shape(chunk, starts[0])
    )
    add = lambda total, start: (jax.tree.map(jnp.add, total, chunk(start)), None)
    return lax.scan(add, zeros, starts)[0]


def _joined(kernels: Array) -> Array:
    """Kernels `(number, ..., size)` as one of all outputs, the last axis."""
    return jnp.moveaxis(kernels, 0, -2).reshape(*kernels.shape[1:-1], -1)
