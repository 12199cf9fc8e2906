"""Certificates that are not vacuous: worked example, minimal widths, real digits."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify import Verdict
from lazyjax.data import digits, sphere
from lazyjax.nets import mlp, resnet

pytestmark = pytest.mark.once


def two_layer(m, d, *, n, activation, std, seed=0, x=None, y=None):
    """Frozen signs over sqrt(m), weights N(0, std^2), symmetrized: m units in all."""
    if x is None or y is None:
        data = sphere(n, d, key=jax.random.key(seed), dtype=np.float32)
        x, y = np.asarray(data.x_train), np.asarray(data.y_train)
    network = mlp(
        width=m // 2,
        activation=activation,
        input_scaling="none",
        trained="first",
        readout="sign",
        symmetrized=True,
    )
    params = jax.tree.map(np.asarray, network.init(jax.random.key(seed + 1), x))
    params = {
        sign: {
            "layer_1": {"kernel": np.float32(std) * copy["layer_1"]["kernel"]},
            "layer_2": copy["layer_2"],
        }
        for sign, copy in params.items()
    }
    return network, params, x, y


@pytest.fixture(scope="module")
def worked_example():
    return two_layer(512, 100, n=20, activation="softplus", std=3.0)


def test_worked_example_is_certified_and_kept_by_the_run(worked_example):
    network, params, x, y = worked_example
    flow: Any = certify.gradient_flow(network, params, x, y)
    assert flow.verdict is Verdict.CERTIFIED
    assert flow["h"] == pytest.approx(0.234, rel=0.1)
    assert flow["sigma_min"] == pytest.approx(0.480, rel=0.05)
    assert flow["jacobian_norm"] == pytest.approx(0.774, rel=0.05)
    assert flow["lipschitz"] == pytest.approx(0.01205, rel=0.05)
    assert flow["residual"] == pytest.approx(20**0.5, rel=1e-6)
    # With epsilon = 0.1, as there: eta = 0.222, s* = 12.2, mu = 0.333.
    descent: Any = certify.gradient_descent(network, params, x, y, learning_rate=0.2)
    assert descent.is_certified
    assert descent.radius == pytest.approx(12.2, rel=0.1)
    assert descent["sigma_min_end"] == pytest.approx(0.333, rel=0.1)

    with jax.enable_x64(True):
        inputs, targets = jnp.asarray(x, float), jnp.asarray(y, float)
        start = jax.tree.map(lambda v: jnp.asarray(v, float), params)

        def step(params, _):
            def loss(p):
                return jnp.sum((network.apply(p, inputs) - targets) ** 2) / 2

            value, grads = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.2 * g, params, grads), value

        end, losses = jax.jit(lambda p: jax.lax.scan(step, p, None, length=101))(start)
        moved = math.sqrt(
            sum(
                float(jnp.sum((a - b) ** 2))
                for a, b in zip(
                    jax.tree.leaves(start), jax.tree.leaves(end), strict=True
                )
            )
        )
    losses = np.asarray(losses)
    bounds = losses[0] * np.array([descent.loss_bound(k) for k in range(101)])
    assert np.all(losses <= bounds * (1 + 1e-9))
    assert math.sqrt(2 * losses[100]) <= 0.03
    # The bounds are on the right side of what happened, and near it.
    assert descent["zero_distance"] <= moved <= descent.radius <= 2 * moved


def least_width(n, d, activation, std, widths):
    """Width from which flow is certified, interpolated: h falls like its root."""
    for m in widths:
        network, params, x, y = two_layer(m, d, n=n, activation=activation, std=std)
        h = certify.gradient_flow(network, params, x, y, rigor="float")["h"]
        if h < 0.5:
            return m * (h / 0.5) ** 2
    return math.inf


WIDTHS = [
    (20, 100, "softplus", 1.0, 340),
    (20, 100, "tanh", 1.0, 1.1e3),
    (20, 100, "softplus", 3.0, 1.2e2),
    (100, 784, "softplus", 1.0, 1.3e3),
    (100, 784, "softplus", 3.0, 4.8e2),
]
COSTLY_WIDTHS = [
    (100, 784, "tanh", 1.0, 4.1e3),
    (100, 100, "softplus", 1.0, 3e4),
    (100, 100, "tanh", 1.0, 5e4),
    (100, 100, "softplus", 3.0, 3.2e3),
]


@pytest.mark.parametrize(
    ("n", "d", "activation", "std", "expected"),
    [*WIDTHS, *(pytest.param(*row, marks=pytest.mark.slow) for row in COSTLY_WIDTHS)],
)
@pytest.mark.sampled(2)
def test_least_certified_width_is_that_of_the_table(n, d, activation, std, expected):
    widths = [2 * round(expected * factor / 2) for factor in (0.6, 0.9, 1.3, 2.0)]
    width = least_width(n, d, activation, std, widths)
    assert expected / 2 <= width <= 2 * expected


@pytest.fixture(scope="module")
def twenty_digits():
    data = digits(20, classes="parity", num_test=0)
    return np.asarray(data.x_train), np.asarray(data.y_train)


def test_a_practical_two_layer_network_on_digits_is_certified_from_the_start(
    twenty_digits,
):
    x, y = twenty_digits
    network = mlp(
        width=1024,
        activation="softplus",
        w_std=8.0,
        input_scaling="none",
        trained="first",
        readout="sign",
        symmetrized=True,
    )
    params = network.init(jax.random.key(1), x)
    flow: Any = certify.gradient_flow(network, params, x, y)
    assert flow.verdict is Verdict.CERTIFIED
    assert flow.rigor == "proof"
    assert certify.gradient_descent(network, params, x, y).is_certified


@pytest.mark.parametrize("depth", [3, 4])
def test_deep_networks_on_digits_are_certified_from_trained_weights(
    twenty_digits, depth
):
    x, y = twenty_digits
    network = mlp(width=128, depth=depth, activation="tanh", w_std=1.5)
    params = network.init(jax.random.key(depth), x)
    start = certify.gradient_flow(network, params, x, y)
    assert start.verdict is Verdict.INCONCLUSIVE
    trained = certify.warm_start(network, params, x, y, until="converged")
    certificate: Any = trained.certificate
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate.radius < 1e-6 * trained.moved
    assert certify.existence(network, trained.params, x, y).is_certified
    # What is certified is the network that users run.
    with jax.enable_x64(True):
        exact = jax.tree.map(jnp.asarray, trained.params)
        f = np.asarray(network.apply(exact, jnp.asarray(x, float)))
    assert np.linalg.norm(f - y) <= certificate["residual"] * (1 + 1e-6) + 1e-12


def test_relu_units_that_are_far_from_their_kinks_are_certified(twenty_digits):
    x, y = twenty_digits
    network = mlp(width=256, activation="relu", trained="first", b_std=0.3)
    params = network.init(jax.random.key(0), x)
    trained = certify.warm_start(network, params, x, y, until="converged")
    certificate: Any = trained.certificate
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate["flips"] < certificate["sigma_min"]
    assert certify.gradient_descent(network, trained.params, x, y).is_certified


def test_linear_models_are_certified_with_their_exact_rate():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 5)), rng.standard_normal((3, 1))
    network = mlp(width=1, depth=0, input_scaling="none")
    params = {"layer_1": {"kernel": np.zeros((5, 1))}}
    sigma = np.linalg.svd(x)[1]
    flow: Any = certify.gradient_flow(network, params, x, y)
    assert flow.rate == pytest.approx(2 * sigma[-1] ** 2, rel=1e-9)
    assert flow["h"] < 1e-9
    exists: Any = certify.existence(network, params, x, y)
    nearest = np.linalg.norm(np.linalg.pinv(x) @ y)
    assert exists.radius == pytest.approx(nearest, rel=1e-9)
    assert exists.radius >= nearest * (1 - 1e-12)
    # Largest step 2 epsilon / |J|^2, so that any below 2 / |J|^2 is certified.
    step = 1.9 / sigma[0] ** 2
    assert certify.gradient_descent(
        network, params, x, y, learning_rate=step
    ).is_certified
    step = 2.1 / sigma[0] ** 2
    over = certify.gradient_descent(network, params, x, y, learning_rate=step)
    assert not over.is_certified


def test_a_radius_that_is_too_small_is_refuted_and_a_large_one_certified():
    x, y = np.eye(2), np.array([[3.0], [4.0]])
    network = mlp(width=1, depth=0, input_scaling="none")
    params = {"layer_1": {"kernel": np.zeros((2, 1))}}
    for verb in (certify.existence, certify.gradient_flow, certify.gradient_descent):
        assert verb(network, params, x, y, radius=4.9).verdict is Verdict.REFUTED
    for verb in (certify.existence, certify.gradient_flow):
        assert verb(network, params, x, y, radius=5.1).verdict is Verdict.CERTIFIED


def test_lazy_gap_bounds_what_both_models_do(worked_example):
    network, params, x, y = worked_example
    others = np.asarray(sphere(3, 100, key=jax.random.key(9)).x_train)
    gap = certify.lazy_gap(network, params, x, y, others)
    with jax.enable_x64(True):
        start = jax.tree.map(lambda v: jnp.asarray(v, float), params)
        both = jnp.concatenate([jnp.asarray(x, float), jnp.asarray(others, float)])
        targets = jnp.asarray(y, float)

        def outputs(params):
            return network.apply(params, both)

        def step(carry, _):
            params, linear = carry
            f, pull = jax.vjp(outputs, params)
            residual = jnp.zeros_like(f).at[:20].set(f[:20] - targets)
            lin, pull_lin = jax.linearize(outputs, start)
            moved = jax.tree.map(lambda a, b: a - b, linear, start)
            f_lin = lin + pull_lin(moved)
            back = jax.vjp(outputs, start)[1]
            residual_lin = jnp.zeros_like(f).at[:20].set(f_lin[:20] - targets)
            descend = lambda p, g: jax.tree.map(lambda a, b: a - 0.05 * b, p, g)
            carry = (
                descend(params, pull(residual)[0]),
                descend(linear, back(residual_lin)[0]),
            )
            return carry, f - f_lin

        run = jax.jit(lambda c: jax.lax.scan(step, c, None, length=400)[1])
        off = np.asarray(run((start, start)))[..., 0]
    train = np.max(np.linalg.norm(off[:, :20], axis=1))
    test = np.max(np.abs(off[:, 20:]), axis=0)
    # Far below: in symmetrized networks the terms of second order cancel.
    assert 1e-6 < train <= gap.train < 5
    assert np.all((test > 1e-7) & (test <= gap.test))


def test_logistic_flow_reaches_its_target_in_the_time_promised():
    x, y = np.eye(2), np.array([[1.0], [-1.0]])
    network = mlp(width=1, depth=0, input_scaling="none")
    params = {"layer_1": {"kernel": np.zeros((2, 1))}}
    certificate: Any = certify.logistic_flow(network, params, x, y, target_loss=0.1)
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate["total_loss"] == pytest.approx(2 * math.log(2), rel=1e-9)
    w = np.zeros(2)
    step = certificate["time"] / 20_000
    for _ in range(20_000):
        w = w + step * y[:, 0] / (1 + np.exp(y[:, 0] * w)) / 2
    assert np.mean(np.log1p(np.exp(-y[:, 0] * w))) <= 0.1
    assert np.linalg.norm(w) <= certificate.radius
    hard = certify.logistic_flow(network, params, x * 0, y, target_loss=0.1)
    assert hard.verdict is Verdict.INCONCLUSIVE


def test_networks_without_a_theorem_are_inconclusive():
    network = mlp(width=4, activation=jax.lax.digamma)
    x = np.ones((1, 2))
    params = network.init(jax.random.key(0), jnp.ones((1, 2)))
    certificate: Any = certify.gradient_flow(network, params, x, np.ones((1, 1)))
    assert certificate.verdict is Verdict.INCONCLUSIVE
    not_held = {a.name for a in certificate.assumptions if a.holds is not True}
    assert "smooth" in not_held
    assert "INCONCLUSIVE" in certificate.explain()


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "relu"},
        {"activation": "relu", "depth": 2, "trained": "first"},
        {"activation": jnp.tanh},
        {"activation": "tanh", "normalization": "layer"},
    ],
)
@pytest.mark.sampled(2)
def test_networks_that_no_description_covers_are_read_from_their_programs(changes):
    network = mlp(width=16, **changes)
    x, y = np.eye(2), np.ones((2, 1))
    params = network.init(jax.random.key(0), jnp.ones((1, 2)))
    found = certify.warm_start(network, params, x, y)
    assert found.certificate.is_certified


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, p, x, y: certify.gradient_flow(n, {}, x, y), "`params`"),
        (lambda n, p, x, y: certify.gradient_flow(n, p, x[:, :1], y), "`x` must have"),
        (lambda n, p, x, y: certify.gradient_flow(n, p, x, y[:, 0]), "`y` must have"),
        (
            lambda n, *rest: certify.gradient_flow(n, *rest, **{"rigor": "hope"}),
            "`rigor`",
        ),
        (lambda n, p, x, y: certify.gradient_flow(n, p, x, y, radius=0.0), "`radius`"),
        (
            lambda n, p, x, y: certify.gradient_descent(n, p, x, y, learning_rate=-1.0),
            "`learning_rate`",
        ),
        (
            lambda n, p, x, y: certify.gradient_descent(n, p, x, y, gradient_error=1.0),
            "`gradient_error`",
        ),
        (
            lambda n, p, x, y: certify.logistic_flow(n, p, x, y, target_loss=0.0),
            "`target_loss`",
        ),
        (
            lambda n, p, x, y: certify.logistic_flow(n, p, x, 2 * y, target_loss=0.1),
            "`y` must have one column of -1 and 1",
        ),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named(call, message):
    network = mlp(width=4, activation="tanh")
    x, y = np.ones((2, 3)), np.ones((2, 1))
    params = network.init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=message):
        call(network, params, x, y)


def test_other_kinds_of_networks_have_no_bounds_by_description():
    network = resnet(width=4, depth=2, activation="tanh")
    params = network.init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"kind = 'mlp'.*only fully connected"):
        certify.local_bounds(network, params, np.ones((2, 3)), np.ones((2, 1)))
