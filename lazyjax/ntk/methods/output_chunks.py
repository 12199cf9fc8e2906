"""Kernels of many outputs, some of the outputs at a time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.batches import num_rows
from lazyjax.ntk.requests.memory import Devices, check_result_fits, check_work_fits
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.trees import tree_size
from lazyjax.typing import Inputs, Method, Params

# Where cotangents of all outputs and examples hold more, outputs are taken in chunks...
_MANY_BYTES = 2**27
# ...whose cotangents hold so much: less is quicker, but the forward pass is each chunk's.
_CHUNK_BYTES = 2**24


def outputs_at_a_time(request: KernelRequest, num_examples: int, method: Method) -> int:
    """How many directions in output space are taken at a time."""
    # All, unless their cotangents would take much memory and the form of the kernel
    # needs no pairs of different outputs.
    outputs, num_outputs = request.outputs, request.f.shape[1]
    if outputs == "full":
        return num_outputs
    if outputs not in ("diagonal", "trace"):
        return 1
    of_one = num_examples * max(4, jnp.dtype(request.f.dtype).itemsize)
    if of_one * num_outputs**2 <= _MANY_BYTES:
        return num_outputs
    num_params = tree_size(request.params) if method == "jacobian" else 0
    most = max(1, _CHUNK_BYTES // (of_one * (num_outputs + num_params)))
    return math.ceil(num_outputs / math.ceil(num_outputs / most))


def in_output_chunks(
    kernels_of: Callable[[KernelRequest], Any],
    request: KernelRequest,
    *,
    method: Method,
    devices: Devices,
    num_kernels: int = 1,
    num_at_once: int | None = None,
) -> Any:
    """Kernels of a network, for some outputs at a time where memory asks for it."""
    outputs, num_outputs = request.outputs, request.f.shape[1]
    batches = [x for x in (request.x1, request.x2) if x is not None]
    num_at_once = num_at_once or sum(map(num_rows, batches))
    size = outputs_at_a_time(request, num_at_once, method)
    check_result_fits(request, devices, num_kernels=num_kernels)
    check_work_fits(request, method, num_at_once, size, devices)
    if outputs not in ("diagonal", "trace") or size >= num_outputs:
        return kernels_of(request)
    number = math.ceil(num_outputs / size)

    def chunk(start: Array) -> Any:
        def some(params: Params, x: Inputs) -> Array:
            f = request.apply_fn(params, x)
            # Outputs that pad the last chunk are constant.
            f = jnp.pad(f, ((0, 0), (0, number * size - num_outputs)))
            return lax.dynamic_slice_in_dim(f, start, size, axis=1)

        return kernels_of(dataclasses.replace(request, apply_fn=some))

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
