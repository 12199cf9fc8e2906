"""Observers: each against the naive computation, and what they share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax.dynamics import Snapshot, observers, train
from lazyjax.linalg import gram_matrix
from tests.helpers import two_layer
from tests.helpers.compare import assert_close

LEARNING_RATE = 0.1
SGD = optax.sgd(LEARNING_RATE)
ALL = [
    observers.outputs,
    observers.residual_norm,
    observers.parameter_distance,
    observers.ntk,
    observers.ntk_eig_min,
    observers.ntk_eig_max,
    observers.ntk_drift,
    observers.ntk_drift_norm,
]


def naive(start: dict, params: dict, x: np.ndarray, y: np.ndarray) -> dict:
    """Every observer's value, from the Jacobian written by hand."""
    n, k = y.shape
    grams = [
        j @ j.T for j in (two_layer.oracle_jacobian(p, x) for p in (start, params))
    ]
    change = grams[1] - grams[0]
    f = two_layer.oracle_outputs(params, x)
    moved = np.concatenate([(params[name] - start[name]).ravel() for name in params])
    return {
        "outputs": f,
        "residual_norm": np.sqrt(((f - y) ** 2).sum()),
        "parameter_distance": np.sqrt((moved**2).sum()),
        "ntk": grams[1].reshape(n, k, n, k).transpose(0, 2, 1, 3),
        "ntk_eig_min": np.linalg.eigvalsh(grams[1])[0],
        "ntk_eig_max": np.linalg.eigvalsh(grams[1])[-1],
        "ntk_drift": np.linalg.norm(change) / np.linalg.norm(grams[0]),
        "ntk_drift_norm": np.linalg.norm(change, 2),
    }


@pytest.mark.parametrize(
    ("n", "k", "steps"), [(3, 2, [0, 3, 7]), (3, 2, [5]), (1, 1, [0, 7])], ids=str
)
def test_observers_equal_the_naive_computation_at_every_chosen_step(x64, n, k, steps):
    params, x, y = two_layer.problem(n=n, k=k)
    trajectory = two_layer.oracle_descent(params, x, y, LEARNING_RATE, 7)
    run = train(
        two_layer.apply,
        params,
        x,
        y,
        optimizer=SGD,
        num_steps=7,
        observe=ALL,
        observe_at=steps,
    )
    expected = [naive(params, trajectory[step], x, y) for step in steps]
    for name, seen in run.observations.items():
        assert_close(
            seen, np.stack([value[name] for value in expected]), "other_algorithm"
        )
    assert set(run.observations) == set(expected[0])
    assert expected[-1]["ntk_drift"] > 1e-3  # so that steps are told apart


def test_single_precision_observations_keep_their_dtype():
    params, x, y = two_layer.problem(np.float32)
    start = Snapshot(
        apply_fn=two_layer.apply, params=jax.tree.map(jnp.asarray, params), x=x, y=y
    )
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, start.params)
    snapshot = start.following(moved, 1)
    for observer in ALL:
        assert observer(snapshot).dtype == jnp.float32, observer


def test_snapshot_outside_of_training_sees_the_same(x64):
    params, x, y = two_layer.problem()
    run = train(two_layer.apply, params, x, y, optimizer=SGD, num_steps=4, observe=ALL)
    start = Snapshot(apply_fn=two_layer.apply, params=params, x=x, y=y)
    end = start.following(run.params, 4)
    for observer in ALL:
        assert_close(
            jnp.stack([observer(start), observer(end)]),
            run.observations[observer.__name__],
            "other_algorithm",  # drift at step 0 is rounding on one side, 0 on the other
        )


def test_kernel_of_a_linear_model_does_not_drift_and_another_does(x64):
    _, x, y = two_layer.problem()
    w = np.full((3, 2), 0.3)
    drifts = [observers.ntk_drift, observers.ntk_drift_norm]
    rates = {"optimizer": SGD, "num_steps": 3, "observe": drifts}
    still = train(lambda w, x: x @ w, w, x, y, **rates)
    moving = train(lambda w, x: x @ jnp.square(w), w, x, y, **rates)
    for name in ("ntk_drift", "ntk_drift_norm"):
        assert still.observations[name].tolist() == [0.0, 0.0]
        assert moving.observations[name][0] == 0.0
        assert moving.observations[name][1] > 0.1


def test_observers_share_one_kernel_per_program_point(monkeypatch):
    traced = []

    def counted(apply_fn, params, x):
        traced.append(None)
        f = apply_fn(params, x)
        return f[:, None, :, None] * f[None, :, None, :]

    monkeypatch.setattr(observers, "empirical_ntk", counted)
    params, x, y = two_layer.problem(np.float32)
    train(
        lambda p, x: two_layer.apply(p, x),
        params,
        x,
        y,
        optimizer=SGD,
        num_steps=3,
        observe=ALL,
        observe_at=[1, 2, 3],
    )
    # At the start and in the loop. Were H(0) evaluated again in the loop, it were three.
    assert len(traced) == 2


def test_what_was_not_evaluated_at_the_start_is_still_available_later():
    def change(snapshot: Snapshot):
        if snapshot.start is None:
            return jnp.zeros(snapshot.y.shape)
        return snapshot.outputs - snapshot.initial.outputs

    params, x, y = two_layer.problem(np.float32)
    with jax.checking_leaks():
        run = train(
            lambda p, x: two_layer.apply(p, x),
            params,
            x,
            y,
            optimizer=SGD,
            num_steps=3,
            observe=[change],
        )
    x = jnp.asarray(x)
    end = two_layer.apply(run.params, x) - two_layer.apply(params, x)
    assert_close(run.observations["change"][-1], end, "other_algorithm")


def test_gram_matrix_has_one_row_per_example_and_output():
    n, k = 3, 2
    ntk = np.arange(n * n * k * k, dtype=np.float32).reshape(n, n, k, k)
    matrix = gram_matrix(ntk)
    for i in range(n):
        for j in range(n):
            for a in range(k):
                for b in range(k):
                    assert matrix[i * k + a, j * k + b] == ntk[i, j, a, b]
    shared = np.eye(n, dtype=np.float32)
    assert_close(gram_matrix(shared), shared, "exact")
