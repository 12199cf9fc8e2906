"""Gram matrices block by block: the memory of a few blocks, and half of them mirrored."""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# (rows, columns, whether they are the same examples) -> their block
BlockFn: TypeAlias = Callable[[PyTree, PyTree, Array | None], Array]


# Kernel of two examples, and whether they are one (None if not known to be).
PairFn: TypeAlias = Callable[[PyTree, PyTree, Array | None], Array]


def pairwise(pair_fn: PairFn) -> BlockFn:
    """Kernel of two blocks of examples, made of that of two examples."""

    def block(rows: PyTree, columns: PyTree, is_same: Array | None) -> Array:
        is_one = (
            None if is_same is None else is_same & jnp.eye(_length(rows), dtype=bool)
        )
        axis = None if is_same is None else 0
        along_columns = jax.vmap(pair_fn, (None, 0, axis))
        return jax.vmap(along_columns, (0, None, axis))(rows, columns, is_one)

    return block


def gram(
    block_fn: BlockFn,
    rows: PyTree,
    columns: PyTree | None,
    block_size: int,
) -> Float[Array, "n1 n2"]:
    """Gram matrix of `rows` with `columns`, or with themselves at half the work."""
    # Blocks are computed again for differentiation, so that they need not be kept.
    block_fn = jax.checkpoint(block_fn)
    if columns is None:
        return _symmetric_gram(block_fn, rows, block_size)
    n1, n2 = _length(rows), _length(columns)
    num1, num2 = (math.ceil(n / block_size) for n in (n1, n2))
    if num1 == num2 == 1:
        return block_fn(rows, columns, None)
    blocks1, blocks2 = _blocks(rows, num1), _blocks(columns, num2)

    def row_of_blocks(block1: PyTree) -> Array:
        found = jax.lax.map(lambda block2: block_fn(block1, block2, None), blocks2)
        return jnp.moveaxis(found, 0, 1).reshape(found.shape[1], -1)

    matrix = jax.lax.map(row_of_blocks, blocks1)
    return matrix.reshape(-1, matrix.shape[-1])[:n1, :n2]


def _symmetric_gram(
    block_fn: BlockFn, rows: PyTree, block_size: int
) -> Float[Array, "n n"]:
    n = _length(rows)
    if n == 1:
        return block_fn(rows, rows, jnp.ones((), bool))
    # At least two: XLA unrolls a loop of one step, and computes its block again, with
    # other rounding, for each place where it is read.
    num_blocks = max(2, math.ceil(n / block_size))
    blocks = _blocks(rows, num_blocks)
    size = _length(blocks, axis=1)
    upper = jnp.triu_indices(num_blocks)

    def block_of(pair: tuple[Array, Array]) -> Array:
        i, j = pair
        block1 = jax.tree.map(lambda a: a[i], blocks)
        block2 = jax.tree.map(lambda a: a[j], blocks)
        return block_fn(block1, block2, i == j)

    def put(
        matrix: Array, entry: tuple[tuple[Array, Array], Array]
    ) -> tuple[Array, None]:
        (i, j), block = entry
        block = jnp.where(i == j, _symmetric(block), block)
        at, mirrored = (i * size, j * size), (j * size, i * size)
        matrix = jax.lax.dynamic_update_slice(matrix, block, at)
        return jax.lax.dynamic_update_slice(matrix, block.T, mirrored), None

    # Two loops: in one, XLA would compute a block once for each place it is put.
    found = jax.lax.map(block_of, upper)
    start = jnp.zeros((num_blocks * size, num_blocks * size), found.dtype)
    return jax.lax.scan(put, start, (upper, found))[0][:n, :n]


def _symmetric(block: Array) -> Array:
    """`block` without the last bits in which fused arithmetic depends on the order."""
    return (block + block.T) / 2


def _blocks(examples: PyTree, num_blocks: int) -> PyTree:
    """Examples with a leading axis of blocks, the last filled up with zeros."""
    n = _length(examples)
    size = math.ceil(n / num_blocks)

    def split(array: Array) -> Array:
        fill = [(0, num_blocks * size - n)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, fill).reshape(num_blocks, size, *array.shape[1:])

    return jax.tree.map(split, examples)


def _length(examples: PyTree, axis: int = 0) -> int:
    return jax.tree.leaves(examples)[0].shape[axis]
