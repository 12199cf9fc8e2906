"""The eigendecomposition that closed-form dynamics are made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.dynamics.linear.checks import check_kernel_problem
from lazyjax.dynamics.linear.closed_form import Linearized
from lazyjax.linalg import check_semidefinite, eigh, frobenius_norm, gram_matrix
from lazyjax.typing import AnyArray


def linear_dynamics(
    ntk: Float[AnyArray, "n n *kk"],
    y: Float[AnyArray, "n k"],
    f0: Float[AnyArray, "n k"],
) -> Linearized:
    r"""Closed-form training dynamics of the linear model with kernel `ntk`.

    One eigendecomposition, of size `n * k`, or `n` for a kernel shared by all outputs,
    serves every time, step and learning rate.

    Args:
        ntk: Kernel on the training points, unnormalized: `(n, n, k, k)` as from
            `empirical_ntk`, or `(n, n)` for the same kernel in every output and none
            between them, as at infinite width.
        y: Training targets.
        f0: Outputs on the training points at time 0.

    Returns:
        The dynamics, under gradient flow and gradient descent on
        $\tfrac12 \lVert f - y \rVert^2$.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or `ntk` is clearly not
            symmetric or has a clearly negative eigenvalue. Values are looked at only
            where they are known: not under `jit`.
        TypeError: If an argument is not floating point, or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> flow = linear_dynamics(x @ x.T, y=jnp.array([[1.0], [0.0]]), f0=jnp.zeros((2, 1)))
        >>> round(flow.max_learning_rate.item(), 6)
        0.763932
        >>> [round(loss, 4) for loss in flow.gradient_flow_loss(jnp.arange(3.0)).tolist()]
        [0.5, 0.1693, 0.0785]
    """
    check_kernel_problem(ntk, y, f0)
    result, asymmetry, scale = _decomposed(*map(jnp.asarray, (ntk, y, f0)))
    check_semidefinite("ntk", asymmetry=asymmetry, smallest=result.eig_min, scale=scale)
    return result


@jax.jit
def _decomposed(ntk: Array, y: Array, f0: Array) -> tuple[Linearized, Array, Array]:
    """The result, and the Frobenius norms of the asymmetry and of the kernel."""
    gram = gram_matrix(ntk)
    eigenvalues, eigenvectors, cutoff = eigh(gram)
    error = (y - f0).reshape(gram.shape[0], -1)
    result = Linearized(
        eigenvalues=jnp.maximum(eigenvalues, 0),
        eigenvectors=eigenvectors,
        coefficients=jnp.matmul(eigenvectors.T, error, precision="highest"),
        f0=f0,
        eig_min=eigenvalues[0],
        eig_cutoff=cutoff,
    )
    return result, frobenius_norm(gram - gram.T), frobenius_norm(gram)
