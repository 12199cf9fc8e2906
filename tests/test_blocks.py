"""What observers see of some examples at a time is what they see of all."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax import nets
from lazyjax.dynamics import Snapshot, observers, train, train_on_batches
from lazyjax.dynamics.blocks import in_batches, ntk_in_blocks
from tests.helpers import two_layer
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

SIZES = (1, 2, 3, 4, 7, 8, 100)
NETWORK = nets.cnn(width=3, depth=1, num_outputs=2)
X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 4, 4, 1)), jnp.float32)
PARAMS = NETWORK.init(jax.random.key(0), X)


@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_those_of_all_at_once(size):
    found = jax.jit(lambda x: in_batches(lambda x: NETWORK.apply(PARAMS, x), x, size))(
        X
    )
    assert_close(found, NETWORK.apply(PARAMS, X))


@pytest.mark.parametrize("size", SIZES)
def test_kernels_are_those_of_all_at_once_and_symmetric(size):
    found = ntk_in_blocks(NETWORK.apply, PARAMS, X, size)
    assert_close(found, lazyjax.empirical_ntk(NETWORK.apply, PARAMS, X))
    assert_close(found, found.transpose(1, 0, 3, 2), "exact")


def test_no_array_is_as_large_as_those_of_all_examples():
    wide = lambda p, x: jnp.tanh(x @ p["first"]) @ p["last"]
    params = {"first": jnp.ones((3, 500)), "last": jnp.ones((500, 1))}
    snapshot = Snapshot(
        apply_fn=wide, params=params, x=jnp.ones((64, 3)), y=jnp.ones((64, 1))
    )

    def temporary_bytes(batch_size):
        def look(x):
            at = Snapshot(
                apply_fn=wide, params=params, x=x, y=snapshot.y, batch_size=batch_size
            )
            return at.outputs, at.ntk

        used = jax.jit(look).lower(snapshot.x).compile().memory_analysis()
        assert used is not None
        return used.temp_size_in_bytes

    whole, parts = temporary_bytes(None), temporary_bytes(4)
    assert parts < whole / 3


def test_training_is_observed_in_batches():
    params, x, y = two_layer.problem(np.float32)
    options = {
        "optimizer": optax.sgd(0.05),
        "num_steps": 4,
        "observe": [observers.loss, observers.ntk_drift, observers.ntk_eig_min],
    }
    test_set = observers.on_inputs(observers.outputs, x[::-1])
    options["observe"].append(test_set)
    expected = train(two_layer.apply, params, x, y, **options)
    found = [
        train(two_layer.apply, params, x, y, eval_batch_size=2, **options),
        train_on_batches(
            two_layer.apply,
            params,
            itertools.repeat((x, y)),
            eval_batch_size=2,
            **options,
        ),
    ]
    for run in found:
        for name, seen in expected.observations.items():
            assert_close(run.observations[name], seen, "other_algorithm")


def test_networks_whose_rows_interact_are_refused():
    mixing = lambda w, x: (x - jnp.mean(x, axis=0, keepdims=True)) @ w
    with pytest.raises(ValueError, match="`apply_fn` must treat the rows"):
        train(
            mixing,
            jnp.ones((3, 1)),
            jnp.arange(12.0).reshape(4, 3) ** 2,
            jnp.ones((4, 1)),
            optimizer=optax.sgd(0.1),
            num_steps=1,
            eval_batch_size=2,
        )


@pytest.mark.parametrize("size", [0, -1])
def test_the_size_is_checked(size):
    params, x, y = two_layer.problem(np.float32)
    with pytest.raises(ValueError, match="`eval_batch_size`"):
        train(
            two_layer.apply,
            params,
            x,
            y,
            optimizer=optax.sgd(0.1),
            num_steps=1,
            eval_batch_size=size,
        )
