"""Certificates of convergence for a network, data and parameters."""

import math
from collections.abc import Callable

from jaxtyping import Float

from lazyjax._checks import check_choice
from lazyjax.certify.bounds.flips import (
    FlipBounds,
    flip_bounds,
    supported,
)
from lazyjax.certify.bounds.local import LocalBounds, bounds_of
from lazyjax.certify.certificate import Assumption, Certificate, Rigor
from lazyjax.certify.problem import problem_of
from lazyjax.certify.theorems import relu, residual as theorems
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, Params


def gradient_flow(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
    radius: float | None = None,
) -> Certificate:
    r"""Whether gradient flow from `params` is certain to reach zero loss.

    The flow is $w' = -\nabla L$, $L = \tfrac12\lVert f - y\rVert^2$ summed over examples
    and outputs. For $c L$ the verdict is the same and the rate $c$ times as large.
    Smooth activations are certified by the Jacobian's Lipschitz constant, at any
    depth; ReLU and its like by counting the units that may flip, for networks with one
    hidden layer of which only the first layer is trained.

    Args:
        network: From `lazyjax.nets.mlp`.
        params: The start; initial or trained.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" accounts for rounding in all numbers, "float" does not.
        radius: Distance from the start that the path should stay within, if any.

    Returns:
        The certificate. It is INCONCLUSIVE if the bounds are too weak: the flow may
        converge all the same.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(
        ...     width=512, activation="softplus", trained="first", symmetrized=True
        ... )
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> certificate = gradient_flow(net, params, data.x_train, data.y_train)
        >>> certificate.verdict.name
        'CERTIFIED'

    References:
        Proofs: `lazyjax.certify.theorems` and `lazyjax.certify.theorems.relu`.
    """
    return _certificate(
        network,
        params,
        x,
        y,
        rigor,
        of_smooth=lambda bounds: theorems.flow_theorem(bounds, radius=radius),
        of_flips=lambda bounds: relu.flow_theorem(bounds, radius=radius),
        what="gradient flow",
    )


def gradient_descent(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    learning_rate: float | None = None,
    gradient_error: float = 0.0,
    rigor: Rigor = "proof",
    radius: float | None = None,
) -> Certificate:
    r"""Whether gradient descent from `params` is certain to reach zero loss.

    The step is $w \leftarrow w - \eta \nabla L(w)$ with the whole batch. For $c L$ the
    verdict is that of $\eta c$ here. Momentum, Adam and random batches are not covered.

    Args:
        network: From `lazyjax.nets.mlp`; as for `gradient_flow`.
        params: The start; initial or trained.
        x: Training inputs.
        y: Training targets.
        learning_rate: $\eta$; `None` to find the one with the best guaranteed rate.
        gradient_error: Bound of the error of each gradient, relative to its norm;
            0 is exact arithmetic. For smooth activations only.
        rigor: "proof" accounts for rounding in all numbers, "float" does not.
        radius: Distance from the start that iterates should stay within, if any.

    Returns:
        The certificate, with the learning rate as `step_size`.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(
        ...     width=512, activation="softplus", trained="first", symmetrized=True
        ... )
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> certificate = gradient_descent(net, params, data.x_train, data.y_train)
        >>> certificate.is_certified, 0 < certificate.rate < 1
        (True, True)

    References:
        Proofs: `lazyjax.certify.theorems` and `lazyjax.certify.theorems.relu`.
    """

    def of_flips(bounds: FlipBounds) -> Certificate:
        if gradient_error:
            raise ValueError(
                "`gradient_error` must be 0 for activations with kinks; got "
                f"{gradient_error!r}."
            )
        return relu.descent_theorem(bounds, learning_rate=learning_rate, radius=radius)

    return _certificate(
        network,
        params,
        x,
        y,
        rigor,
        of_smooth=lambda bounds: theorems.descent_theorem(
            bounds,
            learning_rate=learning_rate,
            gradient_error=gradient_error,
            radius=radius,
        ),
        of_flips=of_flips,
        what="gradient descent",
    )


def existence(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
    radius: float | None = None,
) -> Certificate:
    """Whether there are parameters of zero loss near `params`.

    It holds whenever `gradient_flow` is certified for a smooth activation, and often
    before; it does not say that training finds them.

    Args:
        network: From `lazyjax.nets.mlp`, with a smooth activation.
        params: The centre.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" accounts for rounding in all numbers, "float" does not.
        radius: Distance from `params` within which they should be, if any. The
            certificate is REFUTED if none can be.

    Returns:
        The certificate.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=8, depth=0)
        >>> x, y = jnp.ones((2, 3)), jnp.array([[1.0], [2.0]])
        >>> params = net.init(jax.random.key(0), x)
        >>> existence(net, params, x, y).verdict.name  # equal inputs, two targets
        'REFUTED'

    References:
        Proof: `lazyjax.certify.theorems`.
    """
    return _certificate(
        network,
        params,
        x,
        y,
        rigor,
        of_smooth=lambda bounds: theorems.existence_theorem(bounds, radius=radius),
        of_flips=None,
        what="existence of zero loss",
    )


def _certificate(
    network: Network,
    params: Params,
    x: AnyArray,
    y: AnyArray,
    rigor: Rigor,
    *,
    of_smooth: Callable[[LocalBounds], Certificate],
    of_flips: Callable[[FlipBounds], Certificate] | None,
    what: str,
) -> Certificate:
    """By the theorem for the activation; inconclusive if there is none."""
    check_choice("rigor", rigor, ("proof", "float"))
    problem = problem_of(network, params, x, y)
    is_smooth, has_flips = problem.smooth, supported(problem.copies)
    if is_smooth.holds:
        return of_smooth(bounds_of(problem, rigor))
    if has_flips.holds and of_flips is not None:
        return of_flips(flip_bounds(problem, rigor))
    options: tuple[Assumption, ...] = (is_smooth,)
    if of_flips is not None:
        options += (has_flips,)
    return Certificate(
        theorem=f"{what}: no theorem for this network",
        conclusion=f"{what} is certain",
        assumptions=options,
        margin=-math.inf,
        rigor=rigor,
        refutation=problem.conflict,
    )
