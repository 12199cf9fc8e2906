"""Small networks of all kinds as plain functions, with random parameters and data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _mlp(p: Any, x: Any) -> Any:
    return jax.nn.softplus(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]


def _relu(p: Any, x: Any) -> Any:
    return jax.nn.relu(x @ p["a"]) @ p["b"] @ p["c"]


def _gated(p: Any, x: Any) -> Any:
    return (jax.nn.sigmoid(x @ p["a"]) * jnp.sin(x @ p["a2"])) @ p["b"] @ p["c"]


def _residual(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    h = h + jax.nn.gelu(h @ p["b"], approximate=False)
    return (h + jnp.tanh(h @ p["b"])) @ p["c"]


def _norm(h: Any, eps: float) -> Any:
    h = h - jnp.mean(h, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + eps)


def _layer_norm(p: Any, x: Any) -> Any:
    return jnp.tanh(_norm(x @ p["a"], 0.1) @ p["b"]) @ p["c"]


def _attention(p: Any, x: Any) -> Any:
    tokens = x.reshape(x.shape[0], 3, 2)
    h = tokens @ p["a"][:2]
    logits = jnp.einsum("nqd,nkd->nqk", h @ p["b"], h)
    h = h + jax.nn.softmax(logits, axis=-1) @ h
    return jnp.mean(h, axis=1) @ p["c"]


def _recurrent(p: Any, x: Any) -> Any:
    steps = x.reshape(x.shape[0], 3, 2).swapaxes(0, 1)

    def step(h: Any, row: Any) -> Any:
        return jnp.tanh(h @ p["b"] + row @ p["a"][:2]), None

    start = jnp.zeros((x.shape[0], p["b"].shape[0]), x.dtype)
    return jax.lax.scan(step, start, steps)[0] @ p["c"]


def _convolutional(p: Any, x: Any) -> Any:
    image = x.reshape(x.shape[0], 6, 1)
    filters = p["a"][:3, None, :]
    h = jax.lax.conv_general_dilated(
        image, filters, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )
    h = jnp.tanh(h)
    h = jax.lax.reduce_window(
        h, np.zeros((), h.dtype), jax.lax.add, (1, 2, 1), (1, 2, 1), "VALID"
    )
    return jnp.mean(h / 2, axis=1) @ p["b"] @ p["c"]


def _low_rank(p: Any, x: Any) -> Any:
    update = p["a"][:, :1] @ p["b"][:1]
    return jnp.tanh(x @ (jax.lax.stop_gradient(p["frozen"]) + update)) @ p["c"]


def _weight_norm(p: Any, x: Any) -> Any:
    size = jnp.sqrt(jnp.sum(p["a"] ** 2, axis=0, keepdims=True) + 0.01)
    return jax.nn.silu(x @ (p["a"] * p["b"][:1] / size)) @ p["c"]


def _conv(h: Any, filters: Any) -> Any:
    return jax.lax.conv_general_dilated(
        h, filters, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )


def _convolutional_residual(p: Any, x: Any) -> Any:
    filters = p["b"][:3, :3].reshape(1, 3, 3)
    h = x.reshape(x.shape[0], 2, 3)
    h = h + jax.nn.softplus(_conv(h, filters))
    h = h.reshape(x.shape[0], 2, 1, 3)
    mean = jnp.mean(h, axis=(1, 3), keepdims=True)
    square = jnp.mean((h - mean) ** 2, axis=(1, 3), keepdims=True)
    h = (h - mean) / jnp.sqrt(square + 0.1)  # group normalization
    return h.reshape(x.shape[0], 6) @ p["a"] @ p["c"]


def _transformer(p: Any, x: Any) -> Any:
    h = x.reshape(x.shape[0], 3, 2) @ p["a"][:2]
    z = _norm(h, 0.1) * p["a"][None, 2:3]
    logits = jnp.einsum("nqd,nkd->nqk", z @ p["b"], z)
    h = h + jax.nn.softmax(logits, axis=-1) @ z
    h = h + jax.nn.gelu(_norm(h, 0.1) @ p["b"], approximate=True)
    return jnp.mean(h, axis=1) @ p["c"]


def _shared(p: Any, x: Any) -> Any:
    # Tied weights, and parameters that are scale and shift at once.
    h = jnp.tanh(x @ p["a"] + p["b"][:1])
    back = jnp.sin(h @ p["a"].T) * p["a"].T[:1] + p["a"].T[:1]
    return jnp.concatenate([h, back @ p["a"]], axis=1)[:, 2:7] @ p["c"]


def _log_softmax(p: Any, x: Any) -> Any:
    h = jnp.sin(x @ p["a"])
    h = jax.nn.log_softmax(h @ p["b"], axis=-1)
    total = jax.nn.logsumexp(h @ p["b"], axis=-1, keepdims=True)
    return h @ p["c"] + total


def _max_pool(p: Any, x: Any) -> Any:
    h = jnp.tanh(_conv(x.reshape(x.shape[0], 6, 1), p["a"][:3, None, :]))
    h = jax.lax.reduce_window(
        h, np.array(-np.inf, h.dtype), jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID"
    )
    h = jnp.mean(h @ p["b"], axis=1)
    return h @ p["c"] + jnp.max(h, axis=1, keepdims=True)


def _powers(p: Any, x: Any) -> Any:
    h = (1 + jnp.square(x @ p["a"])) ** (p["b"][:1] / 2)
    # Sums into places, one of them twice.
    sums = jnp.zeros_like(h).at[:, np.array([0, 2, 2, 3])].add(h[:, :4] ** 0.5)
    return (h + sums) @ p["c"]


KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "mlp": _mlp,
    "relu": _relu,
    "gated": _gated,
    "residual": _residual,
    "layer norm": _layer_norm,
    "attention": _attention,
    "recurrent": _recurrent,
    "convolutional": _convolutional,
    "low rank": _low_rank,
    "weight norm": _weight_norm,
    "convolutional residual": _convolutional_residual,
    "transformer": _transformer,
    "shared": _shared,
    "log softmax": _log_softmax,
    "max pool": _max_pool,
    "powers": _powers,
}


def start(kind: str, seed: int, n: int = 2) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parameters and inputs, in float64."""
    rng = np.random.default_rng(seed)
    width, scale = 5, 10.0 ** rng.uniform(-0.3, 0.2)
    shapes = {"a": (6, width), "b": (width, width), "c": (width, 1)}
    shapes |= {"gated": {"a2": (6, width)}, "low rank": {"frozen": (6, width)}}.get(
        kind, {}
    )
    params = {
        name: scale * rng.standard_normal(shape) / shape[0] ** 0.5
        for name, shape in shapes.items()
    }
    return params, rng.standard_normal((n, 6))
