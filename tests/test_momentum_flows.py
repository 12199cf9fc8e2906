"""Flows with momentum, of networks and of the linear model: against other solutions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special
from numpy.typing import DTypeLike

from lazyjax import empirical_ntk, linearize
from lazyjax.dynamics import (
    dual_params,
    gradient_flow,
    linear_dynamics,
    linearized_flow,
    losses,
    observers,
    train,
)
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

TIMES = np.array([0.0, 0.3, 1.0, 4.0])


def rate_at(friction, time):
    return 3 / time if friction == "nesterov" else friction


def oracle_network(params, x, y, friction, times):
    """Losses of the two-layer network, whose derivatives are by hand, with SciPy."""
    shapes = [params["V"].shape, params["a"].shape]
    size = params["V"].size

    def unflattened(w):
        parts = w[:size], w[size:]
        return dict(zip("Va", map(np.reshape, parts, shapes), strict=True))

    def right_side(time, state):
        w, v = np.split(state, 2)
        now = unflattened(w)
        residual = (two_layer.oracle_outputs(now, x) - y).ravel()
        gradient = two_layer.oracle_jacobian(now, x).T @ residual
        if time == 0 and friction == "nesterov":
            return np.concatenate([v, -gradient / 4])
        return np.concatenate([v, -gradient - rate_at(friction, time) * v])

    start = np.concatenate([params["V"].ravel(), params["a"].ravel()])
    state = np.concatenate([start, 0 * start])
    solved = scipy.integrate.solve_ivp(
        right_side, (0, times[-1]), state, "DOP853", times, rtol=1e-10, atol=1e-11
    )
    points = [unflattened(state[: start.size]) for state in solved.y.T]
    return np.array([two_layer.oracle_loss(point, x, y) for point in points])


@pytest.mark.parametrize("friction", [0.4, "nesterov"])
def test_flow_of_a_network_is_that_of_another_solver_and_gradient(x64, friction):
    params, x, y = two_layer.problem()
    run = gradient_flow(
        two_layer.apply, params, x, y, TIMES, friction=friction, rtol=1e-9, atol=1e-9
    )
    assert_close(run.loss, oracle_network(params, x, y, friction, TIMES), 1e-6)
    run.raise_if_failed()
    plain = gradient_flow(two_layer.apply, params, x, y, TIMES)
    assert relative_error(run.loss, plain.loss) > 0.05


def kernel_problem(dtype: DTypeLike = np.float64, n=4, k=2, n_test=3):
    rng = np.random.default_rng([n, k, n_test])
    features = rng.normal(size=(n + n_test, n + 2)) / 2
    gram = features @ features.T
    y, f0 = rng.normal(size=(2, n, k))
    arrays = gram[:n, :n], y, f0, gram[n:, :n], rng.normal(size=(n_test, k))
    return [array.astype(dtype) for array in arrays]


def flow_by_ode(arrays, times, **options):
    """Of all tests with these shapes, so that it is compiled once."""
    ntk, y, f0, cross, f0_test = arrays
    return linearized_flow(
        ntk, y, f0, times, ntk_test_train=cross, f0_test=f0_test, **options
    )


def oracle_linear(arrays, friction, ridge, time):
    """Dual variables by one exponential of a' = v, v' = y - f0 - (H + mu) a - c v."""
    ntk, y, f0, *_ = arrays
    n = len(ntk)
    generator = np.zeros((2 * n + y.shape[1],) * 2)
    generator[:n, n : 2 * n] = np.eye(n)
    generator[n : 2 * n, :n] = -ntk - ridge * np.eye(n)
    generator[n : 2 * n, n : 2 * n] = -friction * np.eye(n)
    generator[n : 2 * n, 2 * n :] = y - f0
    return scipy.linalg.expm(generator * time)[:n, 2 * n :]


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("friction", [0.0, 0.4, 6.0])
@pytest.mark.sampled(1)
def test_linear_flow_is_one_matrix_exponential(dtype, friction, ridge):
    arrays = kernel_problem()
    ntk, y, f0, cross, f0_test = (array.astype(dtype) for array in arrays)
    dual = np.stack([oracle_linear(arrays, friction, ridge, t) for t in TIMES])
    f = arrays[2] + arrays[0] @ dual
    f_test = arrays[4] + arrays[3] @ dual
    loss = np.square(f - arrays[1]).sum((1, 2)) / 2

    by_ode = flow_by_ode(
        (ntk, y, f0, cross, f0_test), TIMES, friction=friction, ridge=ridge
    )
    assert by_ode.f.dtype == dtype
    for found, expected in [
        (by_ode.f, f),
        (by_ode.f_test, f_test),
        (by_ode.dual, dual),
        (by_ode.loss, loss),
    ]:
        assert_close(found, expected.astype(dtype), 2e-3)

    exact = linear_dynamics(ntk, y, f0)
    options = {"friction": friction, "ridge": ridge}
    found = exact.gradient_flow(TIMES, **options)
    assert_close(found, f.astype(dtype), "other_algorithm")
    found = exact.gradient_flow(TIMES, **options, ntk_test_train=cross, f0_test=f0_test)
    assert_close(found, f_test.astype(dtype), "other_algorithm")
    found = exact.gradient_flow_dual(TIMES, **options)
    assert_close(found, dual.astype(dtype), "other_algorithm")
    found = exact.gradient_flow_loss(TIMES, **options)
    assert_close(found, loss.astype(dtype), "other_algorithm")


def test_the_equation_agrees_with_the_closed_form_as_tolerances_say(x64):
    ntk, y, f0, *_ = arrays = kernel_problem()
    exact = linear_dynamics(ntk, y, f0).gradient_flow(TIMES, friction=0.4)
    errors = []
    for rtol in (1e-4, 1e-7, 1e-10):
        run = flow_by_ode(arrays, TIMES, friction=0.4, rtol=rtol, atol=rtol)
        errors.append(relative_error(run.f, exact))
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6
    assert errors[2] < 1e-9


def test_nesterov_flow_of_a_quadratic_is_a_bessel_function(dtype):
    # f'' + (3 / t) f' + c (f - y) = 0: f - y is 2 J_1(z) / z, with z = t sqrt(c).
    rates = np.array([0.2, 1.0, 5.0, 20.0])
    *_, cross, f0_test = kernel_problem(dtype)
    one = np.ones((4, 2), dtype)
    arrays = np.diag(rates).astype(dtype), one, 0 * one, cross, f0_test
    times = np.array([0.0, 0.5, 3.0, 12.0])
    run = flow_by_ode(arrays, times, friction="nesterov")
    z = times[:, None] * np.sqrt(rates)
    expected = 1 - 2 * scipy.special.j1(z) / np.where(z > 0, z, 1)
    expected[0] = 0
    level = 1e-3 if dtype == np.float32 else 1e-6
    for output in range(2):
        assert_close(run.f[..., output], expected.astype(dtype), level)
    assert run.status == 0


@pytest.mark.slow
def test_linear_flow_is_that_of_the_linear_model_trained_for_real(x64):
    # In function space and in that of parameters, under a loss without a closed form.
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    labels, x_test = jnp.sign(y), x[:2] + 0.3
    model = linearize(two_layer.apply, params)
    on_test = observers.on_inputs(observers.outputs, x_test)
    ntk = empirical_ntk(two_layer.apply, params, x)
    test: dict[str, Any] = {
        "ntk_test_train": empirical_ntk(two_layer.apply, params, x_test, x),
        "f0_test": two_layer.apply(params, x_test),
    }
    for friction in (0.4, "nesterov"):
        options: dict[str, Any] = {
            "times": TIMES,
            "loss_fn": losses.logistic_loss,
            "friction": friction,
        }
        observe = [observers.outputs, on_test]
        real = gradient_flow(model, params, x, labels, observe=observe, **options)
        f0 = two_layer.apply(params, x)
        run = linearized_flow(ntk, labels, f0, **test, **options)
        assert_close(run.f, real.observations["outputs"], 1e-6)
        assert_close(run.f_test, real.observations["outputs_on_inputs"], 1e-6)
        assert_close(run.loss, real.loss, 1e-6)
        end = dual_params(two_layer.apply, params, x, run.dual[-1])
        assert_close(end["V"], real.params["V"], 1e-6)


@pytest.mark.slow
def test_networks_tend_to_their_linear_model_as_outputs_are_scaled_up(x64):
    # alpha h(w0 + u / alpha): the parameters u move at a speed that does not depend on it.
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    ntk = empirical_ntk(two_layer.apply, params, x)
    linear = linearized_flow(ntk, y, 0 * y, TIMES, friction=0.7)

    def apply(u, x):
        x, alpha = x[:, :-1], x[0, -1]
        moved = jax.tree.map(lambda w, step: w + step / alpha, params, u)
        return alpha * (two_layer.apply(moved, x) - two_layer.apply(params, x))

    gaps = []
    for alpha in (10.0, 100.0):
        with_alpha = jnp.concatenate([x, jnp.full((len(x), 1), alpha)], axis=1)
        start = jax.tree.map(jnp.zeros_like, params)
        real = gradient_flow(apply, start, with_alpha, y, TIMES, friction=0.7)
        gaps.append(relative_error(real.loss, linear.loss))
    assert gaps[0] > 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(10.0, rel=0.2)


@pytest.mark.parametrize(
    "nesterov", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_descent_with_momentum_tends_to_the_flow(x64, nesterov):
    params, x, y = two_layer.problem()
    friction = 1.5
    times = np.array([0.5, 1.0, 1.5, 2.0])
    flow = gradient_flow(two_layer.apply, params, x, y, times, friction=friction)
    gaps = []
    for num_steps in (200, 400):
        root = 2.0 / num_steps
        descent = train(
            two_layer.apply,
            params,
            x,
            y,
            optimizer=optax.sgd(root**2, 1 - friction * root, nesterov=nesterov),
            num_steps=num_steps,
        )
        gaps.append(relative_error(descent.loss[-1], flow.loss[-1]))
    assert gaps[0] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.1)


def test_nesterovs_own_method_tends_to_its_flow(x64):
    ntk, y, f0, *_ = arrays = kernel_problem()
    times = np.array([0.0, 1.0, 2.0, 3.0])
    flow = flow_by_ode(arrays, times, friction="nesterov", rtol=1e-9).f[-1]
    gaps = []
    for num_steps in (300, 600):
        rate = (3.0 / num_steps) ** 2
        a, ahead = np.zeros_like(y), np.zeros_like(y)
        for step in range(num_steps):
            before, a = a, ahead - rate * (f0 + ntk @ ahead - y)
            ahead = a + step / (step + 3) * (a - before)
        gaps.append(relative_error(f0 + ntk @ a, flow))
    assert gaps[0] < 0.02
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.1)


def test_much_friction_is_the_plain_flow_in_slow_time(x64):
    ntk, y, f0, *_ = arrays = kernel_problem()
    exact = linear_dynamics(ntk, y, f0)
    plain = exact.gradient_flow(TIMES)
    gaps = [
        relative_error(exact.gradient_flow(c * TIMES, friction=c), plain)
        for c in (100.0, 200.0)
    ]
    assert gaps[0] < 1e-2
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.05)
    by_ode = flow_by_ode(arrays, 20 * TIMES, friction=20.0)
    assert_close(by_ode.f, exact.gradient_flow(20 * TIMES, friction=20.0), 1e-6)


@pytest.mark.parametrize(
    ("rate", "friction"),
    [
        (1e-7, 0.0),
        (1e-7, 1e-3),
        (1e-7, 2.0),
        (0.25, 1.0),
        (0.2500001, 1.0),
        (30.0, 0.1),
    ],
)
@pytest.mark.parametrize("time", [1e-4, 0.5, 40.0])
def test_small_changes_keep_their_digits(rate, friction, time):
    # In single precision, by the exponential of the three equations in double.
    rate, friction, time = (float(np.float32(v)) for v in (rate, friction, time))
    generator = np.array([[0, 1, 0], [-rate, -friction, 1], [0, 0, 0.0]])
    expected = scipy.linalg.expm(generator * time)[0, 2]
    one = np.ones((1, 1), np.float32)
    exact = linear_dynamics(np.float32(rate) * one, one, 0 * one)
    found = exact.gradient_flow_dual(time, friction=friction)
    assert_close(found, np.float32(expected) * one, 3e-6 * (1 + rate**0.5 * time))


def test_the_end_of_damped_flow_is_that_of_plain_flow():
    ntk, y, f0, *_ = kernel_problem(np.float32)
    exact = linear_dynamics(ntk, y, f0)
    end = exact.gradient_flow(np.inf, friction=2.0)
    assert_close(end, exact.gradient_flow(np.inf))
    assert_close(exact.gradient_flow(200.0, friction=2.0), end, 1e-3)
    with pytest.raises(
        ValueError, match="`time` must be finite with a `friction` of 0"
    ):
        exact.gradient_flow(np.inf, friction=0.0)
    undamped = jax.jit(lambda c: exact.gradient_flow(np.inf, friction=c))(0.0)
    assert np.isnan(undamped).all()


@pytest.mark.slow
def test_networks_map_over_frictions_and_fail_each_by_itself():
    params, x, y = two_layer.problem(np.float32)
    go = lambda c: gradient_flow(two_layer.apply, params, x, y, [0.5, 1.0], friction=c)
    runs = jax.jit(jax.vmap(go))(jnp.array([0.1, 2.0, jnp.nan]))
    assert runs.status.tolist() == [0, 0, 3]
    assert_close(runs.loss[1], go(2.0).loss, "other_algorithm")


@pytest.mark.slow
def test_linear_models_map_over_frictions():
    ntk, y, f0, *_ = kernel_problem(np.float32)
    frictions = jnp.array([0.1, 2.0])
    by_ode = jax.vmap(lambda c: linearized_flow(ntk, y, f0, [1.0], friction=c).f[0])
    exact = linear_dynamics(ntk, y, f0)
    closed = jax.jit(jax.vmap(lambda c: exact.gradient_flow(1.0, friction=c)))
    assert_close(by_ode(frictions), closed(frictions), 2e-3)
    assert_close(closed(frictions)[1], exact.gradient_flow(1.0, friction=2.0))


@pytest.mark.parametrize(
    ("friction", "error", "message"),
    [
        (-0.1, ValueError, "`friction` must be finite, zero or positive; got -0.1"),
        (np.inf, ValueError, "`friction` must be finite"),
        (np.nan, ValueError, "`friction` must be finite"),
        (np.ones(2), ValueError, "`friction` must be one number"),
        ("nestorov", ValueError, "Did you mean 'nesterov'"),
        (lambda t: 3 / t, TypeError, "`friction` must be numbers"),
    ],
)
def test_misuse_is_refused_by_name(own_errors, friction, error, message):
    params, x, y = two_layer.problem(np.float32)
    ntk, *_ = kernel_problem(np.float32)
    with pytest.raises(error, match=message):
        gradient_flow(two_layer.apply, params, x, y, [1.0], friction=friction)
    with pytest.raises(error, match=message):
        linearized_flow(ntk, ntk, ntk, [1.0], friction=friction)
    if not isinstance(friction, str):
        with pytest.raises(error, match=message):
            linear_dynamics(ntk, ntk, ntk).gradient_flow(1.0, friction=friction)
