r"""Certificates from trained parameters: train in floating point, then certify.

At the start of training the residual is large and certificates need wide networks. Near
a zero of the loss they need $\lVert r\rVert < \sigma_{\min}(J)^2 / (2 \Lambda)$ only,
which most smooth networks that interpolate satisfy, at any depth. The certificate then
says that exact parameters of zero loss exist close by and that gradient flow from the
trained ones reaches such; how the trained ones were found does not matter.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least
from lazyjax.certify.bounds.evaluation import Evaluation, LayerNorms, evaluate, kernel
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE, Layers
from lazyjax.certify.bounds.start import bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.descent_and_flow import gradient_flow
from lazyjax.files.results import Storable
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, Params


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
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    num_steps: int = 100,
    rigor: Rigor = "proof",
) -> WarmStart:
    r"""Trained parameters of a network, certified.

    Training is by the method of Levenberg and Marquardt in float64: steps are
    $-J^\top (K + \lambda I)^{-1} r$, for which the kernel $K$ is enough.

    Args:
        network: From `lazyjax.nets.mlp`.
        params: Where training starts.
        x: Training inputs.
        y: Training targets.
        num_steps: Number of steps at most; training ends when it gets no further.
        rigor: "proof" accounts for rounding in the certificate, "float" does not.

    Returns:
        The parameters and the certificate of gradient flow from them.

    Raises:
        ValueError: If the network is of another kind or has no certificates, or
            arguments do not fit.
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
    branches = start.branches
    if not (start.smooth.holds or start.first_layer.holds):
        raise ValueError(
            "`network` must be one that `gradient_flow` has a theorem for; got "
            f"activation {branches[0].activation!r}, {branches[0].depth} hidden layers."
        )
    with np.errstate(all="ignore"):  # a step that overflows is not taken
        trained, residuals = _trained(branches, start.inputs, start.targets, num_steps)
    result = _params(params, trained, network.architecture.symmetrized)
    return WarmStart(
        params=result,
        certificate=gradient_flow(network, result, x, y, rigor=rigor),
        residual=np.asarray(residuals),
        moved=_distance(branches, trained),
    )


def _trained(
    branches: tuple[Layers, ...], x: np.ndarray, y: np.ndarray, num_steps: int
) -> tuple[tuple[Layers, ...], list[float]]:
    evaluations, residual = _evaluated(branches, x, y)
    residuals = [float(np.linalg.norm(residual))]
    damping = 1e-3
    for _ in range(num_steps):
        factor = len(branches) ** -0.5
        gram = sum(kernel(e).value for e in evaluations) * factor**2
        scale = np.trace(gram) / len(gram)
        if not np.isfinite(scale) or scale == 0 or residuals[-1] == 0:
            break
        for _ in range(12):
            damped = gram + damping * scale * np.eye(len(gram))
            weights = np.linalg.solve(damped, residual.reshape(-1))
            weights = weights.reshape(residual.shape)
            trial = tuple(
                _stepped(e, sign * factor * weights)
                for e, sign in zip(evaluations, (1, -1), strict=False)
            )
            after, new_residual = _evaluated(trial, x, y)
            if np.linalg.norm(new_residual) < residuals[-1]:
                break
            damping = max(damping, 1e-16) * 10
        else:
            break  # no step gets further: rounding, or a critical point
        branches, evaluations, residual = trial, after, new_residual
        residuals.append(float(np.linalg.norm(residual)))
        damping = max(damping / 10, 1e-16)
    return branches, residuals


def _evaluated(
    branches: tuple[Layers, ...], x: np.ndarray, y: np.ndarray
) -> tuple[tuple[Evaluation, ...], np.ndarray]:
    # No errors are bounded while training, so norms of weights are not needed.
    evaluations = tuple(
        evaluate(
            branch, x, 0.0, norms=(LayerNorms(0.0, 0.0, 0.0),) * len(branch.layers)
        )
        for branch in branches
    )
    if len(branches) == 1:
        return evaluations, evaluations[0].output.value - y
    plus, minus = evaluations
    output = (plus.output.value - minus.output.value) * SYMMETRIZED_SCALE
    return evaluations, output - y


def _stepped(evaluation: Evaluation, weights: Float[np.ndarray, "n k"]) -> Layers:
    """The branch after the step $-J^T$ `weights`."""
    layers = []
    for layer, rows, cotangents in zip(
        evaluation.network.layers, evaluation.inputs, evaluation.cotangents, strict=True
    ):
        if not layer.is_trained:
            layers.append(layer)
            continue
        pulled = np.einsum("ik,ikm->im", weights, cotangents.value)
        layers.append(
            dataclasses.replace(
                layer,
                weight=layer.weight - layer.scale * (rows.value.T @ pulled),
                bias=layer.bias - layer.bias_scale * np.sum(pulled, axis=0),
            )
        )
    return dataclasses.replace(evaluation.network, layers=tuple(layers))


def _params(
    params: Params, trained: tuple[Layers, ...], is_symmetrized: bool
) -> Params:
    """The pytree of `params` with the trained arrays, in float64."""
    result = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    entries = (result["plus"], result["minus"]) if is_symmetrized else (result,)
    copied = []
    for entry, branch in zip(entries, trained, strict=True):
        entry = {name: dict(arrays) for name, arrays in entry.items()}
        for number, layer in enumerate(branch.layers, start=1):
            arrays = entry[f"layer_{number}"]
            arrays["kernel"] = layer.weight
            if "bias" in arrays:
                arrays["bias"] = layer.bias
        copied.append(entry)
    if is_symmetrized:
        return {"minus": copied[1], "plus": copied[0]}
    return copied[0]


def _distance(start: tuple[Layers, ...], end: tuple[Layers, ...]) -> float:
    total = 0.0
    for one, other in zip(start, end, strict=True):
        for a, b in zip(one.layers, other.layers, strict=True):
            total += np.sum((a.weight - b.weight) ** 2) + np.sum((a.bias - b.bias) ** 2)
    return float(np.sqrt(total))
