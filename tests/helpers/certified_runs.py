"""Random problems with starts, and what gradient flow and descent do from there."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad
from scipy.special import erf, expit

from lazyjax.certify.bounds import branches as certified, singular_values
from lazyjax.certify.bounds.layers import layers_of
from lazyjax.nets import Network

# How inputs and parameters are drawn; most of them make certificates hard or impossible.
KINDS = ("plain", "duplicates", "low rank", "nearly equal", "huge scale", "tiny scale")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Parameters, inputs and targets, in float64."""

    params: dict
    x: np.ndarray
    y: np.ndarray
    kind: str


def inputs(rng: np.random.Generator, kind: str, n: int, d: int) -> np.ndarray:
    x = rng.standard_normal((n, d))
    if kind == "low rank":
        x = rng.standard_normal((n, 1)) @ rng.standard_normal((1, d))
    if kind == "duplicates":
        x[1] = x[0]
    if kind == "nearly equal":
        x[1] = x[0] + 10.0 ** rng.uniform(-9, -1) * rng.standard_normal(d)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def problem(
    network: Network,
    shape: tuple[int, int],
    kind: str,
    seed: int,
    condition: float,
    params: Any = None,
) -> Problem:
    """A problem whose residual is `condition` times what flow can be certified for.

    The residual points anywhere, or where the Jacobian is weakest. Parameters are those
    given, or drawn by the network.
    """
    rng = np.random.default_rng(seed)
    x = inputs(rng, kind, *shape)
    if params is None:
        with jax.enable_x64(True):
            params = network.init(jax.random.key(seed), jnp.asarray(x))
    scale = {"huge scale": 1e5, "tiny scale": 1e-3}.get(kind, 1.0)
    params = jax.tree.map(lambda v: np.asarray(v) * scale ** (1 / (3 - v.ndim)), params)
    evaluations = certified.evaluations_of(layers_of(network, params), x, 0.0)
    f, _ = certified.output_of(evaluations)
    direction = rng.standard_normal(f.size)
    gram = certified.kernel_of(evaluations)
    if rng.random() < 0.5:
        direction = np.linalg.eigh(gram.value)[1][:, 0]
    if network.architecture.activation in ("relu", "leaky_relu", "abs"):
        size = 10.0 ** rng.uniform(-4, 0)
    else:
        sigma = singular_values.sigma_min_lower(gram, 0.0)
        size = _size(sigma, certified.lipschitz_fn(evaluations), condition)
    direction = size * direction / np.linalg.norm(direction)
    return Problem(params, x, f + direction.reshape(f.shape), kind)


def _size(sigma: float, lipschitz, condition: float) -> float:
    """Norm of the residual with Lip(J) |r| / sigma^2 equal to half the `condition`."""
    if not sigma > 1e-7:  # of rounding only
        return 1.0
    size = condition
    for _ in range(12):
        constant = lipschitz(2 * size / sigma)  # no path is longer
        size = 0.5 * size + 0.5 * min(
            condition * sigma**2 / 2 / (constant + 1e-12), 1e6
        )
    return float(size) if 0 < size < 1e6 else 1.0


# Networks once more, in NumPy and for a batch of problems: value and slope.
ACTIVATIONS = {
    "abs": (np.abs, lambda u: np.where(u > 0, 1.0, -1.0)),
    "cos": (np.cos, lambda u: -np.sin(u)),
    "elu": (
        lambda u: np.where(u > 0, u, np.exp(np.minimum(u, 0)) - 1),
        lambda u: np.where(u > 0, 1.0, np.exp(np.minimum(u, 0))),
    ),
    "erf": (erf, lambda u: 2 / np.pi**0.5 * np.exp(-(u**2))),
    "gaussian": (lambda u: np.exp(-(u**2)), lambda u: -2 * u * np.exp(-(u**2))),
    "identity": (lambda u: u, lambda u: 0 * u + 1),
    "leaky_relu": (
        lambda u: np.where(u > 0, u, 0.01 * u),
        lambda u: np.where(u > 0, 1.0, 0.01),
    ),
    "sigmoid": (expit, lambda u: expit(u) * expit(-u)),
    "silu": (
        lambda u: u * expit(u),
        lambda u: expit(u) * (1 + u * expit(-u)),
    ),
    "softplus": (lambda u: np.logaddexp(0, u), expit),
    "tanh": (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
    "sin": (np.sin, np.cos),
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0) * 1.0),
    "gelu": (
        lambda u: u * (1 + erf(u / 2**0.5)) / 2,
        lambda u: (
            (1 + erf(u / 2**0.5)) / 2 + u * np.exp(-(u**2) / 2) / (2 * np.pi) ** 0.5
        ),
    ),
}


