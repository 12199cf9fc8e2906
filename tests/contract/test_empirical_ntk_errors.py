"""What is misused is refused, by a message that names what was wrong."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import lazyjax
from tests.contract import cases
from tests.helpers.zoo_base import relaxed

pytestmark = [
    pytest.mark.usefixtures("own_errors"),
    pytest.mark.parametrize("method", cases.ONE_METHOD),
]

W = jnp.array([[1.0, -0.5], [0.3, 2.0], [0.7, -1.0]])
X = jnp.array([[1.0, 2.0, 0.5], [-0.4, 0.1, 1.5], [0.2, -1.0, 3.0], [2.0, 0.3, -0.6]])


def linear(w, x):
    return x @ w


def ntk(apply_fn, params, x1, x2=None, **options):
    return lazyjax.empirical_ntk(apply_fn, params, x1, x2, **options)


def test_batches_of_other_features_are_refused(method):
    with pytest.raises(ValueError, match=r"`x1` and `x2`.*\(3,\).*\(2,\)"):
        ntk(linear, W, X, X[:, :2], method=method)


def test_batches_of_other_dtypes_are_refused(method):
    with pytest.raises(TypeError, match=r"`x1` and `x2`.*float32.*float16"):
        ntk(linear, W, X, X.astype(jnp.float16), method=method)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_an_empty_batch_is_refused(method, shape):
    empty = jnp.zeros(shape)
    w = jnp.ones((shape[1], 2))
    with pytest.raises(ValueError, match="`x1` must hold at least one"):
        ntk(linear, w, empty, method=method)
    if shape[1]:
        with pytest.raises(ValueError, match="`x2` must hold at least one"):
            ntk(linear, w, X, empty, method=method)


def test_a_scalar_is_not_a_batch(method):
    with pytest.raises(ValueError, match=r"`x1` must be a batch"):
        ntk(lambda w, x: x * w, jnp.ones(()), jnp.ones(()), method=method)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_data_that_are_not_finite_are_refused(method, bad):
    x = X.at[1, 0].set(bad)
    with pytest.raises(ValueError, match="`x1` must be finite"):
        ntk(linear, W, x, method=method)
    with pytest.raises(ValueError, match="`x2` must be finite"):
        ntk(linear, W, X, x, method=method)


def test_nan_that_cannot_be_seen_under_jit_comes_out(method):
    x = X.at[1, 0].set(jnp.nan)
    kernel = jax.jit(lambda x: ntk(linear, W, x, method=method))(x)
    assert jnp.isnan(kernel[1]).all()


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (jnp.arange(3), "int32"),
        (jnp.ones(3, bool), "bool"),
        (jax.random.key(0), "key"),
        (1.5, "float"),
    ],
    ids=["int", "bool", "key", "python"],
)
def test_a_leaf_that_is_not_floating_point_is_named(method, leaf, dtype):
    params = {"dense": [W, {"table": leaf}]}
    with pytest.raises(TypeError, match=rf"dense.*1.*table.*{dtype}"):
        ntk(lambda p, x: x @ p["dense"][0], params, X, method=method)


def test_parameters_without_a_leaf_are_refused(method):
    with pytest.raises(ValueError, match="`params` must hold at least one"):
        ntk(lambda p, x: x, {}, X, method=method)


def test_an_unknown_method_is_refused_and_the_nearest_suggested(method):
    del method
    with pytest.raises(ValueError, match=r"`method`.*'jacobain'.*mean 'jacobian'"):
        ntk(linear, W, X, method="jacobain")


@pytest.mark.parametrize(
    ("outputs", "near"),
    [
        ("diag", "diagonal"),
        ("Trace", "trace"),
        ("ful", "full"),
        ("pseudo_ntk", "pseudo"),
    ],
)
def test_unknown_outputs_are_refused_and_the_nearest_suggested(method, outputs, near):
    with pytest.raises(ValueError, match=rf"`outputs`.*{outputs}.*mean '{near}'"):
        ntk(linear, W, X, method=method, outputs=outputs)


@pytest.mark.parametrize("outputs", [2, -1, -3])
def test_a_class_that_does_not_exist_is_refused(method, outputs):
    with pytest.raises(ValueError, match=rf"`outputs`.*2.*{outputs}"):
        ntk(linear, W, X, method=method, outputs=outputs)


@pytest.mark.parametrize("outputs", [True, 0.0, None, (0, 0.5)])
def test_outputs_of_another_type_are_refused(method, outputs):
    with pytest.raises((TypeError, ValueError), match="`outputs`"):
        ntk(linear, W, X, method=method, outputs=outputs)


@pytest.mark.parametrize(
    "apply_fn",
    [
        lambda w, x: (x @ w)[0],
        lambda w, x: jnp.sum(x @ w),
        lambda w, x: jnp.sum(x @ w, axis=0, keepdims=True),
        lambda w, x: (x @ w)[:, :0],
        lambda w, x: (x @ w).T,
        lambda w, x: jnp.concatenate([x @ w, x @ w]),
    ],
    ids=["row", "scalar", "sum", "no_output", "transposed", "twice"],
)
def test_outputs_that_are_not_one_row_per_example_are_refused(method, apply_fn):
    with pytest.raises(ValueError, match=r"`apply_fn`.*\(n, k\)"):
        ntk(apply_fn, W, X[:3], method=method)


@pytest.mark.parametrize(
    "apply_fn",
    [
        lambda w, x: (x @ w, (x @ w).astype(jnp.int32)),
        lambda w, x: {"logits": x @ w, "loss": jnp.sum(x @ w)},
        lambda w, x: None,
        lambda w, x: {},
        lambda w, x: jnp.round(x @ w).astype(jnp.int32),
    ],
    ids=["tuple", "dict", "none", "empty", "integer"],
)
def test_outputs_that_are_no_numbers_of_each_example_are_refused(method, apply_fn):
    with pytest.raises((TypeError, ValueError), match="`apply_fn`"):
        ntk(apply_fn, W, X, method=method)


def test_a_network_that_ignores_its_parameters_is_refused(method, mode):
    frozen = jnp.ones((3, 2))
    call = mode(lambda p, x: ntk(lambda p, x: x @ frozen, p, x, method=method))
    with pytest.raises(ValueError, match="`params`"):
        call({"w": W}, X)


def _batch_norm(w, x):
    h = x @ w
    return (h - h.mean(axis=0, keepdims=True)) / (h.std(axis=0, keepdims=True) + 0.1)


def _attention_across_examples(w, x):
    h = x @ w
    return jax.nn.softmax(h @ h.T, axis=1) @ h


def _linen_batch_norm(w, x):
    module = nn.BatchNorm(use_running_average=False)
    variables = {
        "params": {"scale": w[0], "bias": w[1]},
        "batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)},
    }

    def apply_fn(variables, x):
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    return relaxed(apply_fn)(variables, x[:, :2])


INTERACTIONS = {
    "batch_norm": _batch_norm,
    "linen_batch_norm": _linen_batch_norm,
    "attention": _attention_across_examples,
    "centred": lambda w, x: x @ w - (x @ w).mean(axis=0, keepdims=True),
    "normalized": lambda w, x: (x @ w) / jnp.linalg.norm(x @ w),
    "running_sum": lambda w, x: jnp.cumsum(x @ w, axis=0),
    "running_sum_from_the_end": lambda w, x: jnp.cumsum((x @ w)[::-1], axis=0)[::-1],
    "neighbour": lambda w, x: x @ w + jnp.roll(x @ w, 2, axis=0),
    "reversed": lambda w, x: (x @ w)[::-1],
    "sorted": lambda w, x: jnp.sort(x @ w, axis=0),
    "weak": lambda w, x: x @ w + 1e-2 * jnp.mean(x @ w, axis=0, keepdims=True),
    "small": lambda w, x: 1e-6 * _batch_norm(w, x),
    "large": lambda w, x: 1e6 * _batch_norm(w, x),
    "last_row": lambda w, x: (x @ w).at[-1].add((x @ w)[0]),
    "one_output": lambda w, x: (x @ w).at[:, 1].add(jnp.mean(x)),
    "place_in_the_batch": lambda w, x: (
        (x @ w) * (1.0 + jnp.arange(x.shape[0], dtype=x.dtype))[:, None]
    ),
}


@pytest.mark.parametrize("apply_fn", INTERACTIONS.values(), ids=INTERACTIONS)
@pytest.mark.sampled(5)
def test_rows_that_interact_are_refused(method, apply_fn):
    with pytest.raises(ValueError, match=r"`apply_fn`.*rows"):
        ntk(apply_fn, W, X, method=method)


@pytest.mark.parametrize("name", ["batch_norm", "centred", "attention", "running_sum"])
@pytest.mark.sampled(2)
def test_rows_of_the_second_batch_that_interact_are_refused(method, name):
    """The first holds one example, so that nothing can be seen in it."""
    with pytest.raises(ValueError, match=r"`apply_fn`.*rows"):
        ntk(INTERACTIONS[name], W, X[:1], X[1:], method=method)


def test_rows_that_interact_only_in_the_gradient_are_refused(method):
    """The value of each row is its own; its gradient is that of the batch."""

    def apply_fn(w, x):
        mean = jnp.mean(x @ w, axis=0, keepdims=True)
        return x @ w + mean - jax.lax.stop_gradient(mean)

    with pytest.raises(ValueError, match=r"`apply_fn`.*rows"):
        ntk(apply_fn, W, X, method=method)


def test_what_is_not_an_array_is_refused(method):
    with pytest.raises((TypeError, ValueError), match="`x1`"):
        ntk(linear, W, [[1.0, 2.0, 3.0]], method=method)
    with pytest.raises((TypeError, ValueError), match="`x2`"):
        ntk(linear, W, X, [[1.0, 2.0, 3.0]], method=method)
    with pytest.raises((TypeError, ValueError), match="`apply_fn`"):
        ntk(W, linear, X, method=method)


def test_outputs_that_close_over_a_batch_are_refused(method):
    x = jnp.ones((3, 2))
    at_start = x @ jnp.ones((2, 1))
    with pytest.raises(ValueError, match=r"for one row it returned shape \(3, 1\)"):
        lazyjax.empirical_ntk(
            lambda w, x: x @ w - at_start, jnp.ones((2, 1)), x, method=method
        )
