"""Pytrees: what `optax.tree` lacks, or does with other roundings."""

from collections import Counter
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.typing import Params


def tree_norm(tree: Params) -> Float[Array, ""]:
    """Euclidean norm of all entries of all leaves of `tree` together."""
    # Leaves may differ in precision: the widest is that of the norm.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def tree_distance(tree1: Params, tree2: Params) -> Float[Array, ""]:
    """Euclidean distance between two pytrees of the same structure and shapes."""
    return tree_norm(jax.tree.map(jnp.subtract, tree1, tree2))


def tree_size(tree: Params) -> int:
    """Number of entries in all leaves of `tree`: arrays, or their shapes alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def tree_add(tree1: Params, tree2: Params) -> Params:
    """Sum of two pytrees of the same structure and shapes, leaf by leaf."""
    # `optax.tree.add` starts from 0, to which it adds both: a rounding of -0.0 more.
    return jax.tree.map(jnp.add, tree1, tree2)


def leaf_paths(tree: Params) -> list[str]:
    """Path of each leaf of `tree`, as `layer_1/kernel`; no two are alike."""
    return path_names([keys for keys, _ in jax.tree_util.tree_leaves_with_path(tree)])


def path_names(paths: Sequence[tuple]) -> list[str]:
    """Names of different paths in a tree, their parts joined by slashes."""
    # Where names contain slashes and several paths would read the same, each is as it is
    # written in Python: `['layer/1']['kernel']`.
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p in paths]
    times = Counter(names)
    return [
        name if times[name] == 1 else jax.tree_util.keystr(path)
        for name, path in zip(names, paths, strict=True)
    ]


def split_leaves(
    tree: Params, keep: Callable[[str], bool]
) -> tuple[list[Array], Callable[[list[Array]], Params]]:
    """Leaves whose path `keep` accepts, and the function that puts others in their place."""
    leaves, treedef = jax.tree.flatten(tree)
    chosen = [i for i, path in enumerate(leaf_paths(tree)) if keep(path)]

    def merge(replacements: list[Array]) -> Params:
        merged = list(leaves)
        for i, leaf in zip(chosen, replacements, strict=True):
            merged[i] = leaf
        return treedef.unflatten(merged)

    return [leaves[i] for i in chosen], merge
