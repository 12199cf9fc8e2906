"""Heavy ball, ridge and dual variables of the linear model: against iterations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from lazyjax import empirical_ntk, linearize
from lazyjax.dynamics import (
    dual_params,
    linear_dynamics,
    losses,
    observers,
    train,
)
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

STEPS = np.array([0, 1, 2, 7, 40])


def problem(seed=0, n=4, k=2, n_test=3):
    rng = np.random.default_rng([seed, n, k])
    features = rng.normal(size=(n + n_test, n + 2))
    gram = features @ features.T
    y, f0 = rng.normal(size=(2, n, k))
    return gram[:n, :n], y, f0, gram[n:, :n], rng.normal(size=(n_test, k))


def oracle(arrays, num_steps, learning_rate, momentum, ridge):
    """Train outputs, test outputs and dual variables by the iteration itself."""
    ntk, y, f0, cross, f0_test = arrays
    a = a_before = np.zeros_like(y)
    for _ in range(num_steps):
        gradient = f0 + ntk @ a - y + ridge * a
        a, a_before = a - learning_rate * gradient + momentum * (a - a_before), a
    return f0 + ntk @ a, f0_test + cross @ a, a


@pytest.mark.parametrize("ridge", [0.0, 0.4])
@pytest.mark.parametrize(
    ("momentum", "share"), [(0.0, 0.5), (0.5, 0.7), (0.9, 0.3), (0.5, 1.7)]
)
def test_heavy_ball_is_the_iteration_even_where_it_diverges(
    x64, momentum, share, ridge
):
    arrays = problem()
    ntk, y, f0, cross, f0_test = arrays
    flow = linear_dynamics(ntk, y, f0)
    rate = share * float(flow.max_learning_rate)
    expected = [oracle(arrays, step, rate, momentum, ridge) for step in STEPS]
    settings = {"learning_rate": rate, "momentum": momentum, "ridge": ridge}
    f = flow.heavy_ball(STEPS, **settings)
    f_test = flow.heavy_ball(STEPS, **settings, ntk_test_train=cross, f0_test=f0_test)
    dual = flow.heavy_ball_dual(STEPS, **settings)
    loss = flow.heavy_ball_loss(STEPS, **settings)
    for i, (train_f, test_f, a) in enumerate(expected):
        assert_close(f[i], train_f, 1e-11)
        assert_close(f_test[i], test_f, 1e-11)
        assert_close(dual[i], a, 1e-11)
        assert_close(loss[i], np.square(train_f - y).sum() / 2, 1e-8)
    if momentum == 0:
        assert_close(f, flow.gradient_descent(STEPS, rate, ridge=ridge), 1e-11)
        assert_close(dual, flow.gradient_descent_dual(STEPS, rate, ridge=ridge), 1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.81])
def test_heavy_ball_is_exact_where_its_roots_coincide(x64, momentum):
    # At eta lambda = (1 - sqrt(beta))^2 the two roots are equal.
    scaled = (1 - momentum**0.5) ** 2
    flow = linear_dynamics(np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)))
    arrays = (*(np.ones((1, 1)),) * 2, np.zeros((1, 1)), *(np.ones((1, 1)),) * 2)
    expected = [oracle(arrays, s, scaled, momentum, 0.0)[0] for s in STEPS]
    actual = flow.heavy_ball(STEPS, scaled, momentum)
    assert_close(actual, np.stack(expected), 1e-12)


def test_heavy_ball_converges_up_to_its_limit_and_overflows_without_nan():
    ntk, y, f0, *_ = (a.astype(np.float32) for a in problem())
    flow = linear_dynamics(ntk, y, f0)
    limit = 1.5 * float(flow.max_learning_rate)
    assert flow.heavy_ball_loss(20_000, 0.99 * limit, 0.5) < 1e-6
    beyond = flow.heavy_ball_loss(np.array([10**4, 10**9]), 1.2 * limit, 0.5)
    assert np.isposinf(beyond).all()
    with_ridge = flow.heavy_ball_loss(10**6, 1.2 * limit, 0.5, ridge=1.0)
    assert np.isposinf(with_ridge)
    assert np.isposinf(flow.gradient_descent_loss(10**6, 2 * limit, ridge=1.0))


@pytest.mark.parametrize("name", ["descent", "heavy ball"])
def test_what_diverges_is_infinite_with_its_sign_and_never_nan(name):
    arrays = problem()
    single = [a.astype(np.float32) for a in arrays]
    flow = linear_dynamics(*single[:3])
    rate = 1.5 * float(flow.max_learning_rate)
    test: dict[str, Any] = {"ntk_test_train": single[3], "f0_test": single[4]}
    momentum, late = {"descent": (0.0, 400), "heavy ball": (1.2, 1500)}[name]
    steps = np.array([30, 31, late, late + 1, 10**9, 10**9 + 1])

    def closed(quantity, **options):
        if name == "descent":
            return getattr(flow, f"gradient_descent{quantity}")(steps, rate, **options)
        method = getattr(flow, f"heavy_ball{quantity}")
        return method(steps, rate, momentum, **options)

    for ridge in (0.0, 0.4):
        for quantity, index in (("", 0), ("_dual", 2)):
            actual = np.asarray(closed(quantity, ridge=ridge))
            assert not np.isnan(actual).any()
            assert np.isinf(actual[2:]).all()
            expected = [
                oracle(arrays, s, rate, momentum, ridge)[index] for s in steps[:4]
            ]
            assert_close(actual[:2], np.stack(expected[:2]), 1e-3)
            assert (np.sign(actual[:4]) == np.sign(np.stack(expected))).all()
        test_outputs = closed("", ridge=ridge, **test)
        assert not np.isnan(test_outputs).any()
        assert np.isposinf(closed("_loss", ridge=ridge)[2:]).all()


def test_momentum_beyond_1_overflows_to_infinity():
    # The number that the recurrence has, from 128 bits on too large for single precision.
    one = np.ones((1, 1), np.float32)
    flow = linear_dynamics(one, one, 0 * one)
    steps = np.array([100, 400, 1000])
    arrays = [a.astype(np.float64) for a in (one, one, 0 * one, one, 0 * one)]
    expected = np.stack([oracle(arrays, s, 0.1, 1.2, 0.0)[0] for s in steps])
    actual = flow.heavy_ball(steps, 0.1, 1.2)
    assert_close(actual[:2], expected[:2], 1e-3)
    assert np.abs(expected[2]) > np.finfo(np.float32).max
    assert np.isinf(actual[2]).all()
    assert np.sign(actual[2]) == np.sign(expected[2])
    assert np.isfinite(flow.gradient_descent(np.array([0, 1, 5]), 1e38)[:2]).all()
    assert np.isinf(flow.gradient_descent(5, 1e38)).all()
    assert np.isinf(flow.heavy_ball(5, 1e38, 0.5)).all()


def test_directions_that_diverge_leave_the_others_alone():
    eigenvalues = np.array([0.5, 1.0, 8.0], np.float32)
    y = np.array([[1.0], [2.0], [0.0]], np.float32)  # nothing where it diverges
    flow = linear_dynamics(np.diag(eigenvalues), y, 0 * y)
    assert_close(flow.gradient_descent(10**6, 1.0), y)
    assert_close(flow.heavy_ball(10**4, 1.0, 0.2), y)
    assert_close(flow.gradient_descent_loss(10**6, 1.0, ridge=0.5), np.float32(25 / 72))
    # 7**46 is 1e38.9: times a tiny coefficient it is a number.
    small = y + np.array([[0.0], [0.0], [1e-30]], np.float32)
    f = linear_dynamics(np.diag(eigenvalues), small, 0 * y).gradient_descent(46, 1.0)
    assert_close(
        f[:, 0], np.array([1.0, 2.0, -(7.0**46) * 1e-30]).astype(np.float32), 1e-4
    )


@pytest.mark.parametrize(
    "step",
    [2**31, 2**40, 2**70, np.array([1, 2**40]), np.uint64(2**63), np.uint32(2**31)],
    ids=str,
)
def test_steps_beyond_the_integers_of_jax_are_refused(own_errors, step):
    one = np.ones((1, 1), np.float32)
    flow = linear_dynamics(one, one, 0 * one)
    with pytest.raises(ValueError, match="`step` must be at most 2147483647"):
        flow.gradient_descent(step, 0.1)
    with pytest.raises(ValueError, match="`step` must be at most 2147483647"):
        flow.heavy_ball_loss(step, 0.1, 0.5)
    with pytest.raises(ValueError, match="`step` must be zero or positive"):
        flow.gradient_descent(-(2**70), 0.1)


def test_large_steps_are_exact_with_integers_that_hold_them(x64):
    one = np.ones((1, 1))
    flow = linear_dynamics(one, one, 0 * one)
    rate = 1e-12
    expected = -np.expm1(2**40 * np.log1p(-rate))
    assert_close(flow.gradient_descent(2**40, rate), expected.reshape(1, 1), 1e-12)
    assert_close(flow.gradient_descent(2**40 + 1, 2.0).item(), 2.0)
    assert_close(flow.gradient_descent(2**40, 2.0).item(), 0.0)
    with jax.enable_x64(False):
        one = one.astype(np.float32)
        single = linear_dynamics(one, one, 0 * one)
        assert_close(single.gradient_descent(2**31 - 1, 2.0).item(), 2.0)


def test_ridge_ends_at_kernel_ridge_regression(dtype):
    arrays = [a.astype(dtype) for a in problem()]
    ntk, y, f0, cross, f0_test = arrays
    flow = linear_dynamics(ntk, y, f0)
    double = [a.astype(np.float64) for a in arrays]
    a = np.linalg.solve(double[0] + 0.5 * np.eye(4), double[1] - double[2])
    test: dict[str, Any] = {"ntk_test_train": cross, "f0_test": f0_test}
    end: dict[str, Any] = {"time": jnp.inf, "ridge": 0.5}
    assert_close(flow.gradient_flow_dual(**end), a.astype(dtype), "other_algorithm")
    assert_close(flow.gradient_flow(**end), f0 + ntk @ a.astype(dtype), 1e-4)
    assert_close(
        flow.gradient_flow(**end, **test), f0_test + cross @ a.astype(dtype), 1e-4
    )
    residual = double[2] + double[0] @ a - double[1]
    expected = np.asarray(np.square(residual).sum() / 2, dtype)
    assert_close(flow.gradient_flow_loss(**end), expected, "other_algorithm")
    descent = flow.gradient_descent(10**6, 0.5 * flow.max_learning_rate, ridge=0.5)
    assert_close(descent, flow.gradient_flow(**end), "other_algorithm")


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_flow_with_ridge_is_the_matrix_exponential(x64, ridge):
    ntk, y, f0, *_ = problem()
    shifted = ntk + ridge * np.eye(4)
    for time in (0.0, 0.3, 2.0):
        decay = np.eye(4) - scipy.linalg.expm(-shifted * time)
        a = np.linalg.solve(shifted, decay @ (y - f0))
        flow = linear_dynamics(ntk, y, f0)
        assert_close(flow.gradient_flow_dual(time, ridge=ridge), a, 1e-11)
        assert_close(flow.gradient_flow(time, ridge=ridge), f0 + ntk @ a, 1e-11)


OPTIMIZERS = {
    "descent": (
        optax.sgd(0.1),
        lambda f, s, q: getattr(f, f"gradient_descent{q}")(s, 0.1),
    ),
    "heavy ball": (
        optax.sgd(0.1, momentum=0.6),
        lambda f, s, q: getattr(f, f"heavy_ball{q}")(s, 0.1, 0.6),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_closed_forms_are_the_linear_model_trained_for_real(x64, name):
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    optimizer, closed = OPTIMIZERS[name]
    run = train(
        linearize(two_layer.apply, params),
        params,
        x,
        y,
        optimizer=optimizer,
        num_steps=30,
        observe=[observers.outputs],
        observe_at=range(31),
    )
    steps = np.arange(31)
    ntk = empirical_ntk(two_layer.apply, params, x)
    flow = linear_dynamics(ntk, y, two_layer.apply(params, x))
    assert_close(run.observations["outputs"], closed(flow, steps, ""), 1e-10)
    assert_close(run.loss, closed(flow, steps, "_loss"), 1e-10)
    moved = dual_params(two_layer.apply, params, x, closed(flow, 30, "_dual"))
    for leaf1, leaf2 in zip(*map(jax.tree.leaves, (moved, run.params)), strict=True):
        assert_close(leaf1, leaf2, 1e-10)
    assert relative_error(moved["V"], params["V"]) > 1e-2
    exact = two_layer.oracle_descent(jax.tree.map(np.asarray, params), x, y, 0.1, 30)
    assert (
        relative_error(exact[-1]["V"], moved["V"]) > 1e-3
    )  # the network is not linear


def test_the_linear_model_trains_with_any_optimizer_and_loss(x64):
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers
        run = train(
            linearize(two_layer.apply, params),
            params,
            x,
            jnp.sign(y),
            optimizer=optax.adam(0.05),
            num_steps=200,
            loss_fn=losses.smoothed_hinge_loss,
            observe=[observers.ntk_drift],
        )
    assert run.loss[-1] < 0.05 * run.loss[0]
    assert run.observations["ntk_drift"].max() < 1e-12


@pytest.mark.filterwarnings("ignore::lazyjax.linalg.SingularKernelWarning")
def test_singular_kernels_are_reported(dtype):
    ones = np.ones((3, 3), dtype)
    y = np.arange(3.0, dtype=dtype)[:, None]
    flow = linear_dynamics(ones, y, 0 * y)
    assert flow.rank == 1
    assert np.isposinf(flow.condition)
    regular = linear_dynamics(np.diag(np.array([1.0, 2.0, 8.0], dtype)), y, 0 * y)
    assert regular.rank == 3
    assert_close(regular.condition, np.asarray(8.0, dtype))
    for values in (
        flow.heavy_ball(np.array([0, 5, 10**6]), 0.01, 0.9),
        flow.heavy_ball_dual(np.array([0, 5, 10**6]), 0.01, 0.9),
        flow.gradient_flow_dual(np.array([0.0, 1e10, np.inf])),
        flow.gradient_flow_dual(np.array([0.0, 1e10, np.inf]), ridge=1e-3),
        flow.gradient_descent_dual(np.array([0, 10**6]), 0.01),
    ):
        assert np.isfinite(values).all()
    end = flow.gradient_flow_dual(np.inf)
    assert_close(end, np.full((3, 1), 1 / 3, dtype), "other_algorithm")  # the smallest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.gradient_flow(1.0, ridge=-1.0), "`ridge` must be finite, zero or"),
        (lambda f: f.heavy_ball(1, 0.1, -0.5), "`momentum` must be finite, zero or"),
        (lambda f: f.heavy_ball(1, np.inf, 0.5), "`learning_rate` must be finite"),
        (lambda f: f.heavy_ball(-1, 0.1, 0.5), "`step` must be zero or positive"),
    ],
)
def test_misuse_is_refused_by_name(own_errors, call, message):
    one = np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match=message):
        call(linear_dynamics(one, one, 0 * one))
