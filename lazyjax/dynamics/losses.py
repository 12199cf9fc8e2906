"""Losses, as sums over examples and outputs."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def square_loss(f: Float[Array, "n k"], y: Float[Array, "n k"]) -> Float[Array, ""]:
    r"""Half the sum of squares $L = \tfrac12 \lVert f - y \rVert^2$, not a mean.

    Gradient flow on it moves the outputs by $\dot f = -\Theta (f - y)$. Another scaling
    $c L$ has the same runs at `learning_rate / c`: for the mean over examples of the
    squared error, $c = 2 / n$.

    Args:
        f: Outputs.
        y: Targets.

    Returns:
        The loss, summed over examples and outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> square_loss(jnp.array([[3.0], [0.0]]), jnp.array([[1.0], [1.0]])).item()
        2.5
    """
    return jnp.sum(jnp.square(f - y)) / 2
