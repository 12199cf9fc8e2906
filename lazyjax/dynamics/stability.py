r"""The learning rate beyond which gradient descent diverges."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.problem import checked_problem
from lazyjax.linalg import eigvalsh, gram_matrix
from lazyjax.ntk import empirical_ntk
from lazyjax.typing import ApplyFn, Inputs, LossFn, Params, Targets


def largest_stable_rate(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    y: Targets,
    *,
    loss_fn: LossFn = square_loss,
) -> Float[Array, ""]:
    r"""Learning rate below which gradient descent on the linear model is stable.

    It is $2 / \lambda_{\max}$ of $H \nabla_f^2 L$, with the kernel $H$ and the loss's
    second derivatives at the network's outputs; for the square loss,
    $2 / \lambda_{\max}(H)$. It holds for plain gradient descent on all examples,
    `train(..., optimizer=optax.sgd(rate))`. The network's own limit changes as its kernel
    does, and where the loss is not quadratic, the linear model's does too.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Where it is linearized.
        x: Training inputs.
        y: Training targets.
        loss_fn: Loss `(f, y) -> scalar`, convex in `f`.

    Returns:
        The rate; infinite if the loss does not depend on the parameters.

    Raises:
        TypeError: If an argument is not of its kind, or not floating point.
        ValueError: If an argument is empty, of the wrong shape or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.ones((2, 1))
        >>> largest_stable_rate(lambda w, x: x @ w, jnp.zeros((2, 1)), x, y).item()
        0.5
    """
    params, x, y, _ = checked_problem(apply_fn, params, x, y, loss_fn)
    gram = gram_matrix(empirical_ntk(apply_fn, params, x))
    curvature = _curvature(
        params,
        x,
        y,
        apply_fn=HashableCallable(apply_fn),
        loss_fn=HashableCallable(loss_fn),
    )
    values, vectors = jnp.linalg.eigh(curvature)
    # H has the nonzero eigenvalues of C H C, where C is the root of the curvature.
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]
    product = functools.partial(jnp.matmul, precision="highest")
    both = product(product(root.T, gram), root)
    return 2 / jnp.maximum(eigvalsh((both + both.T) / 2)[-1], 0)


@functools.partial(jax.jit, static_argnames=("apply_fn", "loss_fn"))
def _curvature(
    params: Params, x: Array, y: Array, *, apply_fn: ApplyFn, loss_fn: LossFn
) -> Array:
    """Second derivatives of the loss by the outputs, example by example."""
    f = apply_fn(params, x)
    of_flat = lambda flat: loss_fn(flat.reshape(f.shape), y)
    return jax.hessian(of_flat)(f.ravel())
