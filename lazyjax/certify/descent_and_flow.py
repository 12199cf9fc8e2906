"""Certificates of convergence for a network, data and parameters."""

import math
from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float, Shaped

from lazyjax._brief import brief
from lazyjax.certify.bounds.program.start import ProgramStart
from lazyjax.certify.bounds.start import Start, bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.statements import Assumption
from lazyjax.certify.theorems import relu, residual
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params

# A verb `(network, params, x, y, *, rigor) -> Certificate`, as those of this file.
CertifyFn: TypeAlias = Callable[..., Certificate]


def gradient_flow(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
    radius: float | None = None,
) -> Certificate:
    r"""Whether gradient flow from `params` is certain to reach zero loss.

    The flow is $w' = -\nabla L$, $L = \tfrac12\lVert f - y\rVert^2$ summed over examples
    and outputs. For $c L$ the verdict is the same and the rate $c$ times as large.
    Smooth networks are certified by the Lipschitz constant of their Jacobian, which is
    read from the program of the function, and for fully connected ones from their
    description. A kink must be out of reach: from trained parameters, ReLU networks
    stay on one side of all of them. Those with one hidden layer, of which only the first
    layer is trained, are certified by counting the units that may flip.

    Args:
        network: Network of any kind, or a pure function `apply_fn(params, x)` of
            which the program proves that it treats the rows of `x` apart.
        params: The start; initial or trained.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" accounts for rounding in all numbers, "float" does not where
            bounds are those of an `Architecture`.
        radius: Distance from the start that the path should stay within, if any.

    Returns:
        The certificate. It is INCONCLUSIVE if the bounds are too weak: the flow may
        converge all the same.

    Raises:
        ValueError: If no bounds are known of the network, which names what of its
            program has none, or arguments do not fit.
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
        Proofs: `lazyjax.certify.theorems.residual` and `lazyjax.certify.theorems.relu`.
    """
    start = bounds_at(network, params, x, y, rigor=rigor)
    if start.smooth.holds:
        return residual.flow_theorem(start.local, radius=radius)
    if isinstance(start, Start) and start.first_layer.holds:
        return relu.flow_theorem(start.flips, radius=radius)
    return _no_theorem("gradient flow", start, start.smooth, start.first_layer)


def gradient_descent(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
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
        network: As for `gradient_flow`.
        params: The start; initial or trained.
        x: Training inputs.
        y: Training targets.
        learning_rate: $\eta$; `None` to find the one with the best guaranteed rate.
        gradient_error: Bound of the error of each gradient, relative to its norm;
            0 is exact arithmetic. For smooth activations only.
        rigor: "proof" accounts for rounding in all numbers, "float" does not where
            bounds are those of an `Architecture`.
        radius: Distance from the start that iterates should stay within, if any.

    Returns:
        The certificate, with the learning rate as `step_size`.

    Raises:
        ValueError: If no bounds are known of the network, which names what of its
            program has none, or arguments do not fit.
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
        Proofs: `lazyjax.certify.theorems.residual` and `lazyjax.certify.theorems.relu`.
    """
    start = bounds_at(network, params, x, y, rigor=rigor)
    if start.smooth.holds:
        return residual.descent_theorem(
            start.local,
            learning_rate=learning_rate,
            gradient_error=gradient_error,
            radius=radius,
        )
    if not (isinstance(start, Start) and start.first_layer.holds):
        return _no_theorem("gradient descent", start, start.smooth, start.first_layer)
    if gradient_error:
        raise ValueError(
            "`gradient_error` must be 0 for activations with kinks; got "
            f"{gradient_error!r}."
        )
    return relu.descent_theorem(start.flips, learning_rate=learning_rate, radius=radius)


def existence(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
    radius: float | None = None,
) -> Certificate:
    """Whether there are parameters of zero loss near `params`.

    It holds whenever `gradient_flow` is certified for a smooth activation, and often
    before; it does not say that training finds them.

    Args:
        network: As for `gradient_flow`; smooth.
        params: The centre.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" accounts for rounding in all numbers, "float" does not where
            bounds are those of an `Architecture`.
        radius: Distance from `params` within which they should be, if any. The
            certificate is REFUTED if none can be.

    Returns:
        The certificate.

    Raises:
        ValueError: If no bounds are known of the network, which names what of its
            program has none, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=8, depth=0)
        >>> x, y = jnp.ones((2, 3)), jnp.array([[1.0], [2.0]])
        >>> params = net.init(jax.random.key(0), x)
        >>> existence(net, params, x, y).verdict.name  # equal inputs, two targets
        'REFUTED'

    References:
        Proof: `lazyjax.certify.theorems.residual`.
    """
    start = bounds_at(network, params, x, y, rigor=rigor)
    if start.smooth.holds:
        return residual.existence_theorem(start.local, radius=radius)
    return _no_theorem("existence of zero loss", start, start.smooth)


def certified(
    certify_fn: CertifyFn,
    network: Network | ApplyFn,
    params: Params,
    x: AnyArray,
    y: AnyArray,
    rigor: Rigor,
) -> Certificate:
    """What a verb that was passed as an argument says, checked to be a certificate."""
    found = certify_fn(network, params, x, y, rigor=rigor)
    if not isinstance(found, Certificate):
        raise TypeError(f"`certify_fn` must return a certificate; got {brief(found)}.")
    return found


def _no_theorem(
    what: str, start: Start | ProgramStart, *needs: Assumption
) -> Certificate:
    """Nothing follows for a network that is of neither kind, but by a conflict."""
    return Certificate(
        theorem=f"{what}: no theorem for this network",
        conclusion=f"{what} is certain",
        assumptions=needs,
        margin=-math.inf,
        rigor=start.rigor,
        refutation=start.conflict,
    )
