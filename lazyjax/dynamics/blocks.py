"""Outputs and kernels of many examples, for some of them at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.batches import in_chunks, num_rows, rows_at, rows_like
from lazyjax.ntk import empirical_ntk
from lazyjax.typing import ApplyFn, Inputs, Params


def in_batches(fn: Callable[[Any], Array], x: Inputs, size: int | None) -> Array:
    """Rows of `fn(x)`, for at most `size` rows of `x` at a time; `None` means all."""
    if size is None or size >= num_rows(x):
        return fn(x)
    chunks, rest = in_chunks(x, size)
    found = jax.lax.map(fn, chunks)
    found = found.reshape(-1, *found.shape[2:])
    return jnp.concatenate([found, fn(rest)]) if num_rows(rest) else found


def ntk_in_blocks(
    apply_fn: ApplyFn, params: Params, x: Inputs, size: int | None
) -> Array:
    """Kernel of a batch with itself, block by block of `size` rows and columns."""
    number = num_rows(x)
    if size is None or size >= number:
        return empirical_ntk(apply_fn, params, x)
    num_blocks = -(-number // size)
    # The last rows are repeated to fill up, and left out in the end.
    chosen = jnp.minimum(jnp.arange(num_blocks * size), number - 1)
    blocks, _ = in_chunks(rows_at(x, chosen), size)

    def put(kernel: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        block = empirical_ntk(apply_fn, params, rows_at(blocks, i), rows_at(blocks, j))
        mirrored = block.transpose(1, 0, 3, 2)
        block = jnp.where(i == j, (block + mirrored) / 2, block)
        at = (i * size, j * size)
        kernel = jax.lax.dynamic_update_slice(kernel, block, (*at, 0, 0))
        mirrored = block.transpose(1, 0, 3, 2)
        return jax.lax.dynamic_update_slice(kernel, mirrored, (*at[::-1], 0, 0)), None

    f = jax.eval_shape(apply_fn, params, rows_like(x, size))
    whole = num_blocks * size
    zeros = jnp.zeros((whole, whole, f.shape[1], f.shape[1]), f.dtype)
    pairs = [(i, j) for i in range(num_blocks) for j in range(i, num_blocks)]
    kernel, _ = jax.lax.scan(put, zeros, jnp.asarray(pairs, jnp.int32))
    return kernel[:number, :number]
