"""Flax models through the adapters: right kernels, frozen state, nothing recompiled."""

from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lazyjax
from lazyjax.interop.flax import from_linen, from_nnx
from tests.helpers import batch_norm_mlp as bn
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.oracles import naive_ntk


@pytest.fixture(autouse=True)
def default_promotion():
    """Flax relies on JAX's own promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def linen(w=None, stats=None):
    w, stats = w or bn.weights(), stats or bn.statistics()
    return from_linen(bn.LinenMLP(), bn.linen_variables(w, stats), train=False)


def nnx_(w=None, stats=None):
    return from_nnx(bn.NNXMLP(w or bn.weights(), stats or bn.statistics()))


BOTH = pytest.mark.parametrize("adapt", [linen, nnx_])


@BOTH
def test_kernel_is_that_of_the_formula_with_frozen_statistics(adapt, x64):
    x1, x2 = bn.inputs(4), bn.inputs(3, seed=1)
    expected = naive_ntk(bn.plain(bn.statistics()), bn.weights(), x1, x2)
    apply_fn, params = adapt()
    assert_close(lazyjax.empirical_ntk(apply_fn, params, x1, x2), expected)
    structured = lazyjax.empirical_ntk(apply_fn, params, x1, x2, method="structured")
    assert_close(structured, expected)


@BOTH
def test_other_parameters_are_used(adapt, x64):
    apply_fn, params = adapt()
    other = adapt(w=bn.weights(1))[1]
    x = bn.inputs()
    expected = bn.plain(bn.statistics())(bn.weights(1), x)
    assert_close(apply_fn(other, x), expected)
    assert relative_error(apply_fn(params, x), expected) > 0.1


@BOTH
def test_other_statistics_give_another_function_and_kernel(adapt, x64):
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


def test_layers_go_by_readable_paths():
    apply_fn, params = linen()
    layers = lazyjax.layerwise_ntk(apply_fn, params, bn.inputs())
    assert list(layers) == ["first", "last", "norm"]


@BOTH
def test_other_verbs_take_the_function_too(adapt, x64):
    apply_fn, params = adapt()
    x, y = bn.inputs(), jnp.ones((4, 2))
    plain, w = bn.plain(bn.statistics()), bn.weights()
    ntk = naive_ntk(plain, w, x)
    product = lazyjax.ntk_operator(apply_fn, params, x)(y)
    assert_close(product, ntk.sum(axis=(1, 3)))
    run = lazyjax.train(apply_fn, params, x, y, optimizer=optax.sgd(0.01), num_steps=3)
    loss = lambda w: jnp.sum((plain(w, x) - y) ** 2) / 2
    for _ in range(3):
        w = jax.tree.map(lambda p, g: p - 0.01 * g, w, jax.grad(loss)(w))
    assert_close(run.loss[-1], loss(w))


class Embedded(nn.Module):
    """Embedding, convolution, group norm, an integer and a Python-number parameter."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Conv(4, (2,))(nn.Embed(6, 3)(tokens))
        x = nn.tanh(nn.GroupNorm(num_groups=2)(x))
        shift = self.param("shift", lambda key: jnp.arange(4, dtype=jnp.int32))
        gain = self.param("gain", lambda key: 1.5)
        return nn.Dense(2)((gain * x + shift).mean(axis=1))


def test_kernel_of_tokens_and_frozen_integers(x64):
    tokens = jnp.array([[0, 1, 1, 5], [2, 2, 3, 0], [4, 5, 0, 1]])
    variables = Embedded().init(jax.random.key(0), tokens)
    apply_fn, params = from_linen(Embedded(), variables)
    assert params["shift"] is None
    assert params["gain"] == 1.5

    def by_hand(p, tokens):
        full = {**p, "shift": jnp.arange(4, dtype=jnp.int32)}
        return Embedded().apply({"params": full}, tokens)

    trained = {k: v for k, v in variables["params"].items() if k != "shift"}
    expected = naive_ntk(by_hand, trained, tokens)
    # These parameters are float32.
    assert_close(lazyjax.empirical_ntk(apply_fn, params, tokens), expected, 1e-5)


