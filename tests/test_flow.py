"""Gradient flow: against closed forms, small steps, and what failed solves report."""

import sys
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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

TIMES = np.array([0.0, 0.1, 1.0, 3.0])
SEEN = [observers.outputs, observers.ntk_drift, observers.parameter_distance]


def linear(params, x):
    return x @ params["w"]


def linear_problem(dtype, n=4, d=6, k=2):
    rng = np.random.default_rng([n, d, k])
    shapes = ((d, k), (n, d), (n, k))
    w, x, y = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    return {"w": w}, x, y


def test_linear_model_follows_its_closed_form(dtype):
    params, x, y = linear_problem(dtype)
    run = gradient_flow(linear, params, x, y, TIMES, observe=SEEN)
    exact = linear_dynamics(x @ x.T, y, x @ params["w"])
    assert run.loss.dtype == run.params["w"].dtype == dtype
    assert_close(run.observations["outputs"], exact.gradient_flow(TIMES), 1e-3)
    assert_close(run.loss, exact.gradient_flow_loss(TIMES), 1e-3)
    assert run.is_solved.all()
    assert run.status == 0
    assert_close(run.observations["ntk_drift"], np.zeros(4, dtype))
    assert_close(
        run.params["w"], params["w"] + x.T @ exact.gradient_flow_dual(3.0), 1e-3
    )
    run.raise_if_failed()


def test_error_follows_the_tolerance(x64):
    params, x, y = linear_problem(np.float64)
    exact = linear_dynamics(x @ x.T, y, x @ params["w"]).gradient_flow(TIMES)
    errors, steps = [], []
    for rtol in (1e-4, 1e-7, 1e-10):
        run = gradient_flow(
            linear, params, x, y, TIMES, observe=SEEN, rtol=rtol, atol=rtol
        )
        errors.append(relative_error(run.observations["outputs"], exact))
        steps.append(int(run.num_steps))
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6
    assert errors[2] < 1e-9
    assert errors[0] > 1e3 * errors[2]
    assert steps[0] < steps[1] < steps[2]


def test_flow_is_what_descent_with_small_steps_tends_to(x64):
    params, x, y = two_layer.problem()
    run = gradient_flow(two_layer.apply, params, x, y, [1.0], observe=SEEN)
    gaps = []
    for num_steps in (100, 200):
        descent = train(
            two_layer.apply,
            params,
            x,
            y,
            optimizer=optax.inject_hyperparams(optax.sgd)(1 / num_steps),
            num_steps=num_steps,
            observe=SEEN,
            observe_at=[num_steps],
        )
        for name, seen in run.observations.items():
            gap = relative_error(descent.observations[name], seen)
            assert gap < 0.05, name
        gaps.append(relative_error(descent.loss[-1], run.loss[0]))
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.05)


def test_logistic_loss_of_one_weight_is_its_own_closed_form(x64):
    # f' = 1 / (1 + e^f) from 0, so f + e^f = t + 1.
    one = jnp.ones((1, 1))
    run = gradient_flow(
        lambda w, x: x @ w,
        0 * one,
        one,
        one,
        [0.5, 4.0],
        loss_fn=losses.logistic_loss,
        observe=[observers.outputs],
    )
    f = run.observations["outputs"][:, 0, 0]
    assert_close(f + jnp.exp(f), np.array([1.5, 5.0]), 1e-6)


def failing_problem() -> dict[str, Any]:
    return {**dict(zip(("params", "x", "y"), linear_problem(np.float32), strict=True))}


def test_too_few_steps_are_reported_and_what_was_not_reached_is_nan():
    run = gradient_flow(
        linear, **failing_problem(), times=[0.0, 1.0, 30.0], max_steps=3, observe=SEEN
    )
    assert run.is_solved.tolist() == [True, False, False]
    assert run.status == 1
    assert np.isfinite(run.loss[0])
    for leaf in (run.loss[1:], run.observations["outputs"][1:], run.params["w"]):
        assert np.isnan(leaf).all()
    with pytest.raises(RuntimeError, match="raise `max_steps`"):
        run.raise_if_failed()


def test_members_fail_each_by_itself_and_nan_is_no_solution():
    params, x, y = linear_problem(np.float32)
    scales = jnp.array([1.0, jnp.nan, 2.0])
    go = lambda scale: gradient_flow(
        linear, jax.tree.map(lambda w: scale * w, params), x, y, [0.5, 1.0]
    )
    runs = jax.vmap(go)(scales)
    assert runs.status.tolist() == [0, 3, 0]
    assert runs.is_solved.all(axis=1).tolist() == [True, False, True]
    assert "1 of 3: The loss or its gradient is not finite." in runs.explain()
    assert_close(runs.loss[2], go(2.0).loss, "other_algorithm")


@pytest.mark.slow
def test_an_implicit_solver_takes_fewer_steps_over_a_long_time(x64):
    params, x, y = linear_problem(np.float64)
    go = lambda solver: gradient_flow(linear, params, x, y, [200.0], solver=solver)
    explicit, implicit = go(None), go(diffrax.Kvaerno5())
    assert implicit.status == explicit.status == 0
    assert 2 * implicit.num_steps < explicit.num_steps


def test_second_call_does_not_retrace():
    calls = []

    def counted(params, x):
        calls.append(None)
        return linear(params, x)

    params, x, y = linear_problem(np.float32)
    gradient_flow(counted, params, x, y, [0.1, 0.2])
    num_calls = len(calls)
    assert num_calls > 0
    gradient_flow(counted, params, -x, y, [0.3, 0.4], rtol=1e-3)
    assert len(calls) == num_calls


