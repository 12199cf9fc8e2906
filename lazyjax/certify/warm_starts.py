r"""Certificates from trained parameters: train in floating point, then certify.

At the start of training the residual is large and certificates need wide networks. Near
a zero of the loss they need $\lVert r\rVert < \sigma_{\min}(J)^2 / (2 \Lambda)$ only,
which most smooth networks that interpolate satisfy, at any depth. The certificate then
says that exact parameters of zero loss exist close by and that gradient flow from the
trained ones reaches such; how the trained ones were found does not matter.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_at_least, check_choice
from lazyjax.callables.static import HashableCallable
from lazyjax.certify.bounds.program.start import widened
from lazyjax.certify.bounds.start import bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.descent_and_flow import CertifyFn, certified, gradient_flow
from lazyjax.files.results import Storable
from lazyjax.linalg import gram_matrix
from lazyjax.nets import Network
from lazyjax.ntk import empirical_ntk
from lazyjax.trees import tree_distance
from lazyjax.typing import AnyArray, ApplyFn, Params

Until = Literal["certified", "converged"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart(Storable):
    """Trained parameters and what is certain of training from there.

    Attributes:
        params: The parameters, as NumPy arrays in float64.
        certificate: From `params` on.
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
    until: Until = "certified",
    certify_fn: CertifyFn = gradient_flow,
) -> WarmStart:
    r"""Trained parameters of a network, certified.

    Training is by the method of Levenberg and Marquardt in float64: steps are
    $-J^\top (K + \lambda I)^{-1} r$, for which the kernel $K$ is enough. A certificate
    is tried at the start, and again where the residual is a tenth of what it was then,
    or where the last margin, the residual and $\lambda_{\min}(K)$ suggest that it holds.

    Args:
        network: Network, or function `apply_fn(params, x)`, as for `gradient_flow`.
        params: Where training starts.
        x: Training inputs.
        y: Training targets.
        num_steps: Number of steps at most; training ends when it gets no further.
        rigor: "proof" accounts for rounding in the certificate, "float" does not.
        until: "certified" ends training where the certificate holds, "converged" where
            it gets no further, which is most certain and leaves a tiny residual.
        certify_fn: What is certified: `gradient_flow`, `gradient_descent`, or another
            verb that takes such arguments and `rigor`.

    Returns:
        The parameters, and the certificate from them on.

    Raises:
        ValueError: If no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point, or `certify_fn` returns no
            certificate.

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
    check_choice("until", until, get_args(Until))
    start = bounds_at(network, params, x, y, rigor=rigor)
    if not (start.smooth.holds or start.first_layer.holds):
        raise ValueError(
            "`network` must be one that `gradient_flow` has a theorem for: "
            f"{start.smooth.statement} ({start.smooth.detail})."
        )
    apply_fn = network.apply if isinstance(network, Network) else network

    def certificate_at(point: _Point) -> Certificate:
        here = jax.tree.map(np.asarray, point.params)
        return certified(certify_fn, network, here, x, y, rigor)

    before = jax.tree.map(widened, params)
    training = _training(
        HashableCallable(apply_fn), before, widened(x), np.asarray(y), num_steps
    )
    start_point = point = next(training)
    residuals, tried, certificate = [], None, None
    for point in itertools.chain([start_point], training):
        residuals.append(point.residual)
        if until == "certified" and (
            tried is None
            or certificate is None
            or _may_hold(point, tried, certificate.margin)
        ):
            tried, certificate = point, certificate_at(point)
            if certificate.is_certified:
                break
    if certificate is None or tried is not point:
        certificate = certificate_at(point)
    with jax.enable_x64(True):
        moved = float(tree_distance(point.params, before))
    return WarmStart(
        params=jax.tree.map(np.asarray, point.params),
        certificate=certificate,
        residual=np.asarray(residuals),
        moved=moved,
    )


class _Point(NamedTuple):
    """Parameters, norm of the residual, and smallest eigenvalue of the kernel."""

    params: Params
    residual: float
    eig_min: float


def _may_hold(point: _Point, tried: _Point, margin: float) -> bool:
    r"""Whether a certificate is worth another try, after one with this margin."""
    # 1 - margin is in proportion to |r| / eig_min, but for the Lipschitz constant, which
    # changes with the parameters and is smaller in smaller balls.
    if point.residual <= tried.residual / 10:
        return True
    then, now = tried.residual * point.eig_min, point.residual * tried.eig_min
    return bool((1 - margin) * now < then)


def _training(
    apply_fn: HashableCallable,
    params: Params,
    x: AnyArray,
    y: np.ndarray,
    num_steps: int,
) -> Iterator[_Point]:
    """Where training is after each step, from the start on."""
    residual = _residual(apply_fn, params, x, y)
    damping, size = 1e-3, residual.size
    for step in range(num_steps + 1):
        norm = float(np.linalg.norm(residual))
        gram = _gram(apply_fn, params, x)
        scale = np.trace(gram) / size
        is_over = not np.isfinite(scale) or scale == 0 or norm == 0
        eig_min = np.nan if is_over else float(np.linalg.eigvalsh(gram)[0])
        yield _Point(params, norm, eig_min)
        if is_over or step == num_steps:
            return
        for _ in range(12):
            damped = gram + damping * scale * np.eye(size)
            weights = np.linalg.solve(damped, residual.reshape(-1))
            trial = _stepped(apply_fn, params, x, weights.reshape(residual.shape))
            trial_residual = _residual(apply_fn, trial, x, y)
            if np.linalg.norm(trial_residual) < norm:
                break
            damping = max(damping, 1e-16) * 10
        else:
            return  # no step gets further: rounding, or a critical point
        params, residual = trial, trial_residual
        damping = max(damping / 10, 1e-16)


def _residual(
    apply_fn: HashableCallable, params: Params, x: AnyArray, y: np.ndarray
) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(_outputs(apply_fn, params, x)) - y


def _gram(apply_fn: HashableCallable, params: Params, x: AnyArray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(gram_matrix(empirical_ntk(apply_fn, params, x)))


def _stepped(
    apply_fn: HashableCallable, params: Params, x: AnyArray, weights: np.ndarray
) -> Params:
    """Parameters after the step $-J^T$ `weights`."""
    with jax.enable_x64(True):
        return _step(apply_fn, params, x, weights)


def _output_fn(apply_fn: HashableCallable, params: Params, x: Array) -> Array:
    return apply_fn(params, x)


def _step_fn(
    apply_fn: HashableCallable, params: Params, x: Array, weights: Array
) -> Params:
    _, pull = jax.vjp(lambda params: apply_fn(params, x), params)
    return jax.tree.map(jnp.subtract, params, pull(weights)[0])


_outputs = jax.jit(_output_fn, static_argnums=0)
_step = jax.jit(_step_fn, static_argnums=0)