class Counted(nn.Module):
    """Counts how often it is traced."""

    features: Any = 2
    constant: Any = None
    traces = 0

    @nn.compact
    def __call__(self, x, offset=0.0, train=True):
        type(self).traces += 1
        x = nn.Dropout(0.5, deterministic=not train)(x)
        if self.constant is not None:
            x = x * jnp.asarray(self.constant)
        return nn.Dense(self.features)(x) + offset

    def first(self, x, **kwargs):
        return self(x, **kwargs)[:, 0]


def counted(module=None, **kwargs):
    module = module or Counted()
    variables = module.init(jax.random.key(0), jnp.ones((1, 3)), train=False)
    return from_linen(module, variables, **{"train": False, **kwargs})


def traces_of(apply_fn, params, x=None):
    before = Counted.traces
    lazyjax.empirical_ntk(apply_fn, params, bn.inputs() if x is None else x)
    return Counted.traces - before


def test_adapting_again_does_not_trace_again():
    apply_fn, params = counted(offset=jnp.ones(2))
    assert traces_of(apply_fn, params) > 0
    again, _ = counted(offset=jnp.ones(2))
    assert again == apply_fn
    assert hash(again) == hash(apply_fn)
    assert traces_of(again, params) == 0


def test_whatever_differs_makes_another_function():
    keys = [jax.random.key(seed) for seed in (0, 1)]
    options = [
        *({"offset": fill * jnp.ones(2)} for fill in (1, 2)),
        *({"offset": np.full(2, fill, np.float32)} for fill in (1, 2)),
        {"offset": jnp.ones((1, 2))},
        *({"offset": offset} for offset in (1.0, 1, True)),
        *({"train": True, "rngs": {"dropout": key}} for key in keys),
        {"module": Counted(features=3)},
        {"method": "first"},
        {"batched": False},
    ]
    adapted = lambda: [counted(**option)[0] for option in options]
    functions = adapted()
    assert len(set(functions)) == len(options)
    assert adapted() == functions


def test_unhashable_module_compiles_once_per_adaptation():
    constant = np.full(3, 2.0, np.float32)
    module = Counted(constant=constant)
    with pytest.raises(TypeError):
        hash(module)
    apply_fn, params = counted(module)
    assert traces_of(apply_fn, params) > 0
    assert traces_of(apply_fn, params) == 0
    assert traces_of(*counted(module)) > 0


def test_frozen_arrays_are_copies():
    offset = np.ones(2, np.float32)
    apply_fn, params = counted(offset=offset)
    f = apply_fn(params, bn.inputs())
    offset[:] = 7.0
    assert_close(apply_fn(params, bn.inputs()), f, "exact")


def test_function_outlives_the_buffers_of_the_model_it_was_made_from():
    """Training with donated buffers deletes them."""
    stats = bn.statistics()
    apply_fn, params = linen(stats=stats)
    expected, _ = linen()
    jax.tree.map(lambda leaf: leaf.delete(), stats)
    f = apply_fn(params, bn.inputs())
    assert_close(f, expected(params, bn.inputs()), "exact")


def test_vmap_over_models_is_a_loop():
    """Statistics are traced here, so they cannot be compared."""
    models = [(bn.weights(s), bn.statistics(s)) for s in (0, 1)]
    x = bn.inputs()
    ntk = lambda w, stats: lazyjax.empirical_ntk(*linen(w, stats), x)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    expected = jnp.stack([ntk(*model) for model in models])
    assert_close(jax.vmap(ntk)(*stacked), expected)


def test_rngs_fix_one_mask_for_all_examples():
    key = jax.random.key(3)
    apply_fn, params = counted(train=True, rngs={"dropout": key})
    x = jnp.tile(bn.inputs(1), (5, 1))
    f = np.asarray(apply_fn(params, x))
    assert_close(f, np.broadcast_to(f[:1], f.shape), "exact")
    ntk = lazyjax.empirical_ntk(apply_fn, params, x, filter=lambda p: "kernel" in p)
    # Each feature is dropped or doubled: the kernel is <mask x, mask x> on the diagonal.
    dropped = 4 * np.asarray(x[0]) ** 2
    subsets = [sum(dropped[list(s)]) for s in ([0], [1], [2], [0, 1], [0, 2], [1, 2])]
    subsets += [0.0, dropped.sum()]
    assert min(abs(ntk[0, 1, 0, 0] - value) for value in subsets) < 1e-4
    assert ntk[0, 0, 0, 1] == 0


