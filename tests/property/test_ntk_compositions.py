"""Random compositions of layers: the library equals the naive oracle on each."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings, strategies as st
from jax import lax

import lazyjax
from tests.contract.cases import METHODS
from tests.helpers import oracles
from tests.helpers.compare import assert_close
from tests.helpers.compilation import UNOPTIMIZED

FEATURES = (2, 2, 2)  # positions, positions, channels
SIZE = 8

# A layer is the shapes of its parameters and a function of them, of the parameters
# that every layer may use, and of a batch (n, 2, 2, 2) to a batch of that shape.
LAYERS: dict[str, tuple[dict[str, tuple[int, ...]], Callable]] = {}
SHARED = {"w": (SIZE, SIZE), "v": (2, 2), "s": ()}


def layer(**shapes):
    def enter(fn):
        LAYERS[fn.__name__] = (shapes, fn)
        return fn

    return enter


def flat(h):
    return h.reshape(h.shape[0], SIZE)


def image(h):
    return h.reshape(h.shape[0], *FEATURES)


def convolve(h, kernel, **kwargs):
    numbers = ("NHWC", "HWIO", "NHWC")
    strides = kwargs.pop("strides", (1, 1))
    return lax.conv_general_dilated(
        h, kernel, strides, "SAME", dimension_numbers=numbers, **kwargs
    )


@layer(w=(SIZE, SIZE), b=(SIZE,))
def dense(p, shared, h):
    return image(jnp.tanh(flat(h) @ p["w"] + p["b"][None]))


@layer()
def dense_shared(p, shared, h):
    return image(jnp.tanh(flat(h) @ shared["w"]))


@layer()
def dense_shared_transposed(p, shared, h):
    return image(jnp.sin(flat(h) @ shared["w"].T))


@layer(b=(2, 1, 2))
def bias(p, shared, h):
    return h + p["b"][None]


@layer(g=(2,))
def gain(p, shared, h):
    return h * p["g"][None, None, None]


@layer()
def gain_shared(p, shared, h):
    return h * shared["s"] + shared["s"]


@layer(k=(2, 2, 2, 2))
def convolution(p, shared, h):
    return jnp.tanh(convolve(h, p["k"]))


@layer(k=(2, 1, 1, 4))
def convolution_depthwise_then_folded(p, shared, h):
    h = convolve(h, p["k"], feature_group_count=2, rhs_dilation=(1, 1))
    return h.reshape(*h.shape[:3], 2, 2).sum(axis=4)


@layer(k=(2, 3, 2, 8))
def convolution_strided_then_shuffled(p, shared, h):
    return image(jnp.tanh(convolve(h, p["k"], strides=(2, 2))))


@layer()
def convolution_shared(p, shared, h):
    return convolve(h, shared["v"][None, None])


@layer()
def transpose(p, shared, h):
    return jnp.transpose(h, (0, 3, 1, 2))


@layer()
def gelu(p, shared, h):
    return jax.nn.gelu(h)


@layer()
def normalize(p, shared, h):
    return h * lax.rsqrt(jnp.mean(h**2, axis=3, keepdims=True) + 0.1)


@layer(w=(2, 2, 2))
def dense_per_position(p, shared, h):
    """A batch dimension of the product, on the parameter."""
    return jnp.einsum("npqc,pcd->npqd", h, p["w"])


@layer(a=(SIZE, 2), b=(2, SIZE))
def low_rank(p, shared, h):
    return h + image(flat(h) @ (shared["w"] + p["a"] @ p["b"]))


@layer(g=(SIZE,))
def weight_norm_of_the_shared(p, shared, h):
    norms = jnp.sqrt(jnp.sum(shared["w"] ** 2, axis=0, keepdims=True) + 0.1)
    return image(flat(h) @ (p["g"][None] * shared["w"] / norms))


@layer(v=(24,))
def sliced(p, shared, h):
    """One vector holds two weights that overlap, and a bias."""
    first, second = p["v"][:4].reshape(2, 2), p["v"][2:10:2].reshape(2, 2)
    b = p["v"][10:18].reshape(1, *FEATURES)
    return jnp.tanh(h @ first) @ second + b


@layer(w=(5, SIZE), rest=(3, SIZE))
def concatenated(p, shared, h):
    return image(jnp.tanh(flat(h) @ jnp.concatenate([p["w"], p["rest"]])))


@layer(w=(3, 2, 2))
def scan_over_layers(p, shared, h):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, p["w"])[0]


@layer(w=(2, 2))
def scan_closed_over(p, shared, h):
    def step(h, _):
        return jnp.tanh(h @ p["w"] @ shared["v"]), None

    return lax.scan(step, h, None, length=2)[0]


@layer(w=(2, 2))
def rematerialized(p, shared, h):
    return jax.checkpoint(lambda w, v, h: jnp.sin(h @ w @ v))(p["w"], shared["v"], h)


@layer(w=(2, 2))
def branches(p, shared, h):
    def one(row):
        return lax.cond(
            row[0, 0, 0] > 0,
            lambda r: jnp.tanh(r @ p["w"]),
            lambda r: r @ shared["v"] + p["w"][0, 0],
            row,
        )

    return jax.vmap(one)(h)


@layer(table=(4, 2))
def gathered(p, shared, h):
    """An entry is looked up by the signs of the features."""
    codes = jnp.sum(h > 0, axis=3)
    return h + jnp.take(p["table"], codes, axis=0)


@layer(q=(2, 2), k=(2, 2))
def attention(p, shared, h):
    tokens = h.reshape(h.shape[0], 4, 2)
    scores = jnp.einsum("nte,nse->nts", tokens @ p["q"], tokens @ p["k"])
    mixed = jax.nn.softmax(scores, axis=-1) @ tokens @ shared["v"]
    return image(flat(mixed))


@layer()
def frozen_shared(p, shared, h):
    return image(jnp.tanh(flat(h) @ lax.stop_gradient(shared["w"])))


@dataclasses.dataclass(frozen=True)
class Composition:
    """Layers in order; with `skips[i]`, layer i adds its input to its output."""

    names: tuple[str, ...]
    skips: tuple[bool, ...]
    num_outputs: int
    seed: int

    def params(self):
        """Parameters: one dictionary per layer, the shared ones and a readout."""
        generator = np.random.default_rng(self.seed)
        layers = [LAYERS[name][0] for name in self.names]
        shapes = (layers, SHARED, (SIZE, self.num_outputs))
        return jax.tree.map(
            lambda shape: 0.5 * generator.normal(size=shape),
            shapes,
            is_leaf=lambda s: (
                isinstance(s, tuple) and all(isinstance(i, int) for i in s)
            ),
        )

    def x(self, n):
        """A batch of `n` examples."""
        return np.random.default_rng([self.seed, n]).normal(size=(n, *FEATURES))

    def apply(self, params, x):
        """Outputs `(n, k)`."""
        layers, shared, readout = params
        h = x
        for name, skip, leaves in zip(self.names, self.skips, layers, strict=True):
            out = LAYERS[name][1](leaves, shared, h)
            h = h + out if skip else out
        return flat(h) @ readout


compositions = st.builds(
    Composition,
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4).map(tuple),
    skips=st.tuples(*[st.booleans()] * 4),
    num_outputs=st.integers(1, 3),
    seed=st.integers(0, 2**16),
).map(lambda drawn: dataclasses.replace(drawn, skips=drawn.skips[: len(drawn.names)]))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    compositions,
    st.sampled_from(METHODS),
    st.sampled_from(["full", "diagonal", "trace", "pseudo", 0]),
    st.booleans(),
)
def test_random_composition_equals_the_oracle(net, method, outputs, paired):
    params, x1 = net.params(), net.x(3)
    x2 = net.x(2) if paired else None
    expected = oracles.naive_ntk(net.apply, params, x1, x2)

    def ntk(params, x1, x2):
        return lazyjax.empirical_ntk(
            net.apply, params, x1, x2, outputs=outputs, method=method
        )

    with jax.enable_x64(True):
        kernel = jax.jit(ntk, compiler_options=UNOPTIMIZED)(params, x1, x2)
    assert_close(kernel, oracles.reduce_ntk(expected, outputs), 1e-12)


def test_every_layer_is_a_network_by_itself_that_depends_on_its_parameters():
    for name, (shapes, _) in LAYERS.items():
        net = Composition((name,), (False,), 2, 0)
        with jax.enable_x64(True):
            params, x = net.params(), net.x(2)
            gradient = jax.grad(lambda p, net=net, x=x: jnp.sum(net.apply(p, x) ** 2))
            own, _, _ = jax.jit(gradient, compiler_options=UNOPTIMIZED)(params)
        for leaf in shapes:
            assert np.any(np.asarray(own[0][leaf]) != 0), (name, leaf)