@functools.cache
def unit_factor(activation: str) -> float:
    """What makes the mean square of an activation of a standard Gaussian 1."""
    phi, _ = ACTIVATIONS[activation]

    def density(u: float) -> float:
        return float(phi(np.float64(u))) ** 2 * math.exp(-(u**2) / 2)

    square = sum(quad(density, *ends, epsabs=1e-13)[0] for ends in ((-12, 0), (0, 12)))
    return (square / math.sqrt(2 * math.pi)) ** -0.5


@dataclasses.dataclass(frozen=True)
class Batch:
    """Problems of one network, their arrays stacked; the state is a list of arrays."""

    network: Network
    x: np.ndarray
    y: np.ndarray

    def scales(self, layer: int, fan_in: int) -> tuple[float, float]:
        """Multipliers of weights and biases of a layer, counted from 1."""
        spec, root = self.network.architecture, math.sqrt(self.network.width)
        is_hidden = layer <= spec.depth
        outer = 1.0 if is_hidden else spec.output_scale
        if spec.parameterization == "standard":
            return outer, outer
        if layer == 1 and spec.input_scaling == "none":
            fan_in = 1
        weight, bias = spec.w_std / math.sqrt(fan_in), spec.b_std
        if spec.parameterization == "mup" and is_hidden:
            return weight * root, bias * root
        return outer * weight, outer * bias

    def activation(self) -> tuple[Any, Any]:
        """The activation and its slope, scaled."""
        spec = self.network.architecture
        phi, slope = ACTIVATIONS[str(spec.activation)]
        if spec.activation_scale == "none":
            return phi, slope
        factor = unit_factor(str(spec.activation))
        return lambda u: factor * phi(u), lambda u: factor * slope(u)

    def forward(self, state: list) -> tuple[np.ndarray, list]:
        phi, _ = self.activation()
        h, seen = self.x, []
        for layer, (w, b) in enumerate(state, start=1):
            s, s_b = self.scales(layer, w.shape[1])
            z = s * (h @ w) + (0.0 if b is None else s_b * b[:, None])
            seen.append((h, z))
            h = phi(z) if layer < len(state) else z
        return h, seen

    def gradient(self, state: list, seen: list, e: np.ndarray) -> list:
        _, slope = self.activation()
        found: list[Any] = []
        for layer in range(len(state), 0, -1):
            (w, b), (h, _) = state[layer - 1], seen[layer - 1]
            s, s_b = self.scales(layer, w.shape[1])
            trained = 1.0 if self.network.architecture.is_trained(layer) else 0.0
            of_weight = trained * s * (h.swapaxes(1, 2) @ e)
            of_bias = None if b is None else trained * s_b * e.sum(axis=1)
            found.insert(0, (of_weight, of_bias))
            if layer > 1:
                e = s * (e @ w.swapaxes(1, 2)) * slope(seen[layer - 2][1])
        return found

    def loss_and_gradient(self, copies: list) -> tuple[np.ndarray, list]:
        """Of all problems; `copies` are one state or the two of a symmetrized one."""
        signs = (1.0,) if len(copies) == 1 else (0.5**0.5, -(0.5**0.5))
        passes = [self.forward(state) for state in copies]
        f = sum(sign * p[0] for sign, p in zip(signs, passes, strict=True))
        r = f - self.y
        gradients = [
            self.gradient(state, p[1], sign * r)
            for state, p, sign in zip(copies, passes, signs, strict=True)
        ]
        return np.sum(r**2, axis=(1, 2)) / 2, gradients

    def jacobian(self, copies: list) -> np.ndarray:
        """Of one problem, a row for each output of each example."""
        signs = (1.0,) if len(copies) == 1 else (0.5**0.5, -(0.5**0.5))
        _, n, k = self.y.shape
        rows = []
        for i in range(n * k):
            unit = np.zeros((1, n * k))
            unit[0, i] = 1.0
            e = unit.reshape(1, n, k)
            gradients = [
                self.gradient(state, self.forward(state)[1], sign * e)
                for state, sign in zip(copies, signs, strict=True)
            ]
            rows.append(np.concatenate([v.ravel() for v in leaves(gradients)]))
        return np.array(rows)

    def residual(self, copies: list) -> np.ndarray:
        """Of one problem."""
        signs = (1.0,) if len(copies) == 1 else (0.5**0.5, -(0.5**0.5))
        f = sum(s * self.forward(c)[0] for s, c in zip(signs, copies, strict=True))
        return (f - self.y).ravel()


