"""What theory says of lazy training, measured on real digits and wide networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.dynamics import (
    gradient_flow,
    linear_dynamics,
    observers,
    scaled,
    square_loss,
)
from lazyjax.infinite.predict import nngp_grams, ntk_grams, trained_ensemble
from lazyjax.laziness import (
    relative_distance,
    relative_parameter_distance,
    scaling,
)
from lazyjax.linalg import gram_matrix
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.compilation import OPTIMIZED

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.once]

# --- Berner's two equations -----------------------------------------------------------

CENTRES = np.array([0.05, 0.4, 1.5])
SPACING = 0.01


def stencils():
    """Times at and around each centre, for central differences of fourth order."""
    offsets = SPACING * np.arange(-2, 3)
    return (CENTRES[:, None] + offsets).ravel()


def derivative(values):
    """Time derivatives at the centres, of values at `stencils()`."""
    weights = np.array([1, -8, 0, 8, -1]) / (12 * SPACING)
    by_centre = np.asarray(values).reshape(len(CENTRES), 5, -1)
    return np.einsum("w,cwi->ci", weights, by_centre)


def test_residuals_obey_the_exact_and_the_linearized_equation_of_berner():
    data = lazyjax.data.digits(12, num_test=0, classes="parity")
    x, y = data.x_train, data.y_train
    net = lazyjax.nets.mlp(width=24, depth=2, activation="tanh", w_std=1.5)
    params = net.init(jax.random.key(0), x)
    seen = [observers.outputs, observers.ntk]
    flow = gradient_flow(
        net.apply, params, x, y, stencils(), observe=seen, rtol=1e-10, atol=1e-10
    )
    flow.raise_if_failed()
    f = np.asarray(flow.observations["outputs"])
    at_centres = slice(2, None, 5)
    grams = np.stack([gram_matrix(h) for h in flow.observations["ntk"][at_centres]])
    residuals = (f[at_centres] - np.asarray(y)).reshape(len(CENTRES), -1)
    ntk0 = lazyjax.empirical_ntk(net.apply, params, x)
    gram0 = np.asarray(gram_matrix(ntk0))

    exact = -np.einsum("cij,cj->ci", grams, residuals)
    assert relative_error(derivative(f), exact) < 1e-6
    # The frozen kernel is told apart: this network is not linear.
    assert relative_error(derivative(f), -residuals @ gram0) > 1e-2

    linear = linear_dynamics(ntk0, y, net.apply(params, x)).gradient_flow(stencils())
    residuals = (np.asarray(linear)[at_centres] - np.asarray(y))[:, :, 0]
    assert relative_error(derivative(linear), -residuals @ gram0) < 1e-6
    assert relative_error(linear, f) > 1e-2


# --- scaling with width and alpha -----------------------------------------------------


def two_layer(mask, params, x):
    """tanh network of which only the units of `mask` exist, in "ntk" scaling."""
    width = jnp.sum(mask)
    h = jnp.tanh(x @ params["kernel"]) * mask
    return h @ params["readout"] / jnp.sqrt(width)


@functools.cache
def gaps_by_width():
    """Widths, and gaps and drifts of networks on digits: one program for all."""
    data = lazyjax.data.digits(8, num_test=0, classes="parity")
    x, y = 3 * data.x_train, data.y_train
    widths, num_seeds, largest = (16, 64, 256), 5, 256

    def run(width, seed):
        mask = (jnp.arange(largest) < width).astype(x.dtype)[None]
        key1, key2 = jax.random.split(jax.random.fold_in(jax.random.key(0), seed))
        params = {
            "kernel": jax.random.normal(key1, (64, largest)) / 8,
            "readout": jax.random.normal(key2, (largest, 1)),
        }
        model = lambda params, x: two_layer(mask, params, x)
        kernel = functools.partial(lazyjax.empirical_ntk, model, method="jacobian")
        times = jnp.array([0.3, 1.0, 3.0])
        flow = gradient_flow(
            model, params, x, y, times, observe=[observers.outputs], rtol=1e-5
        )
        start, end = kernel(params, x), kernel(flow.params, x)
        linear = linear_dynamics(start, y, model(params, x)).gradient_flow(times)
        gap = lazyjax.laziness.linearization_gap(flow.observations["outputs"], linear)
        drift = relative_distance(*map(gram_matrix, (end, start)))
        return gap, drift, flow.status

    grid = jnp.meshgrid(jnp.array(widths), jnp.arange(num_seeds), indexing="ij")
    flat = [axis.ravel() for axis in grid]
    go = jax.jit(jax.vmap(run), compiler_options=OPTIMIZED)
    gap, drift, status = go(*flat)
    assert (status == 0).all()
    shape = (len(widths), num_seeds)
    return jnp.array(widths, float), gap.reshape(shape), drift.reshape(shape)


@pytest.mark.slow
def test_gap_and_drift_fall_with_width_at_least_like_its_root():
    widths, gap, drift = gaps_by_width()
    for quantity, values in {"linearization_gap": gap, "ntk_drift": drift}.items():
        law = scaling(quantity, widths, values, against="width")
        assert law.agrees(), law.explain()
        assert law.fit.high < -0.35  # and not for want of data
        # Negative control: a gap that does not fall is no agreement.
        constant = scaling(quantity, widths, values[:1] + 0 * values, against="width")
        assert not constant.agrees()


@functools.cache
def laws_by_alpha(doubled):
    """Exponents over decades of alpha, from h(w0) = 0 reached in two ways."""
    data = lazyjax.data.digits(6, num_test=0, classes="parity")
    x, y = data.x_train, data.y_train
    net = lazyjax.nets.mlp(width=32, activation="tanh", w_std=1.5, symmetrized=doubled)
    start = net.init(jax.random.key(1), x)
    f0 = net.apply(start, x)
    # Either the difference of two copies that both move, or that of one to its start.
    h = net.apply if doubled else lambda params, x: net.apply(params, x) - f0
    assert jnp.max(jnp.abs(h(start, x))) < 1e-15
    times = jnp.array([0.5, 2.0, 8.0])
    ntk = lazyjax.empirical_ntk(net.apply, start, x)
    # From alpha h = 0 the linear model of alpha h does not depend on alpha.
    linear = linear_dynamics(ntk, y, 0 * y).gradient_flow(times)

    def measure(alpha):
        flow = gradient_flow(
            h, start, x, y, times, loss_fn=scaled(square_loss, alpha),
            observe=[observers.outputs], rtol=1e-9, atol=1e-13,
        )  # fmt: skip
        kernels = (
            lazyjax.empirical_ntk(net.apply, params, x, method="jacobian")
            for params in (flow.params, start)
        )
        measured = {
            "linearization_gap": lazyjax.laziness.linearization_gap(
                alpha * flow.observations["outputs"], linear
            ),
            "ntk_drift": relative_distance(*map(gram_matrix, kernels)),
            "relative_parameter_distance": relative_parameter_distance(
                flow.params, start
            ),
        }
        return measured, flow.status

    # Beyond, a gap that falls like 1 / alpha^2 is lost in rounding.
    alphas = jnp.logspace(0.5, 3.0 if doubled else 4.5, 5)
    measured, status = jax.jit(jax.vmap(measure))(alphas)
    assert (status == 0).all()
    return {
        name: scaling(name, alphas, values, against="alpha")
        for name, values in measured.items()
    }


def test_gap_drift_and_movement_fall_like_one_over_alpha_from_zero_output():
    for law in laws_by_alpha(doubled=False).values():
        assert law.agrees(0.15), law.explain()
        assert abs(float(law.fit.slope) + 1) <= 0.15, law.explain()


@pytest.mark.slow
def test_gap_and_drift_of_doubled_networks_fall_like_one_over_alpha_squared():
    # Both copies move oppositely, so that terms of even order cancel: theory's 1 / alpha
    # is a bound that the doubling trick does not attain.
    laws = laws_by_alpha(doubled=True)
    for name, law in laws.items():
        assert law.agrees(0.15), law.explain()
        expected = -1 if name == "relative_parameter_distance" else -2
        assert abs(float(law.fit.slope) - expected) <= 0.15, law.explain()


def test_without_zero_output_a_large_alpha_does_not_fit_the_targets():
    # Negative control of the above: alpha h(w0) is then far from every target.
    data = lazyjax.data.digits(4, num_test=0, classes="parity")
    net = lazyjax.nets.mlp(width=16, activation="tanh")
    params = net.init(jax.random.key(1), data.x_train)
    kappas = [
        lazyjax.laziness.kappa(
            net.apply, params, data.x_train, data.y_train,
            key=jax.random.key(0), alpha=alpha, num_rounds=5, num_starts=1,
        ).value
        for alpha in (1e2, 1e4)
    ]  # fmt: skip
    assert_close(kappas[1], kappas[0], 0.05)


# --- ensembles ------------------------------------------------------------------------


def ensemble(net, x, y, everywhere, num_seeds, time):
    """Outputs of trained networks at `everywhere`, one row per seed."""
    look = observers.on_inputs(observers.outputs, everywhere)

    def member(key):
        flow = gradient_flow(
            net.apply, net.init(key, x), x, y, [time], observe=[look], rtol=1e-3,
            atol=1e-3,
        )  # fmt: skip
        return flow.observations["outputs_on_inputs"][0, :, 0], flow.status

    keys = jax.random.split(jax.random.key(0), num_seeds)
    go = jax.jit(jax.vmap(member), compiler_options=OPTIMIZED)
    outputs, status = go(keys)
    assert (status == 0).all()
    return np.asarray(outputs)


@pytest.mark.slow
def test_ensemble_of_wide_networks_is_the_infinite_prediction():
    num_seeds, time = 128, 1.0
    rng = np.random.default_rng(0)
    x, x_test, y = (jnp.asarray(rng.normal(size=s)) for s in ((4, 3), (3, 3), (4, 1)))
    everywhere = jnp.concatenate([x, x_test])
    net = lazyjax.nets.mlp(width=1024, activation="relu", w_std=1.3, b_std=0.3)
    outputs = ensemble(net, x, y, everywhere, num_seeds, time)
    nngp = nngp_grams(net.architecture, x, everywhere)
    ntk = ntk_grams(net.architecture, x, everywhere)
    predicted = trained_ensemble(nngp, ntk, y, time=time)

    mean, variance = outputs.mean(axis=0), outputs.var(axis=0, ddof=1)
    sem = np.sqrt(variance / num_seeds)
    expected, spread = np.asarray(predicted.mean)[:, 0], np.asarray(predicted.variance)
    assert (np.abs(mean - expected) <= 5 * sem).all()
    # The relative standard error of a variance of Gaussians is sqrt(2 / (seeds - 1)).
    allowance = 5 * np.sqrt(2 / (num_seeds - 1))
    assert (np.abs(variance / spread - 1) <= allowance).all()
    # Not in vain: the mean is known well, and training has changed both.
    assert np.linalg.norm(sem) < 0.2 * np.linalg.norm(expected)
    assert (np.abs(mean) > 5 * sem).any()
    assert (np.abs(variance / np.diag(nngp.test) - 1) > allowance).any()
