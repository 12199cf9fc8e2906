"""What neural-tangents does in public, through the bridge, against independent values."""

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import lazyjax
from lazyjax import Architecture
from lazyjax.infinite.predict import (
    nngp_grams,
    ntk_grams,
    posterior,
    trained_ensemble,
)
from lazyjax.interop.neural_tangents import load_neural_tangents
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.usefixtures("x64")

N_TRAIN, N_TEST, D, K = 4, 3, 3, 2
SPEC = Architecture(depth=2, activation="erf", w_std=1.4, b_std=0.3)


@pytest.fixture(scope="module")
def nt() -> ModuleType:
    return load_neural_tangents()


@pytest.fixture(scope="module")
def network(nt: ModuleType) -> tuple[Callable[..., Any], ...]:
    """The network of `SPEC`, by neural-tangents: `init_fn, apply_fn, kernel_fn`."""
    dense = lambda units: nt.stax.Dense(units, W_std=1.4, b_std=0.3)
    erf = nt.stax.Erf()
    return nt.stax.serial(dense(5), erf, dense(5), erf, dense(K))


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def points() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Training inputs, their targets, and test inputs."""
    return draw(N_TRAIN, D), draw(N_TRAIN, K), draw(N_TEST, D)


def test_kernels_of_stax_are_the_infinite_ones(network: tuple) -> None:
    x, _, x_test = points()
    kernel_fn = jax.jit(network[2], static_argnums=2)
    kernels = kernel_fn(x_test, x, ("nngp", "ntk"))
    assert_close(kernels.nngp, lazyjax.infinite_nngp(SPEC, x_test, x))
    assert_close(kernels.ntk, lazyjax.infinite_ntk(SPEC, x_test, x))


def test_convolutional_kernel_of_stax_is_the_mean_of_patches(nt: ModuleType) -> None:
    stax = nt.stax
    layers = (stax.Conv(1, (3,), padding="SAME"), stax.Relu(), stax.Flatten())
    _, _, kernel_fn = stax.serial(*layers, stax.Dense(1))
    x = np.asarray(draw(2, 4, 2))
    padded = np.pad(x, [(0, 0), (1, 1), (0, 0)])
    patches = np.stack([padded[:, p : p + 3].reshape(2, 6) for p in range(4)])
    expected = np.zeros((2, 2))
    for patch in patches:  # E[relu(u) relu(v)] of Gaussians, in closed form
        q = patch @ patch.T / 6
        stds = np.sqrt(np.diag(q))
        angle = np.arccos(np.clip(q / np.outer(stds, stds), -1, 1))
        moment = np.sin(angle) + (math.pi - angle) * np.cos(angle)
        expected += np.outer(stds, stds) * moment / (2 * math.pi) / len(patches)
    actual = jax.jit(lambda x: kernel_fn(x, None, "nngp"))(jnp.asarray(x))
    assert_close(actual, expected, "other_algorithm")


@pytest.mark.parametrize("device_count", [0, 1])
def test_batched_kernel_is_the_whole_kernel(
    device_count: int, nt: ModuleType, network: tuple
) -> None:
    x, _, _ = points()
    kernel_fn = nt.batch(network[2], batch_size=2, device_count=device_count)
    assert_close(kernel_fn(x, None, "ntk"), lazyjax.infinite_ntk(SPEC, x))


def flow(ntk: Any, y: Any, f0: Any, test_train: Any, f0_test: Any, time: float) -> Any:
    """Outputs under gradient flow of the mean of squares / 2, by a matrix exponential."""
    decay = scipy.linalg.expm(-np.asarray(ntk) * time / y.size)
    change = (np.eye(len(ntk)) - decay) @ (y - f0)
    return f0 + change, f0_test + test_train @ np.linalg.solve(ntk, change)


def test_gradient_descent_mse_is_the_matrix_exponential(nt: ModuleType) -> None:
    x, y, x_test = points()
    ntk, test_train = (lazyjax.infinite_ntk(SPEC, a, x) for a in (x, x_test))
    f0, f0_test = draw(N_TRAIN, K, seed=1), draw(N_TEST, K, seed=1)

    @partial(jax.jit, static_argnums=1)
    def predict(ntk: jax.Array, time: float | None) -> Any:
        predict_fn = nt.predict.gradient_descent_mse(ntk, y)
        return predict_fn(time, f0, f0_test, test_train)

    for actual, expected in zip(
        predict(ntk, 7.0), flow(ntk, y, f0, test_train, f0_test, 7.0), strict=True
    ):
        assert_close(actual, expected, "other_algorithm")
    ours = lazyjax.linear_dynamics(ntk, y, f0).gradient_flow(7.0 / y.size)
    assert_close(predict(ntk, 7.0)[0], ours, "other_algorithm")
    at_infinity = f0_test + test_train @ np.linalg.solve(ntk, y - f0)
    assert_close(predict(ntk, None)[1], at_infinity, "other_algorithm")


def test_gradient_descent_by_ode_is_the_matrix_exponential(nt: ModuleType) -> None:
    x, y, x_test = points()
    ntk, test_train = (lazyjax.infinite_ntk(SPEC, a, x) for a in (x, x_test))
    f0, f0_test = draw(N_TRAIN, K, seed=1), draw(N_TEST, K, seed=1)
    loss = lambda f, y: jnp.mean((f - y) ** 2) / 2
    predict_fn = nt.predict.gradient_descent(loss, ntk, y)
    actual = predict_fn(7.0, f0, f0_test, test_train)
    expected = flow(ntk, y, f0, test_train, f0_test, 7.0)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, 1e-6)  # the tolerance of the integrator is 1.4e-8


def test_gradient_descent_mse_ensemble_has_mean_and_covariance_of_lee_et_al_2019(
    nt: ModuleType, network: tuple
) -> None:
    x, y, x_test = points()
    predict_fn = nt.predict.gradient_descent_mse_ensemble(network[2], x, y)

    @jax.jit
    def predict(x_test: jax.Array) -> Any:
        at_end = predict_fn(x_test=x_test, get="nngp", compute_cov=True)
        return at_end, predict_fn(t=7.0, x_test=x_test, get="ntk", compute_cov=True)

    at_end, at_time = predict(x_test)
    ntk, test_train = (lazyjax.infinite_ntk(SPEC, a, x) for a in (x, x_test))
    k_train, k_test_train, k_test = (
        np.asarray(lazyjax.infinite_nngp(SPEC, a, b))
        for a, b in ((x, None), (x_test, x), (x_test, None))
    )
    gain = k_test_train @ np.linalg.inv(k_train)  # a Gaussian process, conditioned
    assert_close(at_end.mean, gain @ y, "other_algorithm")
    assert_close(at_end.covariance, k_test - gain @ k_test_train.T, "other_algorithm")

    learnt = np.eye(N_TRAIN) - scipy.linalg.expm(-np.asarray(ntk) * 7.0 / y.size)
    gain = test_train @ np.linalg.solve(ntk, learnt)
    mixed = gain @ k_test_train.T
    covariance = k_test + gain @ k_train @ gain.T - mixed - mixed.T
    assert_close(at_time.mean, gain @ y, "other_algorithm")
    assert_close(at_time.covariance, covariance, "other_algorithm")

    # And ours are the same: its loss is the mean over outputs too, ours the sum.
    grams = nngp_grams(SPEC, x, x_test), ntk_grams(SPEC, x, x_test)
    ours = trained_ensemble(*grams, y, time=7.0 / y.size)
    assert_close(ours.mean, at_time.mean, 1e-6)
    assert_close(ours.covariance, at_time.covariance, 1e-6)
    ours = posterior(grams[0], y)
    assert_close(ours.mean, at_end.mean, 1e-6)
    assert_close(ours.covariance, at_end.covariance, 1e-6)


def test_monte_carlo_kernel_is_the_mean_over_its_initializations(
    nt: ModuleType, network: tuple
) -> None:
    init_fn, apply_fn, _ = network
    x, _, x_test = points()
    key, num_samples = jax.random.key(3), 2
    kernel_fn = nt.monte_carlo_kernel_fn(init_fn, apply_fn, key, num_samples)
    actual = jax.jit(lambda a, b: kernel_fn(a, b, "ntk"))(x_test, x)
    kernels = []
    for _ in range(num_samples):  # its way of splitting the key
        key, split = jax.random.split(key)
        _, params = init_fn(jax.random.split(split)[0], x_test.shape)
        ntk = lazyjax.empirical_ntk(apply_fn, params, x_test, x, outputs="trace")
        kernels.append(ntk / K)
    expected = jnp.mean(jnp.stack(kernels), axis=0)
    assert_close(actual, expected)


def test_linearize_and_taylor_expand_are_taylor_polynomials(
    nt: ModuleType, network: tuple
) -> None:
    init_fn, apply_fn, _ = network
    x, _, _ = points()
    params0, params = (init_fn(jax.random.key(n), x.shape)[1] for n in (0, 1))
    shift = jax.tree.map(jnp.subtract, params, params0)
    along = lambda s: apply_fn(jax.tree.map(lambda p, v: p + s * v, params0, shift), x)
    slope = jax.jacfwd(along)

    @jax.jit
    def compute() -> tuple[jax.Array, ...]:
        linear = along(0.0) + slope(0.0)
        quadratic = linear + jax.jacfwd(slope)(0.0) / 2
        actual = nt.linearize(apply_fn, params0), nt.taylor_expand(apply_fn, params0, 2)
        return linear, quadratic, *(fn(params, x) for fn in actual)

    linear, quadratic, actual_linear, actual_quadratic = compute()
    assert_close(actual_linear, linear)
    assert_close(actual_quadratic, quadratic)


@pytest.mark.parametrize(
    ("implementation", "compiled"), [(1, True), (2, False), (3, True)]
)
def test_empirical_ntk_is_by_default_the_mean_over_outputs(
    implementation: int, compiled: bool, nt: ModuleType, network: tuple
) -> None:
    init_fn, apply_fn, _ = network
    x, _, x_test = points()
    _, params = init_fn(jax.random.key(0), x.shape)
    kernel_fn = nt.empirical_ntk_fn(apply_fn, implementation=implementation)
    ours = lazyjax.empirical_ntk(apply_fn, params, x_test, x, outputs="trace") / K
    kernel_fn = jax.jit(kernel_fn) if compiled else kernel_fn
    assert_close(kernel_fn(x_test, x, params), ours)


def test_products_with_the_empirical_kernel_agree(
    nt: ModuleType, network: tuple
) -> None:
    init_fn, apply_fn, _ = network
    x, _, _ = points()
    _, params = init_fn(jax.random.key(0), x.shape)
    vector = draw(N_TRAIN, K)
    ntk = lazyjax.empirical_ntk(apply_fn, params, x)
    product_fn = nt.empirical_ntk_vp_fn(apply_fn, x, None, params)
    assert_close(jax.jit(product_fn)(vector), jnp.einsum("ijab,jb->ia", ntk, vector))


def test_empirical_nngp_is_the_mean_product_of_outputs(
    nt: ModuleType, network: tuple
) -> None:
    init_fn, apply_fn, _ = network
    x, _, _ = points()
    _, params = init_fn(jax.random.key(0), x.shape)
    f = apply_fn(params, x)
    assert_close(nt.empirical_nngp_fn(apply_fn)(x, None, params), f @ f.T / K)
