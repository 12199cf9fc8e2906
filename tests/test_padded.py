"""Padded networks: the same function and gradient as the network alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import square_loss
from lazyjax.nets import Network, PaddedNetwork, build, can_be_padded
from lazyjax.trees import tree_norm
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

KEY = jax.random.key(3)
VECTORS = np.random.default_rng(0).normal(size=(3, 4))
IMAGES = np.random.default_rng(1).normal(size=(3, 4, 4, 2))

# cos, softplus and sigmoid do not send zero to zero: padded units need their masks.
CASES = {
    "mlp": (VECTORS, {"depth": 2, "b_std": 0.3}),
    "scaled": (VECTORS, {"output_scale": 3.0}),
    "one unit": (VECTORS, {"depth": 1, "activation": "tanh"}),
    "linear model": (VECTORS, {"depth": 0}),
    "cos": (VECTORS, {"depth": 2, "activation": "cos", "b_std": 0.3}),
    "mup": (
        VECTORS,
        {"depth": 2, "parameterization": "mup", "b_std": 0.1, "symmetrized": True},
    ),
    "standard": (VECTORS, {"parameterization": "standard", "activation": "softplus"}),
    "resnet": (VECTORS, {"kind": "resnet", "depth": 2, "activation": "sigmoid"}),
    "cnn": (IMAGES, {"kind": "cnn", "depth": 2, "b_std": 0.2}),
    "cnn, average": (
        IMAGES,
        {"kind": "cnn", "head": "average", "activation": "cos", "pool_after": (1,)},
    ),
    "conv_resnet": (
        IMAGES,
        {"kind": "conv_resnet", "depth": 2, "pixel_scaling": "none"},
    ),
}
TARGETS = np.array([[1.0], [-1.0], [0.5]])


def trained(apply_fn, start, optimizer):
    """Outputs and gradient at the start, and parameters after three updates."""
    loss = lambda params: square_loss(apply_fn(params), jnp.asarray(TARGETS))
    gradient = jax.grad(loss)(start)
    params, state = start, optimizer.init(start)
    for _ in range(3):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return apply_fn(start), gradient, params


@pytest.mark.parametrize("case", CASES)
def test_padded_network_is_the_network_alone(x64, case):
    x, options = CASES[case]
    spec = lazyjax.Architecture(**options)
    width = 1 if case == "one unit" else 3
    wide, narrow = build(spec, width=5), build(spec, width=width)
    padded = PaddedNetwork(wide)
    optimizer = optax.adam(0.1) if case == "cos" else optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def both(key, x):
        params, about = padded.init(narrow, key, x)
        beside = trained(lambda p: padded.apply(p, x, about), params, optimizer)
        start = narrow.init(key, x)
        alone = trained(lambda p: narrow.apply(p, x), start, optimizer)
        return beside, alone, params

    with jax.numpy_dtype_promotion("standard"):  # of Adam
        beside, alone, start = both(KEY, x)
    assert_close(beside[0], alone[0])
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), alone[1])
    for tree, expected in zip(beside[1:], alone[1:], strict=True):
        for leaf1, leaf2 in zip(
            *map(jax.tree.leaves, (padded.trim(tree, shapes), expected)), strict=True
        ):
            assert_close(leaf1, leaf2, "other_algorithm" if case == "cos" else 1e-12)
        # What was trimmed is zero: at the start, in the gradient, and after training.
        assert_close(tree_norm(tree), tree_norm(expected))
    if spec.depth:
        assert sum(p.size for p in jax.tree.leaves(start)) > sum(
            p.size for p in jax.tree.leaves(alone[1])
        )


def test_multipliers_of_the_wider_network_would_be_wrong(x64):
    spec = lazyjax.Architecture(depth=2)
    wide, narrow = build(spec, width=5), build(spec, width=3)
    params, about = PaddedNetwork(wide).init(narrow, KEY, VECTORS)
    right = PaddedNetwork(wide).apply(params, VECTORS, about)
    assert relative_error(wide.apply(params, jnp.asarray(VECTORS)), right) > 0.1


def test_kernel_of_a_padded_network_is_that_of_the_network_alone(x64):
    spec = lazyjax.Architecture(depth=2, activation="cos", b_std=0.5)
    padded, narrow = PaddedNetwork(build(spec, width=5)), build(spec, width=3)
    params, about = padded.init(narrow, KEY, VECTORS)
    kernel = lazyjax.empirical_ntk(
        lambda p, x: padded.apply(p, x, about), params, VECTORS
    )
    alone = lazyjax.empirical_ntk(narrow.apply, narrow.init(KEY, VECTORS), VECTORS)
    assert_close(kernel, alone)


def test_networks_that_cannot_be_padded_are_refused():
    infinite_at_zero = lazyjax.nets.mlp(width=4, activation=lambda u: 1 / u)
    sloping = lazyjax.nets.mlp(width=4, activation=lambda u: jnp.sqrt(jnp.abs(u)))
    good = lazyjax.nets.mlp(width=4)
    own = Network(good.init, lambda p, x: x, good.architecture, 4)
    normalized = lazyjax.nets.mlp(width=4, normalization="layer")
    recurrent = lazyjax.nets.rnn(width=4)
    for network in (infinite_at_zero, sloping, own, normalized, recurrent):
        assert not can_be_padded(network)
        with pytest.raises(ValueError, match="`network` cannot be padded"):
            PaddedNetwork(network)
    assert can_be_padded(good)
    for narrow in (lazyjax.nets.mlp(width=5), lazyjax.nets.mlp(width=3, depth=2)):
        with pytest.raises(ValueError, match="`narrow` must be a network of"):
            PaddedNetwork(good).init(narrow, KEY, VECTORS.astype(np.float32))


def test_build_returns_what_the_functions_return():
    spec = lazyjax.Architecture(kind="cnn", depth=2, head="average")
    assert build(spec, width=3) == lazyjax.nets.cnn(width=3, depth=2, head="average")
    assert build(lazyjax.Architecture(), width=3) == lazyjax.nets.mlp(width=3)
    recurrent = lazyjax.Architecture(kind="rnn")
    assert build(recurrent, width=3) == lazyjax.nets.rnn(width=3)
