"""Infinite-width kernels against a scalar oracle, published values and wide networks."""

import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.architecture import Architecture
from lazyjax.infinite import infinite_nngp, infinite_ntk
from lazyjax.infinite.duals.dual import (
    dual_activation,
    dual_derivative,
    dual_variance,
)
from tests.helpers.compare import assert_close, relative_error
from tests.test_dual import REFERENCE, reference_moment

pytestmark = pytest.mark.once


def inputs(n: int, d: int, seed: int = 0, dtype: Any = jnp.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), dtype)


def pair(rho: float) -> jax.Array:
    """Two unit vectors of inner product `rho`."""
    return jnp.asarray([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]])


def oracle(
    architecture: Architecture, x: np.ndarray, y: np.ndarray, width: int | None
) -> tuple[float, float]:
    """NNGP and NTK of two inputs, layer by layer as sums over trained arrays.

    The NTK is written as a sum over layers of (moment of its input, scaled by its
    multiplier squared) times the product of slopes above it, unlike the library.
    """
    phi = REFERENCE[str(architecture.activation)][0]
    slope = REFERENCE[str(architecture.activation)][1]
    w_sq, b_sq = architecture.w_std**2, architecture.b_std**2
    fan_in = 1 if architecture.input_scaling == "none" else x.size
    h = [float(a @ b) / fan_in for a, b in ((x, x), (x, y), (y, y))]
    below, slopes = [h[1]], []
    for _ in range(architecture.depth):
        z11, z12, z22 = (w_sq * q + b_sq for q in h)
        h = [
            reference_moment(phi, *q) for q in ((z11,) * 3, (z11, z12, z22), (z22,) * 3)
        ]
        slopes.append(w_sq * reference_moment(slope, z11, z12, z22))
        below.append(h[1])
    ntk = 0.0
    for index, moment in enumerate(below):
        is_last = index == architecture.depth
        if not {"all": True, "first": index == 0, "last": is_last}[
            str(architecture.trained)
        ]:
            continue
        weight, bias = w_sq, b_sq
        if architecture.parameterization == "standard":
            weight = fan_in if index == 0 else float(width or math.nan)
            bias = 1.0 if b_sq else 0.0
        ntk += (weight * moment + bias) * math.prod(slopes[index:])
    return w_sq * h[1] + b_sq, ntk


def oracle_kernels(
    architecture: Architecture, x1: jax.Array, x2: jax.Array, width: int | None
) -> np.ndarray:
    """NNGP and NTK of two batches, shape (2, n1, n2)."""
    rows, columns = np.asarray(x1, np.float64), np.asarray(x2, np.float64)
    pairs = [[oracle(architecture, a, b, width) for b in columns] for a in rows]
    return np.moveaxis(np.array(pairs), -1, 0)


CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    "linear": ({"depth": 0, "b_std": 0.3, "w_std": 1.2}, None),
    "relu": ({"depth": 3, "w_std": 1.4, "b_std": 0.2}, None),
    "erf_unscaled": ({"depth": 2, "activation": "erf", "input_scaling": "none"}, None),
    "tanh": ({"depth": 2, "activation": "tanh", "w_std": 1.3, "b_std": 0.1}, None),
    "softplus_first": (
        {"depth": 2, "activation": "softplus", "trained": "first"},
        None,
    ),
    "relu_last": ({"depth": 2, "trained": "last", "b_std": 0.4}, None),
    "mup": ({"depth": 2, "parameterization": "mup", "b_std": 0.5}, None),
    "standard": (
        {"depth": 2, "parameterization": "standard", "b_std": 0.4, "w_std": 1.5},
        64,
    ),
    "standard_unscaled": (
        {"parameterization": "standard", "input_scaling": "none", "activation": "sin"},
        64,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sampled(3)
def test_kernels_agree_with_the_oracle(case: str, x64: None) -> None:
    options, width = CASES[case]
    architecture = Architecture(**options)
    x1, x2 = inputs(3, 4), inputs(2, 4, seed=1)
    expected = oracle_kernels(architecture, x1, x2, width)
    # Two quadratures, each good to about 1e-12 per layer.
    assert_close(infinite_ntk(architecture, x1, x2, width=width), expected[1], 1e-9)
    if architecture.parameterization != "mup":
        assert_close(infinite_nngp(architecture, x1, x2), expected[0], 1e-9)


@pytest.mark.parametrize("case", ["relu", "tanh", "standard"])
@pytest.mark.sampled(2)
def test_single_precision_kernels_agree_with_the_oracle(case: str) -> None:
    options, width = CASES[case]
    architecture = Architecture(**options)
    x1, x2 = inputs(3, 4, dtype=jnp.float32), inputs(2, 4, seed=1, dtype=jnp.float32)
    ntk = infinite_ntk(architecture, x1, x2, width=width)
    assert ntk.dtype == jnp.float32
    expected = oracle_kernels(architecture, x1, x2, width)[1]
    assert_close(ntk, expected.astype(np.float32), 2e-5)  # a few layers of 100 eps


def test_oracle_comparison_notices_a_wrong_constant(x64: None) -> None:
    x = inputs(2, 4)
    first, second = np.asarray(x)
    _, expected = oracle(
        Architecture(depth=3, w_std=1.4, b_std=0.2), first, second, None
    )
    wrong = infinite_ntk(Architecture(depth=3, w_std=1.401, b_std=0.2), x)[0, 1]
    assert relative_error(wrong, expected) > 1e-3


@pytest.mark.parametrize(
    ("rho", "expected"), [(1.0, 0.5), (0.5, 1 / 6), (0.0, 0.0), (-1.0, 0.0)]
)
def test_first_layer_kernel_is_that_of_du_et_al(
    rho: float, expected: float, x64: None
) -> None:
    architecture = Architecture(trained="first", input_scaling="none")
    h_inf = infinite_ntk(architecture, pair(rho))
    assert jnp.abs(h_inf[0, 1] - expected) < 1e-14  # absolute: some are zero
    assert_close(jnp.diag(h_inf), jnp.full(2, 0.5))


# Sigma, Theta after 1, 2, 3 layers in the convention Sigma^0 = x.x',
# Sigma^h = 2 E[relu relu], Theta^h = 2 Theta^{h-1} E[relu' relu'] + Sigma^h. With
# w_std = sqrt(2), covariances here are 2 Sigma^{h-1} at layer h; ReLU is homogeneous,
# and the output layer has w_std too, so that both kernels are 2 Sigma and 2 Theta.
RELU_TOWERS = {
    0.5: [(0.608998, 0.942331), (0.683906, 1.351480), (0.738128, 1.737845)],
    0.0: [(0.318310, 0.318310), (0.493731, 0.685709), (0.604826, 1.060388)],
    1.0: [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)],
}


@pytest.mark.parametrize("rho", RELU_TOWERS)
def test_deep_relu_kernels_have_their_known_values(rho: float, x64: None) -> None:
    for depth, (sigma, theta) in enumerate(RELU_TOWERS[rho], start=1):
        spec = Architecture(depth=depth, w_std=math.sqrt(2), input_scaling="none")
        assert abs(infinite_nngp(spec, pair(rho))[0, 1] / 2 - sigma) < 1e-6
        assert abs(infinite_ntk(spec, pair(rho))[0, 1] / 2 - theta) < 1e-6


@pytest.mark.parametrize(
    ("name", "c_sigma", "off_diagonal", "diagonal"),
    [
        ("softplus", 1.08548650, (0.147316, 0.263392, 0.300871), 0.318459),
        ("tanh", 2.53617543, (0.487893, 0.458655, 0.430638), 1.177807),
    ],
)
@pytest.mark.sampled(1)
def test_last_hidden_layer_kernels_of_du_et_al_2019b_have_their_known_values(
    name: str,
    c_sigma: float,
    off_diagonal: tuple[float, ...],
    diagonal: float,
    x64: None,
) -> None:
    one = jnp.ones(1)
    c = 1 / dual_variance(name, one)
    assert abs(c[0] - c_sigma) < 1e-8
    gram = jnp.full(1, 0.5)  # unit variances stay 1: c is made for that
    for expected in off_diagonal:
        last = c * gram * dual_derivative(name, one, gram, one)
        assert abs(last[0] - expected) < 1e-6
        gram = c * dual_activation(name, one, gram, one)
    assert abs((c * dual_derivative(name, one, one, one))[0] - diagonal) < 1e-6


def finite_ntk(
    architecture: Architecture, x: jax.Array, width: int, key: jax.Array
) -> jax.Array:
    """NTK of one random network of one hidden layer, by the definition in NumPy style."""
    phi = {"relu": jax.nn.relu, "tanh": jnp.tanh}[str(architecture.activation)]
    d = 1 if architecture.input_scaling == "none" else x.shape[1]
    w_std, b_std = architecture.w_std, architecture.b_std
    shapes = [(x.shape[1], width), (width,), (width, 1), (1,)]
    stds = [w_std / math.sqrt(d), b_std, w_std / math.sqrt(width), b_std]
    keys = jax.random.split(key, 4)
    draws = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    if architecture.parameterization == "standard":
        params, multipliers = (
            [s * z for s, z in zip(stds, draws, strict=True)],
            [1.0] * 4,
        )
    else:
        params, multipliers = draws, stds

    def outputs(params: list[jax.Array]) -> jax.Array:
        w1, b1, w2, b2 = (m * p for m, p in zip(multipliers, params, strict=True))
        return (phi(x @ w1 + b1[None]) @ w2 + b2[None])[:, 0]

    jacobian = jax.jacrev(outputs)(params)
    layers = {"all": (0, 1, 2, 3), "first": (0, 1), "last": (2, 3)}[
        str(architecture.trained)
    ]
    rows = [jacobian[i].reshape(x.shape[0], -1) for i in layers]
    return sum((j @ j.T for j in rows), jnp.zeros((x.shape[0],) * 2))


