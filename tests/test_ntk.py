"""The verbs around the kernel: operator, diagonal, subsets, expansions, products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.oracles import naive_ntk, reduce_ntk
from tests.helpers.zoo import ZOO

NET = lazyjax.nets.mlp(width=6, depth=2, activation="tanh", num_outputs=3, b_std=0.5)


@functools.cache
def problem(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x1 = jax.random.normal(keys[0], (5, 4), dtype)
    x2 = jax.random.normal(keys[1], (3, 4), dtype)
    return NET.init(keys[2], x1), x1, x2


def as_matrix(ntk):
    n1, n2, k, _ = ntk.shape
    return np.asarray(ntk).transpose(0, 2, 1, 3).reshape(n1 * k, n2 * k)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 100])
def test_operator_multiplies_by_the_kernel_in_batches_of_any_size(batch_size, dtype):
    params, x1, x2 = problem(dtype)
    v = jax.random.normal(jax.random.key(3), (3, 3), dtype)
    op = lazyjax.ntk_operator(NET.apply, params, x1, x2, batch_size=batch_size)
    product = op(v)
    assert product.dtype == dtype
    expected = as_matrix(naive_ntk(NET.apply, params, x1, x2)) @ np.asarray(v).ravel()
    assert_close(product, expected.reshape(5, 3))


@pytest.mark.compiler
def test_operator_passes_through_jit_as_an_argument():
    params, x1, x2 = problem(jnp.float32)
    op = lazyjax.ntk_operator(NET.apply, params, x1, x2, batch_size=2)
    v = jnp.ones((3, 3))
    assert_close(jax.jit(lambda op, v: op(v))(op, v), op(v))


def test_operator_is_linear_and_symmetric_on_one_batch(x64):
    params, x1, _ = problem(jnp.float64)
    op = lazyjax.ntk_operator(NET.apply, params, x1, batch_size=2)
    u, v = jax.random.normal(jax.random.key(1), (2, 5, 3), jnp.float64)
    assert_close(op(2 * u + v), 2 * op(u) + op(v))
    assert_close(jnp.sum(u * op(v)), jnp.sum(v * op(u)))


@pytest.mark.compiler
def test_operator_over_seeds_is_a_loop():
    _, x1, _ = problem(jnp.float32)
    keys = jax.random.split(jax.random.key(7), 2)
    v = jnp.ones((5, 3))

    def product(key):
        params = NET.init(key, x1)
        return lazyjax.ntk_operator(NET.apply, params, x1, batch_size=2)(v)

    assert_close(jax.vmap(product)(keys), jnp.stack([product(key) for key in keys]))


def test_operator_is_the_matrix_of_the_kernel_to_solvers(x64):
    params, x1, x2 = problem(jnp.float64)
    op = lazyjax.ntk_operator(NET.apply, params, x1, x2, batch_size=2)
    matrix = as_matrix(naive_ntk(NET.apply, params, x1, x2))
    assert (op.shape, op.dtype) == ((15, 9), jnp.float64)
    columns = np.random.default_rng(0).normal(size=(9, 2))
    assert_close(op @ columns, matrix @ columns)
    assert_close(op.mv(columns[:, 0]), matrix @ columns[:, 0])
    assert_close(op @ columns[:, 0], op.mv(columns[:, 0]), "exact")
    assert op.T.shape == (9, 15)
    assert_close(op.T @ np.eye(15), matrix.T)
    # What `lineax.FunctionLinearOperator(op.mv, structure)` asks of a function, and
    # solvers of JAX: it is traced by its structure, and transposed as a linear map.
    structure = jax.ShapeDtypeStruct(op.shape[1:], op.dtype)
    assert jax.eval_shape(op.mv, structure).shape == op.shape[:1]
    (transposed,) = jax.linear_transpose(op.mv, structure)(jnp.ones(15))
    assert_close(transposed, matrix.T @ np.ones(15))
    symmetric = lazyjax.ntk_operator(NET.apply, params, x1)
    ridge = lambda v: symmetric.mv(v) + v
    solution, _ = jax.scipy.sparse.linalg.cg(ridge, jnp.ones(15), tol=1e-13)
    square = as_matrix(naive_ntk(NET.apply, params, x1)) + np.eye(15)
    assert_close(solution, np.linalg.solve(square, np.ones(15)), 1e-9)


@pytest.mark.usefixtures("own_errors")
def test_operator_names_a_vector_of_the_wrong_shape():
    params, x1, x2 = problem(jnp.float32)
    op = lazyjax.ntk_operator(NET.apply, params, x1, x2)
    with pytest.raises(ValueError, match=r"`v` must have shape \(9,\); got \(3, 3\)"):
        op.mv(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"`v` must have shape \(3, 3\).*got \(5, 3\)"):
        op(jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        lazyjax.ntk_operator(NET.apply, params, x1, batch_size=0)


@pytest.mark.parametrize(
    ("outputs", "batch_size"),
    [("full", None), ("diagonal", 2), ("trace", 1), ("pseudo", 3), (1, 5)],
)
def test_diagonal_is_the_kernels_diagonal(outputs, batch_size, dtype):
    params, x1, _ = problem(dtype)
    diagonal = lazyjax.ntk_diagonal(
        NET.apply, params, x1, outputs=outputs, batch_size=batch_size
    )
    ntk = np.asarray(lazyjax.empirical_ntk(NET.apply, params, x1, outputs=outputs))
    assert diagonal.dtype == dtype
    assert_close(diagonal, ntk[np.arange(5), np.arange(5)])


@pytest.mark.parametrize("method", ["auto", "jacobian"])
def test_layers_sum_to_the_whole_(method, dtype):
    params, x1, x2 = problem(dtype)
    layers = lazyjax.layerwise_ntk(NET.apply, params, x1, x2, method=method)
    assert list(layers) == ["layer_1", "layer_2", "layer_3"]
    assert_close(sum(layers.values()), naive_ntk(NET.apply, params, x1, x2))


@pytest.mark.parametrize(
    "name", ["lora_of_the_weight", "gpt_tied_embeddings", "unused_and_empty_leaves"]
)
def test_layers_that_share_work_have_the_kernels_of_each_alone(name, x64):
    net = ZOO[name]
    params, x = net.params(jnp.float64), net.x(3, 0, jnp.float64)
    layers = lazyjax.layerwise_ntk(net.apply_fn, params, x)
    apart = lazyjax.layerwise_ntk(net.apply_fn, params, x, method="jacobian")
    assert list(layers) == list(apart)
    for layer, kernel in layers.items():
        assert_close(kernel, apart[layer])


def test_each_array_at_the_top_is_a_layer():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    apply_fn = lambda params, x: x @ params["a"] @ params["b"]
    assert list(lazyjax.layerwise_ntk(apply_fn, params, jnp.ones((1, 2)))) == ["a", "b"]


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_kernel_of_a_layer_is_that_of_the_function_of_its_parameters(outputs, x64):
    params, x1, x2 = problem(jnp.float64)
    layers = lazyjax.layerwise_ntk(NET.apply, params, x1, x2, outputs=outputs)

    def of_layer_2(layer, x):
        return NET.apply({**params, "layer_2": layer}, x)

    expected = naive_ntk(of_layer_2, params["layer_2"], x1, x2)
    assert_close(layers["layer_2"], reduce_ntk(expected, outputs))


def test_filter_takes_parameters_by_path(x64):
    params, x1, _ = problem(jnp.float64)
    ntk = lazyjax.empirical_ntk(
        NET.apply, params, x1, filter=lambda path: path == "layer_3/bias"
    )
    # The last bias enters as b_std * b: its kernel is b_std^2 between equal outputs.
    expected = np.broadcast_to(0.25 * np.eye(3), (5, 5, 3, 3))
    assert_close(ntk, expected)


@pytest.mark.usefixtures("own_errors")
def test_filter_that_accepts_nothing_is_refused():
    params, x1, _ = problem(jnp.float32)
    with pytest.raises(ValueError, match=r"`filter` must accept .* layer_1/bias"):
        lazyjax.empirical_ntk(NET.apply, params, x1, filter=lambda path: False)


def test_layer_that_is_not_used_has_kernel_zero():
    apply_fn = lambda params, x: x @ params["used"]["w"]
    params = {"unused": {"w": jnp.ones(2)}, "used": {"w": jnp.ones((4, 1))}}
    layers = lazyjax.layerwise_ntk(apply_fn, params, jnp.ones((2, 4)))
    assert_close(layers["unused"], np.zeros((2, 2, 1, 1), np.float32), "exact")
    assert_close(layers["used"], np.full((2, 2, 1, 1), 4.0))


def test_linearized_network_is_affine_with_the_networks_value_and_kernel(x64):
    params, x1, x2 = problem(jnp.float64)
    linear = lazyjax.linearize(NET.apply, params)
    other = jax.tree.map(lambda p: p + 0.3, params)
    middle = jax.tree.map(lambda p, q: 0.25 * p + 0.75 * q, params, other)
    assert_close(linear(params, x1), NET.apply(params, x1))
    assert_close(
        linear(middle, x1), 0.25 * linear(params, x1) + 0.75 * linear(other, x1)
    )
    assert_close(
        lazyjax.empirical_ntk(linear, other, x1, x2),
        naive_ntk(NET.apply, params, x1, x2),
    )


def test_taylor_error_shrinks_with_the_power_after_the_order(x64):
    params, x1, _ = problem(jnp.float64)
    for order in (0, 1, 2, 3):
        expansion = lazyjax.taylor_expand(NET.apply, params, order=order)
        errors = []
        for step in (1e-1, 5e-2):
            moved = jax.tree.map(lambda p, step=step: p * (1 + step), params)
            exact = NET.apply(moved, x1)
            errors.append(relative_error(expansion(moved, x1), exact))
        slope = np.log2(errors[0] / errors[1])
        assert abs(slope - (order + 1)) < 0.3


def test_taylor_expansion_of_a_polynomial_is_exact_from_its_degree_on(x64):
    cube = lambda w, x: (x @ w) ** 3
    w, moved = jnp.ones((2, 1)), jnp.array([[3.0], [-2.0]])
    x = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    assert_close(lazyjax.taylor_expand(cube, w, order=3)(moved, x), cube(moved, x))
    gap = lazyjax.taylor_expand(cube, w, order=2)(moved, x) - cube(moved, x)
    assert jnp.all(jnp.abs(gap) > 1)


def test_nngp_sample_is_the_product_of_outputs(dtype):
    params, x1, x2 = problem(dtype)
    f1, f2 = (np.asarray(NET.apply(params, x)) for x in (x1, x2))
    nngp = lambda outputs: lazyjax.empirical_nngp(
        NET.apply, params, x1, x2, outputs=outputs
    )
    assert_close(nngp("full"), f1[:, None, :, None] * f2[None, :, None, :])
    assert_close(nngp("diagonal"), f1[:, None] * f2[None])
    assert_close(nngp("trace"), f1 @ f2.T)
    assert_close(nngp("pseudo"), np.outer(f1.sum(1), f2.sum(1)) / 3)
    assert_close(nngp(2), np.outer(f1[:, 2], f2[:, 2]))
