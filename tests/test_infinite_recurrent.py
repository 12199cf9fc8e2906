"""Kernels of recurrent networks: an oracle over all pairs of times, and wide networks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax import Architecture, infinite_nngp, infinite_ntk
from tests.helpers.compare import assert_close, relative_error
from tests.test_width_limit import assert_mean_is, samples

pytestmark = pytest.mark.once


def sequences(n: int, *shape: int, seed: int = 0, dtype: Any = jnp.float64) -> Any:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)), dtype)


def relu_moments(q11: float, q12: float, q22: float) -> tuple[float, float]:
    product = math.sqrt(q11 * q22)
    angle = math.acos(max(-1.0, min(1.0, q12 / product)))
    value = math.sin(angle) + (math.pi - angle) * math.cos(angle)
    return product * value / (2 * math.pi), (math.pi - angle) / (2 * math.pi)


def oracle(spec: Architecture, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """NNGP and NTK of a ReLU network of two sequences, that may differ in length.

    Moments are over all pairs of times of both. The tangent kernel is the sum, over
    pairs of times and over layers, of the product of the two backward signals and that
    of what the layer's weights read then: unlike in the library, nothing is passed on.
    """
    w, r, b = spec.w_std**2, spec.recurrent_std**2, spec.b_std**2
    both = [(0, t) for t in range(len(x))] + [(1, t) for t in range(len(y))]
    rows = {(0, t): v for t, v in enumerate(x)} | {(1, t): v for t, v in enumerate(y)}
    read: list[dict] = []
    slopes: list[dict] = []
    below = {(p, q): float(rows[p] @ rows[q]) / x.shape[1] for p in both for q in both}
    for _ in range(spec.depth):
        z: dict = {}
        h: dict = {}
        slope: dict = {}
        before = lambda p: (p[0], p[1] - 1)
        inputs = {}
        for p, q in sorted(below, key=lambda pair: max(pair[0][1], pair[1][1])):
            own = h.get((before(p), before(q)), 0.0)
            z[p, q] = w * below[p, q] + r * own + b
            inputs[p, q] = z[p, q]  # every trained array, weighted as in "ntk"
            for s in (p, q):
                if (s, s) not in z:
                    z[s, s] = w * below[s, s] + b
                    z[s, s] += r * h.get((before(s), before(s)), 0.0)
            h[p, q], slope[p, q] = relu_moments(z[p, p], z[p, q], z[q, q])
        read.append(inputs)
        slopes.append(slope)
        below = h
    last = (0, len(x) - 1), (1, len(y) - 1)
    signal = {(spec.depth - 1, *last): w}
    ntk = w * below[last] + b
    for layer in reversed(range(spec.depth)):
        for t in reversed(range(max(len(x), len(y)))):
            for (at, p, q), value in list(signal.items()):
                if at != layer or max(p[1], q[1]) != t:
                    continue
                value = value * slopes[layer][p, q]
                ntk += value * read[layer][p, q]
                earlier = (p[0], p[1] - 1), (q[0], q[1] - 1)
                for target, weight in (
                    ((layer, *earlier), r),
                    ((layer - 1, p, q), w),
                ):
                    if min(target[1][1], target[2][1], target[0]) >= 0:
                        signal[target] = signal.get(target, 0.0) + weight * value
    return w * below[last] + b, ntk


@pytest.mark.parametrize("depth", [1, 2])
def test_kernels_agree_with_sums_over_all_pairs_of_times(depth: int, x64: None) -> None:
    spec = Architecture(
        kind="rnn", depth=depth, w_std=1.3, recurrent_std=1.1, b_std=0.3
    )
    x = sequences(2, 4, 3)
    nngp, ntk = oracle(spec, *np.asarray(x))
    assert_close(infinite_nngp(spec, x)[0, 1], nngp, 1e-12)
    assert_close(infinite_ntk(spec, x)[0, 1], ntk, 1e-12)
    assert_close(infinite_ntk(spec, x[:1], x[1:])[0, 0], ntk, 1e-12)
    other = Architecture(
        kind="rnn", depth=depth, w_std=1.3, recurrent_std=1.1001, b_std=0.3
    )
    assert relative_error(infinite_ntk(other, x)[0, 1], ntk) > 1e-5


def test_linear_network_has_geometric_sums(x64: None) -> None:
    spec = Architecture(
        kind="rnn", activation="identity", w_std=1.2, recurrent_std=0.7, b_std=0.4
    )
    x = sequences(3, 5, 2)
    moments = np.einsum("itd,jtd->tij", x, x) / 2
    w, r, b = 1.2**2, 0.7**2, 0.4**2
    terms = [r ** (4 - t) * (w * moments[t] + b) for t in range(5)]
    assert_close(infinite_nngp(spec, x), w * sum(terms) + b)
    # Each of the steps from t to the end may be that whose weight is differentiated.
    tangent = sum((5 - t) * term for t, term in enumerate(terms))
    assert_close(infinite_ntk(spec, x), w * sum(terms) + b + w * tangent)


@pytest.mark.parametrize("normalization", ["none", "layer"])
def test_one_step_is_fully_connected(normalization: Any, x64: None) -> None:
    x = sequences(3, 1, 4)
    fields: dict[str, Any] = {
        "depth": 2, "b_std": 0.2, "activation": "erf", "normalization": normalization
    }  # fmt: skip
    recurrent = Architecture(kind="rnn", recurrent_std=2.0, **fields)
    plain = Architecture(**fields)
    assert_close(infinite_ntk(recurrent, x), infinite_ntk(plain, x))
    assert_close(infinite_nngp(recurrent, x), infinite_nngp(plain, x))


FINITE: dict[str, dict[str, Any]] = {
    "relu": {"b_std": 0.3, "w_std": 1.3},
    "deep": {"depth": 2, "activation": "erf", "recurrent_std": 1.3},
    "standard": {"parameterization": "standard", "b_std": 0.2, "output_scale": 2.0},
    "mup_subset": {
        "depth": 2,
        "parameterization": "mup",
        "trained": (1, 3),
        "b_std": 0.2,
    },
    "normalized": {"normalization": "layer", "activation": "erf", "b_std": 0.3},
}


@pytest.mark.parametrize("case", FINITE)
@pytest.mark.sampled(2)
def test_mean_kernel_of_wide_networks_is_the_infinite_one(case: str) -> None:
    width = 128
    net = lazyjax.nets.rnn(width=width, **FINITE[case])
    x = sequences(2, 4, 3, dtype=jnp.float32)
    is_standard = net.architecture.parameterization == "standard"
    truth = infinite_ntk(net.architecture, x, width=width if is_standard else None)
    kernels = samples(net, x, 100, lazyjax.empirical_ntk)
    assert_mean_is(kernels, np.asarray(truth, "f8"))


def test_mean_product_of_outputs_is_the_gaussian_process_kernel() -> None:
    net = lazyjax.nets.rnn(width=64, w_std=1.5, recurrent_std=1.2)
    x = sequences(2, 4, 3, dtype=jnp.float32)
    truth = np.asarray(infinite_nngp(net.architecture, x), "f8")
    assert_mean_is(samples(net, x, 4000, lazyjax.empirical_nngp), truth)


def test_network_computes_the_formulas_of_its_architecture(dtype: jnp.dtype) -> None:
    net = lazyjax.nets.rnn(width=3, depth=2, activation="tanh", b_std=0.4, w_std=1.3)
    x = sequences(2, 4, 5, dtype=dtype)
    params = net.init(jax.random.key(0), x)
    h = [np.zeros((2, 3)), np.zeros((2, 3))]
    for t in range(4):
        below = np.asarray(x, np.float64)[:, t]
        for layer in (1, 2):
            own, recurrent = (
                params[f"{name}_{layer}"] for name in ("layer", "recurrent")
            )
            z = 1.3 / math.sqrt(below.shape[1]) * below @ np.asarray(own["kernel"])
            z = z + h[layer - 1] @ np.asarray(recurrent["kernel"]) / math.sqrt(3)
            below = h[layer - 1] = np.tanh(z + 0.4 * np.asarray(own["bias"]))
    last = params["layer_3"]
    f = 1.3 / math.sqrt(3) * h[1] @ np.asarray(last["kernel"])
    assert_close(net.apply(params, x), f + 0.4 * np.asarray(last["bias"]))


def test_kernels_of_one_batch_are_symmetric_and_semidefinite() -> None:
    spec = Architecture(kind="rnn", depth=2, b_std=0.1)
    x = sequences(20, 6, 2, dtype=jnp.float32)
    gram = infinite_ntk(spec, x)
    assert_close(gram, gram.T, "exact")
    eigenvalues = np.linalg.eigvalsh(np.asarray(gram, np.float64))
    assert eigenvalues[0] >= -20 * jnp.finfo(jnp.float32).eps * eigenvalues[-1]
    gradient = jax.grad(lambda x: infinite_ntk(spec, x).sum())(x.at[1].set(x[0]))
    assert jnp.isfinite(gradient).all()


def test_sequences_that_do_not_fit_are_refused(own_errors: None) -> None:
    spec = Architecture(kind="rnn")
    with pytest.raises(ValueError, match="`x1` must be a batch of sequences"):
        infinite_ntk(spec, jnp.ones((2, 3)))
    net = lazyjax.nets.rnn(width=3)
    params = net.init(jax.random.key(0), jnp.ones((1, 4, 2)))
    with pytest.raises(ValueError, match="`x` must be a batch of sequences"):
        net.apply(params, jnp.ones((1, 4, 3)))
    with pytest.raises(ValueError, match="`recurrent_std` has no meaning"):
        Architecture(recurrent_std=2.0)
