"""Minibatches, stop rules, degenerate data and checkpoints of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax.dynamics import observers, train
from lazyjax.dynamics.training import segments as _segments
from tests.helpers import two_layer
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

SGD = optax.sgd(0.05)
N, BATCH = 7, 2  # three minibatches an epoch, and one example left over


def rows_used(params, x):
    """Outputs whose gradient counts how often every example was used."""
    return x @ params


def counting_run(key, num_steps, **settings):
    """Parameters of row i are minus the times that example i was used."""
    return train(
        rows_used,
        jnp.zeros((N, 1)),
        np.eye(N, dtype=np.float32),
        np.zeros((N, 1), np.float32),
        optimizer=optax.sgd(1.0),
        num_steps=num_steps,
        loss_fn=lambda f, y: jnp.sum(f) + 0 * jnp.sum(y),
        key=key,
        observe={"params": lambda snapshot: snapshot.params},
        observe_at=range(num_steps + 1),
        **settings,
    )


@functools.cache
def uses(sampling, seed=0):
    """How often each example was used, by step and example."""
    run = counting_run(jax.random.key(seed), 12, batch_size=BATCH, sampling=sampling)
    return -np.diff(np.asarray(run.observations["params"])[:, :, 0], axis=0)


def test_shuffled_epochs_use_no_example_twice_and_differ():
    by_step = uses("shuffle")
    assert (by_step.sum(axis=1) == BATCH).all()
    epochs = by_step.reshape(4, 3, N).sum(axis=1)
    assert (epochs <= 1).all()
    assert (epochs.sum(axis=1) == 6).all()
    assert len({step.tobytes() for step in by_step}) > 3


def test_sampling_with_replacement_is_uniform_and_repeats():
    by_step = uses("replacement")
    assert (by_step.sum(axis=1) == BATCH).all()
    epochs = by_step.reshape(4, 3, N).sum(axis=1)
    assert (epochs > 1).any()
    keys = jax.random.split(jax.random.key(1), 400)
    many = jax.vmap(
        lambda key: (
            counting_run(key, 2, batch_size=BATCH, sampling="replacement").params
        )
    )(keys)
    mean = -np.asarray(many)[:, :, 0].mean(axis=0)
    expected, std = 4 / N, (4 * (1 / N) * (1 - 1 / N)) ** 0.5
    assert (np.abs(mean - expected) < 5 * std / 400**0.5).all()


def test_minibatches_follow_from_the_key():
    assert_close(uses("shuffle"), uses.__wrapped__("shuffle"), "exact")
    assert (uses("shuffle") != uses("shuffle", seed=1)).any()


def test_a_minibatch_of_all_examples_is_full_batch_descent(x64):
    params, x, y = two_layer.problem()
    go = functools.partial(
        train, two_layer.apply, params, x, y, optimizer=SGD, num_steps=8
    )
    whole = go(batch_size=5, key=jax.random.key(0))
    assert_close(whole.loss, go().loss)


def test_loss_of_minibatches_is_that_of_each_step_and_the_observer_sees_all(x64):
    params, x, y = two_layer.problem()
    run = train(
        two_layer.apply,
        params,
        x,
        y,
        optimizer=optax.sgd(0.0),
        num_steps=5,
        batch_size=1,
        key=jax.random.key(0),
        observe=[observers.loss],
    )
    each = ((two_layer.oracle_outputs(params, x) - y) ** 2).sum(axis=1) / 2
    assert_close(np.sort(run.loss[:5]), np.sort(each))
    assert_close(run.observations["loss"], np.full(2, each.sum()))


# --- stop rules -----------------------------------------------------------------------


def one_weight(params, x):
    return x @ params


def decay_run(start, learning_rate, num_steps=20, **settings):
    """Loss start^2 / 2 * (1 - learning_rate)^(2 step)."""
    one = jnp.ones((1, 1))
    return train(
        one_weight,
        start * one,
        one,
        0 * one,
        optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate),
        num_steps=num_steps,
        observe=[observers.outputs],
        observe_at=range(num_steps + 1),
        **settings,
    )


def test_a_run_stops_at_its_target_and_stays_there(x64):
    plain = decay_run(1.0, 0.5)
    run = decay_run(1.0, 0.5, target_loss=1e-3)
    first = int(np.flatnonzero(np.asarray(plain.loss) <= 1e-3)[0])
    assert 0 < first < 20
    assert run.stopped_at == first
    assert run.diverged_at == plain.stopped_at == -1
    assert_close(run.loss[: first + 1], plain.loss[: first + 1])
    assert (np.asarray(run.loss[first:]) == run.loss[first]).all()
    seen = run.observations["outputs"][:, 0, 0]
    assert_close(seen[: first + 1], plain.observations["outputs"][: first + 1, 0, 0])
    assert (np.asarray(seen[first:]) == seen[first]).all()
    assert_close(run.params[0], seen[first:][:1], "exact")
    assert run.explain() == f"The loss reached its target at step {first}: 0.000488."


@pytest.mark.parametrize(("target", "expected"), [(0.5, 0), (0.125, 1), (1e-9, -1)])
def test_a_target_may_be_met_at_the_start_at_the_end_or_never(x64, target, expected):
    # Losses 1/2, 1/8: step 0, the last step, none.
    run = decay_run(1.0, 0.5, num_steps=1, target_loss=target)
    assert run.stopped_at == expected


def test_members_of_a_batch_stop_each_by_itself(x64):
    starts = jnp.array([1.0, 8.0, 1e-3, 1.0])
    rates = jnp.array([0.5, 0.5, 0.5, 5.0])
    go = lambda start, rate: decay_run(start, rate, target_loss=1e-3, max_loss=1e3)
    together = jax.vmap(go)(starts, rates)
    assert together.stopped_at.tolist() == [5, 8, 0, 3]
    assert together.diverged_at.tolist() == [-1, -1, -1, 3]
    assert together.explain() == (
        "Of 4 runs of at most 20 steps, 1 diverged (the first at step 3) and 3 reached "
        "the target."
    )
    alone = decay_run(8.0, 0.5, target_loss=1e-3, max_loss=1e3)
    assert_close(together.loss[1], alone.loss)
    assert_close(together.params[1], alone.params)


def test_the_loop_ends_when_all_members_have_stopped():
    # Ten million steps of two runs would take minutes.
    go = lambda start: (
        train(
            one_weight,
            start * jnp.ones((1, 1)),
            jnp.ones((1, 1)),
            jnp.zeros((1, 1)),
            optimizer=optax.sgd(0.5),
            num_steps=10**7,
            target_loss=1e-6,
        ).stopped_at
    )
    assert jax.vmap(go)(jnp.array([1.0, 2.0])).tolist() == [10, 11]


def test_divergence_keeps_the_parameters_that_diverged():
    run = decay_run(1.0, 1e10, num_steps=10)
    first = int(run.diverged_at)
    assert 0 < first < 10
    assert run.stopped_at == first
    assert np.isfinite(run.params).all()  # whose square is not
    assert not np.isfinite(run.loss[first:]).any()
    assert run.explain() == (
        f"The loss diverged at step {first} of 10. Gradient descent needs a learning "
        "rate below that of `dynamics.largest_stable_rate`."
    )
    assert run.status == 2
    with pytest.raises(RuntimeError, match=f"diverged at step {first}"):
        run.raise_if_failed()


def test_a_finite_limit_counts_as_divergence(x64):
    run = decay_run(1.0, 3.0, max_loss=100.0)  # losses 4^step / 2
    assert run.diverged_at == run.stopped_at == 4
    assert run.loss[-1] == 128.0


# --- degenerate data ------------------------------------------------------------------


def test_single_example_output_and_unit_train_to_zero(x64):
    params, x, y = two_layer.problem(n=1, k=1, width=1)
    run = train(
        two_layer.apply,
        params,
        x,
        y,
        optimizer=optax.sgd(0.1),
        num_steps=600,
        observe=[observers.target_alignment, observers.ntk_drift],
    )
    assert run.loss[-1] < 1e-12
    assert run.diverged_at == -1
    # A single point has no variance to align with: that is said by NaN.
    assert np.isnan(run.observations["target_alignment"]).all()
    assert np.isfinite(run.observations["ntk_drift"]).all()


def test_duplicate_inputs_with_two_labels_end_at_the_loss_they_must_have(x64):
    params, x, y = two_layer.problem(n=3, k=1, width=32)
    x[1], y[0], y[1] = x[0], 1.0, -1.0
    run = train(
        two_layer.apply, params, x, y, optimizer=optax.sgd(0.1), num_steps=3000,
        observe=[observers.ntk_eig_min],
    )  # fmt: skip
    assert_close(run.loss[-1], 1.0, 1e-6)
    assert np.abs(run.observations["ntk_eig_min"]).max() < 1e-12
    assert run.diverged_at == -1


def test_data_that_are_not_known_to_be_nan_diverge_at_once():
    params, x, y = two_layer.problem(np.float32)
    go = lambda x: train(two_layer.apply, params, x, y, optimizer=SGD, num_steps=3)
    run = jax.jit(go)(x * np.nan)
    assert run.diverged_at == run.stopped_at == 0
    assert_close(run.params["V"], params["V"], "exact")


# --- checkpoints ----------------------------------------------------------------------

PROBLEM = two_layer.problem(np.float32)


def kept_run(path, **changes):
    params, x, y = PROBLEM
    settings = {
        "optimizer": optax.sgd(0.05, momentum=0.9),
        "num_steps": 12,
        "batch_size": 2,
        "key": jax.random.key(3),
        "observe": [observers.loss, observers.outputs],
        "observe_at": [0, 1, 4, 5, 11],
        "checkpoint": path,
        "checkpoint_every": 4,
    }
    return train(two_layer.apply, params, x, y, **(settings | changes))


class Interrupted(Exception):
    """Raised in place of a kill."""


def test_an_interrupted_run_goes_on_to_the_same_result_bit_for_bit(
    tmp_path, monkeypatch
):
    whole = kept_run(tmp_path / "whole")
    done = []
    run_segment = _segments.run_segment

    def interrupted(*args, **kwargs):
        if len(done) == 2:
            raise Interrupted
        done.append(None)
        return run_segment(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_segments, "run_segment", interrupted)
        with pytest.raises(Interrupted):
            kept_run(tmp_path / "broken")
    resumed = kept_run(tmp_path / "broken")
    again = kept_run(tmp_path / "broken")  # all of it is kept
    for other in (resumed, again):
        for leaf1, leaf2 in zip(*map(jax.tree.leaves, (other, whole)), strict=True):
            assert_close(leaf1, leaf2, "exact")
    # And it is the run that was asked for.
    plain = kept_run(None, checkpoint_every=None)
    for leaf1, leaf2 in zip(*map(jax.tree.leaves, (whole, plain)), strict=True):
        assert_close(leaf1, leaf2, "other_algorithm")
    assert whole.observations["outputs"].shape == (5, 5, 2)

    for changes in (
        {"key": jax.random.key(4)},
        {"num_steps": 16},
        {"batch_size": 3},
        {"observe_at": [0, 12]},
    ):
        with pytest.raises(ValueError, match="`checkpoint` must be a folder of the"):
            kept_run(tmp_path / "whole", **changes)
    with pytest.raises(TypeError, match="`checkpoint` cannot be used under"):
        jax.jit(lambda key: kept_run(tmp_path / "x", key=key))(jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 2}, ValueError, "`key` is missing"),
        ({"key": jax.random.key(0)}, ValueError, "`batch_size` is missing"),
        ({"batch_size": 6, "key": jax.random.key(0)}, ValueError, "at most the number"),
        ({"batch_size": 0, "key": jax.random.key(0)}, ValueError, "at least 1"),
        ({"sampling": "bootstrap"}, ValueError, "`sampling` must be one of"),
        ({"target_loss": np.ones(2)}, ValueError, "`target_loss` must be one number"),
        ({"checkpoint": "x"}, ValueError, "`checkpoint_every` is missing"),
        ({"checkpoint_every": 2}, ValueError, "`checkpoint` is missing"),
        ({"checkpoint": "x", "checkpoint_every": 5}, ValueError, "must divide"),
    ],
)
def test_misuse_is_refused_by_name(own_errors, changes, error, message):
    params, x, y = PROBLEM
    with pytest.raises(error, match=message):
        train(two_layer.apply, params, x, y, optimizer=SGD, num_steps=12, **changes)