@pytest.mark.parametrize("method", ["first", Counted.first])
def test_linen_method_with_one_number_per_example_is_a_column(method):
    apply_fn, params = counted(method=method)
    x = bn.inputs()
    f = apply_fn(params, x)
    assert_close(f, counted()[0](params, x)[:, :1])
    assert lazyjax.empirical_ntk(apply_fn, params, x).shape == (4, 4, 1, 1)


def test_module_of_one_example_is_mapped_over_the_batch():
    module = nn.Sequential([jnp.ravel, nn.Dense(3)])
    x = jnp.arange(12.0).reshape(2, 2, 3)
    apply_fn, params = from_linen(
        module, module.init(jax.random.key(0), x[0]), batched=False
    )
    kernel = params["layers_1"]["kernel"]
    assert_close(apply_fn(params, x), x.reshape(2, 6) @ kernel)


def test_boxed_parameters_and_frozen_dicts_become_plain_dicts():
    init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    module = nn.Dense(2, kernel_init=init)
    variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
    apply_fn, params = from_linen(module, flax.core.freeze(variables))
    assert jax.tree.map(jnp.shape, params) == {"bias": (2,), "kernel": (3, 2)}
    assert_close(apply_fn(params, jnp.ones((1, 3))), np.full((1, 2), 3.0))


def bad_linen():
    module, variables = bn.LinenMLP(), bn.linen_variables(bn.weights(), {})
    integers = {"params": {"w": jnp.ones(2, int)}}
    complexes = {"params": {"a": {"w": jnp.ones(2, complex)}}}
    return [
        (from_linen, (bn.LinenMLP, variables), {}, "got the class LinenMLP"),
        (from_linen, (nnx.Rngs(0), {}), {}, "`module` must be .*got Rngs"),
        (
            from_linen,
            (bn.NNXMLP(bn.weights(), bn.statistics()), variables),
            {},
            "got NNXMLP. Use `from_nnx`",
        ),
        (from_linen, (module, [1]), {}, "`variables` must be a mapping.*got list"),
        (
            from_linen,
            (module, variables["params"]),
            {},
            "`variables` must hold the collection \"params\"; got 'first', .*Parameters "
            "alone are",
        ),
        (from_linen, (module, integers), {}, 'params"]` must hold at least one array'),
        (
            from_linen,
            (module, complexes),
            {},
            r"`variables\[\"params\"\]\['a'\]\['w'\]` must be a real floating.*complex64",
        ),
        (
            from_linen,
            (module, variables),
            {"mutable": ["batch_stats"]},
            "`mutable` must not be given",
        ),
        (
            from_linen,
            (module, variables),
            {"rngs": jax.random.key(0)},
            "`rngs` must be a mapping",
        ),
        (from_nnx, (module,), {}, "got LinenMLP. Use `from_linen`"),
        (from_nnx, (bn.NNXMLP,), {}, "got the class NNXMLP"),
        (
            from_nnx,
            (bn.NNXMLP(bn.weights(), bn.statistics()),),
            {"wrt": nnx.LoRAParam},
            "`wrt` must select .*LoRAParam.* selects none",
        ),
    ]


@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named():
    for adapt, args, kwargs, message in bad_linen():
        with pytest.raises((TypeError, ValueError), match=message):
            adapt(*args, **kwargs)


@pytest.mark.usefixtures("own_errors")
def test_training_mode_of_linen_is_refused():
    variables = bn.linen_variables(bn.weights(), bn.statistics())
    apply_fn, params = from_linen(bn.LinenMLP(), variables)
    with pytest.raises(ValueError, match=r"`module` updates a collection.*train=False"):
        lazyjax.empirical_ntk(apply_fn, params, bn.inputs())
    apply_fn, params = counted(train=True)
    with pytest.raises(ValueError, match=r"asks for a random stream.*train=False"):
        lazyjax.empirical_ntk(apply_fn, params, bn.inputs())


