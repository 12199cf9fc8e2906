"""How far a network moves while it trains, and from its linear model."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.linalg import frobenius_norm
from lazyjax.trees import tree_distance, tree_norm
from lazyjax.typing import AnyArray, Params


def relative_distance(
    ntk: Float[AnyArray, "*batch n1 n2"], reference: Float[AnyArray, "*#batch n1 n2"]
) -> Float[Array, "*batch"]:
    r"""Relative Frobenius distance $\lVert A - B\rVert_F / \lVert B\rVert_F$ of kernels.

    Args:
        ntk: The kernel $A$, or a batch of kernels.
        reference: The kernel $B$ that it is compared to.

    Returns:
        The distance; NaN if both are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> float(relative_distance(1.5 * jnp.eye(3), jnp.eye(3)))
        0.5
    """
    ntk, reference = jnp.asarray(ntk), jnp.asarray(reference)
    if ntk.ndim > reference.ndim:
        reference = jnp.broadcast_to(reference, ntk.shape)
    return frobenius_norm(ntk - reference) / frobenius_norm(reference)


def relative_parameter_distance(params: Params, start: Params) -> Float[Array, ""]:
    r"""Movement $\lVert w - w_0 \rVert_2 / \lVert w_0 \rVert_2$ of all parameters.

    Args:
        params: The parameters $w$.
        start: The parameters $w_0$, in the same structure.

    Returns:
        The movement; NaN if both are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> float(relative_parameter_distance({"w": jnp.ones(4)}, {"w": 2 * jnp.ones(4)}))
        0.5
    """
    return tree_distance(params, start) / tree_norm(start)


def linearization_gap(
    f: Float[AnyArray, "*times n k"], f_linear: Float[AnyArray, "*times n k"]
) -> Float[Array, ""]:
    r"""Largest distance $\max_t \lVert f(t) - f_{lin}(t) \rVert_2$ from the linear model.

    Args:
        f: Outputs of the network at some times, as seen by `observers.outputs`.
        f_linear: Outputs of its linear model at the same times.

    Returns:
        The gap, a norm over examples and outputs; NaN if an output is.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> f = jnp.array([[[0.0], [0.0]], [[3.0], [4.0]]])
        >>> float(linearization_gap(f, jnp.zeros((2, 2, 1))))
        5.0
    """
    if f.shape != f_linear.shape or f.ndim < 2:
        raise ValueError(
            "`f` and `f_linear` must have the same shape (*times, n, k); got "
            f"{f.shape} and {f_linear.shape}."
        )
    difference = jnp.asarray(f) - jnp.asarray(f_linear)
    return jnp.max(frobenius_norm(difference))
