"""Batches that are trees of arrays: independence of rows, verbs, training, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import dual_params, observers, train_on_batches
from lazyjax.ntk.requests.row_check import rows_are_proven
from lazyjax.spectrum import eigh
from tests.helpers.compare import assert_close, assert_trees_close
from tests.helpers.zoo_forms import FORMS, batches

pytestmark = pytest.mark.once

# A network of a tree, and the same of one array that holds both of its leaves.
W = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)}
W["v"] = W["w"][:, :2] * jnp.float32(0.7)
X = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
TREE = {"features": X[:, :3], "scale": X[:, 3]}


def of_tree(p, x):
    return jnp.tanh(x["features"] @ p["w"])[:, :3] @ p["v"] * x["scale"][:, None]


def of_array(p, x):
    return of_tree(p, {"features": x[:, :3], "scale": x[:, 3]})


def rows(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


# Independence of rows.


@pytest.mark.parametrize("name", FORMS)
def test_networks_of_trees_have_independent_rows(name):
    net = FORMS[name]
    x, _ = batches(name, "float32")
    lazyjax.empirical_ntk(net.apply_fn, net.params(), x, outputs="trace")


def test_rows_of_trees_are_proven_independent():
    assert rows_are_proven(of_tree, W, TREE)
    net = FORMS["transformer_of_masked_sentences"]
    assert rows_are_proven(net.apply_fn, net.params(), batches(net.name, "float32")[0])


INTERACTING = {
    "mean_of_the_other_leaf": lambda p, x: of_tree(p, x) * x["scale"].mean(),
    "other_row_of_the_other_leaf": lambda p, x: of_tree(
        p, x | {"scale": x["scale"][::-1]}
    ),
    "softmax_over_examples": lambda p, x: of_tree(
        p, x | {"scale": jax.nn.softmax(x["scale"])}
    ),
    "one_of_two_outputs": lambda p, x: {
        "fine": of_tree(p, x),
        "mixed": of_tree(p, x) - of_tree(p, x).mean(0)[None],
    },
}


@pytest.mark.parametrize("name", INTERACTING)
def test_rows_of_trees_that_interact_are_refused(name):
    with pytest.raises(ValueError, match="rows of `x` independently"):
        lazyjax.empirical_ntk(INTERACTING[name], W, TREE)


def test_graphs_whose_edges_lead_from_one_to_another_are_refused():
    """Padded graphs that are one graph of all nodes: edges count over the batch."""

    def apply_fn(p, x):
        n, m, _ = x["nodes"].shape
        nodes = (x["nodes"] @ p).reshape(n * m, -1)
        sent = nodes[x["edges"][..., 0].ravel()]
        received = jax.ops.segment_sum(sent, x["edges"][..., 1].ravel(), n * m)
        return jnp.tanh(received).reshape(n, m, -1).sum(1)

    rng = np.random.default_rng(0)
    x = {
        "nodes": rng.normal(size=(3, 4, 2)).astype(np.float32),
        "edges": rng.integers(0, 12, size=(3, 6, 2)).astype(np.int32),
    }
    with pytest.raises(ValueError, match="rows of `x` independently"):
        lazyjax.empirical_ntk(apply_fn, jnp.ones((2, 3)), x)


# Verbs.


def test_kernels_of_a_tree_are_those_of_one_array():
    x1, x2 = X[:4], X[4:]
    t1, t2 = rows(TREE, slice(4)), rows(TREE, slice(4, None))
    for method in ("structured", "jacobian", "vjp"):
        for outputs in ("full", "trace", "flat"):
            options: dict[str, Any] = {"method": method, "outputs": outputs}
            kernel = lazyjax.empirical_ntk(of_tree, W, t1, t2, **options)
            assert_close(
                kernel, lazyjax.empirical_ntk(of_array, W, x1, x2, **options), 1e-6
            )
    cross = lazyjax.empirical_ntk((of_tree, of_array), W, t1, x2)
    assert_close(cross, lazyjax.empirical_ntk(of_array, W, x1, x2), 1e-6)
    diagonal = lazyjax.ntk_diagonal(of_tree, W, TREE, batch_size=3)
    assert_close(diagonal, lazyjax.ntk_diagonal(of_array, W, X), 1e-6)
    blocks = lazyjax.ntk_blocks({"t": (of_tree, t1), "a": (of_array, x2)}, W)
    assert_close(blocks["t", "a"], cross, 1e-6)
    operator = lazyjax.ntk_operator(of_tree, W, TREE, batch_size=2)
    v = np.cos(np.arange(14, dtype=np.float32))
    assert_close(operator @ v, lazyjax.ntk_operator(of_array, W, X) @ v, 1e-6)
    assert_close(eigh(operator).values, eigh(operator.as_matrix()).values, 1e-6)
    assert str(lazyjax.ntk_plan(of_tree, W, TREE)) == str(
        lazyjax.ntk_plan(lambda p, x: of_tree(p, x), W, TREE)
    )


def test_kernel_of_a_tree_is_compiled_once():
    calls = []

    def counted(p, x):
        calls.append(x)
        return of_tree(p, x)

    first = lazyjax.empirical_ntk(counted, W, TREE)
    number = len(calls)
    second = lazyjax.empirical_ntk(counted, W, rows(TREE, slice(None, None, -1)))
    assert len(calls) == number
    assert_close(second, first[::-1, ::-1], 1e-6)


def test_training_on_a_tree_is_training_on_one_array():
    y = np.sin(X[:, :2])
    observe = [observers.ntk_drift, observers.residual_norm]
    options = {"optimizer": optax.sgd(0.05, momentum=0.5), "num_steps": 6}
    more = {"batch_size": 3, "key": jax.random.key(0), "eval_batch_size": 2}
    runs = [
        lazyjax.train(fn, W, x, y, observe=observe, **options, **more)
        for fn, x in ((of_tree, TREE), (of_array, X))
    ]
    assert_trees_close(runs[0].params, runs[1].params, 1e-5)
    assert_trees_close(runs[0].observations, runs[1].observations, 1e-4)
    batched = [
        train_on_batches(fn, W, [(x, y)] * 6, **options)
        for fn, x in ((of_tree, TREE), (of_array, X))
    ]
    assert_trees_close(batched[0].params, batched[1].params, 1e-5)
    linear = lazyjax.linearize(of_tree, W)
    assert_close(
        linear(runs[0].params, TREE),
        lazyjax.linearize(of_array, W)(runs[0].params, X),
        1e-5,
    )
    dual = jnp.ones((7, 2))
    assert_trees_close(
        dual_params(of_tree, W, TREE, dual), dual_params(of_array, W, X, dual), 1e-5
    )


def test_mean_kernels_over_initializations_of_networks_of_trees():
    def init(key, x):
        del x
        return jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), W)

    options = {"key": jax.random.key(0), "num_seeds": 3}
    means = [
        lazyjax.monte_carlo_ntk(fn, init, x, **options).mean
        for fn, x in ((of_tree, TREE), (of_array, X))
    ]
    assert_close(means[0], means[1], 1e-5)


def test_taylor_polynomials_keep_the_form_of_outputs():
    net = FORMS["three_heads"]
    params, (x, _) = net.params(), batches(net.name, "float32")
    linear = lazyjax.linearize(net.apply_fn, params)
    assert_trees_close(linear(params, x), net.apply_fn(params, x), 1e-6)
    assert jax.tree.structure(linear(params, x)) == jax.tree.structure(
        net.apply_fn(params, x)
    )


# Refusals.

REFUSED = {
    "rows that differ": (
        {"a": X, "b": X[:3]},
        ValueError,
        r"`x1\['a'\]` has 7 rows, and `x1\['b'\]` 3.*arguments are swapped",
    ),
    "no array": ({"a": {}, "b": None}, ValueError, "must hold at least one array"),
    "a number": (
        {"a": X, "b": 1.0},
        TypeError,
        r"`x1\['b'\]` must be an array; got float",
    ),
    "a scalar": (
        {"a": X, "b": jnp.ones(())},
        ValueError,
        r"`x1\['b'\]` must be a batch",
    ),
    "no rows": ({"a": X[:0], "b": X[:0]}, ValueError, "at least one example"),
    "names": (
        {"a": X, "b": ["x"] * 7},
        TypeError,
        r"`x1\['b'\]\[0\]` must be an array",
    ),
    "not finite": (
        {"a": X, "b": X * np.nan},
        ValueError,
        r"`x1\['b'\]` must be finite",
    ),
    "a list of lists": ([[1.0, 2.0]], TypeError, "`x1` must be an array; got list"),
}


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize("name", REFUSED)
def test_trees_that_are_no_batch_are_refused(name):
    x, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        lazyjax.empirical_ntk(lambda p, x: x["a"] @ p["w"].T, W, x)


@pytest.mark.usefixtures("own_errors")
def test_two_trees_of_different_form_are_refused():
    with pytest.raises(ValueError, match="`x1` and `x2` must be of the same structure"):
        lazyjax.empirical_ntk(of_tree, W, TREE, {"features": X[:, :3]})
    wider = TREE | {"features": X}
    with pytest.raises(ValueError, match=r"`x1\['features'\]` and `x2\['features'\]`"):
        lazyjax.empirical_ntk(of_tree, W, TREE, wider)
    with pytest.raises(TypeError, match=r"must have the same dtype.*float32 and int32"):
        lazyjax.empirical_ntk(
            of_tree, W, TREE, TREE | {"scale": np.arange(7, dtype="i4")}
        )


@pytest.mark.usefixtures("own_errors")
def test_outputs_that_do_not_count_examples_are_named():
    for f, match in (
        (
            lambda p, x: {"a": of_tree(p, x), "b": x["scale"].sum()},
            r"got \(\), at `f\['b'\]`",
        ),
        (lambda p, x: {"a": of_tree(p, x), "b": p["w"]}, r"\(3, 4\), at `f\['b'\]`"),
    ):
        with pytest.raises(ValueError, match=match):
            lazyjax.empirical_ntk(f, W, TREE)
    other = lambda p, x: (of_tree(p, x), of_tree(p, x))
    with pytest.raises(ValueError, match="are of one form"):
        lazyjax.empirical_ntk(
            (other, lambda p, x: jnp.tile(of_tree(p, x), (1, 2))),
            W,
            TREE,
            outputs="diagonal",
        )
    for index in (4, -1):
        with pytest.raises(ValueError, match=r"must be in 0\.\.3"):
            lazyjax.empirical_ntk(other, W, TREE, outputs=index)
