"""Networks of all kinds and any values of all their fields keep what is certified."""

import collections
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import FIELDS_OF_SOME, KINDS
from lazyjax.certify.arithmetic.activations import SMOOTH_ACTIVATIONS
from lazyjax.certify.theorems import residual
from lazyjax.nets import Network
from lazyjax.nets.build import build

pytestmark = pytest.mark.once

WIDTH, NUM_STEPS = 8, 400
THEOREMS = {"flow": residual.flow_theorem, "descent": residual.descent_theorem}


def values_of(name: str, depth: int) -> list[Any]:
    """Values of a field of a network of some depth."""
    table: dict[str, list[Any]] = {
        "activation": [*SMOOTH_ACTIVATIONS, "relu"],
        "w_std": [0.5, 1.0, 2.0],
        "b_std": [0.0, 0.3],
        "parameterization": ["ntk", "standard", "mup"],
        "num_outputs": [1, 2],
        "trained": ["all", "all", "first", "last", "last_hidden", (1,)],
        "input_scaling": ["fan_in", "none"],
        "readout": ["normal", "sign"],
        "symmetrized": [False, True],
        "activation_scale": ["none", "unit"],
        "output_scale": [0.1, 1.0, 10.0],
        "normalization": ["none", "layer"],
        "residual_scale": [0.5, 1.0],
        "recurrent_std": [0.5, 1.0],
        "width_factors": [(), (2,) * depth],
        "filter_shape": [(3, 3), (2, 2)],
        "strides": [(), (2,) + (1,) * (depth - 1)],
        "padding": ["SAME", "VALID", "CIRCULAR"],
        "pool_after": [(), (1,)],
        "pooling": ["average", "max"],
        "head": ["flatten", "average"],
        "pixel_scaling": ["fan_in", "none"],
        "patch_size": [2, 3],
        "num_heads": [2, 4],
    }
    return table[name]


def fields_of(kind: str) -> list[str]:
    """Fields that networks of a kind have, beside their kind and depth."""
    names = {field.name for field in dataclasses.fields(Architecture)}
    return sorted(names - {"kind", "depth"} - (FIELDS_OF_SOME - KINDS[kind].fields))


