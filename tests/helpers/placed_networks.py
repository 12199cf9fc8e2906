"""Networks whose parameters and batches are split over a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

NUM_EXAMPLES = 8


def mlp(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["u"]) @ p["v"]


def cnn(p, x):
    h = x
    for name in ("w", "u"):
        h = lax.conv_general_dilated(
            h, p[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = jnp.tanh(h)
    return h.mean((1, 2)) @ p["v"]


def gpt(p, tokens):
    """Two blocks, scanned over and rematerialized; embeddings are tied to the head."""

    def block(h, p):
        scale = lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5)
        q, k, v = jnp.split(h * scale @ p["qkv"], 3, axis=-1)
        scores = jnp.einsum("ntd,nsd->nts", q, k) / h.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones(scores.shape[1:], bool))[None]
        h = h + jax.nn.softmax(jnp.where(causal, scores, -1e9)) @ v @ p["out"]
        return h + jax.nn.gelu(h @ p["up"]) @ p["down"], None

    h, _ = lax.scan(jax.checkpoint(block), p["embed"][tokens], p["blocks"])
    return h[:, -1] @ p["embed"].T


_rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    """Numbers of about the size of weights."""
    fan_in = shape[-2] if len(shape) > 1 else 1
    return _rng.normal(size=shape) / fan_in**0.5


# Of each network: parameters, how they are split over "model", and a batch.
PROBLEMS: dict[str, tuple[Callable, Any, Any, Any]] = {
    "mlp": (
        mlp,
        {"w": draw(3, 8), "u": draw(8, 8), "v": draw(8, 2)},
        {"w": P(None, "model"), "u": P("model"), "v": P("model")},
        draw(NUM_EXAMPLES, 3),
    ),
    "cnn": (
        cnn,
        {"w": draw(3, 3, 2, 4), "u": draw(3, 3, 4, 4), "v": draw(4, 3)},
        {"w": P(None, None, None, "model"), "u": P(None, None, "model"), "v": P()},
        draw(NUM_EXAMPLES, 6, 6, 2),
    ),
    "gpt": (
        gpt,
        {
            "embed": draw(6, 4),
            "blocks": {
                "qkv": draw(2, 4, 12),
                "out": draw(2, 4, 4),
                "up": draw(2, 4, 8),
                "down": draw(2, 8, 4),
            },
        },
        {
            "embed": P("model"),
            "blocks": {
                "qkv": P(None, None, "model"),
                "out": P(None, "model"),
                "up": P(None, None, "model"),
                "down": P(None, "model"),
            },
        },
        _rng.integers(0, 6, (NUM_EXAMPLES, 5)).astype(np.int32),
    ),
}

NUM_OUTPUTS = {mlp: 2, cnn: 3, gpt: 6}
