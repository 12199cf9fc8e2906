"""Random problems with starts, and what gradient flow and descent do from there."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.certify import local_bounds
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
    network: Network, shape: tuple[int, int], kind: str, seed: int, condition: float
) -> Problem:
    """A problem whose residual is `condition` times what flow can be certified for.

    The residual points anywhere, or where the Jacobian is weakest.
    """
    rng = np.random.default_rng(seed)
    x = inputs(rng, kind, *shape)
    with jax.enable_x64(True):
        params = network.init(jax.random.key(seed), jnp.asarray(x))
        params = jax.tree.map(np.asarray, params)
        scale = {"huge scale": 1e5, "tiny scale": 1e-3}.get(kind, 1.0)
        params = jax.tree.map(lambda v: v * scale ** (1 / (1 + (v.ndim == 1))), params)
        f = np.asarray(compiled_apply(network)(params, x))
        kernel = np.asarray(compiled_kernel(network)(params, x))
    direction = rng.standard_normal(f.size)
    if rng.random() < 0.5:
        direction = np.linalg.eigh(kernel)[1][:, 0]
    direction = direction / np.linalg.norm(direction)
    if network.architecture.activation == "relu":
        size = 10.0 ** rng.uniform(-4, 0)
    else:
        size = _size(local_bounds(network, params, x, f, rigor="float"), condition)
    return Problem(params, x, f + size * direction.reshape(f.shape), kind)


def _size(bounds, condition: float) -> float:
    """Norm of the residual with Lip(J) |r| / sigma^2 equal to half the `condition`."""
    sigma = bounds.blocks[0].sigma_min
    if not sigma > 1e-7:  # of rounding only
        return 1.0
    size = condition
    for _ in range(30):
        constant = bounds.lipschitz(size / sigma)
        size = 0.5 * size + 0.5 * min(
            condition * sigma**2 / 2 / (constant + 1e-12), 1e6
        )
    return float(size) if 0 < size < 1e6 else 1.0


@functools.cache
def compiled_apply(network: Network):
    return jax.jit(network.apply)


@functools.cache
def compiled_kernel(network: Network):
    def kernel(params, x):
        jacobian = jax.jacrev(lambda p: network.apply(p, x).reshape(-1))(params)
        rows = [j.reshape(j.shape[0], -1) for j in jax.tree.leaves(jacobian)]
        joined = jnp.concatenate(rows, axis=1)
        return joined @ joined.T

    return jax.jit(kernel)


@functools.cache
def compiled_runs(network: Network, how: str, num_steps: int):
    """Losses and distances from the start at every step, for a batch of problems."""

    def loss(params, x, y):
        return jnp.sum((network.apply(params, x) - y) ** 2) / 2

    gradient = jax.grad(loss)

    def moved(params, direction, size):
        return jax.tree.map(lambda p, g: p - size * g, params, direction)

    def step(params, x, y, size):
        k1 = gradient(params, x, y)
        if how == "descent":
            return moved(params, k1, size)
        k2 = gradient(moved(params, k1, size / 2), x, y)
        k3 = gradient(moved(params, k2, size / 2), x, y)
        k4 = gradient(moved(params, k3, size), x, y)
        mean = jax.tree.map(
            lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4
        )
        return moved(params, mean, size)

    def run(start, x, y, size):
        def body(params, _):
            away = sum(
                jnp.sum((a - b) ** 2)
                for a, b in zip(
                    jax.tree.leaves(params), jax.tree.leaves(start), strict=True
                )
            )
            return step(params, x, y, size), (loss(params, x, y), jnp.sqrt(away))

        return jax.lax.scan(body, start, None, length=num_steps + 1)[1]

    return jax.jit(jax.vmap(run))


def runs(
    network: Network,
    how: str,
    problems: list[Problem],
    sizes: list[float],
    num_steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and distances of all problems, `(number, num_steps + 1)` each."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda *v: jnp.stack(v), *[p.params for p in problems])
        x = jnp.asarray(np.stack([p.x for p in problems]))
        y = jnp.asarray(np.stack([p.y for p in problems]))
        run = compiled_runs(network, how, num_steps)
        loss, away = run(params, x, y, jnp.asarray(sizes))
    return np.asarray(loss), np.asarray(away)


def violations(certificate, loss, away, times, floor: float) -> list[str]:
    """What of the guarantee was not kept, beyond rounding of the run itself."""
    bound = np.array([certificate.loss_bound(float(t)) for t in times])
    found = []
    if not np.all(loss <= loss[0] * bound * (1 + 1e-7) + floor):
        found.append("rate")
    if not np.all(away <= certificate.radius * (1 + 1e-7) + math.sqrt(floor)):
        found.append("radius")
    return found