def drawn(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Values of all fields that fit each other."""
    while True:
        depth = int(rng.choice([1, 2] if kind != "block_resnet" else [1, 3]))
        values: dict[str, Any] = {"kind": kind, "depth": depth}
        for name in fields_of(kind):
            choices = values_of(name, depth)
            values[name] = choices[rng.integers(len(choices))]
        try:
            network = build(Architecture(**values), width=WIDTH)
            x = jax.ShapeDtypeStruct(shape_of(kind), np.dtype(np.float32))
            jax.eval_shape(network.init, jax.random.key(0), x)
        except ValueError:  # which `test_architecture` is about
            continue
        return values


def pairs_of(values: dict[str, Any]) -> set[Any]:
    return set(
        itertools.combinations(sorted((k, str(v)) for k, v in values.items()), 2)
    )


def covering(kind: str, count: int) -> tuple[list[dict[str, Any]], int]:
    """Products that have as many pairs of values as can be, and how many they have."""
    rng, chosen, seen = np.random.default_rng(0), [], set()
    for _ in range(count):
        candidates = [drawn(kind, rng) for _ in range(8)]
        best = max(candidates, key=lambda values: len(pairs_of(values) - seen))
        seen |= pairs_of(best)
        chosen.append(best)
    return chosen, len(seen)


def shape_of(kind: str) -> tuple[int, ...]:
    """Shape of two inputs."""
    layers = KINDS[kind].layers
    shape = {"dense": (5,), "recurrent": (3, 2)}.get(layers, (6, 6, 1))
    return 2, *shape


def runs(network: Network, params: Any, x: Any, y: Any, step: float, name: str) -> Any:
    """Losses and distances along descent, or flow by short steps of Runge and Kutta."""

    def loss_fn(p: Any) -> Any:
        return jnp.sum((network.apply(p, x) - y) ** 2) / 2

    def moved(p: Any, g: Any, size: Any) -> Any:
        return jax.tree.map(lambda a, b: a - size * b, p, g)

    def advance(p: Any, _: Any) -> Any:
        loss, k1 = jax.value_and_grad(loss_fn)(p)
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, params)
        distance = jnp.sqrt(sum(jax.tree.leaves(squares)))
        if name == "descent":
            return moved(p, k1, step), (loss, distance)
        k2 = jax.grad(loss_fn)(moved(p, k1, step / 2))
        k3 = jax.grad(loss_fn)(moved(p, k2, step / 2))
        k4 = jax.grad(loss_fn)(moved(p, k3, step))
        for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            p = moved(p, k, weight * step / 6)
        return p, (loss, distance)

    found = jax.jit(lambda p: jax.lax.scan(advance, p, None, NUM_STEPS)[1])(params)
    return tuple(map(np.asarray, found))


def check(values: dict[str, Any], seed: int) -> dict[str, str]:
    """Verdicts of both theorems, after what they promise was checked."""
    rng = np.random.default_rng(seed)
    network = build(Architecture(**values), width=WIDTH)
    x = rng.standard_normal(shape_of(values["kind"]))
    with jax.enable_x64(True):
        params = network.init(jax.random.key(seed), jnp.asarray(x))
        f = np.asarray(network.apply(params, jnp.asarray(x)))
    params = jax.tree.map(np.asarray, params)
    direction = rng.standard_normal(f.shape)
    direction /= np.linalg.norm(direction)
    try:
        unit = certify.bounds_at(network, params, x, f + direction).local
    except ValueError as error:
        if "its program has" not in str(error):  # what it is that has no bounds
            raise
        return {"flow": "refused", "descent": "refused"}
    size = unit.blocks[0].sigma_min ** 2 / max(unit.lipschitz(0.0), 1e-9)
    y = f + min(float(rng.choice([0.1, 0.2, 0.4])) * size, 1.0) * direction
    start = certify.bounds_at(network, params, x, y)
    bounds, (_, off) = start.local, start.outputs
    verdicts = {}
    for name, theorem in THEOREMS.items():
        certificate = theorem(bounds)
        verdicts[name] = certificate.verdict.value
        if not certificate.is_certified:
            # What is missing is named: an assumption, or a bound beside what it needs.
            assert certificate.explain()
            continue
        step = certificate.step_size
        if name == "flow":
            step = 0.2 / certificate["jacobian_norm"] ** 2
        with jax.enable_x64(True):
            tree = jax.tree.map(jnp.asarray, params)
            losses, distances = runs(network, tree, x, y, step, name)
        chosen = np.arange(0, NUM_STEPS, 10)
        times = chosen * (step if name == "flow" else 1)
        allowed = np.array([certificate.loss_bound(float(t)) for t in times])
        floor = 1e-26 * (1 + np.sum(y**2)) + off**2  # of rounding
        assert np.all(losses[chosen] <= losses[0] * allowed * (1 + 1e-7) + floor)
        assert np.all(distances <= certificate.radius * (1 + 1e-7) + 1e-13)
    return verdicts


def test_every_field_of_every_kind_has_values():
    """A field or a kind that is added later has to be added here as well."""
    for kind in ("mlp", "resnet", "cnn", "conv_resnet", "rnn", "block_resnet", "vit"):
        assert kind in KINDS
        for name in fields_of(kind):
            assert len({str(v) for v in values_of(name, 3)}) > 1


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_products_of_fields_keep_what_is_certified(kind):
    values = drawn(kind, np.random.default_rng(1))
    assert check(values, 0)["flow"] == "CERTIFIED"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["mlp", "resnet", "cnn", "conv_resnet", "rnn", "block_resnet", "vit"]
)
def test_many_products_of_fields_keep_what_is_certified(kind):
    chosen, _ = covering(kind, 30)
    counts = collections.Counter(
        verdict for seed, v in enumerate(chosen) for verdict in check(v, seed).values()
    )
    assert counts["CERTIFIED"] >= 6
