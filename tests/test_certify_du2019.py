"""Du et al.'s argument: each inequality at, just below and just above its bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import empirical_ntk
from lazyjax.certify.measured.du2019 import measure
from lazyjax.certify.widths import du2019
from lazyjax.data import sphere
from lazyjax.infinite import infinite_ntk
from lazyjax.nets import mlp
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

EIG_MIN, RATE, NUM_STEPS = 0.4, 0.25, 40


def arguments(dtype="float32", **changes):
    """A run on which every inequality holds, with some of its arrays replaced."""
    n = 5
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    limit = basis @ np.diag(np.linspace(EIG_MIN, 2, n)) @ basis.T
    run = {
        "ntk_infinite": limit,
        "ntk_start": limit,
        "drift_norm": np.array([0, 0.5, 0.5]) * EIG_MIN / 4,
        "eig_min": np.array([1, 0.9, 0.9]) * EIG_MIN,
        "loss": 3 * np.exp(-2 * EIG_MIN * RATE * np.arange(NUM_STEPS + 1)),
    } | changes
    return {k: jnp.asarray(v, dtype) for k, v in run.items()}


def measured(dtype="float32", **changes):
    run = arguments(dtype, **changes)
    return measure(run.pop("ntk_infinite"), **run, learning_rate=RATE)


def failing(measurement):
    return {step.label for step in measurement.steps if not step.holds.all()}


def lowest_shifted(by):
    """H(0) that differs from its limit by `by` in the direction of `lambda_0`."""
    limit = np.asarray(arguments("float32")["ntk_infinite"], np.float64)
    vector = np.linalg.eigh(limit)[1][:, 0]
    return limit + by * np.outer(vector, vector)


def test_every_step_holds_on_an_ideal_run(dtype):
    with jax.enable_x64(dtype == "float64"):
        result = measured(dtype)
    assert failing(result) == set()
    assert result.start.measured.dtype == dtype
    assert_close(result.eig_min, EIG_MIN, 1e-5)


times = RATE * np.arange(NUM_STEPS + 1)
flow = 3 * np.exp(-EIG_MIN * times)
descent = 3 * (1 - RATE * EIG_MIN / 2) ** np.arange(NUM_STEPS + 1)
late = np.arange(NUM_STEPS + 1) > 0


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"ntk_start": lowest_shifted(-0.9 * EIG_MIN / 4)}, set()),
        ({"ntk_start": lowest_shifted(-1.1 * EIG_MIN / 4)}, {"B", "B'"}),
        ({"ntk_start": lowest_shifted(+1.1 * EIG_MIN / 4)}, {"B"}),
        ({"drift_norm": np.array([0, 1.1, 0.2]) * EIG_MIN / 4}, {"C"}),
        ({"drift_norm": np.array([0, 0.99, 0.2]) * EIG_MIN / 4}, set()),
        ({"eig_min": np.array([1, 0.49, 1]) * EIG_MIN}, {"C'"}),
        ({"eig_min": np.array([1, 0.51, 1]) * EIG_MIN}, set()),
        ({"loss": np.where(late, 0.99, 1) * flow}, set()),
        ({"loss": np.where(late, 1.01, 1) * flow}, {"D"}),
        ({"loss": np.where(late, 0.99, 1) * descent}, {"D"}),
        ({"loss": np.where(late, 1.01, 1) * descent}, {"D", "D'"}),
        ({"loss": np.where(late, 0.0, 1) * flow}, set()),
        ({"ntk_start": np.full((5, 5), np.nan)}, {"B", "B'"}),
        ({"drift_norm": [0.0, np.nan, 0.0]}, {"C"}),
        ({"eig_min": [EIG_MIN, np.nan, EIG_MIN]}, {"C'"}),
        ({"eig_min": [EIG_MIN, np.inf, np.inf]}, set()),
        ({"eig_min": [np.inf, np.inf, np.inf]}, {"C'"}),
        ({"loss": np.where(np.arange(NUM_STEPS + 1) == 9, np.nan, flow)}, {"D", "D'"}),
        ({"loss": np.where(np.arange(NUM_STEPS + 1) == 9, np.inf, flow)}, {"D", "D'"}),
    ],
)
def test_a_step_fails_just_where_its_inequality_does(changes, fails):
    assert failing(measured(**changes)) == fails


@pytest.mark.parametrize("how", ["singular", "nan"])
def test_without_a_positive_limit_no_step_holds(how):
    limit = np.ones((5, 5)) if how == "singular" else np.full((5, 5), np.nan)
    labels = {"A", "B", "B'", "C", "C'", "D", "D'"}
    assert failing(measured(ntk_infinite=limit)) == labels


def test_measured_quantities_are_those_stated():
    result = measured(
        ntk_start=lowest_shifted(-0.1), loss=np.where(late, 0.5, 1) * flow
    )
    assert_close(result.start.measured, 0.1, 1e-4)
    assert_close(result.start_eig_min.measured, EIG_MIN - 0.1, 1e-4)
    assert_close(result.drift.measured, EIG_MIN / 8)
    assert_close(result.drift_eig_min.measured, 0.9 * EIG_MIN)
    assert_close(result.loss_flow.measured, 0.5, 1e-4)


def test_loss_ratios_survive_bounds_that_underflow():
    steps = 4000
    loss = np.full(steps + 1, 1e-30)
    loss[0] = 1
    result = measured(loss=loss)
    assert float(result.loss_flow.measured) == np.inf
    assert "D" in failing(result)
    assert failing(measured(loss=np.eye(1, steps + 1)[0])) == set()


def test_a_batch_of_runs_is_each_run_alone(mode):
    runs = [
        arguments(ntk_start=lowest_shifted(by), loss=flow * scale)
        for by, scale in ((0.0, 1.0), (0.2, 2.0))
    ]
    limit = runs[0].pop("ntk_infinite")
    del runs[1]["ntk_infinite"]
    measure_in_mode = mode(lambda **run: measure(limit, **run, learning_rate=RATE))
    together = measure_in_mode(**jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs))
    for i, run in enumerate(runs):
        for batched, single in zip(
            together.steps, measure_in_mode(**run).steps, strict=True
        ):
            value = batched.measured if batched.label == "A" else batched.measured[i]
            assert_close(value, single.measured, 1e-5)


def test_explanation_counts_the_runs_and_denies_a_proof():
    run = arguments()
    batch = {
        name: jnp.stack([array, array]).at[1].multiply(1 if name != "drift_norm" else 9)
        for name, array in run.items()
        if name != "ntk_infinite"
    }
    text = measure(run["ntk_infinite"], **batch, learning_rate=RATE).explain()
    assert "2 runs (not a certificate)" in text
    assert "(C) |H(t) - H(0)| <= lambda_0/4: held in 1 of 2" in text
    assert text.count("held in 2 of 2") == 5
    assert text.count("held in 1 of 1") == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": [1.0]}, ValueError, "at least one step"),
        ({"drift_norm": []}, ValueError, "`drift_norm` must not be empty"),
    ],
)
def test_bad_runs_are_refused_by_name(own_errors, changes, error, message):
    with pytest.raises(error, match=message):
        measured(**changes)


def test_integer_losses_are_refused_by_name(own_errors):
    run = arguments() | {"loss": jnp.arange(4)}
    with pytest.raises(TypeError, match="`loss` must be a real floating-point"):
        measure(run.pop("ntk_infinite"), **run, learning_rate=RATE)


def test_limit_kernel_is_that_of_the_paper(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = sphere(6, 3, key=jax.random.key(0), dtype=dtype).x_train
        actual = infinite_ntk(du2019.ARCHITECTURE, x)
    rho = np.clip(np.asarray(x, float) @ np.asarray(x, float).T, -1, 1)
    np.fill_diagonal(rho, 1)
    assert_close(actual, rho * (np.pi - np.arccos(rho)) / (2 * np.pi), 2e-3)


def test_network_has_the_kernel_of_the_paper():
    spec = du2019.ARCHITECTURE
    net = mlp(
        width=50,
        trained=spec.trained,
        input_scaling=spec.input_scaling,
        readout=spec.readout,
    )
    assert net.architecture == spec
    x = sphere(6, 3, key=jax.random.key(0), dtype=jnp.float32).x_train
    params = net.init(jax.random.key(1), x)
    weights, inputs = np.asarray(params["layer_1"]["kernel"]), np.asarray(x)
    active = (inputs @ weights > 0).astype(float)
    expected = (inputs @ inputs.T) * (active @ active.T) / 50
    assert_close(empirical_ntk(net.apply, params, x, outputs="trace"), expected)


@pytest.mark.parametrize("failure", [0.1, 0.5])
def test_required_widths_of_orthonormal_inputs(dtype, failure):
    n = 4
    with jax.enable_x64(dtype == "float64"):
        x = jnp.eye(n, dtype=dtype)
        required = du2019.required_widths(x, failure=failure)
    assert_close(required.literal, n**6 * 2**4 / failure**3, 1e-5)
    assert_close(required.start_eig_min, 64 * np.log(n / failure), 1e-5)


def test_required_width_does_not_overflow_at_the_usual_sizes():
    x = sphere(100, 10, key=jax.random.key(0), dtype=jnp.float32).x_train
    assert 1e12 < float(du2019.required_widths(x).literal) < np.inf


def test_start_holds_at_the_required_width_and_not_at_a_hundredth_of_it():
    failure, num_trials = 0.1, 100
    x = sphere(5, 8, key=jax.random.key(3), dtype=jnp.float32).x_train
    limit = infinite_ntk(du2019.ARCHITECTURE, x)
    eig_min = np.linalg.eigvalsh(limit)[0]
    inputs = np.asarray(x, float)
    rng = np.random.default_rng(0)

    def share_failing(width):
        active = inputs @ rng.standard_normal((num_trials, 8, width)) > 0
        kernel = inputs @ inputs.T * (active @ active.swapaxes(1, 2).astype(float))
        lowest = np.linalg.eigvalsh(kernel / width)[:, 0]
        return np.mean(lowest < 0.75 * eig_min)

    width = int(du2019.required_widths(x, failure=failure).start_eig_min)
    assert share_failing(width) <= failure
    assert share_failing(width // 100) > failure


def test_failure_probability_must_be_one(own_errors):
    with pytest.raises(ValueError, match="`failure` must be between 0 and 1; got 1"):
        du2019.required_widths(jnp.eye(2, dtype=jnp.float32), failure=1)
