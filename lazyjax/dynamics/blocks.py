"""Outputs and kernels of many examples, for some of them at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk import empirical_ntk
from lazyjax.typing import ApplyFn, Params


def in_batches(fn: Callable[[Array], Array], x: Array, size: int | None) -> Array:
    """Rows of `fn(x)`, for at most `size` rows of `x` at a time; `None` means all."""
    num_rows = x.shape[0]
    if size is None or size >= num_rows:
        return fn(x)
    num_whole = num_rows // size * size
    chunks = x[:num_whole].reshape(-1, size, *x.shape[1:])
    found = jax.lax.map(fn, chunks)
    found = found.reshape(num_whole, *found.shape[2:])
    rest = x[num_whole:]
    return jnp.concatenate([found, fn(rest)]) if rest.shape[0] else found


def ntk_in_blocks(
    apply_fn: ApplyFn, params: Params, x: Array, size: int | None
) -> Array:
    """Kernel of a batch with itself, block by block of `size` rows and columns."""
    num_rows = x.shape[0]
    if size is None or size >= num_rows:
        return empirical_ntk(apply_fn, params, x)
    num_blocks = -(-num_rows // size)
    # The last rows are repeated to fill up, and left out in the end.
    chosen = jnp.minimum(jnp.arange(num_blocks * size), num_rows - 1)
    blocks = x[chosen].reshape(num_blocks, size, *x.shape[1:])

    def put(kernel: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        block = empirical_ntk(apply_fn, params, blocks[i], blocks[j])
        mirrored = block.transpose(1, 0, 3, 2)
        block = jnp.where(i == j, (block + mirrored) / 2, block)
        at = (i * size, j * size)
        kernel = jax.lax.dynamic_update_slice(kernel, block, (*at, 0, 0))
        mirrored = block.transpose(1, 0, 3, 2)
        return jax.lax.dynamic_update_slice(kernel, mirrored, (*at[::-1], 0, 0)), None

    f = jax.eval_shape(apply_fn, params, blocks[0])
    whole = num_blocks * size
    zeros = jnp.zeros((whole, whole, f.shape[1], f.shape[1]), f.dtype)
    pairs = [(i, j) for i in range(num_blocks) for j in range(i, num_blocks)]
    kernel, _ = jax.lax.scan(put, zeros, jnp.asarray(pairs, jnp.int32))
    return kernel[:num_rows, :num_rows]
