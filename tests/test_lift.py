"""Kernels read from programs: against `Architecture`, formulas by hand, and sampling."""

import math
from functools import partial
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import Primitive

import lazyjax
from lazyjax.activations import ABReLU, RectifiedPower
from lazyjax.infinite.duals.dual import dual_activation, dual_derivative
from lazyjax.infinite.lifting.registers import scaled
from lazyjax.interop.equinox import from_equinox
from lazyjax.interop.flax import from_linen, from_nnx
from lazyjax.jaxpr import register_primitive
from lazyjax.nets.scales import bias_scale, weight_scale
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.lifting import IMAGES, X, shapes_of

# The library's own networks, which both ways of deriving a kernel read. ----------------

WIDTH = 6
NETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (lazyjax.nets.mlp, {"depth": 0, "b_std": 0.4}),
    "relu": (lazyjax.nets.mlp, {"depth": 2, "w_std": 1.4, "b_std": 0.2}),
    "tanh": (lazyjax.nets.mlp, {"depth": 2, "activation": "tanh", "b_std": 0.3}),
    "standard": (
        lazyjax.nets.mlp,
        {"depth": 2, "activation": "erf", "parameterization": "standard", "b_std": 0.5},
    ),
    "mup": (
        lazyjax.nets.mlp,
        {"depth": 2, "activation": "erf", "parameterization": "mup", "b_std": 0.5},
    ),
    "some_layers": (lazyjax.nets.mlp, {"depth": 2, "trained": (1, 3), "b_std": 0.1}),
    "du2019": (
        lazyjax.nets.mlp,
        {"trained": "first", "input_scaling": "none", "readout": "sign"},
    ),
    "symmetrized": (lazyjax.nets.mlp, {"activation": "sin", "symmetrized": True}),
    "two_outputs": (lazyjax.nets.mlp, {"num_outputs": 2, "activation": "leaky_relu"}),
    "resnet": (lazyjax.nets.resnet, {"depth": 3, "activation": "erf"}),
    "unit_resnet": (lazyjax.nets.resnet, {"depth": 3, "activation_scale": "unit"}),
    "cnn": (lazyjax.nets.cnn, {"depth": 2, "b_std": 0.2}),
    "strided_cnn": (
        lazyjax.nets.cnn,
        {"strides": (2, 1), "depth": 2, "pixel_scaling": "none", "activation": "erf"},
    ),
    "pooled_cnn": (
        lazyjax.nets.cnn,
        {"depth": 2, "padding": "CIRCULAR", "pool_after": (1,), "head": "average"},
    ),
    "standard_cnn": (
        lazyjax.nets.cnn,
        {"padding": "VALID", "parameterization": "standard", "b_std": 0.3},
    ),
    "conv_resnet": (
        lazyjax.nets.conv_resnet,
        {"depth": 3, "head": "average", "w_std": 1.5},
    ),
}


def lifted(net: lazyjax.Network, x: Any, verb: Any = lazyjax.infinite_ntk_of) -> Any:
    """Kernel of `net` from its program and the standard deviations of its initializer."""
    spec = net.architecture
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    weights = params["plus"] if spec.symmetrized else params

    def variances(layer: str, leaves: dict[str, Any]) -> dict[str, float]:
        number = int(layer.removeprefix("layer_"))
        fan_in = math.prod(leaves["kernel"].shape[:-1])
        if spec.pixel_scaling == "none" and spec.is_convolutional:
            is_last = number == spec.num_layers
            fan_in = WIDTH if is_last else leaves["kernel"].shape[-2]
        if number == 1 and spec.input_scaling == "none":
            fan_in = 1
        found = {"kernel": weight_scale(spec, number, fan_in, net.width).init_std ** 2}
        scale = bias_scale(spec, number, net.width)
        return found if scale is None else found | {"bias": scale.init_std**2}

    given = {layer: variances(layer, leaves) for layer, leaves in weights.items()}
    if spec.symmetrized:
        given = {"plus": given, "minus": given}
    return verb(net.apply, params, x, variances=given)


