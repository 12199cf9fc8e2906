"""Numbers of every part of the library, written down to be compared with later ones.

    python -m benchmarks.recorded before.npz
    python -m benchmarks.recorded after.npz --against before.npz

For changes that should change no number: kernels, infinite kernels, training and
certificates of small networks, by version of the library on one machine.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lazyjax
from benchmarks.networks import apply_fn
from benchmarks.workloads import WORKLOADS
from lazyjax import certify, dynamics, infinite, nets

Case = Callable[[], Any]
_ACTIVATIONS = ("relu", "leaky_relu", "erf", "gelu", "tanh", "softplus", "silu")


def _data(n: int, *shape: int, k: int = 1) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(1))
    x = jax.random.normal(keys[0], (n, *shape))
    axes = tuple(range(1, x.ndim))
    x = x / jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))
    return x, 0.3 * jax.random.normal(keys[1], (n, k))


def _kernels() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name in WORKLOADS:
        work = WORKLOADS[name]("toy")
        params, x, _ = jax.device_put(work.draw())
        fn = apply_fn(work)
        for method in ("auto", "structured", "jacobian", "vjp"):

            def kernel(
                fn: Any = fn, params: Any = params, x: Any = x, method: Any = method
            ) -> Any:
                return lazyjax.empirical_ntk(fn, params, x, method=method)

            cases[f"ntk/{name}/{method}"] = kernel
    return cases


def _verbs() -> dict[str, Case]:
    network = nets.mlp(width=48, depth=2, num_outputs=3, activation="gelu")
    x, _ = _data(7, 5, k=3)
    params = network.init(jax.random.key(0), x)
    at = (network.apply, params, x)
    small = nets.cnn(width=4, depth=2, num_outputs=2)
    images = _data(5, 6, 6, 1)[0]
    weights = small.init(jax.random.key(0), images)
    return {
        "ntk/two batches": lambda: lazyjax.empirical_ntk(*at, x[:3] + 0.1),
        "ntk/trace": lambda: lazyjax.empirical_ntk(*at, outputs="trace"),
        "ntk/diagonal outputs": lambda: lazyjax.empirical_ntk(*at, outputs="diagonal"),
        "ntk/pseudo": lambda: lazyjax.empirical_ntk(*at, outputs="pseudo"),
        "ntk/cnn": lambda: lazyjax.empirical_ntk(small.apply, weights, images),
        "ntk_diagonal": lambda: lazyjax.ntk_diagonal(*at),
        "layerwise": lambda: lazyjax.layerwise_ntk(*at),
        "nngp": lambda: lazyjax.empirical_nngp(*at),
        "operator": lambda: lazyjax.ntk_operator(*at)(jnp.ones((7, 3))),
        "taylor": lambda: lazyjax.taylor_expand(network.apply, params, order=2)(
            jax.tree.map(lambda leaf: leaf + 0.01, params), x
        ),
        "monte carlo": lambda: lazyjax.monte_carlo_ntk(
            network.apply, network.init, x, num_seeds=4, key=jax.random.key(3)
        ),
    }


def _infinite() -> dict[str, Case]:
    x, y = _data(9, 5)
    images = _data(4, 6, 6, 2)[0]
    cases: dict[str, Case] = {}
    for activation in _ACTIVATIONS:
        network = nets.mlp(width=8, depth=3, activation=activation)
        cases[f"infinite/{activation}"] = lambda network=network: lazyjax.infinite_ntk(
            network.architecture, x
        )
    for name, network, batch in (
        ("cnn", nets.cnn(width=4, depth=2), images),
        ("resnet", nets.resnet(width=4, depth=2), x),
        ("conv_resnet", nets.conv_resnet(width=4, depth=2), images),
        ("rnn", nets.rnn(width=4), _data(4, 3, 2)[0]),
    ):
        cases[f"infinite/{name}"] = lambda network=network, batch=batch: (
            lazyjax.infinite_ntk(network.architecture, batch),
            lazyjax.infinite_nngp(network.architecture, batch),
        )
    network = nets.mlp(width=8, depth=2)
    params = network.init(jax.random.key(0), x)
    cases["infinite/lifted"] = lambda: lazyjax.infinite_ntk_of(
        network.apply, params, x, variances=1.0
    )
    predict = infinite.predict

    def posterior() -> Any:
        grams = predict.nngp_grams(network.architecture, x, x[:2] + 0.1)
        return predict.posterior(grams, y, noise_sq=0.1)

    cases["predict"] = posterior
    return cases


def _dynamics() -> dict[str, Case]:
    network = nets.mlp(width=32, depth=1, activation="tanh")
    x, y = _data(6, 4)
    params = network.init(jax.random.key(0), x)
    at = (network.apply, params, x, y)
    return {
        "train/sgd": lambda: (
            lazyjax.train(*at, optimizer=optax.sgd(0.1), num_steps=20).params
        ),
        "train/adam": lambda: (
            lazyjax.train(*at, optimizer=optax.adam(0.01), num_steps=20).params
        ),
        "gradient flow": lambda: (
            lazyjax.gradient_flow(*at, times=jnp.array([0.5, 2.0])).params
        ),
        "linear dynamics": lambda: lazyjax.linear_dynamics(
            lazyjax.empirical_ntk(*at[:3]), y, network.apply(params, x)
        ).gradient_flow(jnp.array([0.5, 2.0, jnp.inf])),
        "linearized flow": lambda: dynamics.linearized_flow(
            lazyjax.empirical_ntk(*at[:3]), y, network.apply(params, x), [0.5, 2.0]
        ),
        "sweep": lambda: (
            lazyjax.sweep(
                network.architecture,
                x,
                y,
                widths=(8, 16),
                num_seeds=2,
                learning_rates=(0.1, 0.3),
                alphas=(1.0, 4.0),
                num_steps=8,
                key=jax.random.key(0),
            ).loss
        ),
    }


def _certificates() -> dict[str, Case]:
    smooth = nets.mlp(width=512, activation="softplus", trained="first", w_std=3.0)
    relu = nets.mlp(width=4096, activation="relu", trained="first", symmetrized=True)
    deep = nets.mlp(width=256, depth=2, activation="tanh")
    x, y = _data(4, 8)
    labels = jnp.sign(y)
    cases: dict[str, Case] = {}
    for name, network in (("smooth", smooth), ("relu", relu), ("deep", deep)):
        at = (network, network.init(jax.random.key(0), x), x, y)
        cases[f"certify/flow/{name}"] = lambda at=at: certify.gradient_flow(*at)
        cases[f"certify/descent/{name}"] = lambda at=at: certify.gradient_descent(*at)
    at = (smooth, smooth.init(jax.random.key(0), x), x)
    cases |= {
        "certify/flow/float": lambda: certify.gradient_flow(*at, y, rigor="float"),
        "certify/existence": lambda: certify.existence(*at, y),
        "certify/gap": lambda: certify.lazy_gap(*at, y, x[:2] + 0.1),
        "certify/logistic": lambda: certify.logistic_flow(*at, labels, target_loss=0.6),
        "certify/warm start": lambda: certify.warm_start(*at, y, num_steps=5),
        "certify/compare": lambda: certify.compare(*at, y),
        "certify/widths": lambda: certify.widths.theorem_requirements(x, y),
    }
    return cases


def numbers(value: Any) -> list[float]:
    """All numbers of a result, in the order of its fields; verdicts by their name."""
    if isinstance(value, certify.Certificate):
        verdict = list(certify.Verdict).index(value.verdict)
        return [float(verdict), *(float(q.value) for q in value.quantities)]
    if isinstance(value, (jax.Array, np.ndarray)):
        return [float(entry) for entry in np.asarray(value).ravel()]
    if isinstance(value, (bool, int, float, np.generic)):
        return [float(value)]
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, (tuple, list)):
        return [number for part in value for number in numbers(part)]
    if hasattr(value, "__dataclass_fields__"):
        fields = value.__dataclass_fields__
        return [n for name in fields for n in numbers(getattr(value, name))]
    return []


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference of two lists of numbers, over the largest size; 0 if equal."""
    if one.shape != other.shape or (np.isfinite(one) != np.isfinite(other)).any():
        return np.inf
    one, other = (np.where(np.isfinite(a), a, 0.0) for a in (one, other))
    gap = float(np.max(np.abs(one - other), initial=0.0))
    return gap / max(float(np.max(np.abs(one), initial=0.0)), 1e-300) if gap else 0.0


def main() -> int:
    """Write the numbers, and tell which differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--against")
    options = parser.parse_args()
    groups = (_kernels, _verbs, _infinite, _dynamics, _certificates)
    cases = {name: case for group in groups for name, case in group().items()}
    found = {name: np.array(numbers(case())) for name, case in cases.items()}
    np.savez(options.path, **found)  # pyright: ignore[reportArgumentType]
    print(f"{len(found)} cases, {sum(map(len, found.values()))} numbers")
    if not options.against:
        return 0
    with np.load(options.against) as before:
        names = {*before.files, *found}
        missing = names.difference(before.files) | names.difference(found)
        gaps = {name: difference(before[name], found[name]) for name in names - missing}
    for name in sorted(missing):
        print(f"{name}: only on one side")
    for name, gap in sorted(gaps.items()):
        if gap:
            print(f"{name}: differs by {gap:.2g} of its size")
    return int(bool(missing) or any(gaps.values()))


if __name__ == "__main__":
    sys.exit(main())
