"""Finite networks: their function, their scale at initialization, their starts."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from tests.helpers.compare import assert_close

PARAMETERIZATIONS = ("ntk", "standard", "mup")


def numpy_forward(params, x, *, depth, width, w_std, b_std, parameterization):
    """The formulas of `Architecture` in NumPy, written apart from the library."""
    h = np.asarray(x, np.float64).reshape(len(x), -1)
    for layer in range(1, depth + 2):
        weights = np.asarray(params[f"layer_{layer}"]["kernel"], np.float64)
        bias = np.asarray(params[f"layer_{layer}"]["bias"], np.float64)
        fan_in = h.shape[1]
        is_last = layer == depth + 1
        multiplier, bias_multiplier = {
            "ntk": (w_std / math.sqrt(fan_in), b_std),
            "standard": (1.0, 1.0),
            # W of standard deviation w_std/sqrt(d), w_std/sqrt(m), w_std/m by layer;
            # every w of standard deviation 1/sqrt(m).
            "mup": (
                w_std / math.sqrt(fan_in)
                if is_last
                else w_std * math.sqrt(width / fan_in),
                b_std if is_last else b_std * math.sqrt(width),
            ),
        }[parameterization]
        z = multiplier * h @ weights + bias_multiplier * bias
        h = z if is_last else np.tanh(z)
    return h


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_mlp_computes_the_formulas_of_its_architecture(parameterization, depth, dtype):
    options = {
        "depth": depth,
        "width": 7,
        "w_std": 1.3,
        "b_std": 0.4,
        "parameterization": parameterization,
    }
    net = lazyjax.nets.mlp(activation="tanh", num_outputs=2, **options)
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(5, 2, 3)), dtype)
    # The formulas hold at all parameters, so that none need be drawn by a program.
    params = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(1), x),
    )
    f = net.apply(params, x)
    assert f.dtype == dtype
    assert_close(f, numpy_forward(params, x, **options))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_hidden_layers_are_one_random_function_in_every_parameterization(
    parameterization,
):
    """Variance of each pre-activation is w_std^2 E[h^2] + b_std^2."""
    width, w_std, b_std = 512, 1.5, 0.5
    x = jnp.ones((1, 4))

    def output(seed):
        net = lazyjax.nets.mlp(
            width=width,
            depth=1,
            activation="identity",
            w_std=w_std,
            b_std=b_std,
            parameterization=parameterization,
        )
        return net.apply(net.init(jax.random.key(seed), x), x)[0, 0]

    f = np.asarray(jax.lax.map(output, jnp.arange(400)), np.float64)
    variance = w_std**2 * (w_std**2 + b_std**2)
    if parameterization == "mup":
        variance /= width
    variance += b_std**2
    # The variance of n Gaussians has standard error sqrt(2 / n) of itself.
    assert abs(f.var() / variance - 1) <= 5 * math.sqrt(2 / len(f))
    assert abs(f.mean()) <= 5 * math.sqrt(variance / len(f))


def test_zero_b_std_means_no_bias_parameters():
    net = lazyjax.nets.mlp(width=4)
    params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    assert set(params["layer_1"]) == {"kernel"}


def test_sign_readout_has_entries_of_one_size():
    net = lazyjax.nets.mlp(width=64, readout="sign", parameterization="standard")
    params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    last = np.asarray(params["layer_2"]["kernel"])
    assert_close(np.abs(last), np.full((64, 1), 1 / 8, np.float32), "exact")
    assert len(np.unique(last)) == 2
    assert len(np.unique(np.abs(np.asarray(params["layer_1"]["kernel"])))) > 100


@pytest.mark.parametrize(
    ("trained", "layers"),
    [("all", {1, 2, 3}), ("first", {1}), ("last", {3})],
)
def test_only_trained_layers_have_gradients(trained, layers):
    net = lazyjax.nets.mlp(width=5, depth=2, b_std=1.0, trained=trained)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = net.init(jax.random.key(1), x)
    grads = jax.grad(lambda p: jnp.sum(net.apply(p, x) ** 2))(params)
    for layer, name in itertools.product((1, 2, 3), ("kernel", "bias")):
        has_gradient = bool(jnp.any(grads[f"layer_{layer}"][name] != 0))
        assert has_gradient == (layer in layers)


def test_input_scaling_none_leaves_out_the_root_of_the_number_of_features():
    x = jax.random.normal(jax.random.key(0), (4, 9))
    nets = [
        lazyjax.nets.mlp(width=5, depth=1, activation="identity", input_scaling=scaling)
        for scaling in ("none", "fan_in")
    ]
    params = nets[0].init(jax.random.key(1), x)
    assert_close(nets[0].apply(params, x), 3 * nets[1].apply(params, x))


@pytest.mark.parametrize("symmetrized", [False, True])
def test_output_scale_multiplies_the_output_of_every_kind(symmetrized):
    images = jax.random.normal(jax.random.key(0), (2, 3, 3, 2))
    for kind in ("mlp", "resnet", "cnn", "conv_resnet"):
        plain, scaled = (
            getattr(lazyjax.nets, kind)(
                width=3, b_std=0.5, output_scale=scale, symmetrized=symmetrized
            )
            for scale in (1.0, 4.0)
        )
        params = scaled.init(jax.random.key(1), images)
        if symmetrized:  # away from its start, where the output is zero
            params = params | {"plus": plain.init(jax.random.key(2), images)["plus"]}
        f = scaled.apply(params, images)
        assert jnp.all(f != 0)
        assert_close(f, 4 * plain.apply(params, images), "exact")


@pytest.mark.compiler
def test_symmetrized_network_starts_at_zero_with_the_kernel_of_one_copy():
    options = {"width": 16, "depth": 2, "activation": "tanh", "num_outputs": 2}
    plain = lazyjax.nets.mlp(**options)
    doubled = lazyjax.nets.mlp(**options, symmetrized=True)
    assert doubled.architecture.symmetrized
    x = jax.random.normal(jax.random.key(0), (5, 3))
    params = plain.init(jax.random.key(1), x)
    doubled_params = doubled.init(jax.random.key(1), x)
    assert_close(doubled.apply(doubled_params, x), np.zeros((5, 2), "f4"), "exact")
    assert jnp.any(plain.apply(params, x) != 0)
    assert_close(
        lazyjax.empirical_ntk(doubled.apply, doubled_params, x),
        lazyjax.empirical_ntk(plain.apply, params, x),
    )


def test_initialization_depends_on_the_key_alone():
    net = lazyjax.nets.mlp(width=6)
    x = jnp.ones((2, 3))
    first = net.init(jax.random.key(3), x)
    again = net.init(jax.random.key(3), 7 * jnp.ones((5, 3)))
    other = net.init(jax.random.key(4), x)
    kernel = lambda params: params["layer_1"]["kernel"]
    assert_close(kernel(again), kernel(first), "exact")
    assert jnp.all(kernel(other) != kernel(first))


@pytest.mark.compiler
def test_vmap_over_keys_is_a_loop(dtype):
    net = lazyjax.nets.mlp(width=6, b_std=0.1)
    x = jax.random.normal(jax.random.key(0), (4, 3), dtype)
    keys = jax.random.split(jax.random.key(1), 3)
    f = jax.vmap(lambda key: net.apply(net.init(key, x), x))(keys)
    assert_close(f, jnp.stack([net.apply(net.init(key, x), x) for key in keys]))


def test_equal_arguments_give_equal_networks_so_programs_are_reused():
    build = lambda width: lazyjax.nets.mlp(width=width, symmetrized=True)
    assert build(4) == build(4)
    assert hash(build(4).apply) == hash(build(4).apply)
    assert build(4).apply == build(4).apply
    assert build(4).apply != build(5).apply


def test_linear_model_has_one_layer_at_any_width():
    net = lazyjax.nets.mlp(width=9, depth=0, num_outputs=2, parameterization="mup")
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = net.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, params) == {"layer_1": {"kernel": (3, 2)}}
    expected = np.asarray(x) @ np.asarray(params["layer_1"]["kernel"]) / math.sqrt(3)
    assert_close(net.apply(params, x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be at least 1; got 0"),
        ({"width": 2.0}, "`width` must be an integer; got 2.0"),
        ({"width": 4, "depth": -1}, "`depth` must be at least 0; got -1"),
        ({"width": 4, "activation": "rleu"}, "Did you mean 'relu'"),
        (
            {"width": 4, "activation": 3},
            "`activation` must be a name or an elementwise",
        ),
        ({"width": 4, "parameterization": "NTK"}, "Did you mean 'ntk'"),
        ({"width": 4, "w_std": 0.0}, "`w_std` must be a finite number, positive"),
        ({"width": 4, "b_std": math.nan}, "`b_std` must be a finite number, zero or"),
        ({"width": 4, "trained": "frist"}, "Did you mean 'first'"),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        lazyjax.nets.mlp(**options)


@pytest.mark.usefixtures("own_errors")
def test_bad_inputs_are_named():
    net = lazyjax.nets.mlp(width=4)
    x = jnp.ones((2, 3))
    params = net.init(jax.random.key(0), x)
    with pytest.raises(TypeError, match="`x` must be a real floating-point array; got"):
        net.init(jax.random.key(0), jnp.ones((2, 3), int))
    with pytest.raises(TypeError, match="dtype int32"):
        net.apply(params, jnp.ones((2, 3), int))
    with pytest.raises(ValueError, match="`x` must have 3 features per example"):
        net.apply(params, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="at least one example"):
        net.init(jax.random.key(0), jnp.ones((0, 3)))