@pytest.mark.parametrize("trained", ["all", "first", "last"])
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.sampled(2)
def test_mean_kernel_of_finite_networks_is_the_infinite_one(
    trained: Any, parameterization: Any
) -> None:
    # With one hidden layer the mean over initializations is exact at every width.
    architecture = Architecture(
        trained=trained, parameterization=parameterization, w_std=1.3, b_std=0.5
    )
    width = 128
    x = inputs(3, 5, dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(1), 200)
    sample = jax.jit(jax.vmap(lambda key: finite_ntk(architecture, x, width, key)))
    kernels = np.asarray(sample(keys), np.float64)
    mean, sem = kernels.mean(axis=0), kernels.std(axis=0, ddof=1) / math.sqrt(len(keys))
    expected = infinite_ntk(
        architecture, x, width=width if parameterization == "standard" else None
    )
    assert (np.abs(mean - expected) <= 5 * sem).all()
    assert (sem <= 0.05 * np.abs(np.diag(expected)).max()).all()


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.sampled(1)
def test_kernel_of_one_batch_is_symmetric_and_positive_semidefinite(
    name: str, dtype: jnp.dtype
) -> None:
    spec = Architecture(depth=2, activation=name, b_std=0.1)
    x = inputs(17, 3, dtype=dtype)
    for kernel in (infinite_ntk, infinite_nngp):
        gram = kernel(spec, x)
        assert gram.dtype == dtype
        assert_close(gram, gram.T, "exact")
        eigenvalues = np.linalg.eigvalsh(np.asarray(gram, np.float64))
        assert eigenvalues[0] >= -20 * jnp.finfo(dtype).eps * eigenvalues[-1]
        # Rounding makes correlations of 1 - eps between equal rows of two batches.
        assert_close(gram, kernel(spec, x, x), "other_algorithm")


@pytest.mark.compiler
@pytest.mark.sampled(1)
def test_jit_agrees_with_eager(dtype: jnp.dtype) -> None:
    spec = Architecture(depth=2, b_std=0.1)
    x = inputs(5, 3, dtype=dtype)
    for kernel in (infinite_ntk, infinite_nngp):
        assert_close(jax.jit(lambda x, f=kernel: f(spec, x))(x), kernel(spec, x))


def test_diagonal_of_one_batch_is_exact_to_rounding() -> None:
    # At correlation 1 - eps, the float32 kernel of each would be off by 1e-4.
    x = inputs(20, 50, dtype=jnp.float32)
    spec = Architecture(depth=3, w_std=math.sqrt(2), input_scaling="none")
    expected = 8 * jnp.sum(x**2, axis=1)
    assert_close(jnp.diag(infinite_ntk(spec, x)), expected, "same_algebra")


def test_vmap_agrees_with_a_loop(x64: None) -> None:
    spec = Architecture(depth=2, activation="erf")
    batches = inputs(12, 3).reshape(3, 4, 3)
    together = jax.vmap(lambda x: infinite_ntk(spec, x))(batches)
    assert_close(together, jnp.stack([infinite_ntk(spec, x) for x in batches]))


@hypothesis.settings(derandomize=True, deadline=None, max_examples=10)
@hypothesis.given(
    name=st.sampled_from(["relu", "erf"]),
    trained=st.sampled_from(["all", "first", "last"]),
    seed=st.integers(0, 2**16),
)
def test_kernels_commute_with_permutations_and_rotations(
    name: str, trained: Any, seed: int
) -> None:
    with jax.enable_x64(True):
        spec = Architecture(depth=2, activation=name, trained=trained, b_std=0.3)
        rng = np.random.default_rng(seed)
        x = jnp.asarray(rng.normal(size=(6, 4)))
        order = rng.permutation(6)
        rotation = jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0])
        gram = infinite_ntk(spec, x)
        assert_close(infinite_ntk(spec, x[order]), gram[order][:, order])
        # Off the diagonal, rounding of correlations near 1 costs up to sqrt(eps).
        assert_close(infinite_ntk(spec, x @ rotation), gram, "other_algorithm")


def test_layers_add_up_to_the_whole_kernel(x64: None) -> None:
    x = inputs(4, 3)
    parts = [
        infinite_ntk(Architecture(activation="tanh", b_std=0.2, trained=trained), x)
        for trained in ("all", "first", "last")
    ]
    assert_close(parts[0], parts[1] + parts[2])


