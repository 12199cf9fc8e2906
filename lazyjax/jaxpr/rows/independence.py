"""Proof, from its program alone, that a network treats the rows of a batch apart.

The network is traced with batches of two sizes, and with a single row, and the programs
are walked together. For each value it is found whether an axis of it enumerates rows, and
whether what belongs to one row is what the program of a single row computes. What is not
understood is not proven. The derivative of a function of one row is one, so that only
custom rules for derivatives need to be walked, too.
"""

from typing import Any

import jax
from jaxtyping import Array, Shaped

from lazyjax.jaxpr.labels import FIXED, Label, Rows
from lazyjax.jaxpr.rows.scope import StructureMismatchError
from lazyjax.jaxpr.rows.walk import Walk
from lazyjax.typing import ApplyFn, Params


def rows_are_independent(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "n *d"]
) -> bool:
    """Whether it is proven that rows of outputs are one function of their rows of `x`.

    Proven is, for batches as large as `x` (or 2, if larger) and one row larger: outputs
    at row r, and their derivatives by `params`, are those of a batch that holds row r
    of `x` alone. A network that asks in Python for the size of its batch may do
    otherwise at other sizes. Only shapes and dtypes are used.

    Returns:
        Whether rows are proven not to interact. False says nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> w, x = jnp.ones((3, 2)), jnp.ones((4, 3))
        >>> rows_are_independent(lambda w, x: jnp.tanh(x @ w), w, x)
        True
        >>> rows_are_independent(lambda w, x: (x - x.mean(0)[None]) @ w, w, x)
        False
    """
    size = max(2, x.shape[0])
    sizes = (size, size + 1)
    leaves, structure = jax.tree.flatten(params)
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def of_leaves(leaves: list[Array], x: Array) -> Array:
        return apply_fn(jax.tree.unflatten(structure, leaves), x)

    def traced(num_rows: int) -> Any:
        batch = jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype)
        return jax.make_jaxpr(of_leaves)(like, batch)

    labels: list[Label] = [*(FIXED for _ in leaves), Rows(0)]
    try:
        programs = [traced(n) for n in (*sizes, 1)]
        results = Walk(sizes).closed(programs, labels)
    except (StructureMismatchError, TypeError, ValueError, NotImplementedError):
        # Or no derivative in forward mode, or no network for batches of any size.
        return False
    return all(label == Rows(0) for label in results)
