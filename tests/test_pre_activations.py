"""Pre-activations of networks, from which gates are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.nets import pre_activations
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once


def test_of_fully_connected_networks_they_are_products_by_hand():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    net = lazyjax.nets.mlp(width=4, depth=2, b_std=0.5, w_std=1.5)
    params = net.init(jax.random.key(1), x)
    found = pre_activations(net)(params, x)
    assert list(found) == ["layer_1", "layer_2"]
    h = np.asarray(x, np.float64)
    for layer, fan_in in (("layer_1", 3), ("layer_2", 4)):
        kernel, bias = (np.asarray(params[layer][k]) for k in ("kernel", "bias"))
        z = 1.5 / fan_in**0.5 * h @ kernel + 0.5 * bias
        assert_close(found[layer], z.astype(np.float32))
        h = np.maximum(z, 0)


def test_of_images_they_have_pixels_and_outputs_follow_from_them():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    net = lazyjax.nets.cnn(width=3, depth=2, pool_after=(1,), num_outputs=2)
    params = net.init(jax.random.key(1), x)
    found = pre_activations(net)(params, x)
    assert {k: z.shape for k, z in found.items()} == {
        "layer_1": (2, 8, 8, 3),
        "layer_2": (2, 4, 4, 3),
    }
    flat = jax.nn.relu(found["layer_2"]).reshape(2, -1)
    outputs = flat @ params["layer_3"]["kernel"] / flat.shape[1] ** 0.5
    assert_close(net.apply(params, x), outputs)


@pytest.mark.parametrize("options", [{"symmetrized": True}, {"normalization": "layer"}])
def test_networks_whose_gates_are_others_are_refused(options):
    net = lazyjax.nets.mlp(width=4, **options)
    with pytest.raises(ValueError, match="`network` must be fully connected"):
        pre_activations(net)


def test_gates_of_the_start_are_unchanged():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    net = lazyjax.nets.mlp(width=8, depth=2)
    start = net.init(jax.random.key(1), x)
    gates = lazyjax.dynamics.observers.activation_stability(pre_activations(net))
    before = lazyjax.dynamics.Snapshot(
        apply_fn=net.apply, params=start, x=x, y=jnp.zeros((5, 1))
    )
    flipped = jax.tree.map(jnp.negative, start)
    # Of ReLU at flipped first weights, each gate of layer 1 is the opposite one.
    assert gates(before.following(start, 1)) == {"layer_1": 1, "layer_2": 1}
    assert gates(before.following(flipped, 1))["layer_1"] == 0
