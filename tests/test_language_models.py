"""Kernels of low-rank adapters, scanned layers that are rematerialized, and half precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lazyjax
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.oracles import naive_ntk

pytestmark = pytest.mark.once


def dense(h, weight, adapter):
    return h @ weight + h @ adapter["a"] @ adapter["b"]


def gpt(adapters, base, tokens):
    """Logits of the next token: layers scanned over, each computed anew going back."""

    def block(h, layer):
        w, a = layer
        scale = lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5)
        q, k, v = jnp.split(dense(h * scale, w["qkv"], a["qkv"]), 3, axis=-1)
        scores = jnp.einsum("ntd,nsd->nts", q, k) / h.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones(scores.shape[1:], bool))[None]
        h = h + jax.nn.softmax(jnp.where(causal, scores, -1e9)) @ v
        return h + jax.nn.gelu(dense(h, w["up"], a["up"])) @ w["down"], None

    layers = base["blocks"], adapters
    h, _ = lax.scan(jax.checkpoint(block), base["embed"][tokens], layers)
    return h[:, -1] @ base["embed"].T  # the embedding, tied


def shapes(vocabulary: int, width: int, depth: int) -> dict[str, Any]:
    """Shapes of the base's weights."""
    return {
        "embed": (vocabulary, width),
        "blocks": {
            "qkv": (depth, width, 3 * width),
            "up": (depth, width, 4 * width),
            "down": (depth, 4 * width, width),
        },
    }


def adapter_shapes(base: dict[str, Any], rank: int) -> dict[str, Any]:
    """Shapes of adapters of two of the weights."""
    both = {name: base["blocks"][name] for name in ("qkv", "up")}
    return {
        name: {"a": (depth, rows, rank), "b": (depth, rank, columns)}
        for name, (depth, rows, columns) in both.items()
    }


def drawn(tree: Any, seed: int, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape) / shape[-2] ** 0.5, dtype)
    return jax.tree.map(draw, tree, is_leaf=lambda node: isinstance(node, tuple))


TOKENS = np.random.default_rng(0).integers(0, 7, (3, 4)).astype(np.int32)
BASE = shapes(7, 6, 2)
ADAPTERS = adapter_shapes(BASE, 2)


def oracle(adapters: Any, base: Any) -> np.ndarray:
    with jax.enable_x64(True):
        double = lambda leaf: jnp.asarray(np.asarray(leaf, np.float64))
        adapters, base = jax.tree.map(double, (adapters, base))
        return np.asarray(naive_ntk(lambda p, x: gpt(p, base, x), adapters, TOKENS))


@pytest.mark.parametrize(
    "method",
    ["vjp", *(pytest.param(m, marks=pytest.mark.slow) for m in ("auto", "jacobian"))],
)
def test_adapters_alone_count(method):
    base, adapters = drawn(BASE, 0), drawn(ADAPTERS, 1)
    kernel = lazyjax.empirical_ntk(
        lambda p, x: gpt(p, base, x), adapters, TOKENS, method=method
    )
    assert_close(kernel, oracle(adapters, base), 1e-5)


@pytest.mark.slow
def test_a_filter_leaves_the_base_out():
    base, adapters = drawn(BASE, 0), drawn(ADAPTERS, 1)
    network = lambda p, x: gpt(p["lora"], p["base"], x)
    kernel = lambda accepts: lazyjax.empirical_ntk(
        network, {"base": base, "lora": adapters}, TOKENS, filter=accepts
    )
    expected = oracle(adapters, base)
    assert_close(kernel(lambda path: path.startswith("lora/")), expected, 1e-5)
    assert relative_error(kernel(lambda path: True), expected) > 0.1


@pytest.mark.slow
def test_gradients_of_a_large_base_are_never_formed():
    """10^8 parameters, by shape: what is held is less than the base alone."""
    base, n = shapes(50_257, 768, 12), 4
    adapters = adapter_shapes(base, 8)
    like = lambda tree: jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    tokens = jnp.zeros((n, 32), jnp.int32)
    size = lambda tree: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(like(tree)))
    assert size(base) >= 1e8

    def ntk(adapters, base):
        return lazyjax.empirical_ntk(
            lambda p, x: gpt(p, base, x),
            adapters,
            tokens,
            outputs=range(4),
            memory="1GiB",
        )

    program = jax.jit(ntk).lower(like(adapters), like(base)).compile()
    plan: Any = program.memory_analysis()
    # Gradients of the base alone, of all examples and outputs: 16 times its size.
    assert plan.temp_size_in_bytes <= 4 * size(base)


@pytest.mark.parametrize(
    "method",
    [
        "structured",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("auto", "jacobian")),
    ],
)
def test_half_precision_rounds_sums_once(method):
    """Of 50 weights, and of 3,000 outputs: the error is that of rounding the kernel."""
    rng = np.random.default_rng(0)
    half = lambda array: jnp.asarray(array, jnp.bfloat16)
    x = half(rng.normal(size=(6, 8)) + 1)
    exact = np.asarray(x, np.float64) @ np.asarray(x, np.float64).T
    sums = lambda p, x: sum(x @ weight for weight in p)
    many = lambda w, x: x @ w
    for network, params, number in (
        (sums, [half(rng.normal(size=(8, 2)))] * 50, 100),
        (many, half(np.ones((8, 3000))), 3000),
    ):
        kernel = lazyjax.empirical_ntk(
            network, params, x, outputs="trace", method=method
        )
        assert kernel.dtype == jnp.bfloat16
        assert_close(np.asarray(kernel, np.float64), number * exact, 2.0**-8)
        # Added up in half precision, it is another.
        total, one = half(0.0), half(number / 50 * exact)
        for _ in range(50):
            total = total + one
        wrong = np.asarray(total, np.float64)
        assert relative_error(wrong, number * exact) > 2.0**-7
