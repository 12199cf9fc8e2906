"""Kernels of layers along training, beside float64 loops over examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import observers

pytestmark = pytest.mark.once


def naive_kernels(params, x):
    """Kernels of x -> (v . tanh(W x)) / 1 of two layers, by hand, in float64."""
    w, v = (np.asarray(params[name], np.float64) for name in ("w", "v"))
    x = np.asarray(x, np.float64)
    hidden = np.tanh(x @ w)
    slopes = (1 - hidden**2) * v[:, 0]
    return {"w": (x @ x.T) * (slopes @ slopes.T), "v": hidden @ hidden.T}


def naive_alignment(kernel, y):
    n = len(kernel)
    centre = np.eye(n) - 1 / n
    first, second = centre @ kernel @ centre, centre @ (y @ y.T) @ centre
    return np.sum(first * second) / np.linalg.norm(first) / np.linalg.norm(second)


def naive_angles(first, second, k):
    tops = [np.linalg.eigh(kernel)[1][:, -k:] for kernel in (first, second)]
    cosines = np.linalg.svd(tops[0].T @ tops[1], compute_uv=False)
    return np.arccos(np.clip(cosines, -1, 1))


@pytest.mark.parametrize("is_tree", [False, True])
def test_layers_are_observed_along_training(is_tree):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    y = jnp.asarray(np.sign(rng.normal(size=(6, 1))), jnp.float32)
    params = {
        "w": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32),
        "v": jnp.asarray(rng.normal(size=(5, 1)), jnp.float32),
    }
    run = lazyjax.train(
        lambda p, x: jnp.tanh((x["rows"] if is_tree else x) @ p["w"]) @ p["v"],
        params,
        {"rows": x} if is_tree else x,
        y,
        optimizer=optax.sgd(0.05),
        num_steps=30,
        observe=[
            observers.layer_alignments,
            observers.layer_angles(2),
            observers.parameters,
        ],
        observe_at=[0, 10, 30],
    )
    start = naive_kernels(params, x)
    for i in range(3):
        now = jax.tree.map(lambda leaf, i=i: leaf[i], run.observations["parameters"])
        for layer, kernel in naive_kernels(now, x).items():
            np.testing.assert_allclose(
                run.observations["layer_alignments"][layer][i],
                naive_alignment(kernel, np.asarray(y, np.float64)),
                rtol=1e-4,
            )
            np.testing.assert_allclose(
                run.observations["layer_angles"][layer][i],
                naive_angles(kernel, start[layer], 2),
                atol=2e-3,
            )
    turned = run.observations["layer_angles"]
    assert np.all(np.asarray(turned["w"][0]) < 2e-3)
    assert np.max(np.asarray(turned["w"][-1])) > 0.05


def test_layers_are_observed_along_a_sweep():
    data = lazyjax.data.sphere(5, 4, key=jax.random.key(0))
    found = lazyjax.sweep(
        lazyjax.Architecture(activation="tanh"),
        data.x_train,
        data.y_train,
        widths=(4,),
        num_seeds=2,
        key=jax.random.key(1),
        learning_rates=[0.1],
        num_steps=4,
        observe=[observers.layer_angles(1), observers.layer_alignments],
    )
    assert found.observations["layer_angles/layer_1"].shape == (1, 2, 1, 1, 2, 1)
    alignments = found.observations["layer_alignments/layer_2"]
    assert alignments.shape == (1, 2, 1, 1, 2)
    assert np.all((alignments >= 0) & (alignments <= 1))


def test_directions_are_counted():
    with pytest.raises(ValueError, match="`num_directions`"):
        observers.layer_angles(0)
