"""Apply functions of the workloads, in the JAX of any year since 2023."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.workloads import Workload

Params = dict[str, jax.Array]
ApplyFn = Callable[[Params, jax.Array], jax.Array]


def apply_fn(work: Workload) -> ApplyFn:
    """The network of `work` as a pure function `(params, x) -> f`."""
    build = {"mlp": _mlp, "cnn": _cnn, "resnet": _resnet, "vit": _vit, "gpt": _gpt}
    return build[work.case](**work.structure)


def _mlp(depth: int) -> ApplyFn:
    def apply(params: Params, x: jax.Array) -> jax.Array:
        h = x
        for i in range(depth):
            h = jax.nn.relu(_dense(params, f"{i}", h))
        return _dense(params, "head", h)

    return apply


def _cnn(depth: int) -> ApplyFn:
    def apply(params: Params, x: jax.Array) -> jax.Array:
        h = x
        for i in range(depth):
            h = jax.nn.relu(_conv(params, f"{i}", h))
        return _dense(params, "head", jnp.mean(h, axis=(1, 2)))

    return apply


def _resnet(num_stages: int, num_blocks: int) -> ApplyFn:
    def apply(params: Params, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(_conv(params, "stem", x))
        for stage in range(num_stages):
            for block in range(num_blocks):
                name = f"{stage}.{block}"
                shrinks = stage > 0 and block == 0
                stride = 2 if shrinks else 1
                skip = _conv(params, f"{name}.skip", h, stride) if shrinks else h
                h = jax.nn.relu(_conv(params, f"{name}.conv1", h, stride))
                h = jax.nn.relu(skip + _conv(params, f"{name}.conv2", h))
        return _dense(params, "head", jnp.mean(h, axis=(1, 2)))

    return apply


def _vit(patch: int, depth: int, heads: int) -> ApplyFn:
    def apply(params: Params, x: jax.Array) -> jax.Array:
        n, side, _, channels = x.shape
        grid = side // patch
        h = x.reshape(n, grid, patch, grid, patch, channels)
        h = h.transpose(0, 1, 3, 2, 4, 5).reshape(n, grid * grid, -1)
        h = _dense(params, "patch", h)
        h = h + jnp.broadcast_to(params["position"], h.shape)
        for i in range(depth):
            h = _block(params, f"{i}", h, heads, is_causal=False)
        return _dense(params, "head", jnp.mean(_norm(params, "norm", h), axis=1))

    return apply


def _gpt(depth: int, heads: int, num_outputs: int) -> ApplyFn:
    def apply(params: Params, x: jax.Array) -> jax.Array:
        h = params["embedding"][x]
        h = h + jnp.broadcast_to(params["position"], h.shape)
        for i in range(depth):
            h = _block(params, f"{i}", h, heads, is_causal=True)
        last = _norm(params, "norm", h)[:, -1]
        return last @ params["embedding"][:num_outputs].T

    return apply


def _dense(params: Params, name: str, h: jax.Array) -> jax.Array:
    z = h @ params[f"{name}.w"]
    return z + jnp.broadcast_to(params[f"{name}.b"], z.shape)


def _conv(params: Params, name: str, h: jax.Array, stride: int = 1) -> jax.Array:
    z = jax.lax.conv_general_dilated(
        h,
        params[f"{name}.w"],
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return z + jnp.broadcast_to(params[f"{name}.b"], z.shape)


def _norm(params: Params, name: str, h: jax.Array) -> jax.Array:
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(variance + 1e-5)
    gain = jnp.broadcast_to(params[f"{name}.g"], h.shape)
    return scaled * gain + jnp.broadcast_to(params[f"{name}.b"], h.shape)


def _block(
    params: Params, name: str, h: jax.Array, heads: int, *, is_causal: bool
) -> jax.Array:
    h = h + _attention(
        params, name, _norm(params, f"{name}.norm1", h), heads, is_causal
    )
    up = jax.nn.gelu(_dense(params, f"{name}.up", _norm(params, f"{name}.norm2", h)))
    return h + _dense(params, f"{name}.down", up)


def _attention(
    params: Params, name: str, h: jax.Array, heads: int, is_causal: bool
) -> jax.Array:
    n, positions, dim = h.shape
    qkv = _dense(params, f"{name}.qkv", h)
    qkv = qkv.reshape(n, positions, 3, heads, dim // heads)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum("nqhd,nshd->nhqs", query, key) / math.sqrt(dim // heads)
    if is_causal:
        seen = jnp.tril(jnp.ones((positions, positions), bool))
        scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -1e30)
    mixed = jnp.einsum("nhqs,nshd->nqhd", jax.nn.softmax(scores, axis=-1), value)
    return _dense(params, f"{name}.out", mixed.reshape(n, positions, dim))
