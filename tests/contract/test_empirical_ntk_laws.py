"""Laws that a neural tangent kernel obeys, whatever computes it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lazyjax
from tests.contract import cases
from tests.helpers import oracles, zoo
from tests.helpers.compare import assert_close
from tests.helpers.zoo_base import ZOO

pytestmark = pytest.mark.parametrize("method", cases.ONE_METHOD)


@pytest.mark.parametrize("name", cases.LAWS)
@pytest.mark.sampled(2)
def test_rows_of_the_kernel_move_with_the_examples(name, method, x64):
    net = ZOO[name]
    x = net.x(4, dtype=jnp.float64)
    order = np.array([2, 0, 3, 1])
    ntk = functools.partial(lazyjax.empirical_ntk, net.apply_fn, method=method)
    params = net.params(jnp.float64)
    expected = np.asarray(ntk(params, x))[order][:, order]
    assert_close(ntk(params, x[order]), expected)
    assert_close(ntk(params, x[order][:2], x[order]), expected[:2])


@pytest.mark.parametrize("name", cases.LAWS)
@pytest.mark.sampled(2)
def test_other_containers_of_the_same_leaves_give_the_same_kernel(name, method, x64):
    net = ZOO[name]
    leaves, treedef = jax.tree.flatten(net.params(jnp.float64))

    def apply_fn(nested, x):
        _, (rest, last) = nested
        return net.apply_fn(jax.tree.unflatten(treedef, [*rest, last["last"]]), x)

    nested = (None, [tuple(leaves[:-1]), {"last": leaves[-1]}])
    x = zoo.batches(name, jnp.float64)[0]
    kernel = lazyjax.empirical_ntk(apply_fn, nested, x, method=method)
    assert_close(kernel, zoo.oracle(name, paired=False), 1e-12)


@pytest.mark.parametrize(
    "name",
    [
        name if name in cases.LAWS[:4] else pytest.param(name, marks=pytest.mark.slow)
        for name in ZOO
    ],
)
def test_one_flat_vector_of_parameters_gives_the_same_kernel(name, method, x64):
    """Every leaf becomes a slice and a reshape of one."""
    net = ZOO[name]
    flat, unravel = ravel_pytree(net.params(jnp.float64))
    x1, x2 = zoo.batches(name, jnp.float64)
    kernel = lazyjax.empirical_ntk(
        lambda flat, x: net.apply_fn(unravel(flat), x), flat, x1, x2, method=method
    )
    assert_close(kernel, zoo.oracle(name, paired=True), 1e-12)


@pytest.mark.parametrize("name", ["mlp_gelu", "tied_autoencoder"])
def test_an_orthogonal_change_of_parameters_leaves_the_kernel(name, method, x64):
    net = ZOO[name]
    flat, unravel = ravel_pytree(net.params(jnp.float64))
    gaussian = np.random.default_rng(0).normal(size=(flat.size, flat.size))
    rotation = jnp.asarray(np.linalg.qr(gaussian)[0])
    kernel = lazyjax.empirical_ntk(
        lambda turned, x: net.apply_fn(unravel(rotation @ turned), x),
        rotation.T @ flat,
        zoo.batches(name, jnp.float64)[0],
        method=method,
    )
    assert_close(kernel, zoo.oracle(name, paired=False), 1e-11)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("mlp_gelu", "full"),
        ("mlp_gelu", "trace"),
        ("cond_on_the_data_with_shared_weight", "full"),
        ("embedding_bag", "diagonal"),
    ],
)
@pytest.mark.sampled(2)
def test_vmap_over_parameters_is_a_loop(name, outputs, method, x64):
    net = ZOO[name]
    x1, x2 = zoo.batches(name, jnp.float64)
    ntk = functools.partial(
        lazyjax.empirical_ntk, net.apply_fn, outputs=outputs, method=method
    )
    params = net.params(jnp.float64)
    members = [jax.tree.map(lambda leaf, s=s: s * leaf, params) for s in (1.0, 0.5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    kernels = jax.vmap(lambda p: ntk(p, x1, x2))(stacked)
    for kernel, member in zip(kernels, members, strict=True):
        assert_close(kernel, ntk(member, x1, x2))
        full = oracles.naive_ntk(net.apply_fn, member, x1, x2)
        assert_close(kernel, oracles.reduce_ntk(full, outputs), 1e-12)


@pytest.mark.parametrize("name", ["mlp_gelu", "embedding_bag"])
def test_vmap_over_pairs_of_batches_is_a_loop(name, method, x64):
    net = ZOO[name]
    x = jnp.stack([net.x(3, seed, jnp.float64) for seed in (0, 1)])
    params = net.params(jnp.float64)
    kernels = jax.vmap(
        lambda x1, x2: lazyjax.empirical_ntk(
            net.apply_fn, params, x1, x2, method=method
        )
    )(x, x[::-1])
    for i in (0, 1):
        expected = oracles.naive_ntk(net.apply_fn, params, x[i], x[1 - i])
        assert_close(kernels[i], expected, 1e-12)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("mlp_gelu", "full"),
        ("tied_autoencoder", "trace"),
        ("mlp_scanned_over_layers", "trace"),
        ("cond_on_the_data_with_shared_weight", "trace"),
    ],
)
@pytest.mark.sampled(2)
def test_gradient_of_the_kernel_equals_its_differences(name, outputs, method, x64):
    """Along one direction in parameter space, to the accuracy of the differences."""
    net = ZOO[name]
    params = net.params(jnp.float64)
    x1, x2 = zoo.batches(name, jnp.float64)
    generator = np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), params)

    def total(p):
        kernel = lazyjax.empirical_ntk(
            net.apply_fn, p, x1, x2, outputs=outputs, method=method
        )
        return jnp.sum(jnp.cos(jnp.arange(kernel.size)).reshape(kernel.shape) * kernel)

    gradient = jax.grad(total)(params)
    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
    step = 1e-5
    ends = []
    for sign in (1.0, -1.0):
        moved = jax.tree.map(lambda a, b, s=sign: a + s * step * b, params, direction)
        full = oracles.naive_ntk(net.apply_fn, moved, x1, x2)
        kernel = oracles.reduce_ntk(full, outputs)
        weights = np.cos(np.arange(kernel.size)).reshape(kernel.shape)
        ends.append(np.sum(weights * kernel))
    assert_close(slope, np.asarray((ends[0] - ends[1]) / (2 * step)), 1e-7)


@pytest.mark.parametrize("name", ["mlp_relu", "embedding_bag"])
@pytest.mark.sampled(2)
def test_gradient_of_the_trace_is_finite_with_one_batch(name, method, dtype):
    net = ZOO[name]

    def total(p):
        x = net.x(3, dtype=dtype)
        kernel = lazyjax.empirical_ntk(
            net.apply_fn, p, x, outputs="trace", method=method
        )
        return jnp.sum(kernel)

    gradient = jax.grad(total)(net.params(dtype))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(gradient))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["mlp_relu", "embedding_bag"])
@pytest.mark.sampled(2)
def test_second_call_does_not_trace_the_network_again(name, paired, method, mode):
    net = ZOO[name]
    num_traces = 0

    def counted(p, x):
        nonlocal num_traces
        num_traces += 1
        return net.apply_fn(p, x)

    @mode
    def ntk(p, x1, x2):
        return lazyjax.empirical_ntk(counted, p, x1, x2, method=method)

    x1, x2 = zoo.batches(name)
    first = ntk(net.params(), x1, x2 if paired else None)
    assert num_traces > 0
    after_first = num_traces
    moved = jax.tree.map(lambda leaf: 0.5 * leaf, net.params())
    second = ntk(moved, x1[::-1], x2[::-1] if paired else None)
    assert num_traces == after_first
    assert np.linalg.norm(np.asarray(first) - np.asarray(second)) > 0


def test_a_constant_that_changes_under_the_same_network_is_seen(method):
    """Nothing is remembered of a network but its identity: a new closure is new."""
    x = jnp.array([[1.0, 2.0]])
    for scale in (1.0, 2.0, 3.0):
        kernel = lazyjax.empirical_ntk(
            lambda w, x, scale=scale: scale * (x @ w),
            jnp.ones((2, 1)),
            x,
            method=method,
        )
        assert_close(kernel, np.full((1, 1, 1, 1), 5.0 * scale**2, np.float32))


def test_leaves_that_are_one_array_are_still_two_parameters(method):
    w = jnp.array([[0.1, 0.2], [-0.3, 0.5]])
    x = jnp.array([[1.0, -1.0], [0.5, 2.0]])
    apply_fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
    kernel = lazyjax.empirical_ntk(apply_fn, {"a": w, "b": w}, x, method=method)
    expected = oracles.naive_ntk(apply_fn, {"a": w, "b": w}, x)
    assert_close(kernel, expected, 1e-5)
    shared = oracles.naive_ntk(lambda w, x: jnp.tanh(x @ w) @ w, w, x)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(kernel, shared, 1e-2)


@pytest.mark.compiler
def test_unused_leaves_contribute_nothing(method, x64):
    net = ZOO["unused_and_empty_leaves"]
    x = zoo.batches(net.name, jnp.float64)[0]
    params = net.params(jnp.float64)
    kernel = lazyjax.empirical_ntk(net.apply_fn, params, x, method=method)
    alone = {"used": params["used"], "unused": jnp.zeros((0,)), "empty": jnp.zeros(0)}
    assert_close(
        lazyjax.empirical_ntk(net.apply_fn, alone, x, method=method), kernel, "exact"
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_half_precision(dtype, method):
    net = ZOO["mlp_gelu"]
    kernel = lazyjax.empirical_ntk(
        net.apply_fn, net.params(dtype), net.x(3, dtype=dtype), method=method
    )
    assert kernel.dtype == dtype
    # Eight bits of mantissa, summed over two hundred parameters.
    assert_close(
        np.asarray(kernel, np.float32), zoo.oracle("mlp_gelu", paired=False), 0.1
    )


def test_parameters_of_two_precisions_are_paired_in_that_of_the_output(method, x64):
    """A float32 weight that is cast inside a float64 network."""
    generator = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(generator.normal(size=(4, 5)), jnp.float32),
        "v": jnp.asarray(generator.normal(size=(5, 2))),
    }
    x = jnp.asarray(generator.normal(size=(3, 4)))

    def apply_fn(p, x):
        return jnp.tanh(x @ p["w"].astype(jnp.float64)) @ p["v"]

    kernel = lazyjax.empirical_ntk(apply_fn, params, x, method=method)
    assert kernel.dtype == jnp.float64
    assert_close(kernel, oracles.naive_ntk(apply_fn, params, x), 1e-5)


def test_numpy_arrays_are_accepted_everywhere(method):
    net = ZOO["table_of_pairs_of_tokens"]
    params = jax.tree.map(np.asarray, net.params())
    x1, x2 = map(np.asarray, zoo.batches(net.name))
    kernel = lazyjax.empirical_ntk(net.apply_fn, params, x1, x2, method=method)
    assert isinstance(kernel, jax.Array)
    assert_close(kernel, zoo.oracle(net.name, paired=True), 1e-5)


def test_a_single_example_and_a_single_output(method):
    w, x = jnp.array([[2.0], [1.0]]), jnp.array([[3.0, 4.0]])
    ntk = functools.partial(
        lazyjax.empirical_ntk, lambda w, x: (x @ w) ** 2, w, method=method
    )
    # The gradient at x is 2 (x w) x = 20 x, and |x|^2 = 25.
    assert_close(ntk(x), np.full((1, 1, 1, 1), 400.0 * 25, np.float32))
    assert_close(ntk(x, outputs="diagonal"), np.full((1, 1, 1), 1e4, np.float32))
    for outputs in ("trace", "pseudo", 0):
        assert_close(ntk(x, outputs=outputs), np.full((1, 1), 1e4, np.float32))


def test_a_network_that_is_centred_at_these_parameters_is_accepted(method):
    """Its outputs are rounding errors, which differ from batch to batch."""
    net = ZOO["mlp_gelu"]
    start = net.params()

    def centred(p, x):
        return 100.0 * (net.apply_fn(p, x) - net.apply_fn(start, x))

    x = zoo.batches(net.name)[0]
    kernel = lazyjax.empirical_ntk(centred, start, x, method=method)
    assert_close(kernel, 1e4 * zoo.oracle(net.name, paired=False), 1e-5)


def test_outputs_that_are_all_zero_are_accepted(method):
    """The readout starts at zero: only it has a gradient."""
    net = ZOO["mlp_gelu"]
    params = net.params() | {"w3": jnp.zeros((6, 3)), "b3": jnp.zeros(3)}
    x = zoo.batches(net.name)[0]
    kernel = lazyjax.empirical_ntk(net.apply_fn, params, x, method=method)
    assert_close(kernel, oracles.naive_ntk(net.apply_fn, params, x), 1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e8])
def test_scale_of_the_outputs_squares_in_the_kernel(scale, method):
    net = ZOO["layer_norm"]
    x = zoo.batches(net.name)[0]
    kernel = lazyjax.empirical_ntk(
        lambda p, x: scale * net.apply_fn(p, x), net.params(), x, method=method
    )
    expected = zoo.oracle(net.name, paired=False)
    assert_close(np.asarray(kernel, np.float64) / scale**2, expected, 1e-5)


def test_nan_in_the_parameters_is_nan_in_the_kernel(method):
    """Never a number that looks sound."""
    x, w = jnp.ones((2, 3)), jnp.full((3, 1), jnp.nan)
    kernel = jax.jit(
        lambda w, x: lazyjax.empirical_ntk(
            lambda w, x: jnp.tanh(x @ w), w, x, method=method
        )
    )(w, x)
    assert jnp.isnan(kernel).all()


@pytest.mark.parametrize(
    "name", ["custom_vjp_straight_through", "custom_vjp_not_linear_in_the_cotangent"]
)
@pytest.mark.sampled(2)
def test_gradient_rules_that_only_reverse_mode_knows_are_followed(name, mode, method):
    net = ZOO[name]

    @mode
    def ntk(p, x):
        return lazyjax.empirical_ntk(net.apply_fn, p, x, method=method)

    kernel = ntk(net.params(), zoo.batches(name)[0])
    assert_close(kernel, zoo.oracle(name, paired=False), 1e-5)
