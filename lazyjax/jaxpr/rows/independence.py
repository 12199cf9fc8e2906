"""Proof, from its program alone, that a network treats the rows of a batch apart.

The network is traced with batches of two sizes, and with a single row, and the programs
are walked together. For each value it is found whether an axis of it enumerates rows, and
whether what belongs to one row is what the program of a single row computes. What is not
understood is not proven. The derivative of a function of one row is one, so that only
custom rules for derivatives need to be walked, too.
"""

from typing import Any

import jax
from jaxtyping import Array

from lazyjax.batches import num_rows, rows_like
from lazyjax.jaxpr.labels import FIXED, Label, Rows
from lazyjax.jaxpr.rows.scope import StructureMismatchError
from lazyjax.jaxpr.rows.walk import Walk
from lazyjax.typing import ApplyFn, Inputs, Params


def rows_are_independent(apply_fn: ApplyFn, params: Params, x: Inputs) -> bool:
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
    size = max(2, num_rows(x))
    sizes = (size, size + 1)
    leaves, structure = jax.tree.flatten(params)
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def of_leaves(leaves: list[Array], x: Inputs) -> Any:
        return apply_fn(jax.tree.unflatten(structure, leaves), x)

    def traced(number: int) -> Any:
        return jax.make_jaxpr(of_leaves)(like, rows_like(x, number))

    labels: list[Label] = [FIXED] * len(leaves) + [Rows(0)] * len(jax.tree.leaves(x))
    try:
        programs = [traced(n) for n in (*sizes, 1)]
        results = Walk(sizes).closed(programs, labels)
    except (StructureMismatchError, TypeError, ValueError, NotImplementedError):
        # Or no derivative in forward mode, or no network for batches of any size.
        return False
    return all(label == Rows(0) for label in results)
