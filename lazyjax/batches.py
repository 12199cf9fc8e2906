"""Batches of examples: an array, or a tree of arrays whose first axes count the same rows."""

from typing import Any

import jax
import jax.numpy as jnp

from lazyjax.typing import Inputs


def num_rows(x: Any) -> int:
    """Number of examples of a batch."""
    return jax.tree.leaves(x)[0].shape[0]


def as_arrays(x: Inputs) -> Any:
    """A batch as JAX arrays."""
    return jax.tree.map(jnp.asarray, x)


def rows_like(x: Any, number: int) -> Any:
    """Shapes and dtypes of so many examples like those of a batch."""

    def of_leaf(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((number, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(of_leaf, x)


def rows_at(x: Any, index: Any) -> Any:
    """The rows of a batch at an index: a slice, a number or an array of numbers."""
    return jax.tree.map(lambda leaf: leaf[index], x)


def batch_of(row: Any) -> Any:
    """One example as a batch."""
    return jax.tree.map(lambda leaf: leaf[None], row)


def joined(x1: Inputs, x2: Inputs) -> Any:
    """Two batches as one."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), x1, x2)


def in_chunks(x: Inputs, size: int) -> tuple[Any, Any]:
    """Whole chunks of `size` examples, stacked, and the examples left over."""
    num_whole = num_rows(x) // size * size

    def stacked(leaf: Any) -> Any:
        return leaf[:num_whole].reshape(-1, size, *leaf.shape[1:])

    return jax.tree.map(stacked, x), rows_at(x, slice(num_whole, None))