def test_without_diffrax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    params, x, y = linear_problem(np.float32)
    with pytest.raises(ImportError, match=r"lazyjax\[ode\]"):
        gradient_flow(linear, params, x, y, [1.0])
    with pytest.raises(ImportError, match=r"`linearized_flow` needs diffrax"):
        linearized_flow(x @ x.T, y, y, [1.0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"times": []}, ValueError, "`times` must be one or more"),
        ({"times": [1.0, 1.0]}, ValueError, "`times` must be finite and increase"),
        ({"times": [-1.0]}, ValueError, "`times` must be finite and increase"),
        ({"times": [np.inf]}, ValueError, "`times` must be finite and increase"),
        ({"rtol": 0.0}, ValueError, "`rtol` must be positive"),
        ({"atol": np.nan}, ValueError, "`atol` must be positive"),
        ({"max_steps": 0}, ValueError, "`max_steps` must be at least 1"),
        ({"loss_fn": 3}, TypeError, "`loss_fn` must be callable"),
        ({"observe": [3]}, TypeError, "`observe` must hold functions"),
    ],
)
def test_misuse_is_refused_by_name(own_errors, changes, error, message):
    with pytest.raises(error, match=message):
        gradient_flow(linear, **({**failing_problem(), "times": [1.0]} | changes))


# --- the linear model under any loss -------------------------------------------------


def kernel_problem(dtype, shared, n=4, k=2, n_test=3):
    rng = np.random.default_rng([n, k, n_test])
    size = (n + n_test) * (1 if shared else k)
    features = rng.normal(size=(size, size + 2)) / size**0.5
    gram = features @ features.T
    if not shared:
        gram = gram.reshape(n + n_test, k, n + n_test, k).transpose(0, 2, 1, 3)
    y, f0 = rng.normal(size=(2, n, k))
    f0_test = rng.normal(size=(n_test, k))
    return [a.astype(dtype) for a in (gram[:n, :n], y, f0, gram[n:, :n], f0_test)]


@pytest.mark.parametrize("shared", [False, True])
def test_linear_flow_by_ode_is_the_closed_form_for_the_square_loss(dtype, shared):
    ntk, y, f0, test_train, f0_test = kernel_problem(dtype, shared)
    test: dict[str, Any] = {"ntk_test_train": test_train, "f0_test": f0_test}
    run = linearized_flow(ntk, y, f0, TIMES, ridge=0.3, **test)
    exact = linear_dynamics(ntk, y, f0)
    assert run.f.dtype == dtype
    assert_close(run.f, exact.gradient_flow(TIMES, ridge=0.3), 1e-3)
    assert_close(run.f_test, exact.gradient_flow(TIMES, ridge=0.3, **test), 1e-3)
    assert_close(run.dual, exact.gradient_flow_dual(TIMES, ridge=0.3), 1e-3)
    assert_close(run.loss, exact.gradient_flow_loss(TIMES, ridge=0.3), 1e-3)
    run.raise_if_failed()


def test_linear_flow_is_that_of_the_linear_model_trained_for_real(x64):
    # In function space, and in the space of parameters, on train and test points.
    params, x, y = linear_problem(np.float64, k=3)
    y = np.eye(3)[[0, 2, 1, 1]]
    x_test = np.random.default_rng(9).normal(size=(2, 6))
    real = gradient_flow(
        linear,
        params,
        x,
        y,
        TIMES,
        loss_fn=losses.cross_entropy_loss,
        observe=[observers.outputs, observers.on_inputs(observers.outputs, x_test)],
    )
    run = linearized_flow(
        x @ x.T,
        y,
        x @ params["w"],
        TIMES,
        loss_fn=losses.cross_entropy_loss,
        ntk_test_train=x_test @ x.T,
        f0_test=x_test @ params["w"],
    )
    assert_close(run.f, real.observations["outputs"], 1e-6)
    assert_close(run.f_test, real.observations["outputs_on_inputs"], 1e-6)
    assert_close(run.loss, real.loss, 1e-6)
    w = dual_params(linear, params, x, run.dual)["w"]
    assert w.shape == (4, 6, 3)
    assert_close(w[-1], real.params["w"], 1e-6)
    assert relative_error(w[-2], w[-1]) > 1e-2


def test_singular_kernels_of_separable_duplicates_stay_finite(dtype):
    one = np.ones((2, 2), dtype)  # one input twice, with opposite labels
    y = np.array([[1.0], [-1.0]], dtype)
    f0 = np.full((2, 1), 0.7, dtype)
    run = linearized_flow(one, y, f0, [1.0, 50.0], loss_fn=losses.logistic_loss)
    assert run.status == 0
    assert_close(run.loss[-1], np.asarray(2 * np.log(2), dtype), 1e-3)
    assert_close(run.f[-1] + 1, np.ones((2, 1), dtype), 1e-3)


def test_misuse_of_the_linear_flow_is_refused_by_name(own_errors):
    ntk, y, f0, test_train, f0_test = kernel_problem(np.float32, shared=True)
    with pytest.raises(ValueError, match="`f0_test` is missing"):
        linearized_flow(ntk, y, f0, [1.0], ntk_test_train=test_train)
    with pytest.raises(ValueError, match="`ridge` must be finite, zero or positive"):
        linearized_flow(ntk, y, f0, [1.0], ridge=-1.0)
    with pytest.raises(ValueError, match="`ntk` must have shape"):
        linearized_flow(ntk[:2], y, f0, [1.0])
    with pytest.raises(TypeError, match="`loss_fn` must be callable"):
        linearized_flow(ntk, y, f0, [1.0], loss_fn=0.5)  # pyright: ignore
    params, x, _ = linear_problem(np.float32)
    with pytest.raises(ValueError, match=r"`dual` must have shape \(\*times, 4, 2\)"):
        dual_params(linear, params, x, f0_test)
