"""The structured kernel: equal to the naive one, with the sites it claims to have."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lazyjax.ntk.contract.orders import (
    Shape,
    Sizes,
    best_order,
)
from lazyjax.ntk.plan import ntk_plan
from tests.helpers.compare import assert_close
from tests.helpers.methods import structured_ntk
from tests.helpers.oracles import naive_ntk, reduce_ntk


def mlp(p, x):
    h = jnp.tanh(x @ (p["w1"] * 0.5) + p["b1"][None])
    return h @ p["w2"] + p["b2"][None]


def one_weight_three_times(p, x):
    for _ in range(2):
        x = jnp.tanh(x @ p["w"] - p["b"][None])
    return (x @ p["w"].T)[:, :2]


def low_rank(p, x):
    return jnp.tanh(x @ (p["a"] @ p["b"])) @ p["v"]


def weight_norm(p, x):
    norm = jnp.sqrt(jnp.sum(p["w"] ** 2, axis=0))
    return jnp.tanh(x @ (p["w"] * (p["g"] / norm)[None])) @ p["v"]


def stacked_layers(p, x):
    def layer(h, slices):
        w, b = slices
        h = jnp.tanh(h @ w + 2.0 * b[None] + p["shared"][None])
        return h, jnp.sum(h)

    h, sums = lax.scan(layer, x, (p["w"], p["b"]))
    return h[:, :2] + jnp.mean(sums)


def recurrent(p, x):
    def step(h, row):
        gate = jax.nn.sigmoid(row[None] @ p["u"] + h @ p["w"])
        return gate * h + (1 - gate) * jnp.tanh(h @ p["w"]), h

    h, hs = lax.scan(step, p["h"][None], x[0].reshape(2, 2), reverse=True)
    return (h + jnp.sum(hs, 0)) @ p["v"]


def tied_embedding(p, tokens):
    h = jnp.tanh(jnp.take(p["table"], tokens, axis=0) + p["place"][None])
    h = h * p["gain"][None, None]
    return jnp.mean(h, 1) @ p["table"].T


def slices_of_one_leaf(p, x):
    h = jnp.tanh(x @ p["w"][0])
    return h @ p["w"][1][:, :2] + p["w"][2, :1, :2]


def either_branch(p, x):
    inside = lambda h: jnp.sin(h @ p["w"])
    h = lax.cond(x[0, 0] > 0, inside, lambda h: 2 * h, x)
    return h @ p["v"]


def input_independent(p, x):
    return 0 * x[:, :2] + p["b"][None] ** 2


def nonlinear_uses(p, x):
    h = jnp.maximum(x, p["c"][None]) / (2 + p["c"] ** 2)[None]
    return (p["v"][0][None] - h[:, :2]) / (2 + x[:, :2] ** 2)


def custom_derivative(p, x):
    @jax.custom_vjp
    def twice(w):
        return 2 * w

    twice.defvjp(lambda w: (2 * w, None), lambda _, g: (5 * g,))
    return x @ twice(p["v"]) + jax.checkpoint(jax.jit(lambda x: x @ p["v"]))(x)


def convolutions(p, x):
    layout = ("NHWC", "HWIO", "NHWC")
    conv = functools.partial(lax.conv_general_dilated, dimension_numbers=layout)
    h = x.reshape(-1, 4, 4, 2)
    h = jnp.tanh(conv(h, p["k1"], (1, 1), "SAME") + p["b"][None, None, None])
    h = jnp.tanh(conv(h, p["k2"], (2, 2), "SAME", feature_group_count=2))
    return jnp.mean(h, (1, 2))


def draw(*shape):
    seed = [len(shape), *shape]
    return jnp.asarray(0.7 * np.random.default_rng(seed).normal(size=shape))


def problem(name):
    """The network, its parameters and two batches, in float64."""
    network, shapes, features = {
        "mlp": (mlp, {"w1": (4, 6), "b1": (6,), "w2": (6, 3), "b2": (3,)}, (4,)),
        "shared": (one_weight_three_times, {"w": (4, 4), "b": (4,)}, (4,)),
        "low rank": (low_rank, {"a": (4, 2), "b": (2, 5), "v": (5, 2)}, (4,)),
        "weight norm": (weight_norm, {"w": (4, 5), "g": (5,), "v": (5, 2)}, (4,)),
        "stacked": (
            stacked_layers,
            {"w": (3, 4, 4), "b": (3, 4), "shared": (4,)},
            (4,),
        ),
        "recurrent": (
            recurrent,
            {"u": (2, 3), "w": (3, 3), "h": (3,), "v": (3, 2)},
            (4,),
        ),
        "tied": (
            tied_embedding,
            {"table": (5, 3), "place": (4, 3), "gain": (3,)},
            None,
        ),
        "slices": (slices_of_one_leaf, {"w": (3, 4, 4)}, (4,)),
        "cond": (either_branch, {"w": (4, 4), "v": (4, 2)}, (4,)),
        "input independent": (input_independent, {"b": (2,)}, (4,)),
        "nonlinear": (nonlinear_uses, {"c": (4,), "v": (3, 2)}, (4,)),
        "custom": (custom_derivative, {"v": (4, 2)}, (4,)),
        "convolutions": (
            convolutions,
            {"k1": (3, 3, 2, 4), "b": (4,), "k2": (3, 3, 2, 4)},
            (32,),
        ),
    }[name]
    params = {key: draw(*shape) for key, shape in shapes.items()}
    if features is None:
        tokens = np.random.default_rng(0).integers(0, 5, size=(5, 4))
        return network, params, jnp.asarray(tokens[:3]), jnp.asarray(tokens[3:])
    return network, params, draw(3, *features), draw(2, *features)


# Which primitives each parameter is used by; "any" marks JAX's own differentiation.
SITES = {
    "mlp": {"w1": "dot_general", "b1": "add", "w2": "dot_general", "b2": "add"},
    "shared": {"w": "dot_general", "b": "sub"},
    "low rank": {"a": "dot_general", "b": "dot_general", "v": "dot_general"},
    "weight norm": {"w": "dot_general", "g": "dot_general", "v": "dot_general"},
    "stacked": {"w": "dot_general", "b": "add", "shared": "add"},
    "recurrent": {
        "u": "dot_general",
        "w": "dot_general",
        "h": "any identity",
        "v": "dot_general",
    },
    "tied": {"table": "gather+dot_general", "place": "add", "gain": "mul"},
    "slices": {"w": "dot_general+add"},
    "cond": {"w": "dot_general", "v": "dot_general"},
    "input independent": {"b": "add"},
    "nonlinear": {"c": "any max+any div", "v": "sub"},
    "custom": {"v": "dot_general"},
    "convolutions": {
        "k1": "conv_general_dilated",
        "b": "add",
        "k2": "conv_general_dilated",
    },
}


@pytest.mark.parametrize("name", SITES)
@pytest.mark.sampled(3)
def test_structured_kernel_is_the_naive_one(name, x64):
    network, params, x1, x2 = problem(name)

    @jax.jit
    def both(params, x1, x2):
        return (
            structured_ntk(network, params, x1),
            structured_ntk(network, params, x1, x2),
        )

    symmetric, cross = both(params, x1, x2)
    assert_close(symmetric, naive_ntk(network, params, x1), 1e-12)
    assert_close(cross, naive_ntk(network, params, x1, x2), 1e-12)
    assert_close(symmetric, symmetric.transpose(1, 0, 3, 2), "exact")


@pytest.mark.parametrize("outputs", ["diagonal", "trace", "pseudo", 1])
@pytest.mark.parametrize("name", ["mlp", "shared", "convolutions"])
@pytest.mark.sampled(4)
def test_reduced_outputs_are_reductions_of_the_naive_kernel(name, outputs, x64):
    network, params, x1, x2 = problem(name)
    verb = functools.partial(structured_ntk, network, outputs=outputs)
    for batches in ((x1,), (x1, x2)):
        expected = reduce_ntk(naive_ntk(network, params, *batches), outputs)
        assert_close(jax.jit(verb)(params, *batches), expected, 1e-12)


@pytest.mark.parametrize("name", SITES)
def test_plan_names_the_sites_of_each_parameter(name):
    network, params, x1, _ = problem(name)
    plan = ntk_plan(network, params, x1)
    found = {row.path: "+".join(row.sites) for row in plan.rows}
    assert found == SITES[name]


def test_plan_reports_a_parameter_without_influence_as_unused():
    params = {"used": jnp.ones((4, 2)), "unused": jnp.ones(3)}
    plan = ntk_plan(lambda p, x: x @ p["used"], params, jnp.ones((3, 4)))
    assert [row.order == "unused" for row in plan.rows] == [True, False]
    assert plan.rows[0].gflop == 0


def test_fewer_outputs_cost_fewer_operations():
    network, params, x1, _ = problem("mlp")
    cost = lambda outputs: ntk_plan(network, params, x1, outputs=outputs).gflop
    assert cost("full") > cost("trace") > cost("pseudo") == cost(0)


def test_wide_layers_without_positions_favour_the_kronecker_order():
    sizes = Sizes(
        rows=100, columns=100, num_cotangents=10, is_full=True, is_symmetric=True
    )
    assert best_order(sizes, Shape(1, 1, 1024, 1024)) == "kronecker"
    assert best_order(sizes, Shape(1, 256, 64, 27)) == "gradient"


@pytest.mark.parametrize(
    ("name", "copies", "method"),
    [
        ("weight norm", 1, "jacobian"),  # so few numbers that calls are all that counts
        ("mlp", 400, "structured"),
        ("tied", 1, "jacobian"),
        ("convolutions", 1, "structured"),  # grouped: slow by JAX's own derivative
    ],
)
def test_auto_is_the_method_that_takes_least_time(name, copies, method):
    network, params, x1, _ = problem(name)
    x = jnp.tile(x1, (copies, *(1 for _ in x1.shape[1:])))
    assert ntk_plan(network, params, x).method == method


def test_batches_too_large_for_one_slice_give_the_same_kernel(monkeypatch, x64):
    # Slices and panels are only used for sizes at which tests would be slow.
    monkeypatch.setattr(
        "lazyjax.ntk.contract.gradients._SLICE_BYTES", {"other": 1, "cpu": 1}
    )
    network, params, x1, x2 = problem("convolutions")
    for batches in ((jnp.tile(x1, (30, 1)),), (x1, x2)):
        kernel = jax.jit(functools.partial(structured_ntk, network))(params, *batches)
        expected = naive_ntk(network, params, *(b[:3] for b in batches))
        assert_close(kernel[:3, : expected.shape[1]], expected, 1e-12)
        assert_close(kernel[-3:, : expected.shape[1]], expected, 1e-12)


def test_integer_leaves_are_constants(x64):
    params = {"w": draw(4, 2), "shift": jnp.arange(2)}
    apply_fn = lambda p, x: x @ p["w"] + p["shift"].astype(x.dtype)[None]
    x = draw(3, 4)
    gram = jnp.kron(x @ x.T, jnp.eye(2)).reshape(3, 2, 3, 2).transpose(0, 2, 1, 3)
    assert_close(structured_ntk(apply_fn, params, x), gram)


def test_low_precision_networks_give_their_dtype_back():
    network, params, x1, _ = problem("mlp")
    half = lambda tree: jax.tree.map(lambda v: v.astype(jnp.bfloat16), tree)
    kernel = jax.jit(functools.partial(structured_ntk, network))(half(params), half(x1))
    assert kernel.dtype == jnp.bfloat16
    assert_close(kernel, naive_ntk(network, half(params), half(x1)), 0.05)


@pytest.mark.once
@pytest.mark.compiler
def test_large_kernels_of_one_batch_compile_in_a_moment():
    """A choice between a triangle and its mirror image took XLA 20 s at this size."""
    apply_fn = lambda w, x: jnp.tanh(x @ w)
    w, x = jnp.ones((3, 2)), jnp.zeros((500, 3))
    kernel = jax.jit(lambda w, x: structured_ntk(apply_fn, w, x, outputs="trace"))
    start = time.perf_counter()
    kernel.lower(w, x).compile()
    assert time.perf_counter() - start < 5
