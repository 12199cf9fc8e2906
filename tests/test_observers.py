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

pytestmark = pytest.mark.once

LEARNING_RATE = 0.1
SGD = optax.sgd(LEARNING_RATE)
ALL = [
    observers.outputs,
    observers.loss,
    observers.residual_norm,
    observers.parameter_distance,
    observers.relative_parameter_distance,
    observers.ntk,
    observers.ntk_eig_min,
    observers.ntk_eig_max,
    observers.ntk_drift,
    observers.ntk_drift_norm,
    observers.target_alignment,
]


def naive_alignment(gram: np.ndarray, y: np.ndarray) -> float:
    """Centred alignment with the targets, entry by entry; 0/0 is left to the caller."""
    n, k = y.shape
    centring = np.eye(n) - np.ones((n, n)) / n
    kernel = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            kernel[i, j] = sum(gram[i * k + a, j * k + a] for a in range(k))
    a, b = centring @ kernel @ centring, centring @ y @ y.T @ centring
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.trace(a @ b) / norms) if norms > 0 else np.nan


def naive(start: dict, params: dict, x: np.ndarray, y: np.ndarray) -> dict:
    """Every observer's value, from the Jacobian written by hand."""
    n, k = y.shape
    grams = [
        j @ j.T for j in (two_layer.oracle_jacobian(p, x) for p in (start, params))
    ]
    change = grams[1] - grams[0]
    f = two_layer.oracle_outputs(params, x)
    at_start = np.concatenate([start[name].ravel() for name in params])
    moved = np.concatenate([(params[name] - start[name]).ravel() for name in params])
    return {
        "outputs": f,
        "loss": two_layer.oracle_loss(params, x, y),
        "residual_norm": np.sqrt(((f - y) ** 2).sum()),
        "parameter_distance": np.sqrt((moved**2).sum()),
        "relative_parameter_distance": np.linalg.norm(moved) / np.linalg.norm(at_start),
        "ntk": grams[1].reshape(n, k, n, k).transpose(0, 2, 1, 3),
        "ntk_eig_min": np.linalg.eigvalsh(grams[1])[0],
        "ntk_eig_max": np.linalg.eigvalsh(grams[1])[-1],
        "ntk_drift": np.linalg.norm(change) / np.linalg.norm(grams[0]),
        "ntk_drift_norm": np.linalg.norm(change, 2),
        "target_alignment": naive_alignment(grams[1], y),
    }


@pytest.mark.parametrize(
    ("n", "k", "steps"), [(3, 2, [0, 3, 7]), (3, 2, [5]), (2, 1, [0, 7])], ids=str
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

    monkeypatch.setattr("lazyjax.dynamics.blocks.empirical_ntk", counted)
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


def test_neurons_and_spectra_are_those_of_numpy(x64):
    params, x, y = two_layer.problem()
    run = train(
        lambda p, x: two_layer.apply(p, x),
        params,
        x,
        y,
        optimizer=SGD,
        num_steps=5,
        observe=[observers.neuron_distances, observers.weight_spectra],
    )
    moved = run.observations["neuron_distances"]
    spectra = run.observations["weight_spectra"]
    assert set(moved) == set(spectra) == {"V", "a"}
    for name, start in params.items():
        end = np.asarray(run.params[name])
        columns = [np.linalg.norm(c) for c in (end - start).T]
        assert_close(moved[name][1], np.array(columns), "other_algorithm")
        assert (np.asarray(moved[name][0]) == 0).all()
        for index, matrix in enumerate((start, end)):
            small = matrix if len(matrix) <= len(matrix.T) else matrix.T
            expected = np.sqrt(np.linalg.eigvalsh(small @ small.T)[::-1])
            assert_close(spectra[name][index], expected, "other_algorithm")
    # All units together moved as far as the parameters.
    total = sum(np.sum(np.square(d[1])) for d in moved.values()) ** 0.5
    distance = np.sqrt(sum(np.sum((run.params[n] - params[n]) ** 2) for n in params))
    assert_close(total, distance)


def test_kernels_of_filters_are_matrices_and_biases_are_no_matrices():
    params = {"conv": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}
    start = Snapshot(
        apply_fn=lambda p, x: x, params=params, x=jnp.ones((1, 1)), y=jnp.ones((1, 1))
    )
    spectra = observers.weight_spectra(start)
    assert set(spectra) == {"conv"}
    # Rank one: 18 rows of four ones.
    expected = np.array([72**0.5, 0, 0, 0], np.float32)
    assert_close(spectra["conv"], expected, "other_algorithm")
    end = start.following(jax.tree.map(lambda leaf: 2 * leaf, params), 1)
    assert_close(
        observers.neuron_distances(end)["conv"], np.full(4, 18**0.5, np.float32)
    )


def test_activation_stability_counts_gates_by_unit_and_example():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 3, 6)).astype(np.float32)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    gates = observers.activation_stability(lambda w, x: {"layer": x @ w})
    start = Snapshot(
        apply_fn=lambda w, x: x @ w, params=before, x=x, y=np.ones((5, 6), np.float32)
    )
    same = 0
    for x_i in x:
        for unit in range(6):
            same += (x_i @ before[:, unit] > 0) == (x_i @ after[:, unit] > 0)
    share = gates(start.following(jnp.asarray(after), 1))["layer"]
    assert_close(share, np.float32(same / 30))
    assert 0 < same < 30
    assert gates(start)["layer"] == 1.0
    assert np.isnan(gates(start.following(jnp.full((3, 6), jnp.nan), 1))["layer"])
    assert gates.__name__ == "activation_stability"  # pyright: ignore


def test_observers_look_at_other_inputs(x64):
    params, x, y = two_layer.problem()
    x_test = np.random.default_rng(5).normal(size=(2, 3))
    looks = [
        observers.on_inputs(observer, x_test, np.ones((2, 2)))
        for observer in (observers.outputs, observers.ntk_drift, observers.loss)
    ]
    run = train(
        two_layer.apply, params, x, y, optimizer=SGD, num_steps=4, observe=looks
    )
    trajectory = two_layer.oracle_descent(params, x, y, LEARNING_RATE, 4)
    expected = naive(params, trajectory[-1], x_test, np.ones((2, 2)))
    for name in ("outputs", "ntk_drift", "loss"):
        seen = run.observations[f"{name}_on_inputs"]
        assert_close(seen[-1], expected[name], "other_algorithm")
    without_targets = observers.on_inputs(observers.residual_norm, x_test)
    start = Snapshot(apply_fn=two_layer.apply, params=params, x=x, y=y)
    assert np.isnan(without_targets(start))


def test_misuse_of_observer_makers_is_refused(own_errors):
    with pytest.raises(TypeError, match="`pre_activations_fn` must be callable"):
        observers.activation_stability("relu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`observer` must be callable"):
        observers.on_inputs("ntk", np.ones((1, 1)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`x` must hold at least one"):
        observers.on_inputs(observers.ntk, np.ones((0, 1)))


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
