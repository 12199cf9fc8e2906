"""Batches of examples that are trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from lazyjax._brief import brief
from lazyjax._checks.arrays import check_array, check_batch, check_same_features
from lazyjax._models import model_hint
from lazyjax.batches import num_rows
from lazyjax.typing import AnyArray


def check_inputs(
    name: str, x: object, *, wait: bool = True, allow_explicit: bool = False
) -> None:
    """Check that `x` is a batch: an array, or a tree of arrays with as many rows each."""
    if x is None or isinstance(x, AnyArray) or jax.tree_util.all_leaves([x]):
        check_batch(name, x, wait=wait, allow_explicit=allow_explicit)  # pyright: ignore[reportArgumentType]
        return
    if model_hint(x):
        raise TypeError(
            f"`{name}` must be an array, or a tree of arrays; got {type(x).__name__}. Are "
            "arguments swapped? Parameters come before inputs."
        )
    named = _named(name, x)
    if not named:
        raise ValueError(f"`{name}` must hold at least one array; got {brief(x)}.")
    if not any(isinstance(leaf, AnyArray) for _, leaf in named):
        check_array(name, x)  # such as a list of lists of numbers
    for where, leaf in named:
        check_batch(where, leaf, wait=wait, allow_explicit=allow_explicit)
    (first, number), *others = [(where, leaf.shape[0]) for where, leaf in named]
    for where, other in others:
        if other != number:
            raise ValueError(
                f"`{name}` must hold arrays with one row for each example; `{first}` has "
                f"{number} rows, and `{where}` {other}. Close over what is not of single "
                "examples, or repeat it for each. If these are parameters, arguments are "
                "swapped: parameters come before inputs."
            )


def check_same_inputs(name1: str, x1: Any, name2: str, x2: Any) -> None:
    """Check that two batches agree in all but the number of examples."""
    if jax.tree.structure(x1) != jax.tree.structure(x2):
        raise ValueError(
            f"`{name1}` and `{name2}` must be of the same structure; got {brief(x1)} and "
            f"{brief(x2)}."
        )
    pairs = zip(_named(name1, x1), _named(name2, x2), strict=True)
    for (where1, leaf1), (where2, leaf2) in pairs:
        check_same_features(where1, leaf1, where2, leaf2)


def _named(name: str, x: Any) -> list[tuple[str, Any]]:
    """Leaves of a tree, as they are written in Python."""
    paths = jax.tree_util.tree_leaves_with_path(x)
    return [(_shortened(f"{name}{keystr(path)}"), leaf) for path, leaf in paths]


def _shortened(name: str) -> str:
    return name if len(name) < 120 else f"{name[:60]}...{name[-57:]}"


def one_example_hint(x: Any) -> str:
    """Words on a batch without features, which may be one example; none on others."""
    shape = getattr(x, "shape", ())
    if len(shape) != 1:
        return ""
    return (
        f" Inputs of shape {shape} are read as {shape[0]} examples without features: is "
        "one example meant, `x[None]`?"
    )


def check_outputs_of(f: object, x: Any) -> None:
    """Check that `f`, from `jax.eval_shape`, is a tree of arrays `(n, *shape)`."""
    n = num_rows(x)
    named = _named("", f)
    if not named:
        raise ValueError(f"`apply_fn` must return at least one array; got {brief(f)}.")
    for path, leaf in named:
        where = f", at `f{path}`" if path else ""
        if leaf.ndim < 1 or leaf.shape[0] != n or leaf.size == 0:
            raise ValueError(
                f"`apply_fn` must return arrays with a row for each of the {n} examples, "
                f"such as of shape (n, k) with k >= 1; got {leaf.shape}{where}."
                f"{one_example_hint(x)}"
            )
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                "`apply_fn` must return floating-point or complex outputs; got dtype "
                f"{leaf.dtype}{where}."
            )
