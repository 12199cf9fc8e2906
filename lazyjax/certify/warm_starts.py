r"""Certificates from trained parameters: train in floating point, then certify.

At the start of training the residual is large and certificates need wide networks. Near
a zero of the loss they need $\lVert r\rVert < \sigma_{\min}(J)^2 / (2 \Lambda)$ only,
which most smooth networks that interpolate satisfy, at any depth. The certificate then
says that exact parameters of zero loss exist close by and that gradient flow from the
trained ones reaches such; how the trained ones were found does not matter.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_at_least
from lazyjax.callables.static import HashableCallable
from lazyjax.certify.bounds.program.start import widened
from lazyjax.certify.bounds.start import bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.descent_and_flow import gradient_flow
from lazyjax.files.results import Storable
from lazyjax.linalg import gram_matrix
from lazyjax.nets import Network
from lazyjax.ntk import empirical_ntk
from lazyjax.trees import tree_distance
from lazyjax.typing import AnyArray, ApplyFn, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart(Storable):
    """Trained parameters and what is certain of gradient flow from there.

    Attributes:
        params: The parameters, as NumPy arrays in float64.
        certificate: Of gradient flow from `params`.
        residual: Norm of f - y after each step of training, from the start on.
        moved: Distance of `params` from the start of training.
    """

    params: Params
    certificate: Certificate
    residual: Float[np.ndarray, "num_residuals"]
    moved: float


def warm_start(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    num_steps: int = 100,
    rigor: Rigor = "proof",
) -> WarmStart:
    r"""Trained parameters of a network, certified.

    Training is by the method of Levenberg and Marquardt in float64: steps are
    $-J^\top (K + \lambda I)^{-1} r$, for which the kernel $K$ is enough.

    Args:
        network: Network, or function `apply_fn(params, x)`, as for `gradient_flow`.
        params: Where training starts.
        x: Training inputs.
        y: Training targets.
        num_steps: Number of steps at most; training ends when it gets no further.
        rigor: "proof" accounts for rounding in the certificate, "float" does not.

    Returns:
        The parameters and the certificate of gradient flow from them.

    Raises:
        ValueError: If no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point.

    Cost: Each step forms the kernel and solves with it, $(nk)^3$.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(width=32, depth=3, activation="tanh")
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> trained = warm_start(net, params, data.x_train, data.y_train)
        >>> trained.certificate.verdict.name
        'CERTIFIED'

    References:
        Levenberg (1944); Marquardt (1963), for the method of training.
    """
    check_at_least("num_steps", num_steps, 0)
    start = bounds_at(network, params, x, y, rigor=rigor)
    if not (start.smooth.holds or start.first_layer.holds):
        raise ValueError(
            "`network` must be one that `gradient_flow` has a theorem for: "
            f"{start.smooth.statement} ({start.smooth.detail})."
        )
    apply_fn = network.apply if isinstance(network, Network) else network
    with jax.enable_x64(True):
        before = jax.tree.map(widened, params)
        result, residuals = _trained(
            HashableCallable(apply_fn), before, widened(x), np.asarray(y), num_steps
        )
        moved = float(tree_distance(result, before))
        result = jax.tree.map(np.asarray, result)
    return WarmStart(
        params=result,
        certificate=gradient_flow(network, result, x, y, rigor=rigor),
        residual=np.asarray(residuals),
        moved=moved,
    )


def _trained(
    apply_fn: HashableCallable,
    params: Params,
    x: AnyArray,
    y: np.ndarray,
    num_steps: int,
) -> tuple[Params, list[float]]:
    """Parameters after training, and the norm of the residual after each step."""
    residual = np.asarray(_outputs(apply_fn, params, x)) - y
    residuals = [float(np.linalg.norm(residual))]
    damping, size = 1e-3, residual.size
    for _ in range(num_steps):
        gram = np.asarray(gram_matrix(empirical_ntk(apply_fn, params, x)))
        scale = np.trace(gram) / size
        if not np.isfinite(scale) or scale == 0 or residuals[-1] == 0:
            break
        for _ in range(12):
            damped = gram + damping * scale * np.eye(size)
            weights = np.linalg.solve(damped, residual.reshape(-1))
            trial = _stepped(apply_fn, params, x, weights.reshape(residual.shape))
            trial_residual = np.asarray(_outputs(apply_fn, trial, x)) - y
            if np.linalg.norm(trial_residual) < residuals[-1]:
                break
            damping = max(damping, 1e-16) * 10
        else:
            break  # no step gets further: rounding, or a critical point
        params, residual = trial, trial_residual
        residuals.append(float(np.linalg.norm(residual)))
        damping = max(damping / 10, 1e-16)
    return params, residuals


def _output_fn(apply_fn: HashableCallable, params: Params, x: Array) -> Array:
    return apply_fn(params, x)


def _step_fn(
    apply_fn: HashableCallable, params: Params, x: Array, weights: Array
) -> Params:
    """Parameters after the step $-J^T$ `weights`."""
    _, pull = jax.vjp(lambda params: apply_fn(params, x), params)
    return jax.tree.map(jnp.subtract, params, pull(weights)[0])


_outputs = jax.jit(_output_fn, static_argnums=0)
_stepped = jax.jit(_step_fn, static_argnums=0)
