"""Schedules of learning rates: linear models and flows against iterations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.typing import DTypeLike

from lazyjax import empirical_ntk, linearize
from lazyjax.dynamics import (
    dual_params,
    flow_times,
    gradient_flow,
    linear_dynamics,
    observers,
    train,
)
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

STEPS = np.array([[0, 1, 2], [30, 7, 12]])
# Up from 0, down again, and beyond what is stable for a while.
RATES = np.concatenate([np.linspace(0, 0.4, 10), 0.35 * 0.8 ** np.arange(20)])


def kernel_problem(dtype: DTypeLike = np.float64, n=4, k=2, n_test=3):
    rng = np.random.default_rng([n, k, n_test])
    features = rng.normal(size=(n + n_test, n + 2)) / 1.5
    gram = features @ features.T
    y, f0 = rng.normal(size=(2, n, k))
    arrays = gram[:n, :n], y, f0, gram[n:, :n], rng.normal(size=(n_test, k))
    return [array.astype(dtype) for array in arrays]


def oracle(arrays, rates, momentum, ridge):
    """Dual variables by the iteration of optax: steps of rates times sums of gradients."""
    ntk, y, f0, *_ = arrays
    a = total = np.zeros_like(y)
    history = [a]
    for rate in rates:
        total = f0 + ntk @ a - y + ridge * a + momentum * total
        a = a - rate * total
        history.append(a)
    return np.stack(history)


def closed_forms(flow, momentum, ridge, learning_rate, quantity="", **test):
    options = {"ridge": ridge, **test}
    if momentum:
        method = getattr(flow, f"heavy_ball{quantity}")
        return method(STEPS, learning_rate, momentum, **options)
    method = getattr(flow, f"gradient_descent{quantity}")
    return method(STEPS, learning_rate, **options)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_linear_model_under_a_schedule_is_the_iteration(dtype, momentum, ridge):
    arrays = kernel_problem()
    ntk, y, f0, cross, f0_test = (array.astype(dtype) for array in arrays)
    flow = linear_dynamics(ntk, y, f0)
    assert RATES.max() > float(flow.max_learning_rate)
    dual = oracle(arrays, RATES, momentum, ridge)[STEPS]
    f = arrays[2] + arrays[0] @ dual
    on_test: dict[str, Any] = {"ntk_test_train": cross, "f0_test": f0_test}
    level = 1e-11 if dtype == np.float64 else 2e-4
    expected = {
        "": f,
        "_dual": dual,
        "_loss": np.square(f - arrays[1]).sum((-2, -1)) / 2,
    }
    schedules = [RATES.astype(dtype), lambda step: jnp.asarray(RATES, dtype)[step]]
    for schedule in schedules:
        for quantity, values in expected.items():
            found = closed_forms(flow, momentum, ridge, schedule, quantity)
            assert found.dtype == dtype
            assert_close(found, values.astype(dtype), level)
        found = closed_forms(flow, momentum, ridge, schedule, **on_test)
        assert_close(found, (arrays[4] + arrays[3] @ dual).astype(dtype), level)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_a_constant_schedule_is_one_rate(x64, momentum):
    ntk, y, f0, *_ = kernel_problem()
    flow = linear_dynamics(ntk, y, f0)
    found = closed_forms(flow, momentum, 0.1, np.full(30, 0.2))
    assert_close(found, closed_forms(flow, momentum, 0.1, 0.2), 1e-11)


@pytest.mark.parametrize("momentum", [pytest.param(None, marks=pytest.mark.slow), 0.7])
def test_it_is_the_linear_model_trained_for_real_by_optax(x64, momentum):
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.2, 5, 20)
    with jax.numpy_dtype_promotion("standard"):
        run = train(
            linearize(two_layer.apply, params),
            params,
            x,
            y,
            optimizer=optax.sgd(schedule, momentum=momentum),
            num_steps=20,
            observe=[observers.outputs],
            observe_at=range(21),
        )
    ntk = empirical_ntk(two_layer.apply, params, x)
    flow = linear_dynamics(ntk, y, two_layer.apply(params, x))
    steps = np.arange(21)
    if momentum is None:
        f = flow.gradient_descent(steps, schedule)
        dual = flow.gradient_descent_dual(20, schedule)
    else:
        f = flow.heavy_ball(steps, schedule, momentum)
        dual = flow.heavy_ball_dual(20, schedule, momentum)
    # Schedules of optax are in single precision.
    assert_close(run.observations["outputs"], f, 1e-6)
    moved = dual_params(two_layer.apply, params, x, dual)
    assert_close(moved["V"], run.params["V"], 1e-6)
    assert relative_error(moved["V"], params["V"]) > 1e-2


def test_what_diverges_is_infinite_with_its_sign_and_may_come_back():
    arrays = kernel_problem()
    ntk, y, f0, *_ = (array.astype(np.float32) for array in arrays)
    flow = linear_dynamics(ntk, y, f0)
    limit = float(flow.max_learning_rate)
    for momentum in (0.0, 0.5):
        up = np.full(400, 2.5 * limit, np.float32)
        f = closed_forms(flow, momentum, 0.0, up)[1, 0]
        with_sign = oracle(arrays, up[:30].astype(np.float64), momentum, 0.0)[30]
        assert_close(f, (arrays[2] + arrays[0] @ with_sign).astype(np.float32), 1e-3)
        method = flow.heavy_ball if momentum else flow.gradient_descent
        args = (momentum,) if momentum else ()
        far = method(np.array([399, 400]), up, *args)
        assert np.isinf(far).all()
        if not momentum:  # the sign changes with every step
            assert (np.sign(far[0]) == -np.sign(far[1])).all()
        # Beyond all numbers of single precision, and down to 0 again.
        back = np.concatenate([up[:150], np.full(4000, 0.3 * limit, np.float32)])
        steps = np.array([150, 4150])
        assert np.isinf(method(steps, back, *args)[0]).any()
        assert np.isfinite(method(steps, back, *args)[1]).all()
        assert_close(method(steps, back, *args)[1], y, 1e-2)


def test_many_small_steps_are_not_rounded_away():
    # (1 - 1e-8)^(10^5) = e^{-1e-3}: factors are 1 in single precision.
    one = np.ones((1, 1), np.float32)
    flow = linear_dynamics(one, one, 0 * one)
    rates = np.full(100_000, 1e-8, np.float32)
    f = flow.gradient_descent(100_000, rates)
    assert_close(f, np.float32(-np.expm1(-1e-3)) * one, 1e-4)


@pytest.mark.parametrize(
    "learning_rate",
    [0.25, np.full(9, 0.25), [0.25] * 9, optax.constant_schedule(0.25)],
    ids=["number", "array", "list", "function"],
)
def test_times_are_sums_of_the_rates_before(learning_rate):
    times = flow_times(learning_rate, np.array([[0, 1], [4, 9]]))
    assert_close(times, jnp.array([[0.0, 0.25], [1.0, 2.25]]))
    assert flow_times(learning_rate, 3).shape == ()


def test_descent_tends_to_flow_at_these_times(x64):
    # The network by its equation, the linear model by its closed form.
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    ntk = empirical_ntk(two_layer.apply, params, x)
    linear = linear_dynamics(ntk, y, two_layer.apply(params, x))
    gaps, linear_gaps = [], []
    for num_steps in (100, 200):
        schedule = lambda step, of=num_steps: 8.0 / of * 0.2 ** (step / of)
        steps = np.array([num_steps // 4, num_steps])
        times = flow_times(schedule, steps)
        flow = gradient_flow(two_layer.apply, params, x, y, times)
        rates = jax.vmap(schedule)(jnp.arange(num_steps))
        descent = train(
            two_layer.apply,
            params,
            x,
            y,
            optimizer=optax.sgd(lambda s, rates=rates: rates[s]),
            num_steps=num_steps,
        )
        gaps.append(relative_error(descent.loss[steps], flow.loss))
        by_steps = linear.gradient_descent(steps, rates)
        linear_gaps.append(relative_error(by_steps, linear.gradient_flow(times)))
    assert gaps[0] < 0.1
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.1)
    assert linear_gaps[0] / linear_gaps[1] == pytest.approx(2.0, rel=0.1)


def test_schedules_map_and_are_nan_beyond_their_end():
    ntk, y, f0, *_ = kernel_problem(np.float32)
    flow = linear_dynamics(ntk, y, f0)
    rates = jnp.asarray(RATES, jnp.float32)
    go = jax.jit(lambda step, rates: flow.gradient_descent(step, rates))
    assert_close(go(7, rates), flow.gradient_descent(7, rates))
    assert np.isnan(go(31, rates)).all()
    mapped = jax.vmap(lambda scale: flow.gradient_descent(7, scale * rates))
    assert_close(mapped(jnp.array([0.5, 1.0]))[1], go(7, rates))
    times = jax.jit(flow_times)(rates, jnp.array([30, 31]))
    assert np.isfinite(times[0])
    assert np.isnan(times[1])


@pytest.mark.parametrize(
    ("learning_rate", "error", "message"),
    [
        (
            np.array([0.1, -0.1, 0.1]),
            ValueError,
            "`learning_rate` must be finite, zero",
        ),
        (np.array([0.1, np.nan, 0.1]), ValueError, "`learning_rate` must be finite"),
        (np.array([0.1, 0.1]), ValueError, "a rate for each of 3 steps; got 2"),
        (np.array([1, 1, 1]), TypeError, "`learning_rate` must be floating point"),
        (np.ones((3, 1)), ValueError, r"in one dimension; got shape \(3, 1\)"),
        (lambda step: -0.1, ValueError, "`learning_rate` must be finite, zero"),
        (lambda step: jnp.ones(2), TypeError, "must return one number for a step"),
        ("cosine", TypeError, "`learning_rate` must be numbers; got 'cosine'"),
        (None, TypeError, "`learning_rate` must be numbers; got None"),
    ],
)
def test_misuse_is_refused_by_name(own_errors, learning_rate, error, message):
    ntk, y, f0, *_ = kernel_problem(np.float32)
    flow = linear_dynamics(ntk, y, f0)
    with pytest.raises(error, match=message):
        flow.gradient_descent(3, learning_rate)
    with pytest.raises(error, match=message):
        flow.heavy_ball_loss(np.array([1, 3]), learning_rate, 0.5)
    with pytest.raises(error, match=message):
        flow_times(learning_rate, 3)


def test_steps_of_a_function_must_be_known(own_errors):
    with pytest.raises(TypeError, match="`step` must be known where `learning_rate`"):
        jax.jit(lambda step: flow_times(optax.constant_schedule(0.1), step))(3)
    with pytest.raises(TypeError, match="`step` must hold integers"):
        flow_times(0.1, 0.5)  # pyright: ignore
    with pytest.raises(ValueError, match="`step` must be zero or positive"):
        flow_times(0.1, -1)
