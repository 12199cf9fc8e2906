"""Equinox models through the adapter: right kernels, frozen state, nothing recompiled."""

import sys
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.interop.equinox import from_equinox
from lazyjax.interop.flax import from_linen, from_nnx
from tests.helpers import batch_norm_mlp as bn
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.oracles import naive_ntk


@pytest.fixture(autouse=True)
def default_promotion():
    """Equinox relies on JAX's own promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def adapt(w=None, stats=None):
    parts = (w or bn.weights(), stats or bn.statistics())
    return from_equinox(*bn.equinox_model_and_state(*parts))


def test_kernel_is_that_of_the_formula_and_of_flax(x64):
    w, stats = bn.weights(), bn.statistics()
    x1, x2 = bn.inputs(4), bn.inputs(3, seed=1)
    expected = naive_ntk(bn.plain(stats), w, x1, x2)
    for apply_fn, params in (
        adapt(w, stats),
        from_nnx(bn.NNXMLP(w, stats)),
        from_linen(bn.LinenMLP(), bn.linen_variables(w, stats), train=False),
    ):
        assert_close(lazyjax.empirical_ntk(apply_fn, params, x1, x2), expected)


def test_structured_method_takes_the_model_apart(x64):
    apply_fn, params = adapt()
    ntk = lazyjax.empirical_ntk(apply_fn, params, bn.inputs(), method="structured")
    assert_close(ntk, naive_ntk(bn.plain(bn.statistics()), bn.weights(), bn.inputs()))


def test_other_state_gives_another_function_and_kernel(x64):
    x = bn.inputs()
    functions, kernels = [], []
    for seed in (0, 1):
        stats = bn.statistics(seed)
        apply_fn, params = adapt(stats=stats)
        functions.append(apply_fn)
        kernels.append(lazyjax.empirical_ntk(apply_fn, params, x))
    assert_close(kernels[1], naive_ntk(bn.plain(bn.statistics(1)), bn.weights(), x))
    assert functions[0] != functions[1]
    assert relative_error(*kernels) > 0.1


def test_default_batch_norm_is_put_into_inference_mode():
    """Its statistics are debiased by a counter, which is an integer of the state."""
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    assert norm.batch_counter is not None
    assert norm.batch_state_index is not None
    state = state.set(norm.batch_counter, jnp.array(1))
    hidden = (0.01 * jnp.arange(3.0), 0.01 * jnp.arange(1.0, 4.0))
    state = state.set(norm.batch_state_index, hidden)
    apply_fn, params = from_equinox(norm, state)
    x = bn.inputs()
    # After one step with momentum 0.99, the statistics are a hundred times the hidden.
    expected = (x - jnp.arange(3.0)) / jnp.sqrt(jnp.arange(1.0, 4.0) + norm.eps)
    assert_close(apply_fn(params, x), expected, 1e-4)


class Model(eqx.Module):
    """Convolution, embedding, dropout; an integer leaf, a number, a key."""

    conv: eqx.nn.Conv1d
    layers: list
    dropout: eqx.nn.Dropout
    shift: jax.Array
    key: jax.Array
    activation: Callable
    scale: float = 2.0
    traces: ClassVar[list] = []

    def __init__(self, num_outputs=2, scale=2.0):
        keys = jax.random.split(jax.random.key(0), 2)
        self.conv = eqx.nn.Conv1d(2, 3, 2, key=keys[0])
        self.layers = [jnp.ravel, eqx.nn.Linear(9, num_outputs, key=keys[1])]
        self.dropout = eqx.nn.Dropout(0.5)
        self.shift = jnp.arange(3)
        self.key = jax.random.key(5)
        self.activation = jnp.tanh
        self.scale = scale

    def __call__(self, x, key=None):
        self.traces.append(1)
        x = self.activation(self.conv(x)) + self.shift[:, None]
        x = x + jax.random.uniform(self.key, (3, 3), jnp.float32)
        for layer in self.layers:
            x = self.dropout(layer(x), key=key)
        return self.scale * x

    def first(self, x):
        return self(x)[0]


def inputs(n=3):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, 2, 4)), jnp.float32)


def by_hand(params, x):
    model = eqx.combine(params, eqx.partition(Model(), eqx.is_inexact_array)[1])
    model = eqx.tree_at(lambda m: m.dropout.inference, model, True)
    return jnp.stack([model(row) for row in x])


def test_kernel_of_convolution_and_frozen_leaves():
    model = Model()
    apply_fn, params = from_equinox(model)
    assert params.shift is None
    assert params.key is None
    expected = naive_ntk(by_hand, params, inputs())
    assert_close(lazyjax.empirical_ntk(apply_fn, params, inputs()), expected, 1e-5)
    assert not model.dropout.inference


class BagOfWords(eqx.Module):
    embedding: eqx.nn.Embedding

    def __call__(self, tokens):
        return jax.vmap(self.embedding)(tokens).sum(axis=0)


def test_kernel_of_an_embedding_counts_shared_tokens():
    tokens = jnp.array([[0, 1, 1], [1, 1, 4], [2, 3, 2]])
    counts = np.eye(5)[np.asarray(tokens)].sum(axis=1)
    expected = (counts @ counts.T)[..., None, None] * np.eye(3)
    assert_close(
        lazyjax.empirical_ntk(
            *from_equinox(BagOfWords(eqx.nn.Embedding(5, 3, key=jax.random.key(0)))),
            tokens,
        ),
        expected,
    )


def test_layers_go_by_readable_paths():
    layers = lazyjax.layerwise_ntk(*from_equinox(Model()), inputs())
    assert list(layers) == ["conv", "layers/1"]


def test_adapting_again_after_a_step_does_not_trace_again():
    model = Model()
    lazyjax.empirical_ntk(*from_equinox(model), inputs())
    before = len(Model.traces)
    assert before > 0
    model = eqx.tree_at(lambda m: m.conv.weight, model, replace_fn=lambda w: 2 * w)
    apply_fn, params = from_equinox(model)
    ntk = lazyjax.empirical_ntk(apply_fn, params, inputs())
    assert len(Model.traces) == before
    assert_close(ntk, naive_ntk(by_hand, params, inputs()), 1e-5)


def test_whatever_differs_makes_another_function():
    model = Model()
    replace = lambda where, value: eqx.tree_at(where, model, value)
    functions = [
        from_equinox(model)[0],
        from_equinox(model, key=None)[0],
        from_equinox(model, method="first")[0],
        from_equinox(model, batched=True)[0],
        from_equinox(model, filter_spec=lambda leaf: leaf is model.conv.weight)[0],
        from_equinox(Model(scale=3.0))[0],
        from_equinox(Model(num_outputs=3))[0],
        from_equinox(replace(lambda m: m.shift, jnp.arange(1, 4)))[0],
        from_equinox(replace(lambda m: m.key, jax.random.key(6)))[0],
        from_equinox(replace(lambda m: m.activation, jnp.sin))[0],
    ]
    assert len(set(functions)) == len(functions)
    assert from_equinox(Model())[0] == functions[0]


def test_scalar_output_is_a_column_and_methods_are_found():
    x = inputs()
    apply_fn, params = from_equinox(Model())
    for method in ("first", Model.first):
        first, _ = from_equinox(Model(), method=method)
        assert_close(first(params, x), apply_fn(params, x)[:, :1])


def test_model_of_batches_is_called_once():
    single = Model()

    class Batched(eqx.Module):
        inner: Model

        def __call__(self, x):
            return jax.vmap(self.inner)(x)

    apply_fn, params = from_equinox(Batched(single), batched=True)
    expected, single_params = from_equinox(single)
    assert_close(apply_fn(params, inputs()), expected(single_params, inputs()))


def test_filter_spec_selects_parameters():
    model = Model()
    spec = jax.tree.map(lambda leaf: False, model)
    spec = eqx.tree_at(lambda m: m.layers[1].bias, spec, True)
    apply_fn, params = from_equinox(model, filter_spec=spec)
    expected = np.broadcast_to(4.0 * np.eye(2), (3, 3, 2, 2))
    assert_close(lazyjax.empirical_ntk(apply_fn, params, inputs()), expected)


@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named():
    model, state = bn.equinox_model_and_state(bn.weights(), bn.statistics())
    for args, kwargs, message in [
        (((model, state),), {}, "`model` must be .* tuple. Pass a model and its state"),
        ((lambda x: x,), {}, "`model` must be an Equinox module; got .* function"),
        ((model,), {}, "`state` must be given: `model` has layers with a state"),
        ((Model(),), {"filter_spec": False}, "`filter_spec` must select at least one"),
        (
            (Model(),),
            {"filter_spec": eqx.is_array},
            "`model.shift` must be a real floating",
        ),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            from_equinox(*args, **kwargs)
    apply_fn, params = from_equinox(Model(), state, method=lambda m, x, s: m(x))
    with pytest.raises(TypeError, match=r"return the pair `\(f, state\)`.* got "):
        apply_fn(params, inputs())


def test_complex_parameter_is_named():
    model = eqx.nn.Linear(3, 2, dtype=jnp.complex64, key=jax.random.key(0))
    with pytest.raises(
        TypeError, match=r"`model.weight` must be a real float.* complex64"
    ):
        from_equinox(model)


def test_without_equinox_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    monkeypatch.delitem(sys.modules, "lazyjax.interop.equinox")
    with pytest.raises(ImportError, match=r"needs Equinox: pip install equinox"):
        __import__("lazyjax.interop.equinox")
