"""One network with batch normalization and dropout, in four tongues, same weights.

f(x) = tanh((x W + b - mean) / sqrt(var + eps) * scale + offset) V + c
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

NUM_FEATURES, WIDTH, NUM_OUTPUTS, EPS = 3, 5, 2, 1e-3


def weights(seed=0):
    """Parameters by the letters above, in JAX's default precision."""
    draw = np.random.default_rng(seed).normal
    shapes = {
        "W": (NUM_FEATURES, WIDTH),
        "b": (WIDTH,),
        "scale": (WIDTH,),
        "offset": (WIDTH,),
        "V": (WIDTH, NUM_OUTPUTS),
        "c": (NUM_OUTPUTS,),
    }
    return {name: jnp.asarray(draw(size=shape)) for name, shape in shapes.items()}


def statistics(seed=0):
    """Running statistics that are not those of a fresh model."""
    generator = np.random.default_rng([7, seed])
    mean = generator.normal(size=WIDTH)
    return {
        "mean": jnp.asarray(mean),
        "var": jnp.asarray(generator.uniform(0.3, 3.0, size=WIDTH)),
    }


def inputs(n=4, seed=0):
    generator = np.random.default_rng([9, seed])
    return jnp.asarray(generator.normal(size=(n, NUM_FEATURES)))


def plain(stats):
    """The function by its formula, of no library."""

    def apply_fn(w, x):
        z = x @ w["W"] + w["b"][None] - stats["mean"][None]
        z = z / jnp.sqrt(stats["var"] + EPS)[None]
        return (
            jnp.tanh(z * w["scale"][None] + w["offset"][None]) @ w["V"] + w["c"][None]
        )

    return apply_fn


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(WIDTH, name="first", param_dtype=x.dtype)(x)
        norm = nn.BatchNorm(not train, epsilon=EPS, name="norm", param_dtype=x.dtype)
        x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(norm(x)))
        return nn.Dense(NUM_OUTPUTS, name="last", param_dtype=x.dtype)(x)


def linen_variables(w, stats):
    return {
        "params": {
            "first": {"kernel": w["W"], "bias": w["b"]},
            "norm": {"scale": w["scale"], "bias": w["offset"]},
            "last": {"kernel": w["V"], "bias": w["c"]},
        },
        "batch_stats": {"norm": stats},
    }


class NNXMLP(nnx.Module):
    def __init__(self, w, stats):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(NUM_FEATURES, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, epsilon=EPS, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(WIDTH, NUM_OUTPUTS, rngs=rngs)
        for layer, kernel, bias in ((self.first, "W", "b"), (self.last, "V", "c")):
            layer.kernel, layer.bias = nnx.Param(w[kernel]), nnx.Param(w[bias])
        self.norm.scale, self.norm.bias = nnx.Param(w["scale"]), nnx.Param(w["offset"])
        self.norm.mean = nnx.BatchStat(stats["mean"])
        self.norm.var = nnx.BatchStat(stats["var"])

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


class EquinoxMLP(eqx.Module):
    """Takes one example."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self):
        key = jax.random.key(0)
        self.first = eqx.nn.Linear(NUM_FEATURES, WIDTH, key=key)
        self.norm = eqx.nn.BatchNorm(WIDTH, "batch", eps=EPS, mode="ema")
        self.dropout = eqx.nn.Dropout(0.5)
        self.last = eqx.nn.Linear(WIDTH, NUM_OUTPUTS, key=key)

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.first(x), state)
        return self.last(self.dropout(jnp.tanh(x), key=key)), state


def equinox_model_and_state(w, stats):
    model, state = eqx.nn.make_with_state(EquinoxMLP)()
    where = lambda m: (
        *(m.first.weight, m.first.bias, m.norm.weight, m.norm.bias),
        *(m.last.weight, m.last.bias),
    )
    values = (w["W"].T, w["b"], w["scale"], w["offset"], w["V"].T, w["c"])
    model = eqx.tree_at(where, model, values)
    state = state.set(model.norm.ema_state_index, (stats["mean"], stats["var"]))
    return model, state
