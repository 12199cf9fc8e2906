"""Sites before a pool: found where positions are pooled, and nowhere else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lazyjax.ntk.methods.structured import build_problem
from lazyjax.ntk.plan import ntk_plan
from lazyjax.ntk.requests.request import KernelRequest
from tests.helpers.compare import assert_close
from tests.helpers.methods import structured_ntk
from tests.helpers.oracles import naive_ntk, reduce_ntk

IMAGE = (4, 3, 2)
TOKENS = (4, 3)


def draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jnp.asarray(0.7 * values)


def conv(x, kernel, layout=("NHWC", "HWIO", "NHWC")):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def images(**more):
    return {"k": draw(3, 2, 2, 5), "b": draw(5), "w": draw(5, 3), **more}


def tokens(**more):
    return {"k": draw(3, 5), "b": draw(5), "w": draw(5, 3), **more}


@jax.custom_jvp
def mixing_rule(z):
    return jnp.tanh(z)


@mixing_rule.defjvp
def _(primals, tangents):
    return jnp.tanh(primals[0]), jnp.cumsum(tangents[0], axis=1)


@jax.custom_jvp
def odd_slope(z):
    return jnp.tanh(z)


@odd_slope.defjvp
def _(primals, tangents):
    return jnp.tanh(primals[0]), 3 * tangents[0] * primals[0]


@jax.custom_vjp
def only_backward(z):
    return jnp.tanh(z)


only_backward.defvjp(lambda z: (jnp.tanh(z), z), lambda z, g: (g * jnp.cos(z),))


def relu_and_mean(p, x):
    h = jax.nn.relu(conv(x, p["k"]) + p["b"][None, None, None])
    return jnp.mean(h, axis=(1, 2)) @ p["w"]


def channels_first(p, x):
    h = conv(x.transpose(0, 3, 1, 2), p["o"], ("NCHW", "OIHW", "NCHW"))
    return jnp.tanh(jnp.sum(jax.nn.gelu(h), axis=(2, 3))) @ p["w"]


def gated_and_masked(p, x):
    gate = jax.nn.sigmoid(conv(x, p["u"]))
    h = jnp.where(gate > 0.5, jnp.sin(conv(x, p["k"])) * gate, 0.0)
    return jnp.sum(h**2 + h, axis=(1, 2)) @ p["w"]


def skip(p, x):
    h = jnp.tanh(conv(x, p["u"]))
    h = jax.nn.silu(conv(h, p["v"]) + h)
    return jnp.mean(h, axis=(1, 2)) @ p["w"]


def pooled_then_normalized(p, x):
    h = jnp.mean(jnp.tanh(x @ p["k"] + p["b"][None, None]), axis=1)
    h = (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 0.1)
    return jnp.tanh(h @ p["w"])


def linear_pool(p, x):
    return jnp.sum(x @ (2 * p["k"]), axis=1) @ p["w"]


def odd_derivative(p, x):
    return jnp.sum(odd_slope(x @ p["k"]), axis=1) @ p["w"]


POOLED = {
    relu_and_mean: (images(), IMAGE, {"k"}),
    channels_first: (images(o=draw(5, 2, 2, 3)), IMAGE, {"o"}),
    gated_and_masked: (images(u=draw(1, 1, 2, 5)), IMAGE, {"k", "u"}),
    skip: (images(u=draw(1, 1, 2, 5), v=draw(3, 3, 5, 5)), IMAGE, {"v"}),
    pooled_then_normalized: (tokens(), TOKENS, {"k"}),
    linear_pool: (tokens(), TOKENS, {"k"}),
    odd_derivative: (tokens(), TOKENS, {"k"}),
}


def softmax_over_positions(p, x):
    h = jax.nn.softmax(x @ p["k"], axis=1)
    return jnp.sum(h * x[..., :1], axis=1) @ p["w"]


def running_sum(p, x):
    return jnp.sum(jnp.cumsum(x @ p["k"], axis=1), axis=1) @ p["w"]


def sorted_positions(p, x):
    h = jnp.sort(x @ p["k"], axis=1) * jnp.arange(4.0)[None, :, None]
    return jnp.sum(h, axis=1) @ p["w"]


def used_twice(p, x):
    z = x @ p["k"]
    return (jnp.sum(jnp.tanh(z), axis=1) + jnp.max(z, axis=1)) @ p["w"]


def less_its_mean(p, x):
    h = jnp.tanh(x @ p["k"])
    mean = jnp.mean(h, axis=1, keepdims=True)
    return jnp.sum((h - mean) ** 2, axis=1) @ p["w"]


def used_in_a_loop(p, x):
    z = x @ p["k"]
    step = lambda carry, i: (carry * jnp.cos(z[:, 0]) + i, None)
    carry, _ = lax.scan(step, jnp.sum(jnp.tanh(z), axis=1), jnp.arange(2.0))
    return carry @ p["w"]


def one_axis_only(p, x):
    h = jnp.sum(jnp.tanh(conv(x, p["k"])), axis=1)
    return jnp.sum(jnp.tanh(h), axis=1) @ p["w"]


def over_channels_too(p, x):
    return jnp.sum(jnp.tanh(conv(x, p["k"])), axis=(1, 2, 3))[:, None]


def mixing_derivative(p, x):
    return jnp.sum(mixing_rule(x @ p["k"]), axis=1) @ p["w"]


def backward_only(p, x):
    return jnp.sum(only_backward(x @ p["k"]), axis=1) @ p["w"]


def weight_used_again(p, x):
    h = jnp.tanh(x @ p["square"])
    return jnp.sum(jnp.tanh(h @ p["square"]), axis=1)


def inside_a_loop(p, x):
    def step(h, _):
        return h + jnp.sum(jnp.tanh((x * h[:, :1, None]) @ p["k"]), axis=1), None

    return lax.scan(step, jnp.ones((x.shape[0], 5)), None, length=2)[0] @ p["w"]


NOT_POOLED = {
    softmax_over_positions: (tokens(), TOKENS),
    running_sum: (tokens(), TOKENS),
    sorted_positions: (tokens(), TOKENS),
    used_twice: (tokens(), TOKENS),
    less_its_mean: (tokens(), TOKENS),
    used_in_a_loop: (tokens(), TOKENS),
    one_axis_only: (images(), IMAGE),
    over_channels_too: (images(), IMAGE),
    mixing_derivative: (tokens(), TOKENS),
    backward_only: (tokens(), TOKENS),
    weight_used_again: ({"square": draw(3, 3)}, TOKENS),
    inside_a_loop: (tokens(), TOKENS),
}


def pooled_leaves(network, params, x):
    """Names of the leaves whose positions are summed before their kernel is made."""
    problem = build_problem(KernelRequest(apply_fn=network, params=params, x1=x))
    names = sorted(params)
    return {
        names[group.leaves[0]]
        for group in problem.groups
        for blocks in group.roots.values()
        for block in blocks
        if block.shape.pooled > 1
    }


def doubled(params):
    return {name: leaf.astype(jnp.float64) for name, leaf in params.items()}


def check_kernels(network, params, features, outputs: Any = "full"):
    params = doubled(params)
    x1, x2 = draw(3, *features), draw(2, *features, seed=1)
    verb = jax.jit(functools.partial(structured_ntk, network, outputs=outputs))
    for batches in ((x1,), (x1, x2)):
        expected = reduce_ntk(naive_ntk(network, params, *batches), outputs)
        assert_close(verb(params, *batches), expected, 1e-12)


@pytest.mark.parametrize("network", POOLED, ids=lambda fn: fn.__name__)
def test_positions_are_summed_first_where_they_are_pooled(network, x64):
    params, features, pooled = POOLED[network]
    assert pooled_leaves(network, doubled(params), draw(3, *features)) == pooled
    check_kernels(network, params, features)


@pytest.mark.parametrize("outputs", ["diagonal", "trace", "pseudo", 1])
def test_other_forms_of_kernels_of_pooled_sites(outputs, x64):
    params, features, _ = POOLED[gated_and_masked]
    check_kernels(gated_and_masked, params, features, outputs)


@pytest.mark.parametrize("network", NOT_POOLED, ids=lambda fn: fn.__name__)
def test_positions_that_are_not_merely_pooled_are_kept_apart(network, x64):
    params, features = NOT_POOLED[network]
    assert not pooled_leaves(network, doubled(params), draw(3, *features))
    check_kernels(network, params, features)


def test_batches_too_large_for_one_sum_give_the_same_kernel(monkeypatch, x64):
    monkeypatch.setattr("lazyjax.ntk.contract.positions._SMALL", 0)
    params, features, _ = POOLED[relu_and_mean]
    for outputs in ("full", "diagonal", "trace"):
        check_kernels(relu_and_mean, params, features, outputs)


def test_a_pool_costs_less():
    """One gradient for all outputs, and their products in as many numbers as channels."""
    shapes = {"k": (3, 3, 16, 32), "b": (32,), "w": (32, 10)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    x = jnp.ones((8, 6, 6, 16))
    pooled, apart = (
        {row.path: row.gflop for row in ntk_plan(network, params, x).rows}
        for network in (relu_and_mean, one_axis_only)
    )
    assert 3 * pooled["k"] < apart["k"]
