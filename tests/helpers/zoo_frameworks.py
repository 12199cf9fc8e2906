"""Models of Flax Linen, Flax NNX and Equinox, as pure functions of their parameters."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lazyjax.interop.equinox import from_equinox
from lazyjax.interop.flax import from_linen, from_nnx
from tests.helpers.zoo_base import Tokens, register, relaxed

KEY = jax.random.key(0)


def jittered(generator, params):
    """Initial values are often 0 or 1, which hides mistakes: move them all."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.3 * generator.normal(size=leaf.shape), params
    )


def enter(name, adapt, inputs):
    """Enter what `adapt` returns, `(apply_fn, params)`, in the zoo."""

    @functools.cache
    @relaxed
    def adapted():
        # First asked for within a trace or in 64 bits, it is still made of arrays of 32.
        with jax.ensure_compile_time_eval(), jax.enable_x64(False):
            return adapt()

    def apply_fn(params, x):
        return relaxed(adapted()[0])(params, x)

    apply_fn.__name__ = name
    register(lambda generator: jittered(generator, adapted()[1]), inputs)(apply_fn)


def enter_linen(name, module, inputs):
    """Enter a Linen module that has parameters only."""
    is_tokens = isinstance(inputs, Tokens)
    x = np.zeros((1, *(inputs.shape if is_tokens else inputs)))
    x = x.astype(np.int32 if is_tokens else np.float32)
    enter(name, lambda: from_linen(module, jax.jit(module.init)(KEY, x)), inputs)


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


enter(
    "linen_frozen_batch_norm",
    lambda: from_linen(
        LinenFrozenBatchNorm(),
        {
            "params": LinenFrozenBatchNorm().init(KEY, jnp.zeros((1, 4)))["params"],
            "batch_stats": {
                "BatchNorm_0": {"mean": jnp.full(5, 0.2), "var": jnp.full(5, 2.0)}
            },
        },
    ),
    inputs=(4,),
)


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


enter("nnx_model", lambda: from_nnx(NNXModel(nnx.Rngs(0))), inputs=(4, 2))


def _equinox_model():
    keys = jax.random.split(KEY, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv1d(2, 4, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.LayerNorm(16),
            eqx.nn.MLP(16, 2, 5, 1, activation=jax.nn.silu, key=keys[1]),
        ]
    )


class EquinoxGRU(eqx.Module):
    """Last state of a recurrent cell."""

    cell: eqx.nn.GRUCell

    def __call__(self, x):
        h0 = jnp.zeros((3,), x.dtype)
        return jax.lax.scan(lambda h, x_t: (self.cell(x_t, h), None), h0, x)[0]


enter("equinox_model", lambda: from_equinox(_equinox_model()), inputs=(2, 4))
enter(
    "equinox_gru",
    lambda: from_equinox(EquinoxGRU(eqx.nn.GRUCell(2, 3, key=KEY))),
    inputs=(4, 2),
)