SLOW = ("strided_cnn", "two_outputs", "unit_resnet")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NETS]
)
@pytest.mark.sampled(4)
def test_lifted_kernel_is_that_of_the_architecture(name: str, x64: None) -> None:
    make, options = NETS[name]
    net = make(width=WIDTH, **options)
    x = jnp.asarray(IMAGES if net.architecture.is_convolutional else X)
    is_standard = net.architecture.parameterization == "standard"
    width = WIDTH if is_standard else None
    expected = lazyjax.infinite_ntk(net.architecture, x, width=width)
    assert_close(lifted(net, x), expected, 1e-10)


@pytest.mark.once
@pytest.mark.parametrize("name", ["conv_resnet", "standard"])
def test_lifted_covariance_is_that_of_the_architecture(name: str, x64: None) -> None:
    make, options = NETS[name]
    net = make(width=WIDTH, **options)
    x = jnp.asarray(IMAGES if net.architecture.is_convolutional else X)
    expected = lazyjax.infinite_nngp(net.architecture, x)
    assert_close(lifted(net, x, lazyjax.infinite_nngp_of), expected, 1e-10)


# Networks of users, against formulas written out in NumPy. ------------------------------


def relu_moments(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[relu(u) relu(v)] and E[relu'(u) relu'(v)] for the covariances `q`, all pairs."""
    std = np.sqrt(np.diag(q))
    rho = np.clip(q / np.outer(std, std), -1, 1)
    np.fill_diagonal(rho, 1)  # rounding costs its root there
    angle = np.arccos(rho)
    moment = np.outer(std, std) * (np.sin(angle) + (np.pi - angle) * rho) / (2 * np.pi)
    return moment, (np.pi - angle) / (2 * np.pi)


def erf_moments(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of erf (Williams 1997)."""
    one = 1 + 2 * np.diag(q)
    moment = 2 / np.pi * np.arcsin(2 * q / np.sqrt(np.outer(one, one)))
    return moment, 4 / np.pi / np.sqrt(np.outer(one, one) - 4 * q**2)


def test_standard_flax_layers_with_zero_biases(x64: None) -> None:
    module = nn.Sequential(
        [
            nn.Dense(7, param_dtype=float),
            nn.relu,
            nn.Dense(5, param_dtype=float),
            nn.relu,
            nn.Dense(2, param_dtype=float),
        ]
    )
    x = jnp.asarray(X)
    variables = module.init(jax.random.key(0), x)
    apply_fn, params = from_linen(module, variables)
    variances = jax.tree.map(
        lambda leaf: 0.0 if leaf.ndim == 1 else 1 / leaf.shape[0], params
    )
    gram = X @ X.T
    h1, d1 = relu_moments(gram / 4)
    h2, d2 = relu_moments(h1)
    ntk = d2 * (d1 * (gram + 1) + 7 * h1 + 1) + 5 * h2 + 1
    found = lazyjax.infinite_ntk_of(apply_fn, params, x, variances=variances)
    assert_close(found, ntk, 1e-10)
    found = lazyjax.infinite_nngp_of(apply_fn, params, x, variances=variances)
    assert_close(found, h2, 1e-10)


def test_nnx_model_of_two_branches(x64: None) -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(4, 6, rngs=rngs, param_dtype=float)
            self.second = nnx.Linear(4, 5, use_bias=False, rngs=rngs, param_dtype=float)
            self.heads = nnx.List(
                [nnx.Linear(n, 3, rngs=rngs, param_dtype=float) for n in (6, 5)]
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            left, right = nnx.relu(self.first(x)), jax.lax.erf(self.second(x))
            return self.heads[0](left) - 2 * self.heads[1](right)

    apply_fn, params = from_nnx(Model(nnx.Rngs(0)))
    found = lazyjax.infinite_ntk_of(apply_fn, params, jnp.asarray(X), variances=0.5)
    gram = X @ X.T
    left, d_left = relu_moments(gram / 2 + 0.5)
    right, d_right = erf_moments(gram / 2)
    ntk = 6 * left + 1 + 0.5 * 6 * d_left * (gram + 1)
    ntk += 4 * (5 * right + 1 + 0.5 * 5 * d_right * gram)
    assert_close(found, ntk, 1e-10)


MASK = np.random.default_rng(3).normal(size=(4, 5))


def masked(out: str, is_transposed: bool, params: Any, x: jax.Array) -> jax.Array:
    """Weighted mean over the pixels of a convolution, written in several ways."""
    h = jax.lax.conv_general_dilated(
        x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", out)
    )
    h = jnp.maximum(h, 0)
    if is_transposed:
        h = h.transpose(0, 2, 1, 3)
    mask = jnp.asarray(MASK if is_transposed or out == "NWHC" else MASK.T)
    return (h * mask[None, :, :, None]).sum(axis=(1, 2)) @ params["v"]


def test_kernels_do_not_depend_on_the_order_of_pixel_axes(x64: None) -> None:
    params = shapes_of(w=(3, 2, 2, 6), v=(6, 1))
    kernels = [
        lazyjax.infinite_ntk_of(
            partial(masked, *form), params, jnp.asarray(IMAGES), variances=1.0
        )
        for form in (("NHWC", False), ("NHWC", True), ("NWHC", False))
    ]
    assert_close(kernels[1], kernels[0])
    assert_close(kernels[2], kernels[0])


def test_equinox_convolutions_with_channels_first(x64: None) -> None:
    class Model(eqx.Module):
        layers: list

        def __init__(self, key: jax.Array) -> None:
            conv = eqx.nn.Conv2d(2, 6, 3, padding=1, key=key)
            linear = eqx.nn.Linear(24, 1, key=key)
            self.layers = [conv, jax.nn.relu, eqx.nn.AvgPool2d(2, 2), jnp.ravel, linear]

        def __call__(self, image: jax.Array) -> jax.Array:
            h = jnp.moveaxis(image, -1, 0)
            for layer in self.layers:
                h = layer(h)
            return h

    apply_fn, params = from_equinox(Model(jax.random.key(0)))
    variances = jax.tree.map(
        lambda leaf: (
            1 / math.prod(leaf.shape[1:]) if leaf.size > leaf.shape[0] else 0.25
        ),
        params,
    )
    spec = lazyjax.Architecture(
        kind="cnn", parameterization="standard", b_std=0.5, pool_after=(1,)
    )
    x = jnp.asarray(IMAGES)
    found = lazyjax.infinite_ntk_of(apply_fn, params, x, variances=variances)
    assert_close(found, lazyjax.infinite_ntk(spec, x, width=6), 1e-10)


def pre_activation_resnet(params: Any, x: jax.Array) -> jax.Array:
    """Plain JAX, one example at a time, weights of all blocks in one array."""

    def one(x: jax.Array) -> jax.Array:
        h = jnp.einsum("d,dm->m", x, params["first"])
        for block in (0, 1):
            h = h + 0.5 * params["blocks"][block].T @ jnp.maximum(h, 0) / math.sqrt(8)
        return jax.nn.relu(h) @ params["last"] / math.sqrt(8) + 3 * params["bias"]

    return jax.vmap(one)(x)


def test_residual_network_of_plain_jax_under_vmap(x64: None) -> None:
    params = shapes_of(first=(4, 8), blocks=(2, 8, 8), last=(8, 1), bias=(1,))
    q = ntk = X @ X.T
    for _ in range(2):
        h, d = relu_moments(q)
        q, ntk = q + h / 4, ntk + (h + d * ntk) / 4
    h, d = relu_moments(q)
    x = jnp.asarray(X)
    found = lazyjax.infinite_ntk_of(pre_activation_resnet, params, x, variances=1.0)
    assert_close(found, h + d * ntk + 9, 1e-10)
    found = lazyjax.infinite_nngp_of(pre_activation_resnet, params, x, variances=1.0)
    assert_close(found, h + 9, 1e-10)


def test_functions_of_the_input_before_the_first_weights_are_exact(x64: None) -> None:
    def apply_fn(w: jax.Array, x: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=1, keepdims=True)
        features = jnp.concatenate([centred[:, ::-1] ** 2, jnp.sin(x[:, 1:])], axis=1)
        return features @ w

    features = (X - X.mean(1, keepdims=True))[:, ::-1] ** 2
    features = np.concatenate([features, np.sin(X[:, 1:])], axis=1)
    found = lazyjax.infinite_ntk_of(
        apply_fn, jnp.zeros((7, 1)), jnp.asarray(X), variances=1
    )
    assert_close(found, features @ features.T)


ACTIVATIONS = {
    "square_relu": (lambda u: jnp.maximum(u, 0) ** 2, None),
    "swish_by_hand": (lambda u: u / (1 + jnp.exp(-u)), jax.nn.silu),
    "relu_by_where": (lambda u: jnp.where(u > 0, u, 0.0), "relu"),
    "composed": (lambda u: jnp.tanh(jnp.sin(u) + 0.5), None),
    "relu_plus_identity": (lambda u: jax.nn.relu(u) + u, None),
    "abs_by_max": (lambda u: jnp.maximum(u, -u), "abs"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.sampled(2)
def test_elementwise_operations_are_one_activation(name: str, x64: None) -> None:
    phi, known = ACTIVATIONS[name]
    if name == "square_relu":
        known = RectifiedPower(2)
    if name == "relu_plus_identity":
        known = ABReLU(1.0, 2.0)
    x = jnp.asarray(X)

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        return phi(x @ params["w"] / 2 + params["b"][None]) @ params["v"] / math.sqrt(6)

    params = shapes_of(w=(4, 6), b=(6,), v=(6, 1))
    found = lazyjax.infinite_ntk_of(
        apply_fn, params, x, variances={"w": 1.0, "b": 0.25, "v": 1.0}
    )
    spec = lazyjax.Architecture(activation=phi if known is None else known)
    q = jnp.asarray(X @ X.T / 4 + 0.25)
    sides = jnp.diag(q)[:, None], q, jnp.diag(q)[None]
    moment = dual_activation(spec.activation, *sides)
    slope = dual_derivative(spec.activation, *sides)
    assert_close(found, moment + slope * (X @ X.T / 4 + 1), 1e-9)


# A network that no `Architecture` describes. --------------------------------------------


def odd_network(params: Any, x: jax.Array) -> jax.Array:
    """Dilated filters, a bias for each pixel, a skip, weighted and pooled means."""
    width = params["mix"].shape[0]
    numbers = ("NWC", "WIO", "NWC")
    h = jax.lax.conv_general_dilated(
        x, params["filter"], (1,), "SAME", rhs_dilation=(2,), dimension_numbers=numbers
    )
    h = jax.nn.gelu(h / 2 + 0.5 * params["place"][None], approximate=False)
    branch = jnp.einsum("npc,cd->pnd", h, params["mix"]) / math.sqrt(width)
    h = h + 0.7 * jax.nn.sigmoid(
        jnp.moveaxis(branch, 0, 1) + params["shift"][None, None]
    )
    h = nn.avg_pool(h, (3,), (1,), "SAME", count_include_pad=False)
    return h[:, 1:].mean(axis=1) @ params["last"] / math.sqrt(width)


def odd_params(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "filter": (3, 2, width),
        "place": (6, width),
        "mix": (width, width),
        "shift": (width,),
        "last": (width, 1),
    }


@pytest.mark.once
def test_mean_kernel_of_wide_networks_is_the_lifted_one() -> None:
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 6, 2)), jnp.float32)
    shapes = odd_params(96)
    params = {k: jax.ShapeDtypeStruct(s, x.dtype) for k, s in shapes.items()}

    def init(key: jax.Array, x: Any, /) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        drawn = zip(keys, shapes.items(), strict=True)
        return {name: jax.random.normal(key, s, x.dtype) for key, (name, s) in drawn}

    sampled = lazyjax.monte_carlo_ntk(
        odd_network, init, x, key=jax.random.key(0), num_seeds=60, outputs=0
    )
    found = lazyjax.infinite_ntk_of(odd_network, params, x, variances=1.0)
    assert (jnp.abs(sampled.mean - found) <= 5 * sampled.sem).all()
    assert jnp.linalg.norm(sampled.sem) <= 0.05 * jnp.linalg.norm(found)
    assert (jnp.abs(sampled.mean - 1.1 * found) > 5 * sampled.sem).any()


@pytest.mark.once
def test_a_wrong_variance_would_be_noticed(x64: None) -> None:
    params = shapes_of(first=(4, 8), blocks=(2, 8, 8), last=(8, 1), bias=(1,))
    x = jnp.asarray(X)
    kernels = [
        lazyjax.infinite_ntk_of(pre_activation_resnet, params, x, variances=v)
        for v in (1.0, 1.01)
    ]
    assert relative_error(*kernels) > 1e-3


# Contract. ----------------------------------------------------------------------------


def plain(params: Any, x: jax.Array) -> jax.Array:
    return jax.lax.erf(x @ params["w"]) @ params["v"]


@pytest.mark.compiler
def test_kernel_keeps_dtype_and_symmetry_and_goes_under_jit(dtype: jnp.dtype) -> None:
    x = jnp.asarray(X, dtype)
    params = {
        "w": jax.ShapeDtypeStruct((4, 6), dtype),
        "v": jax.ShapeDtypeStruct((6, 1), dtype),
    }

    def kernel(x1: jax.Array, x2: jax.Array | None = None) -> jax.Array:
        return lazyjax.infinite_ntk_of(
            plain, params, x1, x2, variances={"w": 0.2, "v": 1.0}
        )

    found = kernel(x)
    assert found.dtype == dtype
    assert found.shape == (3, 3)
    assert_close(found, found.T, "exact")
    assert_close(kernel(x, x[:2]), found[:, :2])
    assert_close(jax.jit(kernel)(x), found)
    gradient = jax.grad(lambda x: kernel(x).sum())(x)
    assert jnp.isfinite(gradient).all()


def test_second_call_compiles_nothing(x64: None) -> None:
    traced = []

    def apply_fn(w: jax.Array, x: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return x @ w

    counts = []
    for _ in range(2):
        lazyjax.infinite_ntk_of(
            apply_fn, jnp.ones((4, 1)), jnp.asarray(X), variances=1.0
        )
        counts.append(len(traced))
    assert counts[0] == counts[1]


# Functions of the input ---------------------------------------------------------------

FEATURES = {
    "normalized": lambda x: (
        (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-3)
    ),
    "sorted": lambda x: jnp.sort(x, axis=1),
    "gathered": lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1)[:, :2], axis=1),
    "largest": lambda x: jax.lax.top_k(x, 2)[0],
    "spectrum": lambda x: jnp.abs(jnp.fft.rfft(x)).astype(x.dtype),
    "rows merged with pixels": lambda x: (
        x.reshape(-1, 2) * jnp.ones((2 * x.shape[0], 1), x.dtype)
    ).reshape(-1, 4),
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.sampled(2)
def test_any_function_of_single_inputs_may_come_first(name: str, x64: None) -> None:
    features, x = FEATURES[name], jnp.asarray(X)
    plain = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
    shapes = shapes_of(v=(6, 1), w=(features(x).shape[1], 6))
    kernel = partial(lazyjax.infinite_ntk_of, variances=0.5)
    found = kernel(lambda p, x: plain(p, features(x)), shapes, x)
    assert_close(found, kernel(plain, shapes, features(x)), 1e-12)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: jnp.sort(x, axis=0),
        lambda x: x[::-1],
        lambda x: x - x.mean(0, keepdims=True),
        lambda x: x * jnp.arange(1.0, 1 + x.shape[0], dtype=x.dtype)[:, None],
    ],
)
def test_functions_of_several_inputs_are_refused(mixing: Any, x64: None) -> None:
    with pytest.raises(ValueError, match="interact"):
        lazyjax.infinite_ntk_of(
            lambda w, x: mixing(x) @ w, jnp.ones((4, 1)), jnp.asarray(X), variances=1.0
        )


def test_a_registered_limit_is_used(x64: None) -> None:
    halve = Primitive("halve")
    halve.def_abstract_eval(lambda u: u)
    register_primitive(
        halve,
        rows=lambda pair: pair.common,
        limit=lambda context, eqn, operands: scaled(operands[0], 0.5),
    )
    kernel = lambda fn: lazyjax.infinite_ntk_of(
        lambda p, x: jnp.tanh(fn(x @ p["w"])) @ p["v"],
        shapes_of(w=(4, 6), v=(6, 1)),
        jnp.asarray(X),
        variances=0.5,
    )
    assert_close(kernel(halve.bind), kernel(lambda u: 0.5 * u), "exact")
