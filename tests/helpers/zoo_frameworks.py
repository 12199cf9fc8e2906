"""Models of Flax Linen, Flax NNX and Equinox, as pure functions of their parameters."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.helpers.zoo_base import Tokens, register, relaxed


def jittered(generator, params):
    """Initial values are often 0 or 1, which hides mistakes: move them all."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.3 * generator.normal(size=leaf.shape), params
    )


def enter_linen(name, module, inputs):
    """Enter a Linen module in the zoo."""

    def spec(generator):
        if isinstance(inputs, Tokens):
            x = jnp.zeros((1, *inputs.shape), jnp.int32)
        else:
            x = jnp.zeros((1, *inputs), jnp.float32)
        return jittered(generator, relaxed(module.init)(jax.random.key(0), x))

    def apply_fn(params, x):
        return relaxed(module.apply)(params, x)

    apply_fn.__name__ = name
    register(spec, inputs)(apply_fn)


class LinenCNN(nn.Module):
    """Strided, grouped and transposed convolutions with a group norm."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.GroupNorm(num_groups=2)(x)
        x = nn.Conv(4, (2, 2), feature_group_count=2, kernel_dilation=2)(x)
        x = nn.tanh(nn.ConvTranspose(3, (3, 3), strides=(2, 1))(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


class LinenTransformer(nn.Module):
    """Tied embeddings around one block."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(5, 4)
        x = embed(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(nn.RMSNorm()(x))))
        return embed.attend(x[:, -1])


class LinenFrozenBatchNorm(nn.Module):
    """BatchNorm in inference mode; its statistics are not trained."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.BatchNorm(use_running_average=True)(nn.Dense(5)(x)))
        return nn.Dense(2)(x)


class LinenScan(nn.Module):
    """A stack of layers by `nn.scan` over rematerialized blocks, then an LSTM."""

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, h, _):
                return nn.tanh(nn.Dense(3)(h)), None

        stack = nn.scan(
            nn.remat(Block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        x, _ = stack()(x, None)
        x = nn.RNN(nn.LSTMCell(3, param_dtype=x.dtype))(x)
        return nn.Dense(2)(jnp.asarray(x)[:, -1])


enter_linen("linen_cnn", LinenCNN(), (4, 4, 2))
enter_linen("linen_transformer", LinenTransformer(), Tokens(5, (4,)))
enter_linen("linen_scan_and_lstm", LinenScan(), (3, 3))
enter_linen("linen_weight_norm", nn.WeightNorm(nn.Dense(3)), (4,))


def _batch_norm_spec(generator):
    x = jnp.zeros((1, 4), jnp.float32)
    variables = relaxed(LinenFrozenBatchNorm().init)(jax.random.key(0), x)
    return jittered(generator, variables["params"])


@register(_batch_norm_spec, x=(4,))
@relaxed
def linen_frozen_batch_norm(params, x):
    stats = {"mean": jnp.full((5,), 0.2, x.dtype), "var": jnp.full((5,), 2.0, x.dtype)}
    variables = {"params": params, "batch_stats": {"BatchNorm_0": stats}}
    return LinenFrozenBatchNorm().apply(variables, x)


class NNXModel(nnx.Module):
    """A convolution, a layer norm, and one linear layer used twice."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3,), rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.shared = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        h = self.norm(self.conv(x))
        h = nnx.gelu(self.shared(nnx.tanh(self.shared(h))))
        return self.head(h.mean(axis=1))


def _nnx_parts():
    with jax.enable_x64(False):
        return nnx.split(relaxed(NNXModel)(nnx.Rngs(0)))


@register(lambda generator: jittered(generator, _nnx_parts()[1]), x=(4, 2))
@relaxed
def nnx_model(params, x):
    return nnx.merge(_nnx_parts()[0], params)(x)


def _equinox_parts():
    keys = jax.random.split(jax.random.key(0), 3)
    with jax.enable_x64(False):
        model = eqx.nn.Sequential(
            [
                eqx.nn.Conv1d(2, 4, 3, padding=1, key=keys[0]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.LayerNorm(16),
                eqx.nn.MLP(16, 2, 5, 1, activation=jax.nn.silu, key=keys[1]),
            ]
        )
    return eqx.partition(model, eqx.is_inexact_array)


@register(lambda generator: jittered(generator, _equinox_parts()[0]), x=(2, 4))
@relaxed
def equinox_model(params, x):
    return jax.vmap(eqx.combine(params, _equinox_parts()[1]))(x)


def _gru_parts():
    with jax.enable_x64(False):
        cell = eqx.nn.GRUCell(2, 3, key=jax.random.key(1))
    return eqx.partition(cell, eqx.is_inexact_array)


@register(lambda generator: jittered(generator, _gru_parts()[0]), x=(4, 2))
@relaxed
def equinox_gru(params, x):
    cell = eqx.combine(params, _gru_parts()[1])

    def one(row):
        h0 = jnp.zeros((3,), row.dtype)
        return jax.lax.scan(lambda h, x_t: (cell(x_t, h), None), h0, row)[0]

    return jax.vmap(one)(x)