def test_second_call_does_not_retrace() -> None:
    num_traces = 0

    def counting(u: jax.Array) -> jax.Array:
        nonlocal num_traces
        num_traces += 1
        return jnp.tanh(u)

    spec = Architecture(activation=counting)
    first = infinite_ntk(spec, inputs(3, 2, dtype=jnp.float32))
    assert num_traces > 0
    num_traces = 0
    second = infinite_ntk(spec, inputs(3, 2, dtype=jnp.float32))
    assert num_traces == 0
    assert_close(first, second, "exact")


@pytest.mark.parametrize("is_same", [True, False])
@pytest.mark.sampled(1)
def test_zero_and_equal_rows_give_no_nan_in_kernel_or_gradient(
    is_same: bool, dtype: jnp.dtype
) -> None:
    x = inputs(4, 3, dtype=dtype).at[0].set(0)
    x = x.at[3].set(x[2])
    total = lambda x: infinite_ntk(Architecture(), x, None if is_same else x).sum()
    value, gradient = jax.value_and_grad(total)(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_gradient_agrees_with_finite_differences_even_at_zero_rows(
    x64: None,
) -> None:
    spec = Architecture(depth=2, activation="tanh", w_std=1.5)
    x = inputs(3, 2).at[0].set(0)
    weights = inputs(3, 3, seed=2)
    total = jax.jit(lambda x: jnp.sum(weights * infinite_ntk(spec, x)))
    expected = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        step = jnp.zeros_like(x).at[index].set(1e-5)
        expected[index] = (total(x + step) - total(x - step)) / 2e-5
    # Central differences of step 1e-5 are good to about 1e-9.
    assert_close(jax.grad(total)(x), expected, 1e-7)


def test_fifty_relu_layers_stay_finite(dtype: jnp.dtype) -> None:
    spec = Architecture(depth=50, w_std=math.sqrt(2), input_scaling="none")
    x = inputs(5, 10, dtype=dtype)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    ntk = infinite_ntk(spec, x)
    assert jnp.isfinite(ntk).all()
    assert_close(jnp.diag(ntk), jnp.full(5, 102.0, dtype), 1e-4)  # 2 (depth + 1)


def test_output_of_mup_and_symmetrized_networks_starts_small(x64: None) -> None:
    x = inputs(3, 4)
    mup = Architecture(parameterization="mup", b_std=0.5)
    assert_close(infinite_nngp(mup, x), jnp.full((3, 3), 0.25))
    assert_close(infinite_ntk(mup, x), infinite_ntk(Architecture(b_std=0.5), x))
    linear = Architecture(parameterization="mup", depth=0)
    assert_close(infinite_nngp(linear, x), x @ x.T / 4)
    symmetrized = Architecture(symmetrized=True)
    assert_close(infinite_nngp(symmetrized, x), jnp.zeros((3, 3)))
    assert_close(infinite_ntk(symmetrized, x), infinite_ntk(Architecture(), x))


def test_features_are_flattened_and_numpy_is_accepted(x64: None) -> None:
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
    spec = Architecture()
    flat = infinite_ntk(spec, jnp.asarray(images).reshape(3, 4))
    assert_close(infinite_ntk(spec, images), flat)


ONES = jnp.ones((2, 3), jnp.float32)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((Architecture(), ONES, ONES[:, :2]), {}, ValueError, "same feature shape"),
        ((Architecture(), ONES[:0]), {}, ValueError, "`x1` must hold at least one"),
        ((Architecture(), ONES, ONES[:0]), {}, ValueError, "`x2` must hold"),
        (
            (Architecture(), ONES.astype(int)),
            {},
            TypeError,
            "`x1` must be a real float",
        ),
        ((Architecture(), ONES * jnp.nan), {}, ValueError, "`x1` must be finite"),
        ((Architecture(), ONES, np.ones((2, 3))), {}, TypeError, "same dtype"),
        (("relu", ONES), {}, TypeError, "`architecture` must be an Architecture"),
        ((Architecture(), ONES), {"width": 8}, ValueError, "does not depend on"),
        (
            (Architecture(parameterization="standard"), ONES),
            {},
            ValueError,
            "`width` must be given: .* grows",
        ),
        (
            (Architecture(parameterization="standard"), ONES),
            {"width": 0},
            ValueError,
            "`width` must be at least 1",
        ),
    ],
)
def test_misuse_is_refused_by_name(
    args: tuple, options: dict, error: type, message: str, own_errors: None
) -> None:
    with pytest.raises(error, match=message):
        infinite_ntk(*args, **options)
    if not options and "grows" not in message:
        with pytest.raises(error, match=message):
            infinite_nngp(*args)
