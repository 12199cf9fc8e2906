"""Arithmetic on pytrees of arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.typing import Params


def tree_norm(tree: Params) -> Float[Array, ""]:
    """Euclidean norm of all entries of all leaves of `tree` together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def tree_distance(tree1: Params, tree2: Params) -> Float[Array, ""]:
    """Euclidean distance between two pytrees of the same structure and shapes."""
    return tree_norm(jax.tree.map(jnp.subtract, tree1, tree2))


def tree_size(tree: Params) -> int:
    """Number of scalar entries in all leaves of `tree`."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
