"""What `train` tells a callback, when, and what becomes of what it raises."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import observers, train
from tests.helpers import two_layer
from tests.helpers.compare import assert_trees_close

pytestmark = pytest.mark.once

PARAMS, X, Y = two_layer.problem(np.float32)
OBSERVED_AT = [0, 7, 8, 30]  # steps of unequal length, and none at the end
NUM_STEPS = 40


def by_step(snapshot):
    """Trees and arrays beside numbers."""
    number = jnp.sum(snapshot.outputs)
    return {"sum": number, "counts": (snapshot.step, snapshot.outputs)}


OBSERVERS = [observers.residual_norm, observers.loss, observers.ntk, by_step]


def run_of(params=PARAMS, **options):
    options = {
        "optimizer": optax.sgd(0.05, 0.9),
        "num_steps": NUM_STEPS,
        "observe": OBSERVERS,
        "observe_at": OBSERVED_AT,
    } | options
    return train(two_layer.apply, params, X, Y, **options)


@pytest.fixture
def told():
    return []


@pytest.fixture
def tell(told):
    return lambda step, metrics: told.append((step, metrics))


@pytest.mark.compiler
@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "key": jax.random.key(3)}])
def test_it_hears_of_every_observed_step_and_changes_no_bit(told, tell, options):
    run = run_of(callback=tell, **options)
    assert_trees_close(run, run_of(**options))
    assert [step for step, _ in told] == OBSERVED_AT
    for index, (step, metrics) in enumerate(told):
        assert metrics == {
            "loss": run.loss[step],
            "observed/loss": run.observations["loss"][index],
            "residual_norm": run.observations["residual_norm"][index],
            "by_step/sum": run.observations["by_step"]["sum"][index],
            "by_step/counts/0": step,
        }


def test_it_is_given_plain_numbers_as_loggers_take_them(told, tell):
    run_of(callback=tell)
    for step, metrics in told:
        assert type(step) is int
        assert {type(value) for value in metrics.values()} == {float}
        assert json.loads(json.dumps(metrics)) == metrics  # MLflow, Weights & Biases


def test_without_observers_it_hears_of_the_loss(told, tell):
    run = run_of(callback=tell, observe=(), observe_at=None)
    assert told == [(step, {"loss": run.loss[step]}) for step in (0, NUM_STEPS)]
    run_of(callback=tell, num_steps=0, observe_at=None)
    assert told[2][0] == 0
    assert len(told) == 3


def test_it_is_called_as_the_run_goes_on(told, tell):
    seen = []
    progress = lambda share, message: seen.append(len(told))
    run_of(callback=tell, progress=progress)
    assert set(seen) >= {1, 2, 3, 4} or set(seen) >= {0, 2, 3, 4}
    assert seen == sorted(seen)


def test_after_the_run_has_stopped_it_is_called_no_more(told, tell):
    run = run_of(callback=tell, optimizer=optax.sgd(1e3), max_loss=1e6)
    assert 0 < run.diverged_at < 7
    assert [step for step, _ in told] == [0, 7]
    assert told[1][1]["loss"] == run.loss[7]


def test_a_convolutional_network_is_trained_in_the_same_bits(told, tell):
    net = lazyjax.nets.cnn(width=4, depth=2, num_outputs=2)
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
    params = net.init(jax.random.key(0), x)
    go = lambda **options: train(
        net.apply,
        params,
        x,
        x[:, 0, :2, 0],
        optimizer=optax.sgd(1e-2, 0.9),
        num_steps=6,
        batch_size=3,
        key=jax.random.key(1),
        observe_at=[2, 4, 6],
        **options,
    )
    assert_trees_close(go(callback=tell), go())
    assert [step for step, _ in told] == [2, 4, 6]


class Stop(Exception):
    """What a user raises."""


def raising_at(stop, told):
    def callback(step, metrics):
        if step == stop:
            raise Stop("enough")
        told.append(step)

    return callback


def test_what_it_raises_ends_the_run(told):
    with pytest.raises(Stop, match=r"enough") as error:
        run_of(callback=raising_at(8, told))
    assert told == [0, 7]
    assert error.value.__notes__ == [
        "It was raised by `callback` at step 8 of `train`."
    ]
    # Nothing is left of it.
    assert_trees_close(run_of(), run_of(callback=lambda *args: None))


def test_a_run_that_it_ended_is_resumed_to_the_same_bits(tmp_path, told, tell):
    options = {"checkpoint": tmp_path, "checkpoint_every": 10}
    steps = [0, 7, 8, 15, 30]
    with pytest.raises(Stop):
        run_of(callback=raising_at(15, told), observe_at=steps, **options)
    assert told == [0, 7, 8]
    del told[:]
    run = run_of(callback=tell, observe_at=steps, **options)
    assert [step for step, _ in told] == [30]  # 15 was kept before it was told of
    assert told[0][1]["loss"] == run.loss[30]
    assert_trees_close(run, run_of(observe_at=steps))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_where_values_are_not_known_it_is_refused(tell, transform):
    params = PARAMS
    if transform is jax.vmap:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    last = lambda params: run_of(params, callback=tell).loss[-1]
    with pytest.raises(TypeError, match=r"`callback` cannot be used under `jax.jit`"):
        transform(last)(params)


def test_what_cannot_be_called_is_refused(own_errors):
    with pytest.raises(
        TypeError, match=r"`callback` must be callable, a .*got 'wandb'"
    ):
        run_of(callback="wandb")