def moved(copies: list, gradients: list, size: np.ndarray) -> list:
    def step(a, g):
        if a is None:
            return None
        return a - size.reshape((-1,) + (1,) * (a.ndim - 1)) * g

    return [
        [
            (step(w, gw), step(b, gb))
            for (w, b), (gw, gb) in zip(state, gradient, strict=True)
        ]
        for state, gradient in zip(copies, gradients, strict=True)
    ]


def leaves(copies: list) -> list[np.ndarray]:
    return [v for state in copies for pair in state for v in pair if v is not None]


def start_of(network: Network, problems: list[Problem]) -> tuple[Batch, list]:
    is_symmetrized = network.architecture.symmetrized
    names = ("plus", "minus") if is_symmetrized else (None,)

    def stacked(copy, layer, name):
        entries = [p.params if copy is None else p.params[copy] for p in problems]
        if name not in entries[0][layer]:
            return None
        return np.stack([entry[layer][name] for entry in entries])

    layers = [f"layer_{i}" for i in range(1, network.architecture.num_layers + 1)]
    copies = [
        [
            (stacked(copy, name, "kernel"), stacked(copy, name, "bias"))
            for name in layers
        ]
        for copy in names
    ]
    x = np.stack([p.x for p in problems])
    return Batch(network, x, np.stack([p.y for p in problems])), copies


def runs(
    network: Network, how: str, problems: list[Problem], sizes: list, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and distances of all problems, `(number, num_steps + 1)` each.

    Descent takes steps of those sizes, flow those of Runge and Kutta.
    """
    batch, copies = start_of(network, problems)
    start, size = leaves(copies), np.asarray(sizes, float)
    losses, distances = [], []
    for _ in range(num_steps + 1):
        loss, k1 = batch.loss_and_gradient(copies)
        losses.append(loss)
        squares = [
            np.sum((a - b).reshape(len(problems), -1) ** 2, axis=1)
            for a, b in zip(leaves(copies), start, strict=True)
        ]
        distances.append(np.sqrt(sum(squares)))
        if how == "descent":
            copies = moved(copies, k1, size)
            continue
        k2 = batch.loss_and_gradient(moved(copies, k1, size / 2))[1]
        k3 = batch.loss_and_gradient(moved(copies, k2, size / 2))[1]
        k4 = batch.loss_and_gradient(moved(copies, k3, size))[1]
        for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            copies = moved(copies, k, weight * size / 6)
    return np.stack(losses, axis=1), np.stack(distances, axis=1)


def violations(
    certificate, loss: np.ndarray, away: np.ndarray, times: np.ndarray, floor: float
) -> list[str]:
    """What of the guarantee was not kept, beyond rounding of the run itself."""
    bound = np.array([certificate.loss_bound(float(t)) for t in times])
    found = []
    if not np.all(loss <= loss[0] * bound * (1 + 1e-7) + floor):
        found.append("rate")
    if not np.all(away <= certificate.radius * (1 + 1e-7) + math.sqrt(floor)):
        found.append("radius")
    return found