class NNXStack(nnx.Module):
    """Layers in a list, an integer parameter, an array, a random stream, a number."""

    traces = 0

    def __init__(self, scale=2.0):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List(
            [nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(2, use_scale=False, use_bias=False, rngs=rngs)
        self.shift = nnx.Param(jnp.arange(4))
        self.table = jnp.ones(2)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.scale = scale

    def __call__(self, x, train=False):
        type(self).traces += 1
        x = self.dropout(jnp.tanh(self.layers[0](x)) + self.shift)
        x = self.layers[1](x)
        if train:
            x = self.norm(x, use_running_average=False)
        return self.scale * self.table * x

    def first(self, x):
        return self(x)[..., 0]


def test_nnx_model_is_left_as_it_is():
    model = NNXStack()
    model.train()
    before = nnx.to_pure_dict(nnx.state(model))
    apply_fn, params = from_nnx(model)
    lazyjax.empirical_ntk(apply_fn, params, bn.inputs())
    after = nnx.to_pure_dict(nnx.state(model))
    assert not model.dropout.deterministic
    assert not model.norm.use_running_average
    same = jax.tree.map(lambda a, b: a is b, before, after)
    assert jax.tree.all(same)


def test_nnx_function_is_left_as_it_is_when_the_model_changes():
    model = NNXStack()
    apply_fn, params = from_nnx(model)
    f = apply_fn(params, bn.inputs())
    model.layers[0].kernel[...] = jnp.zeros((3, 4))
    model.scale = 5.0
    model.table = jnp.zeros(2)
    assert_close(apply_fn(params, bn.inputs()), f, "exact")
    assert from_nnx(model)[0] != apply_fn


def test_nnx_parameters_are_floating_arrays_with_plain_paths():
    _, params = from_nnx(NNXStack())
    assert jax.tree.map(jnp.shape, params) == {
        "layers": {
            0: {"kernel": (3, 4), "bias": (4,)},
            1: {"kernel": (4, 2), "bias": (2,)},
        },
        "shift": None,
    }
    apply_fn, params = from_nnx(NNXStack())
    layers = lazyjax.layerwise_ntk(apply_fn, params, bn.inputs())
    assert list(layers) == ["layers/0", "layers/1"]


def test_adapting_nnx_again_after_a_step_does_not_trace_again():
    model = NNXStack()
    x = bn.inputs()
    lazyjax.empirical_ntk(*from_nnx(model), x)
    before = NNXStack.traces
    model.layers[0].kernel[...] = 2 * model.layers[0].kernel[...]
    apply_fn, params = from_nnx(model)
    ntk = lazyjax.empirical_ntk(apply_fn, params, x)
    assert NNXStack.traces == before
    assert_close(ntk, naive_ntk(apply_fn, params, x), 1e-5)


def test_nnx_options_reach_the_call():
    model = NNXStack()
    x = bn.inputs()
    apply_fn, params = from_nnx(model)
    for method in ("first", NNXStack.first):
        first, _ = from_nnx(model, method=method)
        assert_close(first(params, x), apply_fn(params, x)[:, :1])
    single, _ = from_nnx(model, batched=False)
    assert_close(single(params, x), apply_fn(params, x))


def test_wrt_selects_variables():
    model = nnx.LoRALinear(3, 2, lora_rank=1, rngs=nnx.Rngs(0))
    model.lora.lora_b[...] = jnp.ones((1, 2))
    apply_fn, params = from_nnx(model, wrt=nnx.LoRAParam)
    assert jax.tree.map(jnp.shape, params) == {
        "lora": {"lora_a": (3, 1), "lora_b": (1, 2)}
    }
    x = bn.inputs()
    # f = x W + x A B with B of ones: each output has the gradient x in A, and its own
    # entry of B has x A.
    down = x @ model.lora.lora_a[...]
    expected = (x @ x.T)[..., None, None] + (down @ down.T)[..., None, None] * np.eye(2)
    assert_close(lazyjax.empirical_ntk(apply_fn, params, x), expected)


def test_batch_statistics_forced_by_the_call_are_refused():
    apply_fn, params = from_nnx(NNXStack(), train=True)
    with pytest.raises(ValueError, match="rows of `x` independently"):
        lazyjax.empirical_ntk(apply_fn, params, bn.inputs())
